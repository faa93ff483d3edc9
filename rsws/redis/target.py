"""The Redis to use, and how to connect to it.

redis-py makes the connection (TCP, TLS or Unix socket, password, database). Its retries are off everywhere: on the
write path they would store a message twice when a reply is lost. Each server is asked for its role before anything
else, since an address can lead to a primary today and to a replica tomorrow.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from redis.asyncio.connection import AbstractConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError

from rsws.errors import LoginRefused, RedisUnavailable, SetupError, UsageError, about
from rsws.redis.connection import (
    PRIMARY_ROLES,
    NotPrimary,
    RedisConnection,
    ReplyError,
    connection_error_text,
    pack,
)
from rsws.redis.sentinel import PROMOTION_S, Sentinels
from rsws.redis.url import TlsFiles, parse_redis_url
from rsws.settings import Settings, read_secret
from rsws.urls import HostPort, join_host_port

log = logging.getLogger("rsws.redis")

ASK_ROLE = pack(b"ROLE")
WATCH_S = 1.0
"""How soon sentinels are listened to anew once the URL is another one."""


class ClusterFound(RedisUnavailable):
    """The server is a node of a cluster: which one has a channel is known to the cluster's map."""


class ServerFacts(NamedTuple):
    """What a server says of itself. Each field is empty where it does not say."""

    kind: str = ""
    """The server's software: ``redis``, ``valkey`` and so on."""
    version: str = ""
    mode: str = ""
    """``standalone``, ``sentinel`` or ``cluster``."""

    @property
    def text(self) -> str:
        """For a person: ``Redis 7.2.4``."""
        return f"{self.kind.capitalize() or 'Redis'} {self.version or 'of an unknown version'}"


class RedisTarget:
    """The Redis to use, and how to connect to its primary.

    Args:
        url: See :func:`rsws.redis.url.parse_redis_url`; or a callable that reads it anew for each attempt to
            connect, from a file in which a password may change.
        timeout_s: How long a connection attempt may take.
        tls: The files for TLS.

    Attributes:
        text: The URL, secrets included.
        url: What the URL says.
        shown: The URL without secrets.
        timeout_s: As given.
        facts: What the server that answered last says of itself.
        primary: The address at which it answered, where sentinels have named it; else empty.
        on_cluster: Called when a server turns out to be a node of a cluster, and the URL does not say so.
        node: The address of the one node of a cluster that is meant; None for what the URL leads to.
        takes_replicas: Whether a replica may be connected to: for who only looks.

    Raises:
        UsageError: The URL can't be used; the text says what to write.
    """

    def __init__(self, url: str | Callable[[], str], timeout_s: float, tls: TlsFiles | None = None) -> None:
        self._read_url = url if callable(url) else None
        self.text = url() if callable(url) else url
        self._tls = tls
        self.url = parse_redis_url(self.text, tls)
        self.shown = self.url.shown
        self.timeout_s = timeout_s
        self.facts = ServerFacts()
        self.primary = ""
        self.on_cluster: Callable[[], object] = _nothing
        self.node: HostPort | None = None
        self.takes_replicas = False
        self._connections: dict[RedisConnection, HostPort | None] = {}
        """Those that are open, with the address where it is not the URL's."""
        self._attempts: dict[asyncio.Timeout, HostPort | None] = {}
        """Those that are under way, which end as if they had timed out when another primary is made."""
        self._switches = 0
        """How often another primary was made."""
        self._promoted: HostPort | None = None
        """The primary that was made last, until the sentinels name it."""
        self._promoted_at = 0.0
        self._role_is_known = True

    def at(self, node: HostPort) -> RedisTarget:
        """Return one node of the cluster, with the same login and TLS."""
        target = copy(self)
        target.node = node
        target.shown = f"{'rediss' if self.url.is_tls else 'redis'}://{join_host_port(node)}"
        target._connections = {}
        target._attempts = {}
        return target

    @property
    def is_cluster(self) -> bool:
        """Whether the URL says that it leads to a cluster, or the server that answered last did."""
        return bool(self.url.nodes) or self.facts.mode == "cluster"

    def connection(self, places: Mapping[str, Any] = MappingProxyType({})) -> AbstractConnection:
        """Return a connection, not connected yet, that replies in bytes and never retries.

        Its reads have no timeout of their own: each caller sets one that fits what it waits for.

        Args:
            places: Arguments of redis-py that differ from the URL's.
        """
        return self.url.connection_class(
            **{
                **self.url.arguments,
                "client_name": None,  # see _greet: a server that forbids names is no error
                "protocol": 2,
                "decode_responses": False,
                "retry": Retry(NoBackoff(), 0),
                "retry_on_timeout": False,
                "socket_timeout": None,
                "socket_connect_timeout": self.timeout_s,
                "health_check_interval": 0,
                "driver_info": None,
                **places,
            }
        )

    @property
    def description(self) -> str:
        """Which Redis it is, for a person: the URL, the primary behind it, and the server's software."""
        kind = "cluster" if self.is_cluster else self.primary and f"primary {self.primary}"
        facts = [each for each in (kind, self.facts.text) if each]
        return f"{self.shown} ({', '.join(facts)})"

    async def watch(self) -> NoReturn:
        """Until cancelled, leave a primary as soon as another one has been made."""
        while True:
            url = self.url  # it may be another one later, where it comes from a file
            watching = asyncio.create_task(self._watch_sentinels(), name="rsws sentinels")
            try:
                while self.url is url:
                    done, _ = await asyncio.wait([watching], timeout=WATCH_S)
                    for each in done:
                        each.result()
            finally:
                watching.cancel()
                await asyncio.wait([watching])

    async def _watch_sentinels(self) -> NoReturn:
        if not self.url.sentinels:
            await asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as tasks:

            def select(replica: HostPort) -> None:
                tasks.create_task(self._until_promoted(replica))

            await self._sentinels().watch(self._switched, select)
        raise AssertionError("it never ends")

    def _sentinels(self) -> Sentinels:
        return Sentinels(self.url, self.timeout_s, self.connection)

    async def _until_promoted(self, replica: HostPort) -> None:
        if await self._sentinels().until_promoted(replica):
            self._promoted = replica
            self._promoted_at = asyncio.get_running_loop().time()
            self._switched(replica)

    def _switched(self, primary: HostPort) -> None:
        reason = f"{self.shown}: the sentinels have made {join_host_port(primary)} the primary"
        self._switches += 1
        if self._promoted != primary:
            self._promoted = None
        for connection, address in list(self._connections.items()):
            if address != primary:
                connection.end_soon(NotPrimary(reason))
        for attempt, address in self._attempts.items():
            if address != primary:
                attempt.reschedule(0)

    async def _named(self) -> list[HostPort]:
        """Return the primaries that the sentinels name, behind one that they have made and may not name yet.

        Raises:
            RedisUnavailable: There is none.
        """
        named = await self._sentinels().primaries()
        if self._promoted is None:
            return named
        if named[0] == self._promoted or asyncio.get_running_loop().time() - self._promoted_at > PROMOTION_S:
            self._promoted = None
            return named
        return [self._promoted, *(each for each in named if each != self._promoted)]

    def read_again(self) -> None:
        """Read the URL anew, where it comes from a file.

        Raises:
            RedisUnavailable: It can't be used now.
        """
        if self._read_url is None:
            return
        try:
            text = self._read_url()
            if text != self.text:
                self.url = parse_redis_url(text, self._tls)
                self.text = text
                if self.node is None:
                    self.shown = self.url.shown
                    log.info("the Redis URL has changed, it is %s now", self.shown)
        except UsageError as error:
            raise RedisUnavailable(str(error)) from None

    async def connect(self, name: str, *, any_node: bool = False) -> RedisConnection:
        """Return a new connection to a primary.

        Args:
            name: The connection's name in Redis' ``CLIENT LIST``.
            any_node: Whether it may be any node of a cluster, replicas included: each knows the map.

        Raises:
            RedisUnavailable: No primary can be reached now.
            ClusterFound: The URL leads to a cluster, and neither :meth:`at` nor ``any_node`` says which node is meant.
            LoginRefused: Redis refused the password or the database.
            SetupError: The server is a sentinel, which stores nothing.
        """
        while True:
            self.read_again()
            switches = self._switches
            places: list[HostPort | None] = [self.node]
            if self.url.sentinels:
                places = [*await self._named()]
            elif self.url.nodes and self.node is None:
                places = [*self.url.nodes]
            failure: RedisUnavailable | LoginRefused | None = None
            for place in places:
                try:
                    return await self._attempt(name, place, any_node=any_node)
                except ClusterFound:
                    raise
                except (RedisUnavailable, LoginRefused) as error:
                    failure = failure or error
            assert failure is not None
            if self._switches == switches:
                raise failure

    async def _attempt(self, name: str, address: HostPort | None, *, any_node: bool) -> RedisConnection:
        """Connect as :meth:`_connect` does, until another primary is made: the old one may hang."""
        try:
            async with asyncio.timeout(None) as attempt:
                self._attempts[attempt] = address
                try:
                    return await self._connect(name, address, any_node=any_node)
                finally:
                    del self._attempts[attempt]
        except TimeoutError:
            raise RedisUnavailable(f"{self.shown}: the sentinels have made another primary") from None

    async def _connect(self, name: str, address: HostPort | None, *, any_node: bool) -> RedisConnection:
        """Return a connection to the server at ``address``, None for that of the URL; see :meth:`connect`."""
        shown = self.shown if address is None or address == self.node else f"{self.shown}: {join_host_port(address)}"
        if address is not None and self.url.connection_class is UnixDomainSocketConnection:
            raise SetupError(f"{self.url.shown} leads to a cluster: write redis+cluster://host:port,... in its place")
        connection = self.connection({} if address is None else {"host": address[0], "port": address[1]})
        try:
            async with asyncio.timeout(self.timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
            made = RedisConnection(connection)
            try:
                await self._greet(made, name, shown, any_node=any_node)
            except BaseException:
                await made.close()
                raise
        except (AuthenticationError, AuthorizationError, ResponseError) as error:
            failure: Exception = LoginRefused(f"Redis at {shown} refused the login: {connection_error_text(error)}")
        except TimeoutError:
            hint = "; does it speak TLS there?" if self.url.is_tls else ""
            failure = RedisUnavailable(f"{shown}: no answer within {self.timeout_s:g} s{hint}")
        except (RedisError, OSError) as error:
            may_want_one = isinstance(error, ConnectionError) and self.url.is_tls and not self.url.has_certificate
            hint = "; does it want a certificate of its clients (--redis-tls-cert)?" if may_want_one else ""
            if not self.url.is_tls and "reset by peer" in str(error) and not self.facts.version:
                hint = "; does it want TLS (rediss://)?"
            failure = RedisUnavailable(f"{shown}: {connection_error_text(error)}{hint}")
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        else:
            self.primary = join_host_port(address) if address is not None and self.url.sentinels else ""
            self._connections[made] = address
            made.ended.add_done_callback(lambda _: self._connections.pop(made, None))
            if not self.takes_replicas:
                made.on_read_only = self._refused_a_write
            return made
        await connection.disconnect(nowait=True)
        raise failure

    async def _greet(self, connection: RedisConnection, name: str, shown: str, *, any_node: bool) -> None:
        """Name the connection, and check what kind of server answers.

        Raises:
            RedisUnavailable: It is a replica.
            ClusterFound: It is a node of a cluster.
            SetupError: It is a sentinel.
            OSError: It does not answer.
        """
        commands = (pack(b"CLIENT", b"SETNAME", name.encode()), pack(b"HELLO", b"2"), ASK_ROLE)
        replies: list[Any] = []
        try:
            await connection.ask(*commands, timeout_s=self.timeout_s, replies=replies)
        except ConnectionError:
            said = str(replies[0]) if replies else await connection.first_words()
            if not said:
                raise
            raise RedisUnavailable(f"{shown}: {said}") from None
        named, hello, role = replies
        if isinstance(named, ReplyError) and str(named).startswith("NOAUTH"):
            raise LoginRefused(f"Redis at {shown} refused the login: {named}")
        refusals = [reply for reply in replies if isinstance(reply, ReplyError) and not reply.is_forbidden]
        if len(refusals) == len(commands):
            raise RedisUnavailable(f"{shown}: {refusals[0]}")
        facts = {} if isinstance(hello, ReplyError) else dict(zip(hello[::2], hello[1::2], strict=True))
        if not facts:
            facts = await self._info(connection)
        self.facts = ServerFacts(
            *(facts.get(key, b"").decode(errors="replace") for key in (b"server", b"version", b"mode"))
        )
        if self.facts.mode == "sentinel" or (isinstance(role, list) and role[0] == b"sentinel"):
            raise SetupError(
                f"{shown} is a sentinel, which stores nothing: write redis+sentinel://host:port/NAME, with the "
                "name under which it knows the primary"
            )
        if any_node and self.facts.mode == "cluster":
            return
        if self.node is None and self.facts.mode == "cluster":
            self.on_cluster()
            raise ClusterFound(f"{shown} is a node of a cluster, whose map is not known yet")
        if isinstance(role, ReplyError) and b"role" in facts:
            role = [facts[b"role"]]
        trouble = self.role_trouble(role)
        if trouble is not None and not self.takes_replicas:
            raise RedisUnavailable(trouble)

    async def _info(self, connection: RedisConnection) -> dict[bytes, bytes]:
        """Return what HELLO would have said, from INFO; nothing where that is refused, too."""
        [said] = await connection.ask(pack(b"INFO", b"server"), timeout_s=self.timeout_s)
        if not isinstance(said, bytes):
            return {}
        lines = dict(line.split(b":", 1) for line in said.split(b"\r\n") if b":" in line)
        kind = lines.get(b"server_name", b"redis")
        version = lines.get(kind + b"_version", lines.get(b"redis_version", b""))
        return {b"server": kind, b"version": version, b"mode": lines.get(b"redis_mode", b"")}

    def role_trouble(self, role: Any) -> str | None:
        """What is wrong with a server that answers this to ``ROLE``; None where it is a primary, or does not say."""
        if isinstance(role, ReplyError):
            if self._role_is_known and role.is_forbidden:
                self._role_is_known = False
                log.warning("Redis does not say whether it is a primary, a failover may go unnoticed: %s", role)
            return None
        if not isinstance(role, list) or not role or not isinstance(role[0], bytes):
            return None  # not as Redis has it
        kind, *rest = role
        if kind in PRIMARY_ROLES:
            return None
        of = f" of {rest[0].decode(errors='replace')}:{rest[1]}" if len(rest) >= 2 else ""
        return f"{self.shown} leads to a replica{of}, which takes no writes"

    def end_all(self, trouble: str) -> None:
        """End every connection: the server is not the one to talk to any more."""
        for connection in list(self._connections):
            connection.end_soon(NotPrimary(trouble))

    def _refused_a_write(self) -> None:
        self.end_all(f"{self.shown} leads to a replica now, which takes no writes")


def _nothing() -> None:
    """Do nothing."""


def redis_target(settings: Settings, local_url: str) -> RedisTarget:
    """Return the Redis that the settings name, else the one at ``local_url``.

    Raises:
        UsageError: It can't be used: the URL, the file that holds it, or a file for TLS.
    """
    url: str | Callable[[], str] = settings.redis_url or local_url
    if settings.redis_url is None and (file := settings.redis_url_file) is not None:
        read = partial(read_secret, file, "Redis URL")
        with about("redis_url_file"):
            url = read() if settings.redis_url_is_read_once else read
    tls = TlsFiles(settings.redis_tls_ca, settings.redis_tls_cert, settings.redis_tls_key)
    with about("redis_url", "redis_url_file"):
        return RedisTarget(url, settings.redis_timeout_s, tls)


async def probe(target: RedisTarget) -> None:
    """Try to reach Redis once; any node of a cluster will do.

    Raises:
        RedisUnavailable: Redis can't be reached now.
        LoginRefused: Redis refused the login.
    """
    connection = await target.connect("rsws", any_node=True)
    await connection.close()

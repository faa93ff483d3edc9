"""The Redis to use, and how to connect to it.

redis-py makes the connection (TCP, TLS or Unix socket, password, database). Its retries are off everywhere: on the
write path they would store a message twice when a reply is lost. Each server is asked for its role before anything
else, since an address can lead to a primary today and to a replica tomorrow.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError

from rsws.errors import LoginRefused, RedisUnavailable, SetupError, UsageError
from rsws.streams.redis_connection import NotPrimary, RedisConnection, ReplyError, pack
from rsws.urls import host_fault, redact_url

log = logging.getLogger("rsws.redis")

PRIMARY_ROLES = (b"master", b"active-replica")  # the second is KeyDB's, which takes writes
ASK_ROLE = pack(b"ROLE")


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
    """The address of a Redis, and the way to connect to it.

    Args:
        url: A ``redis://``, ``rediss://`` or ``unix://`` URL, as redis-py reads it.
        timeout_s: The timeout for a connection attempt, in seconds.

    Raises:
        UsageError: The URL can't be parsed; the text says what to write.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        _check(url)
        self.shown = redact_url(url)
        self.timeout_s = timeout_s
        self.facts = ServerFacts()
        """Of the server that answered last."""
        self._connections: set[RedisConnection] = set()
        self._role_is_known = True
        try:
            self._arguments: dict[str, Any] = dict(parse_url(url))
            self._class: type[AbstractConnection] = self._arguments.pop("connection_class", Connection)
            self.connection()
        except (ValueError, TypeError, RedisError):
            raise _unusable(url, "Redis' client does not take its options") from None

    def connection(self) -> AbstractConnection:
        """Return a connection, not connected yet, that replies in bytes and never retries.

        Its reads have no timeout of their own: each caller sets one that fits what it waits for.
        """
        return self._class(
            **{
                **self._arguments,
                "client_name": None,  # see _greet: a server that forbids names is no error
                "protocol": 2,
                "decode_responses": False,
                "retry": Retry(NoBackoff(), 0),
                "retry_on_timeout": False,
                "socket_timeout": None,
                "socket_connect_timeout": self.timeout_s,
                "health_check_interval": 0,
                "driver_info": None,
            }
        )

    async def connect(self, name: str) -> RedisConnection:
        """Return a new connection to a primary.

        Args:
            name: The connection's name in Redis' ``CLIENT LIST``.

        Raises:
            RedisUnavailable: No primary can be reached now.
            LoginRefused: Redis refused the password or the database.
            SetupError: The server is a sentinel, which stores nothing.
        """
        connection = self.connection()
        try:
            async with asyncio.timeout(self.timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
            made = RedisConnection(connection)
            try:
                await self._greet(made, name)
            except BaseException:
                await made.close()
                raise
            return made
        except (AuthenticationError, AuthorizationError, ResponseError) as error:
            failure: Exception = LoginRefused(f"Redis at {self.shown} refused the login: {_login_error(error)}")
        except TimeoutError:
            failure = RedisUnavailable(f"{self.shown}: no answer within {self.timeout_s:g} s")
        except (RedisError, OSError) as error:
            failure = RedisUnavailable(f"{self.shown}: {_login_error(error)}")
        await connection.disconnect(nowait=True)
        raise failure

    async def _greet(self, connection: RedisConnection, name: str) -> None:
        """Name the connection, and check what kind of server answers.

        Raises:
            RedisUnavailable: It is a replica.
            SetupError: It is a sentinel.
            OSError: It does not answer.
        """
        commands = (pack(b"CLIENT", b"SETNAME", name.encode()), pack(b"HELLO", b"2"), ASK_ROLE)
        replies: list[Any] = []
        try:
            await connection.ask(*commands, timeout_s=self.timeout_s, replies=replies)
        except ConnectionError:
            if not replies:
                raise
            raise RedisUnavailable(f"{self.shown}: {replies[0]}") from None  # too many clients, for instance
        named, hello, role = replies
        if isinstance(named, ReplyError) and str(named).startswith("NOAUTH"):
            raise LoginRefused(f"Redis at {self.shown} refused the login: {named}")
        said = {} if isinstance(hello, ReplyError) else dict(zip(hello[::2], hello[1::2], strict=True))
        self.facts = ServerFacts(
            *(said.get(key, b"").decode(errors="replace") for key in (b"server", b"version", b"mode"))
        )
        if self.facts.mode == "sentinel" or (isinstance(role, list) and role[0] == b"sentinel"):
            raise SetupError(
                f"{self.shown} is a sentinel, which stores nothing: write redis+sentinel://host:port/NAME, with the "
                "name under which it knows the primary"
            )
        if isinstance(role, ReplyError) and b"role" in said:
            role = [said[b"role"]]
        trouble = self.role_trouble(role)
        if trouble is not None:
            raise RedisUnavailable(trouble)
        self._connections.add(connection)
        connection.ended.add_done_callback(lambda _: self._connections.discard(connection))
        connection.on_read_only = self._refused_a_write

    def role_trouble(self, role: Any) -> str | None:
        """What is wrong with a server that answers this to ``ROLE``; None where it is a primary, or does not say."""
        if isinstance(role, ReplyError):
            if self._role_is_known and role.is_forbidden:
                self._role_is_known = False
                log.warning("Redis does not say whether it is a primary, a failover may go unnoticed: %s", role)
            return None
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
        self.end_all("it has become a replica, and takes no writes")


def _login_error(error: Exception) -> str:
    """Return the text of Redis' error, with the code that redis-py strips, or what happened to the connection."""
    code = getattr(error, "status_code", None)
    text = str(error) or type(error).__name__
    return text if code in (None, "ERR") else f"{code} {text}"


def _check(url: str) -> None:
    """Refuse a URL that redis-py would misread or not accept.

    Raises:
        UsageError: The reason.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise _unusable(url, "it has no valid host and port") from None
    database = parts.path.strip("/")
    if any(character.isspace() for character in url):
        raise _unusable(url, "it has white space in it")
    if parts.fragment:
        raise _unusable(url, "it has a # in it")
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise _unusable(url, "it does not begin with redis://, rediss:// or unix://")
    if parts.scheme == "unix" and not parts.path:
        raise _unusable(url, "it names no socket")
    if parts.scheme != "unix" and not host:
        raise _unusable(url, "it names no host")
    if host and host_fault(host) is not None:
        raise _unusable(url, "its host is not a valid name")
    if parts.scheme != "unix" and database and not database.isdigit():
        raise _unusable(url, "the database is not a number")


def _unusable(url: str, reason: str) -> UsageError:
    """Return the error for an unusable ``url``; a parser's text is left out, as it repeats supposed ports or hosts."""
    return UsageError(
        f"the Redis URL {redact_url(url)} (REDIS_URL or --redis-url) can't be used: {reason}; write "
        "redis://[[user]:password@]host[:port][/database], special characters of a password percent-encoded "
        "(/ as %2F, # as %23, @ as %40)"
    )


async def probe(target: RedisTarget) -> None:
    """Try to reach Redis once.

    Raises:
        RedisUnavailable: Redis can't be reached now.
        LoginRefused: Redis refused the login.
    """
    connection = await target.connect("rsws")
    await connection.close()

"""Connections to Redis: how one is made, and one that many callers share.

redis-py makes the connection (TCP, TLS or Unix socket, password, database). Its retries stay off everywhere: on
the write path they would store a message twice when a reply is lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NoReturn
from urllib.parse import urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError

from rsws.backoff import Backoff
from rsws.errors import LoginRefused, Outcome, RedisUnavailable, UsageError
from rsws.streams.redis_connection import OnReply, RedisConnection, pack
from rsws.urls import host_fault, redact_url

log = logging.getLogger("rsws.redis")

BATCH_COMMANDS = 1000
BATCH_BYTES = 256 * 1024
"""A longer command goes alone, so that no short one has to wait for its answer."""
PENDING_BYTES = 64 * 1024 * 1024
"""What callers may have waiting in one link; more is refused as unavailable."""
CROWDED_BYTES = 512 * 1024
"""With more waiting, callers that can wait should."""
RECONNECT = Backoff(0.1, 2.0, least=0.5)
IDLE_PING_S = 5.0


class RedisTarget:
    """Which Redis, and how to connect to it.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads them.
        timeout_s: Seconds a connection attempt may take.

    Raises:
        UsageError: The URL can't be parsed; the text says what to write.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        _check(url)
        self.shown = redact_url(url)
        self.timeout_s = timeout_s
        try:
            self._arguments: dict[str, Any] = dict(parse_url(url))
            self._class: type[AbstractConnection] = self._arguments.pop("connection_class", Connection)
            self.connection("rsws")
        except (ValueError, TypeError, RedisError):
            raise _unusable(url, "Redis' client does not take its options") from None

    def connection(self, name: str) -> AbstractConnection:
        """A connection, not yet connected, that answers in bytes and never tries anything twice.

        Its reads have no time limit of their own: each caller sets a deadline that fits what it waits for.
        """
        return self._class(
            **{
                **self._arguments,
                "client_name": name,
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
        """A connection that is up.

        Raises:
            RedisUnavailable: There is none to be had now.
            LoginRefused: Redis refused the password or the database.
        """
        connection = self.connection(name)
        try:
            async with asyncio.timeout(self.timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
            return RedisConnection(connection)
        except (AuthenticationError, AuthorizationError, ResponseError) as error:
            failure: Exception = LoginRefused(f"Redis at {self.shown} refused the login: {_login_error(error)}")
        except TimeoutError:
            failure = RedisUnavailable(f"{self.shown}: no answer within {self.timeout_s:g} s")
        except RedisError as error:
            failure = RedisUnavailable(f"{self.shown}: {_login_error(error)}")
        await connection.disconnect(nowait=True)
        raise failure


def _login_error(error: Exception) -> str:
    """What Redis said, with the error code that redis-py takes off, or what happened to the connection."""
    code = getattr(error, "status_code", None)
    text = str(error) or type(error).__name__
    return text if code in (None, "ERR") else f"{code} {text}"


def _check(url: str) -> None:
    """Refuse what redis-py would read as something else, or not at all.

    Raises:
        UsageError: With the reason.
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
        raise _unusable(url, "its host is no valid name")
    if parts.scheme != "unix" and database and not database.isdigit():
        raise _unusable(url, "the database is no number")


def _unusable(url: str, reason: str) -> UsageError:
    """That ``url`` can't be used; never in a parser's words, which repeat what it took for a port or a host."""
    return UsageError(
        f"the Redis URL {redact_url(url)} (REDIS_URL or --redis-url) can't be used: {reason}; write "
        "redis://[[user]:password@]host[:port][/database], special characters of a password percent-encoded "
        "(/ as %2F, # as %23, @ as %40)"
    )


class Link:
    """One connection that many callers share.

    All commands submitted in one turn of the event loop go out in one write, and are answered in the order in
    which they were submitted. While Redis can't be reached commands are refused at once.

    Args:
        target: Which Redis.
        name: The connection's name in Redis' ``CLIENT LIST``.
        greeting: Commands sent first on each new connection, whatever the answers.
        on_greeting: Gets the reply to each of them.
        on_change: Called with None when Redis can be reached (again), and with the cause when it can't any more.
        on_push: Gets what Redis says without being asked, for which the greeting has to ask for RESP3.
    """

    def __init__(
        self,
        target: RedisTarget,
        name: str,
        greeting: Sequence[bytes] = (),
        *,
        on_greeting: OnReply | None = None,
        on_change: Callable[[str | None], None] | None = None,
        on_push: OnReply | None = None,
    ) -> None:
        self._target = target
        self._name = name
        self._greeting = greeting
        self._on_greeting = on_greeting or _ignore
        self._on_change = on_change
        self._on_push = on_push
        self.turn = 0
        """Counts the batches that were sent: what was submitted in the present turn is not sent yet."""
        # What waits to be sent; three lists, as a tuple for each would be one more thing to collect.
        self._commands: list[bytes] = []
        self._on_replies: list[OnReply] = []
        self._weights: list[int] = []
        self._repeated = 0
        """How many of those are repeats, which stand in front."""
        self._held_bytes = 0
        """What waits, and the batch that was sent."""
        self._batch_bytes = 0
        """The batch that was sent and is not answered yet; 0 when there is none."""
        self._sent_at = 0.0
        self._connection: RedisConnection | None = None
        self._up: bool | None = None  # None: not known, what is submitted waits for one attempt to connect
        self._cause = "not connected yet"
        self._healthy = False

    @property
    def ready(self) -> bool:
        """Whether Redis could be reached and did its work, neither loading nor down, when last it was asked."""
        return self._up is True and self._healthy

    @property
    def is_crowded(self) -> bool:
        """Whether what waits will take a while, some tens of milliseconds, to be carried out."""
        return self._held_bytes > CROWDED_BYTES

    def submit(self, command: bytes, on_reply: OnReply, weight: int = 0, *, again: bool = False) -> None:
        """Send ``command`` (see :func:`pack`).

        Args:
            on_reply: Called exactly once, maybe before this returns: with the reply, the ReplyError that Redis
                answered with, or RedisUnavailable.
            weight: How much work it may be, in bytes of a command that is as much; by default its length.
            again: Whether it repeats one that was answered just now, and goes before all that came after that one.
        """
        if self._up is False:
            on_reply(RedisUnavailable(self._cause))
            return
        if self._held_bytes > PENDING_BYTES:
            on_reply(RedisUnavailable("too much is waiting to be written"))
            return
        if not self._commands:
            self._send_soon()
        if again:
            self._commands.insert(self._repeated, command)
            self._on_replies.insert(self._repeated, on_reply)
            self._weights.insert(self._repeated, weight or len(command))
            self._repeated += 1
        else:
            self._commands.append(command)
            self._on_replies.append(on_reply)
            self._weights.append(weight or len(command))
        self._held_bytes += len(command)

    def call(self, *arguments: bytes) -> asyncio.Future[Any]:
        """Send one command; the future has its reply.

        Raises:
            RedisUnavailable: (the future) Redis can't be reached, or did not answer in time.
            ReplyError: (the future) What Redis answered.
        """
        future, on_reply = future_reply()
        self.submit(pack(*arguments), on_reply)
        return future

    async def run(self) -> NoReturn:
        """Keep the connection up and serve what is submitted, until cancelled."""
        failures = 0
        while True:
            try:
                connection = await self._target.connect(self._name)
            except (RedisUnavailable, LoginRefused) as error:
                self._down(error.cause if isinstance(error, RedisUnavailable) else str(error))
                failures += 1
                await RECONNECT.wait(failures)
                continue
            failures = 0
            self._set_up(True)
            try:
                await self._serve(connection)
            except OSError as error:
                log.info("link broken name=%s: %s", self._name, error)
            finally:
                await connection.close()

    async def _serve(self, connection: RedisConnection) -> NoReturn:
        """Serve until the connection ends, or Redis answers no more.

        Raises:
            OSError: With the reason.
        """
        self._connection = connection
        connection.on_idle = self._answered
        if self._on_push is not None:
            connection.on_push = self._on_push
        greeting = [*self._greeting, pack(b"PING")]
        self._commands[:0] = greeting
        self._on_replies[:0] = [*[self._on_greeting] * len(self._greeting), self._note_health]
        self._weights[:0] = map(len, greeting)
        self._held_bytes += sum(map(len, greeting))
        self._repeated = 0
        self._send_soon()
        cause = "the gateway stopped"
        try:
            reason = await self._watch(connection)
            cause = f"{self._target.shown}: {reason}"
            raise reason
        finally:
            self._connection = None
            self._up = None
            self._cause = cause
            self._held_bytes -= self._batch_bytes
            self._batch_bytes = 0
            for on_reply in list(connection.unanswered):
                on_reply(RedisUnavailable(cause, Outcome.UNKNOWN))

    async def _watch(self, connection: RedisConnection) -> Exception:
        """Wait until the link is of no use any more, for the reason; ask something of one that was asked nothing."""
        limit_s = self._target.timeout_s
        quiet_since = time.monotonic()
        while not connection.ended.done():
            await asyncio.wait([connection.ended], timeout=limit_s / 10)
            now = time.monotonic()
            if connection.unanswered:
                quiet_since = now
                if now - self._sent_at > limit_s:
                    return TimeoutError(f"no answer within {limit_s:g} s")
            elif now - quiet_since > IDLE_PING_S:
                quiet_since = now
                self.submit(pack(b"PING"), self._note_health)
        return connection.ended.result()

    def _send_soon(self) -> None:
        """Send what is waiting at the end of this turn of the event loop, unless a batch is under way."""
        if self._connection is not None and not self._batch_bytes:
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        """Send a batch, one at a time: what was not sent when the link breaks is known not to be stored."""
        if self._connection is None or not self._connection.is_open:
            return
        weights = accumulate(self._weights[:BATCH_COMMANDS])
        count = max(1, bisect_right(list(weights), BATCH_BYTES))
        del self._weights[:count]
        commands, self._commands = b"".join(self._commands[:count]), self._commands[count:]
        on_replies, self._on_replies = self._on_replies[:count], self._on_replies[count:]
        self._repeated = 0
        self.turn += 1
        self._batch_bytes = len(commands)
        self._sent_at = time.monotonic()
        self._connection.send(commands, on_replies)

    def _answered(self) -> None:
        """The last batch was answered: the next may go."""
        self._held_bytes -= self._batch_bytes
        self._batch_bytes = 0
        if self._commands:
            self._send_soon()

    def _note_health(self, reply: Any) -> None:
        self._healthy = not isinstance(reply, Exception)

    def _down(self, cause: str) -> None:
        self._cause = cause
        self._set_up(False)
        refused, self._on_replies = self._on_replies, []
        self._commands = []
        self._weights = []
        self._repeated = 0
        self._held_bytes = 0
        for on_reply in refused:
            on_reply(RedisUnavailable(cause))

    def _set_up(self, up: bool) -> None:
        changed, self._up = up is not self._up, up
        if changed and self._on_change is not None:
            self._on_change(None if up else self._cause)


def future_reply() -> tuple[asyncio.Future[Any], OnReply]:
    """A future, and the ``on_reply`` that gives it the reply, or the error."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def on_reply(reply: Any) -> None:
        if future.done():
            return
        if isinstance(reply, Exception):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    return future, on_reply


def _ignore(reply: Any) -> None:
    """For a command whose failure shows later, in what builds on it."""


async def probe(target: RedisTarget) -> None:
    """Try to reach Redis once.

    Raises:
        RedisUnavailable: It can't be reached now.
        LoginRefused: It refused the login.
    """
    connection = await target.connect("rsws")
    await connection.close()

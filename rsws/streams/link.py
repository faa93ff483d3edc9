"""Connections to Redis: how one is made, and one that many callers share.

redis-py makes the connection (TCP, TLS or Unix socket, password, database). Its retries stay off everywhere: on
the write path they would store a message twice when a reply is lost.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn
from urllib.parse import urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, InvalidResponse, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from rsws.errors import LoginRefused, Outcome, RedisUnavailable, UsageError
from rsws.urls import redact_url

log = logging.getLogger("rsws.redis")

BATCH_COMMANDS = 1000
BATCH_BYTES = 1024 * 1024
PENDING_BYTES = 64 * 1024 * 1024
"""What callers may have waiting in one link; more is refused as unavailable."""
BACKOFF_S = (0.05, 2.0)
IDLE_PING_S = 5.0

OnReply = Callable[[Any], None]
"""Gets Redis' reply as it came (bytes, int, list, None), an error Redis answered with, or RedisUnavailable."""


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

    async def connect(self, name: str) -> AbstractConnection:
        """A connection that is up.

        Raises:
            RedisUnavailable: There is none to be had now.
            LoginRefused: Redis refused the password or the database.
        """
        connection = self.connection(name)
        try:
            async with asyncio.timeout(self.timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
        except TimeoutError:
            await connection.disconnect(nowait=True)
            raise RedisUnavailable(f"{self.shown}: no answer within {self.timeout_s:g} s") from None
        except RedisError as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, AuthenticationError | AuthorizationError | ResponseError):
                raise LoginRefused(f"Redis at {self.shown} refused the login: {error_text(error)}") from None
            raise RedisUnavailable(f"{self.shown}: {error_text(error)}") from None
        return connection


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
    if parts.scheme != "unix" and database and not database.isdigit():
        raise _unusable(url, "the database is no number")


def _unusable(url: str, reason: str) -> UsageError:
    """That ``url`` can't be used; never in a parser's words, which repeat what it took for a port or a host."""
    return UsageError(
        f"the Redis URL {redact_url(url)} (REDIS_URL or --redis-url) can't be used: {reason}; write "
        "redis://[[user]:password@]host[:port][/database], special characters of a password percent-encoded "
        "(/ as %2F, # as %23, @ as %40)"
    )


def pack(*arguments: bytes) -> bytes:
    """A command in Redis' wire format; a tenth of the cost of packing through redis-py."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


def is_reply(error: BaseException) -> bool:
    """Whether ``error`` is something Redis said, not something that happened to the link."""
    return isinstance(error, ResponseError) or getattr(error, "status_code", None) is not None


def error_text(error: BaseException) -> str:
    """What Redis said, with the error code that redis-py takes off, or what happened to the link."""
    code = getattr(error, "status_code", None)
    text = str(error) or type(error).__name__
    return text if code in (None, "ERR") else f"{code} {text}"


async def backoff(attempt: int) -> None:
    """Wait before attempt number ``attempt`` (1 is the first repeat), jittered."""
    low, high = BACKOFF_S
    await asyncio.sleep(min(high, low * 2**attempt) * random.uniform(0.5, 1.0))


class Link:
    """One connection that many callers share.

    All commands submitted in one turn of the event loop go out in one write, and are answered in the order in
    which they were submitted. While Redis can't be reached commands are refused at once.

    Args:
        target: Which Redis.
        name: The connection's name in Redis' ``CLIENT LIST``.
        greeting: Commands sent first on each new connection, whatever the answers.
        on_change: Called with None when Redis can be reached, and with the cause when it can't any more.
    """

    def __init__(
        self,
        target: RedisTarget,
        name: str,
        greeting: Sequence[bytes] = (),
        on_change: Callable[[str | None], None] | None = None,
    ) -> None:
        self._target = target
        self._name = name
        self._greeting = greeting
        self._on_change = on_change
        self._pending: list[tuple[bytes, OnReply]] = []
        self._pending_bytes = 0
        self.turn = 0
        """Counts the batches that were sent: what was submitted in the present turn is not sent yet."""
        self._repeated = 0
        """How many of those pending are repeats, which stand in front."""
        self._sent: deque[tuple[float, int, OnReply]] = deque()
        self._wake = asyncio.Event()
        self._up: bool | None = None  # None: not known, what is submitted waits for one attempt to connect
        self._cause = "not connected yet"
        self._healthy = False

    @property
    def ready(self) -> bool:
        """Whether Redis could be reached and did its work, neither loading nor down, when last it was asked."""
        return self._up is True and self._healthy

    def submit(self, command: bytes, on_reply: OnReply, *, again: bool = False) -> None:
        """Send ``command`` (see :func:`pack`); ``on_reply`` is called exactly once, maybe before this returns.

        Args:
            again: Whether it repeats one that was answered just now, and goes before all that came after that one.
        """
        if self._up is False:
            on_reply(RedisUnavailable(self._cause))
            return
        if self._pending_bytes > PENDING_BYTES:
            on_reply(RedisUnavailable("too much is waiting to be written"))
            return
        if again:
            self._pending.insert(self._repeated, (command, on_reply))
            self._repeated += 1
        else:
            self._pending.append((command, on_reply))
        self._pending_bytes += len(command)
        self._wake.set()

    def call(self, *arguments: bytes) -> asyncio.Future[Any]:
        """Send one command, now; the future has its reply.

        Raises:
            RedisUnavailable: (the future) Redis can't be reached, or did not answer in time.
            RedisError: (the future) What Redis answered, when :func:`is_reply`.
        """
        future, on_reply = future_reply()
        self.submit(pack(*arguments), on_reply)
        return future

    async def run(self) -> NoReturn:
        """Keep the connection up and serve what is submitted, until cancelled."""
        attempt = 0
        while True:
            try:
                connection = await self._target.connect(self._name)
            except (RedisUnavailable, LoginRefused) as error:
                self._down(error.cause if isinstance(error, RedisUnavailable) else str(error))
                attempt += 1
                await backoff(attempt)
                continue
            attempt = 0
            self._set_up(True)
            try:
                await self._serve(connection)
            except (RedisError, OSError, TimeoutError) as error:
                log.info("link broken name=%s: %s", self._name, error_text(error))
            finally:
                await connection.disconnect(nowait=True)

    async def _serve(self, connection: AbstractConnection) -> NoReturn:
        """Write, read and watch until the connection ends, which one of the three notices."""
        waiting, self._pending = self._pending, []
        self._repeated = 0
        for command in self._greeting:
            self.submit(command, _ignore)
        self.submit(pack(b"PING"), self._note_health)
        self._pending += waiting
        parts = [asyncio.create_task(part(connection)) for part in (self._write, self._read)]
        parts.append(asyncio.create_task(self._watch()))
        cause = "the gateway stopped"
        try:
            ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            error = next(iter(ended)).exception()
            assert error is not None
            cause = f"{self._target.shown}: {error_text(error)}"
            raise error
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            self._up = None
            self._cause = cause
            lost, self._sent = self._sent, deque()
            for _, size, on_reply in lost:
                self._pending_bytes -= size
                on_reply(RedisUnavailable(cause, Outcome.UNKNOWN))

    async def _write(self, connection: AbstractConnection) -> NoReturn:
        """Send what is pending, a batch at a time: what was not sent when the link breaks is known not to be stored."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._pending or self._sent:
                continue
            if await connection.can_read():  # Redis owes nothing: this is the end of the connection
                raise RedisConnectionError("connection closed by Redis")
            batch = self._take_batch()
            now = time.monotonic()
            self._sent.extend([(now, len(command), on_reply) for command, on_reply in batch])
            await send(connection, b"".join([command for command, _ in batch]))

    async def _read(self, connection: AbstractConnection) -> NoReturn:
        while True:
            reply = await read_reply(connection)
            if not self._sent:
                raise InvalidResponse(f"an answer to nothing that was asked: {reply!r:.100}")
            _, size, on_reply = self._sent.popleft()
            self._pending_bytes -= size
            on_reply(reply)
            if not self._sent and self._pending:
                self._wake.set()

    async def _watch(self) -> NoReturn:
        """Notice a link that answers nothing; ask something of one that was asked nothing."""
        limit_s = self._target.timeout_s
        quiet_since = time.monotonic()
        while True:
            await asyncio.sleep(limit_s / 10)
            now = time.monotonic()
            if self._sent:
                quiet_since = now
                if now - self._sent[0][0] > limit_s:
                    raise TimeoutError(f"no answer within {limit_s:g} s")
            elif now - quiet_since > IDLE_PING_S:
                quiet_since = now
                self.submit(pack(b"PING"), self._note_health)

    def _take_batch(self) -> list[tuple[bytes, OnReply]]:
        size = count = 0
        for command, _ in self._pending:
            if count == BATCH_COMMANDS or (count and size + len(command) > BATCH_BYTES):
                break
            size += len(command)
            count += 1
        batch, self._pending = self._pending[:count], self._pending[count:]
        self._repeated = 0
        self.turn += 1
        return batch

    def _note_health(self, reply: Any) -> None:
        self._healthy = not isinstance(reply, Exception)

    def _down(self, cause: str) -> None:
        self._cause = cause
        self._set_up(False)
        refused, self._pending = self._pending, []
        self._repeated = 0
        self._pending_bytes = 0
        for _, on_reply in refused:
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


async def send(connection: AbstractConnection, commands: bytes) -> None:
    """Send commands as :func:`pack` makes them."""
    try:
        await connection.send_packed_command(commands, check_health=False)
    except RuntimeError as error:  # uvloop's word for a connection that was reset
        raise RedisConnectionError(str(error)) from None


async def read_reply(connection: AbstractConnection) -> Any:
    """The next reply; an error Redis answered with is returned, one that happened to the link is raised."""
    try:
        return await connection.read_response(disconnect_on_error=False)
    except RedisError as error:
        if is_reply(error):
            return error
        raise


def _ignore(reply: Any) -> None:
    """For a command whose failure shows later, in what builds on it."""


async def probe(target: RedisTarget) -> None:
    """Try to reach Redis once.

    Raises:
        RedisUnavailable: It can't be reached now.
        LoginRefused: It refused the login.
    """
    connection = await target.connect("rsws")
    await connection.disconnect(nowait=True)

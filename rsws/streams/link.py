"""One connection to Redis that many callers share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from rsws.errors import LoginRefused, Outcome, RedisUnavailable
from rsws.streams.command_queue import CommandQueue
from rsws.streams.limits import DEFAULTS, Limits
from rsws.streams.redis_connection import OnReply, RedisConnection, pack
from rsws.streams.target import RedisTarget

log = logging.getLogger("rsws.redis")


class RedisLink:
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
        limits: Limits = DEFAULTS,
    ) -> None:
        self._target = target
        self._name = name
        self._greeting = greeting
        self._on_greeting = on_greeting or _ignore
        self._on_change = on_change
        self._on_push = on_push
        self._pending_bytes = limits.pending_bytes
        self._crowded_bytes = limits.crowded_bytes
        self._reconnect = limits.reconnect
        self._idle_ping_s = limits.idle_ping_s
        self._queue = CommandQueue()
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
    def is_down(self) -> bool:
        """Whether Redis could not be reached when that was tried last: what is submitted is refused at once."""
        return self._up is False

    @property
    def is_crowded(self) -> bool:
        """Whether what waits will take a while, some tens of milliseconds, to be carried out."""
        return self._queue.held_bytes > self._crowded_bytes

    @property
    def held_bytes(self) -> int:
        """Of the commands that wait, and of those that were sent and are not answered."""
        return self._queue.held_bytes

    @property
    def is_busy(self) -> bool:
        """Whether something was sent that is not answered."""
        return self._queue.has_batch_under_way

    @property
    def batches(self) -> int:
        """How many were sent: what was submitted since the last one is not sent yet."""
        return self._queue.batches

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
        queue = self._queue
        if queue.held_bytes > self._pending_bytes:
            on_reply(RedisUnavailable("too much is waiting to be written"))
            return
        if queue.is_empty:
            self._send_soon()
        queue.add(command, on_reply, weight, again=again)

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
                await self._reconnect.wait(failures)
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
        self._queue.add_first(greeting, [*[self._on_greeting] * len(self._greeting), self._note_health])
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
            self._queue.batch_done()
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
            elif now - quiet_since > self._idle_ping_s:
                quiet_since = now
                self.submit(pack(b"PING"), self._note_health)
        return connection.ended.result()

    def _send_soon(self) -> None:
        """Send what is waiting at the end of this turn of the event loop, unless a batch is under way."""
        if self._connection is not None and not self._queue.has_batch_under_way:
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        """Send a batch, one at a time: what was not sent when the link breaks is known not to be stored."""
        if self._connection is None or not self._connection.is_open:
            return
        self._sent_at = time.monotonic()
        self._connection.send(*self._queue.next_batch())

    def _answered(self) -> None:
        """The last batch was answered: the next may go."""
        self._queue.batch_done()
        if not self._queue.is_empty:
            self._send_soon()

    def _note_health(self, reply: Any) -> None:
        self._healthy = not isinstance(reply, Exception)

    def _down(self, cause: str) -> None:
        self._cause = cause
        self._set_up(False)
        for on_reply in self._queue.clear():
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

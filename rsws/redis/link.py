"""A link to Redis: one connection that many callers share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

from rsws.errors import Outcome, RedisUnavailable, SetupError
from rsws.log_lines import LogLine
from rsws.redis.command_queue import CommandQueue
from rsws.redis.connection import NotPrimary, OnReply, RedisConnection, ReplyError, pack
from rsws.redis.limits import DEFAULTS, Limits
from rsws.redis.target import ASK_ROLE, RedisTarget

log = logging.getLogger("rsws.redis")


STEADY_S = 1.0
"""How long a server has to be taken for a primary before it may be connected to again immediately."""
ASKING = pack(b"ASKING")
"""Said to a node of a cluster before a command for a slot that is on its way there."""
SLOW_S = 0.25
"""How long the answers to a batch take at a server that is busy, and not gone."""
SHORTEST_IDLE_S = 0.5
"""How often a server that closes idle connections (its ``timeout``) is asked something at most; else twice as often as
it would close them.
"""


class Submits(Protocol):
    """What commands can be submitted to; see :class:`RedisLink`."""

    @property
    def batches(self) -> int:
        """See :attr:`RedisLink.batches`."""

    @property
    def connections(self) -> int:
        """See :attr:`RedisLink.connections`."""

    def submit(self, command: bytes, on_reply: OnReply, weight: int = 0, *, again: bool = False) -> None:
        """See :meth:`RedisLink.submit`."""

    def submit_all(self, commands: Sequence[bytes], on_replies: Sequence[OnReply]) -> None:
        """Send commands that follow each other, each with its ``on_reply``; see :meth:`RedisLink.submit`."""
        for command, on_reply in zip(commands, on_replies, strict=True):
            self.submit(command, on_reply)

    def call(self, *arguments: bytes) -> asyncio.Future[Any]:
        """Send one command; return a future for its reply.

        Raises:
            RedisUnavailable: (the future) Redis can't be reached, or did not answer in time.
            ReplyError: (the future) Redis answered with an error.
        """
        future, on_reply = future_reply()
        self.submit(pack(*arguments), on_reply)
        return future


class RedisLink(Submits):
    """A connection to Redis that many callers share, and that reconnects.

    Commands submitted in one turn of the event loop are sent in one write, as far as a batch has room and none is under
    way, and answered in the order in which they were submitted. After a failed attempt to connect, commands are refused
    immediately; before the first one after a break they wait for it.

    Args:
        target: The Redis to connect to.
        name: The connection's name in Redis' ``CLIENT LIST``.
        greeting: Commands sent first on each new connection, whatever the replies.
        on_greeting: Called with the reply to each command of the greeting.
        on_change: Called with None when Redis can be reached (again), and with the cause when it no longer can.
        on_push: Called with each push message of Redis, for which the greeting has to select RESP3.
        watch_role: Whether to keep asking if the server is still a primary, for all connections of the target.
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
        watch_role: bool = False,
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
        self._role_check_s = limits.role_check_s if watch_role else None
        self._queue = CommandQueue()
        self._sent_at = 0.0
        self._connection: RedisConnection | None = None
        self._up: bool | None = None  # None: not known yet, commands wait for one attempt to connect
        self._cause = "not connected yet"
        self._healthy = False
        self._asks_role = False
        self._connections = 0
        self._idle_closes = 0
        """How often in a row the server has closed the connection while it was idle."""

    @property
    def ready(self) -> bool:
        """Whether Redis could be reached and served commands, neither loading nor down, when last checked."""
        return self._up is True and self._healthy

    @property
    def trouble(self) -> str | None:
        """Why the connection is not :attr:`ready`, as far as that is known; None when it is."""
        return None if self.ready else self._cause

    @property
    def is_down(self) -> bool:
        """Whether Redis could not be reached when that was tried last: what is submitted is refused at once."""
        return self._up is False

    @property
    def is_crowded(self) -> bool:
        """Whether the queue is so long that Redis will take some tens of milliseconds to execute it."""
        return self._queue.held_bytes > self._crowded_bytes

    @property
    def held_bytes(self) -> int:
        """The size of the commands that wait, and of those that were sent and are not answered."""
        return self._queue.held_bytes

    @property
    def is_busy(self) -> bool:
        """Whether commands were sent that are not answered."""
        return self._queue.has_batch_under_way

    @property
    def is_answering(self) -> bool:
        """Whether no batch has waited for its answers for long."""
        return not self.is_busy or time.monotonic() - self._sent_at < SLOW_S

    @property
    def connections(self) -> int:
        """How many connections there have been: what is answered belongs to the last one."""
        return self._connections

    @property
    def batches(self) -> int:
        """The number of batches sent: commands submitted since the last one are not sent yet."""
        return self._queue.batches

    def submit(self, command: bytes, on_reply: OnReply, weight: int = 0, *, again: bool = False) -> None:
        """Send ``command`` (see :func:`pack`).

        Args:
            on_reply: Called exactly once, maybe before this returns: with the reply, the ReplyError that Redis
                answered with, or RedisUnavailable.
            weight: The work it may cost Redis, as the length in bytes of a plain command that costs as much; by default
                its own length.
            again: Whether it repeats a command that was answered just now, and goes before all submitted after that.
        """
        if self._up is False or self._queue.held_bytes > self._pending_bytes:
            on_reply(self._refusal())
        elif self._queue.add(command, on_reply, weight, again=again):
            self._send_soon()

    def submit_all(self, commands: Sequence[bytes], on_replies: Sequence[OnReply]) -> None:
        if self._up is False or self._queue.held_bytes > self._pending_bytes:
            for on_reply in on_replies:
                on_reply(self._refusal())
        elif self._queue.add_all(commands, on_replies):
            self._send_soon()

    def _refusal(self) -> RedisUnavailable:
        """Return why a command is refused at once."""
        return RedisUnavailable(self._cause if self._up is False else "too much is waiting to be written")

    async def run(self) -> NoReturn:
        """Keep the connection up and send the commands submitted, until cancelled."""
        failures = in_vain = 0
        demoted: NotPrimary | None = None
        while True:
            try:
                connection = await self._target.connect(self._name)
            except (RedisUnavailable, SetupError) as error:
                self._down(error.cause if isinstance(error, RedisUnavailable) else str(error))
                failures += 1
                await self._reconnect.wait(failures)
                continue
            if demoted is not None and failures == 0 and self._role_check_s is not None:
                log.warning("%s: connected anew", demoted)  # an outage would have said it
            demoted = None
            self._set_up(True)
            since = time.monotonic()
            try:
                await self._serve(connection)
            except NotPrimary as error:
                demoted = error
            except OSError as error:
                log.info(LogLine("link broken", name=self._name, cause=str(error)))
            finally:
                await connection.close()
            failures = 0
            in_vain = in_vain + 1 if demoted is not None and time.monotonic() - since < STEADY_S else 0
            if in_vain > 1:  # it is a replica, and does not say so before it is written to
                self._down(str(demoted))
                await self._reconnect.wait(in_vain)

    async def _serve(self, connection: RedisConnection) -> NoReturn:
        """Send commands over a new connection until it ends, or Redis stops answering.

        Raises:
            OSError: The reason for the end.
        """
        self._connection = connection
        self._connections += 1
        connection.on_idle = self._answered
        if self._on_push is not None:
            connection.on_push = self._on_push
        greeting = [*self._greeting, pack(b"PING")]
        self._asks_role = False
        self._queue.add_first(greeting, [*[self._on_greeting] * len(self._greeting), self._note_health])
        self._send_soon()
        cause, was_reset = "the gateway stopped", False
        try:
            reason = await self._watch(connection)
            cause = f"{self._target.shown}: {reason}"
            was_reset = isinstance(reason, ConnectionResetError | BrokenPipeError)
            raise reason
        finally:
            self._connection = None
            self._up = None
            self._cause = cause
            self._queue.batch_done()
            for on_reply in list(connection.unanswered):
                on_reply(RedisUnavailable(cause, Outcome.UNKNOWN, was_reset=was_reset))

    async def _watch(self, connection: RedisConnection) -> Exception:
        """Wait until the connection is unusable, and return the reason; send a PING when it is idle."""
        limit_s = self._target.timeout_s
        quiet_since = role_asked = time.monotonic()
        while not connection.ended.done():
            await asyncio.wait([connection.ended], timeout=min(limit_s / 10, self._role_check_s or limit_s))
            now = time.monotonic()
            if self._role_check_s is not None and not self._asks_role and now - role_asked >= self._role_check_s:
                role_asked = now
                self._asks_role = True
                self.submit(ASK_ROLE, self._note_role)
            if connection.unanswered:
                quiet_since = now
                if now - self._sent_at > limit_s:
                    return TimeoutError(f"no answer within {limit_s:g} s")
            elif now - quiet_since > self._idle_ping_s:
                quiet_since = now
                self.submit(pack(b"PING"), self._note_health)
        reason = connection.ended.result()
        quiet_s = time.monotonic() - quiet_since
        was_idle = type(reason) is ConnectionResetError and not connection.unanswered and quiet_s > SHORTEST_IDLE_S
        self._idle_closes = self._idle_closes + 1 if was_idle else 0
        if self._idle_closes > 1:
            self._idle_ping_s = max(SHORTEST_IDLE_S, min(self._idle_ping_s, quiet_s / 2))
        return reason

    def _send_soon(self) -> None:
        """Send the waiting commands at the end of this turn of the event loop, unless a batch is under way."""
        if self._connection is not None and not self._queue.has_batch_under_way:
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        """Send the next batch. Only one is under way: commands not sent when the link breaks are known not stored."""
        if self._connection is None or not self._connection.is_open:
            return
        self._sent_at = time.monotonic()
        self._connection.send(*self._queue.next_batch())

    def _answered(self) -> None:
        """Note that the batch under way is answered, and schedule the next."""
        self._queue.batch_done()
        if not self._queue.is_empty:
            self._send_soon()

    def _note_health(self, reply: Any) -> None:
        self._healthy = not isinstance(reply, Exception) or (isinstance(reply, ReplyError) and reply.is_forbidden)

    def _note_role(self, reply: Any) -> None:
        self._asks_role = isinstance(reply, ReplyError) and reply.is_forbidden  # then it is left at that
        if not isinstance(reply, RedisUnavailable) and (trouble := self._target.role_trouble(reply)) is not None:
            self._target.end_all(trouble)

    def close(self, cause: str) -> None:
        """Refuse what waits and all that is still submitted: :meth:`run` has ended for good."""
        self._up = False
        self._cause = cause
        for on_reply in self._queue.clear():
            on_reply(RedisUnavailable(cause))

    def _down(self, cause: str) -> None:
        self._cause = cause
        self._set_up(False)
        for on_reply in self._queue.clear():
            on_reply(RedisUnavailable(cause))

    def _set_up(self, up: bool) -> None:
        changed, self._up = up is not self._up, up
        if changed and self._on_change is not None:
            self._on_change(None if up else self._cause)


class AskingLink(Submits):
    """The same link, for keys of slots that are on their way to its node: ASKING precedes each command."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    @property
    def batches(self) -> int:
        return self._link.batches

    @property
    def connections(self) -> int:
        return self._link.connections

    def submit(self, command: bytes, on_reply: OnReply, weight: int = 0, *, again: bool = False) -> None:
        self._link.submit(ASKING, _ignore, again=again)
        self._link.submit(command, on_reply, weight, again=again)


def future_reply() -> tuple[asyncio.Future[Any], OnReply]:
    """Return a future, and the ``on_reply`` callback that sets its result or exception."""
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
    """Ignore the reply to a command whose failure shows later, in the commands that depend on it."""

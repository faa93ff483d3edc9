"""One run of ``rsws sub``: channels are read, merged and filtered, and what is left goes to a sink."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsws.cli.endpoint import Endpoint
from rsws.cli.exits import ExitCode, Failure
from rsws.cli.sub.merging import Merge
from rsws.cli.sub.names import POLL_S, Expansion, Suggestions
from rsws.cli.sub.notices import Notices
from rsws.cli.sub.reading import Extent, Reading
from rsws.cli.sub.sinks import Sink
from rsws.cli.sub.state import Positions
from rsws.errors import ErrorCode, RswsError, SubscribeRefused
from rsws.protocol import ZERO, Message, Subscribed
from rsws.starts import Start

if TYPE_CHECKING:
    from rsws.client import Client, ConnectionEvent

SETTLE_S = 1.0
"""How long after the moment of ``--until`` a message of that moment may take to be stored, by whatever clock."""
HINT_S = 1.0
"""How long the end of a run waits for what is yet to be said about names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is wanted of a run."""

    channels: Sequence[str]
    start: Start
    extent: Extent
    patterns: Sequence[str] = ()
    """Patterns of further channels, those that come later included."""
    count: int | None = None
    """How many messages are taken; None for any number."""
    merge: bool = True
    """Whether the history of several channels is merged."""


class Run:
    """A run.

    Args:
        wanted: Which messages are wanted; None for all.
        positions: Where channels begin that have a position already.
    """

    def __init__(
        self,
        plan: Plan,
        sink: Sink,
        *,
        notices: Notices,
        positions: Positions,
        wanted: Callable[[Message], bool] | None = None,
    ) -> None:
        self._plan = plan
        self._sink = sink
        self.notices = notices
        self.merge = Merge()
        self._positions = positions
        self._wanted = wanted
        self._left = plan.count
        self._taking = asyncio.Lock()  # keeps lines whole, also where a slow reader accepts them in pieces
        self._done = asyncio.Event()
        positions.on_failure = self._done.set
        self._open: dict[str, Reading] = {}
        """The channels of which more is wanted."""
        self._in_history: set[str] = set()
        self._awaits_more = True
        """Whether channels may come that are wanted, too."""
        self._running: set[asyncio.Task[None]] = set()
        """What ends with the run; commands under way are not among it."""
        self._hints: set[asyncio.Task[None]] = set()

    async def run(self, gateway: Endpoint) -> None:
        """Run until all that is wanted was taken, and dealt with."""
        try:
            async with gateway.connect(self._connection_changed) as client:
                try:
                    async with asyncio.TaskGroup() as tasks:
                        await self._run(gateway, client, tasks)
                except ExceptionGroup as group:  # an error that ended one channel ends all; the first one is raised
                    raise self._explained(group.exceptions[0]) from None
        finally:
            self._positions.save()

    def _explained(self, error: Exception) -> Exception:
        if self._plan.patterns and isinstance(error, SubscribeRefused) and error.code == ErrorCode.TOO_MANY:
            return Failure(
                f"{' and '.join(self._plan.patterns)} match more channels than a connection may have; choose "
                "narrower ones, or start the gateway with a greater --max-subscriptions",
                ExitCode.ERROR,
            )
        return error

    async def _run(self, gateway: Endpoint, client: Client, tasks: asyncio.TaskGroup) -> None:
        plan = self._plan
        self._tasks = tasks
        self._client = client
        self._suggestions = Suggestions(gateway)
        for channel in plan.channels:
            self._begin(channel, plan.start)
        expansion = Expansion(gateway, plan.patterns, plan.channels)
        if plan.patterns:
            has_any = await self._expand(expansion, plan.start)
            if not has_any and not plan.channels:
                self.notices.note(f"no channel matches {' or '.join(plan.patterns)} yet")
        self._awaits_more = bool(plan.patterns) and plan.extent.follow
        watch = self._own(self._watch(expansion)) if self._awaits_more else None
        if plan.extent.until is not None and plan.extent.follow:
            self._own(self._finish_at(plan.extent.until.ms / 1000 + SETTLE_S, expansion, watch))
        self._end_if_over()
        await self._done.wait()
        if self._hints:
            await asyncio.wait(self._hints, timeout=HINT_S)
        for each in [*self._running, *self._hints]:
            each.cancel()

    def _begin(self, channel: str, start: Start) -> None:
        position = self._positions.of(channel)
        if position is not None:
            start = Start(position, is_resumed=True)
        reading = self._open[channel] = Reading(self, channel, start, self._plan.extent)
        self._in_history.add(channel)
        if self._plan.merge:
            self.merge.join(channel)
        self._own(self._read(reading))

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _read(self, reading: Reading) -> None:
        await reading.run(self._client)
        channel = reading.channel
        self.merge.leave(channel)
        self._in_history.discard(channel)
        del self._open[channel]
        self._end_if_over()

    def _end_if_over(self) -> None:
        if not self._open and not self._awaits_more:
            self._done.set()

    async def _expand(self, expansion: Expansion, start: Start) -> bool:
        """Begin the channels that have come since the last time; return whether there are any."""
        has_any = False
        async for channel in expansion.new_channels():
            has_any = True
            if channel not in self._open:
                self._begin(channel, start)
        return has_any

    async def _watch(self, expansion: Expansion) -> None:
        """Begin each channel that comes, at its beginning: it was not there before."""
        while True:
            await asyncio.sleep(POLL_S)
            with suppress(RswsError):  # what is wrong with the gateway is said about its connection
                await self._expand(expansion, Start(ZERO))

    async def _finish_at(self, moment_s: float, expansion: Expansion, watch: asyncio.Task[None] | None) -> None:
        """End each channel where it is at that moment, in seconds since 1970."""
        await asyncio.sleep(moment_s - time.time())
        if watch is not None:
            watch.cancel()
            await self._expand(expansion, Start(ZERO))
            self._awaits_more = False
        async with asyncio.TaskGroup() as closing:
            for reading in self._open.values():
                closing.create_task(reading.finish())
        self._end_if_over()

    # --- what readings say ---

    async def message(self, message: Message) -> None:
        if self._wanted is not None and not self._wanted(message):
            self._sink.skip(message)
            return
        async with self._taking:
            if self._done.is_set():
                return
            await self._sink.take(message, self._tasks)
            if self._left is not None:
                self._left -= 1
                if self._left == 0:
                    self._done.set()

    def subscribed(self, event: Subscribed, *, first: bool) -> None:
        channel = event.channel
        self._positions.begin(channel, event.last_message_id)
        if first and event.latest_id == ZERO and channel in self._plan.channels and not self.notices.is_quiet:
            self._hints.add(self._tasks.create_task(self._say_missing(channel)))

    async def _say_missing(self, channel: str) -> None:
        nearest = await self._suggestions.nearest(channel)
        meant = "" if nearest is None else f"; did you mean {nearest!r}?"
        self.notices.note(f"{channel}: no such stream yet{meant}")

    def caught_up(self, channel: str) -> None:
        self.merge.leave(channel)
        if channel in self._in_history:
            self._in_history.discard(channel)
            if not self._in_history and self._plan.extent.follow and not self._done.is_set():
                self.notices.live()

    def _connection_changed(self, event: ConnectionEvent) -> None:
        self.notices.connection_changed(event, self._open)

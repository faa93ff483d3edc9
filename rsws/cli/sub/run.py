"""One run of ``rsws sub``: channels are read, merged and filtered, and what is left goes to a sink."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsws.cli.endpoint import Endpoint
from rsws.cli.sub.merging import Merge
from rsws.cli.sub.notices import Notices
from rsws.cli.sub.reading import Extent, Reading
from rsws.cli.sub.sinks import Sink
from rsws.cli.sub.state import Positions
from rsws.protocol import Message, Subscribed
from rsws.starts import Start

if TYPE_CHECKING:
    from rsws.client import Client, ConnectionEvent

SETTLE_S = 1.0
"""How long after the moment of ``--until`` a message of that moment may take to be stored, by whatever clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is wanted of a run."""

    channels: Sequence[str]
    start: Start
    extent: Extent
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
        self._open: dict[str, Reading] = {}
        """The channels of which more is wanted."""
        self._in_history: set[str] = set()
        self._running: list[asyncio.Task[None]] = []
        """What ends with the run; commands under way are not among it."""

    async def run(self, gateway: Endpoint) -> None:
        """Run until all that is wanted was taken, and dealt with."""
        try:
            async with gateway.connect(self._connection_changed) as client:
                try:
                    async with asyncio.TaskGroup() as tasks:
                        await self._run(client, tasks)
                except ExceptionGroup as group:  # an error that ended one channel ends all; the first one is raised
                    raise group.exceptions[0] from None
        finally:
            self._positions.save()

    async def _run(self, client: Client, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._client = client
        for channel in self._plan.channels:
            self._begin(channel, self._plan.start)
        until = self._plan.extent.until
        if until is not None and self._plan.extent.follow:
            self._own(self._finish_at(until.ms / 1000 + SETTLE_S))
        await self._done.wait()
        for each in self._running:
            each.cancel()

    def _begin(self, channel: str, start: Start) -> None:
        position = self._positions.of(channel)
        if position is not None:
            start = Start(position)
        reading = self._open[channel] = Reading(self, channel, start, self._plan.extent)
        self._in_history.add(channel)
        if self._plan.merge:
            self.merge.join(channel)
        self._own(self._read(reading))

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        self._running.append(self._tasks.create_task(work))

    async def _read(self, reading: Reading) -> None:
        await reading.run(self._client)
        channel = reading.channel
        self.merge.leave(channel)
        self._in_history.discard(channel)
        del self._open[channel]
        if not self._open:
            self._done.set()

    async def _finish_at(self, moment_s: float) -> None:
        """End each channel where it is at that moment, in seconds since 1970."""
        await asyncio.sleep(moment_s - time.time())
        async with asyncio.TaskGroup() as closing:
            for reading in self._open.values():
                closing.create_task(reading.finish())

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
        self._positions.begin(event.channel, event.last_message_id)

    def caught_up(self, channel: str) -> None:
        self.merge.leave(channel)
        if channel in self._in_history:
            self._in_history.discard(channel)
            if not self._in_history and self._plan.extent.follow:
                self.notices.live()

    def _connection_changed(self, event: ConnectionEvent) -> None:
        self.notices.connection_changed(event, self._open)

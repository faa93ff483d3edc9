"""Finds positions by counting back from the end of a stream, which costs Redis as much as there is to count.

What a client asks for in 60 bytes may be millions of entries. So they are counted a little at a time, one count after
the other has its turn, and Redis has most of its time for others. A count that nobody waits for stops where it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from rsws.protocol import ZERO, StreamId
from rsws.streams.limits import DEFAULTS

STEP_ENTRIES = 64
"""How many are counted in one step, about a third of a millisecond of Redis' time."""
STEPS_AT_ONCE = 8
"""Steps of different counts under way at once."""

Step: TypeAlias = Callable[[str, StreamId, int], Awaitable[tuple[int, StreamId, bool]]]
"""Called with a channel, an id and a number of entries: counts up to so many back from the id, maybe fewer.

Gives how many, the id of the first of them, and whether it is the stream's first.
"""


class _Count:
    """One count; all who ask the same at the same time share it."""

    __slots__ = ("askers", "end", "left", "position", "steps", "turn")

    def __init__(self, end: StreamId, left: int) -> None:
        self.end = end
        self.left = left
        """Entries to be counted yet, back from ``end`` and with it."""
        self.position: StreamId | None = None
        self.steps = 0
        self.askers = 0
        self.turn = asyncio.Lock()


class LookBack:
    """Counts back from the ends of streams.

    Args:
        step: What asks Redis.
        step_s: One step in so much time.
    """

    def __init__(self, step: Step, *, step_s: float = DEFAULTS.step_s) -> None:
        self._step = step
        self._step_s = step_s
        self._counts: dict[tuple[str, int, StreamId], _Count] = {}
        self._turns = asyncio.Semaphore(STEPS_AT_ONCE)  # which are given to those who wait for one in their order
        self._next_at = 0.0

    @property
    def under_way(self) -> int:
        """How many counts somebody waits for."""
        return len(self._counts)

    async def position(self, channel: str, count: int, end: StreamId) -> StreamId:
        """The id with exactly ``count`` entries after it up to ``end``, that of an entry; ``0-0`` if there are no more.

        Whoever cancels it has stopped asking: no step follows unless others wait for the same.

        Raises:
            StoreError: As the step does.
        """
        key = (channel, count, end)
        counted = self._counts.setdefault(key, _Count(end, count + 1))
        counted.askers += 1
        try:
            while counted.position is None:
                async with counted.turn:
                    if counted.position is None:
                        await self._go_on(channel, counted)
            return counted.position
        finally:
            counted.askers -= 1
            if not counted.askers:
                del self._counts[key]

    async def _go_on(self, channel: str, counted: _Count) -> None:
        if not counted.steps:  # the first is no more than any read of history
            await self._count(channel, counted)
            return
        async with self._turns:
            now = time.monotonic()
            start_at = max(now, self._next_at)
            self._next_at = start_at + self._step_s
            await asyncio.sleep(start_at - now)
            await self._count(channel, counted)

    async def _count(self, channel: str, counted: _Count) -> None:
        found, first, is_first = await self._step(channel, counted.end, min(counted.left, STEP_ENTRIES))
        counted.steps += 1
        counted.left -= found
        if counted.left == 0:
            counted.position = first
        elif is_first:
            counted.position = ZERO
        else:
            counted.end = first.before()

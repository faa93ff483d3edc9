"""Positions found by counting back from the end of a stream, which costs Redis time for each entry counted.

A client's request of 60 bytes may ask for millions of entries. So entries are counted in small steps, all counts take
turns, and Redis has most of its time for other commands. A count that no caller waits for any more is stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from rsws.protocol import ZERO, StreamId
from rsws.redis.limits import DEFAULTS

STEP_ENTRIES = 64
"""The entries counted in one step, about a third of a millisecond of Redis' time."""
STEPS_AT_ONCE = 8
"""The steps of different counts that may be under way simultaneously."""

Step: TypeAlias = Callable[[str, StreamId, int], Awaitable[tuple[int, StreamId, bool]]]
"""A function called with a channel, an id and a number of entries: it counts up to that many back from the id.

It returns how many it counted, maybe fewer, the id of the first of them, and whether that is the stream's first.
"""


class _Count:
    """One count, shared by all callers that ask for the same simultaneously."""

    __slots__ = ("askers", "end", "left", "position", "steps", "turn")

    def __init__(self, end: StreamId, left: int) -> None:
        self.end = end
        self.left = left
        """The number of entries still to be counted, back from ``end`` inclusive."""
        self.position: StreamId | None = None
        self.steps = 0
        self.askers = 0
        self.turn = asyncio.Lock()


class LookBack:
    """The counts back from the ends of streams.

    Args:
        step: The function that asks Redis to count.
        step_s: The time from one step to the next.
    """

    def __init__(self, step: Step, *, step_s: float = DEFAULTS.step_s) -> None:
        self._step = step
        self._step_s = step_s
        self._counts: dict[tuple[str, int, StreamId], _Count] = {}
        self._turns = asyncio.Semaphore(STEPS_AT_ONCE)  # which serves its waiters in order
        self._next_at = 0.0

    @property
    def under_way(self) -> int:
        """How many counts somebody waits for."""
        return len(self._counts)

    async def position(self, channel: str, count: int, end: StreamId) -> StreamId:
        """Return the id of the entry with exactly ``count`` entries after it up to ``end``; ``0-0`` if there is none.

        When it is cancelled no further step is made, unless other callers wait for the same.

        Raises:
            StoreError: As raised by the step.
        """
        key = (channel, count, end)
        counted = self._counts.setdefault(key, _Count(end, count + 1))
        counted.askers += 1
        try:
            while counted.position is None:
                async with counted.turn:
                    if counted.position is None:
                        await self._next_step(channel, counted)
            return counted.position
        finally:
            counted.askers -= 1
            if not counted.askers:
                del self._counts[key]

    async def _next_step(self, channel: str, counted: _Count) -> None:
        if not counted.steps:  # the first step costs no more than any read of history, and need not wait
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

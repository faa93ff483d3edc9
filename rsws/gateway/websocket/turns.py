"""Fair shares: what is done for one client before the others have their turn, and how much of it may be under way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from rsws.settings import KIB, MIB

log = logging.getLogger("rsws.gateway")

FRAMES_A_TURN = 64
"""Plain messages of one client that are read in a turn of the event loop."""
PARSED_FRAME_COST = 4
"""A frame that websockets reads takes as long as so many of those."""
BYTES_A_TURN = 64 * KIB
HEAVY_BYTES = 16 * KIB
"""A message that is longer takes so long that no two are read in one turn, whosever they are."""
REQUESTS_UNDER_WAY = (16, 1000, 4000)
"""Of one client however many there are, of one at most, and of all together: about 40 ms of work."""
BYTES_UNDER_WAY = (HEAVY_BYTES, MIB, MIB)
CROWDED_RETRY_S = 0.005
REST_AFTER_S, REST = 0.001, 2
"""When turns have taken so long the others have so many times as much: they wait little, whoever sends how much."""


class TurnTaker(Protocol):
    """What waits for its turn."""

    __slots__ = ()

    def read_on(self) -> None:
        """Read what one turn has room for, and wait for another one if there is more."""
        raise NotImplementedError


class Turns:
    """Whose turn it is to be read, of those who have sent more than one turn of the event loop has room for.

    One of them is served in each turn, behind all those who have sent little.

    Args:
        is_crowded: Whether so much waits for Redis that nobody has a turn for now.
    """

    def __init__(self, is_crowded: Callable[[], bool]) -> None:
        self.busy_clients = 0
        """Clients with requests under way, among whom what may be under way is divided."""
        self._is_crowded = is_crowded
        self._waiting: deque[TurnTaker] = deque()
        self._taken_s = 0.0
        """What the turns since the last rest have taken."""

    def wait(self, reader: TurnTaker) -> None:
        """Have ``reader.read_on()`` called when its turn has come, never within this call."""
        self._waiting.append(reader)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._serve_next)

    def _serve_next(self) -> None:
        loop = asyncio.get_running_loop()
        if self._is_crowded():
            loop.call_later(CROWDED_RETRY_S, self._serve_next)
            return
        reader = self._waiting[0]
        started = time.perf_counter()
        try:
            reader.read_on()
        except Exception:
            log.exception("a bug in the gateway")
        self._taken_s += time.perf_counter() - started
        self._waiting.popleft()
        if not self._waiting:
            return
        if self._taken_s < REST_AFTER_S:
            loop.call_soon(self._serve_next)
        else:
            loop.call_later(REST * self._taken_s, self._serve_next)
            self._taken_s = 0.0

    def is_over_share(self, requests: int, size: int) -> bool:
        """Whether a client with so much under way, in characters, has to wait before it may ask for more."""
        others = self.busy_clients or 1
        return requests >= _share(REQUESTS_UNDER_WAY, others) or size >= _share(BYTES_UNDER_WAY, others)


def _share(limits: tuple[int, int, int], clients: int) -> int:
    least, most, together = limits
    return max(least, min(most, together // clients))

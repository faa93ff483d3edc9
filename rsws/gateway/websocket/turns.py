"""Fairness: how much is read from one client before the others get their turn, and how much may be under way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from rsws.gateway.portions import Portions
from rsws.options import KIB, MIB

log = logging.getLogger("rsws.gateway")

FRAMES_A_TURN = 64
"""The plain messages of one client that are read in a turn of the event loop."""
PARSED_FRAME_COST = 4
"""The cost of a frame that websockets parses, in plain messages that take as long."""
BYTES_A_TURN = 64 * KIB
HEAVY_BYTES = 16 * KIB
"""The size above which a message takes so long that only one is read in a turn, of all clients."""
REQUESTS_UNDER_WAY = (16, 1000, 4000)
"""The limits on requests under way: a client's least and greatest share, and all together (about 40 ms of work)."""
BYTES_UNDER_WAY = (HEAVY_BYTES, MIB, MIB)
CROWDED_RETRY_S = 0.005
REST_AFTER_S, REST = 0.001, 2
"""After this many seconds of turns comes a pause of this many times as long, so that other clients wait only little."""


HANDSHAKES_A_TURN = 4
"""The handshakes that are answered in a turn of the event loop, each of which takes as long as many messages."""


class TurnTaker(Protocol):
    """A reader that waits for its turn."""

    __slots__ = ()

    def read_on(self) -> None:
        """Read as much as one turn allows, and wait for another turn if there is more."""


class Turns:
    """A queue of clients that have sent more than is read in one turn of the event loop.

    One of them is read in each turn, after all clients that have sent little.

    Args:
        is_crowded: Returns whether so much waits for Redis that nothing is read from the queue for now.
    """

    def __init__(self, is_crowded: Callable[[], bool]) -> None:
        self.busy_clients = 0
        """The number of clients with requests under way, among which the limits are divided."""
        self.handshakes = Portions(HANDSHAKES_A_TURN)
        self._is_crowded = is_crowded
        self._waiting: deque[TurnTaker] = deque()
        self._taken_s = 0.0
        """The time that the turns since the last pause have taken."""

    def wait(self, reader: TurnTaker) -> None:
        """Queue ``reader``: its ``read_on()`` is called when its turn has come, never within this call."""
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
        """Whether a client with that many requests of ``size`` characters under way has to wait before sending more."""
        others = self.busy_clients or 1
        return requests >= _share(REQUESTS_UNDER_WAY, others) or size >= _share(BYTES_UNDER_WAY, others)


def _share(limits: tuple[int, int, int], clients: int) -> int:
    least, most, together = limits
    return max(least, min(most, together // clients))

"""Portions: how much of what a crowd asks for at the same moment is done in a turn of the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

log = logging.getLogger("rsws.gateway")


class Portions:
    """A queue of calls of which so many are made in each turn of the event loop.

    So a crowd that comes at the same moment waits, and those who are there don't.
    """

    def __init__(self, a_turn: int) -> None:
        self._a_turn = self._left = a_turn
        self._waiting: deque[Callable[[], None]] = deque()

    def has_room(self) -> bool:
        """Whether one more can be made in this turn of the event loop, which is then counted."""
        if not self._left:
            return False
        if self._left == self._a_turn:
            asyncio.get_running_loop().call_soon(self._begin)
        self._left -= 1
        return True

    def wait(self, call: Callable[[], None]) -> None:
        """Queue a call for which there is no room: it is made when its turn has come."""
        self._waiting.append(call)

    def _begin(self) -> None:
        """Begin another turn, with those who wait."""
        self._left = self._a_turn
        while self._waiting and self.has_room():
            try:
                self._waiting.popleft()()
            except Exception:
                log.exception("a bug in the gateway")

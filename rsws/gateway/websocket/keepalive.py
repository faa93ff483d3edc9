"""Signs of life: what is heard of a client, and what it takes of what it is sent."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from enum import Enum, auto


class Verdict(Enum):
    """What to do about a client."""

    ALIVE = auto()
    PING = auto()
    DEAD = auto()


class Liveness:
    """Of one connection.

    A ping would queue behind data and cut off a slow client: that data drains is a sign of life like any other.

    Attributes:
        heard_at: When something came last, by the clock of the event loop.
    """

    __slots__ = ("_drained", "_drained_at", "_pinged_at", "heard_at")

    def __init__(self, now: float) -> None:
        self.heard_at = self._pinged_at = self._drained_at = now
        self._drained = 0

    def judge(self, now: float, drained: int, ping_after_s: float, dead_after_s: float) -> Verdict:
        """What to do now; a ping is taken for done.

        Args:
            drained: Bytes that the client has taken since it has connected.
        """
        if drained > self._drained:
            self._drained = drained
            self._drained_at = now
        silent_s = now - self.heard_at
        if min(silent_s, now - self._drained_at) >= dead_after_s:
            return Verdict.DEAD
        if silent_s >= ping_after_s and now - self._pinged_at >= ping_after_s:
            self._pinged_at = now
            return Verdict.PING
        return Verdict.ALIVE


def unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """Bytes the kernel took, but the other machine has not confirmed: one that lost its power never will."""
    if sys.platform != "linux":  # it is not to be had there: the kernel's word counts
        return 0
    answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder)

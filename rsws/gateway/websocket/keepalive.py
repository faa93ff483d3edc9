"""Liveness of connections: a client is alive while bytes arrive from it, or bytes sent to it drain."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from enum import Enum, auto


class Verdict(Enum):
    """The liveness of a client: leave it alone, ping it, or cut it off."""

    ALIVE = auto()
    PING = auto()
    DEAD = auto()


class Liveness:
    """The signs of life of one connection.

    Draining data counts as one: a ping is queued behind data, so that a slow client would otherwise be cut off.

    Attributes:
        heard_at: The time at which bytes last arrived, by the clock of the event loop.
    """

    __slots__ = ("_drained", "_drained_at", "_pinged_at", "heard_at")

    def __init__(self, now: float) -> None:
        self.heard_at = self._pinged_at = self._drained_at = now
        self._drained = 0

    def judge(self, now: float, drained: int, ping_after_s: float, dead_after_s: float) -> Verdict:
        """Return what to do now; for ``PING`` it assumes that the caller sends one.

        Args:
            drained: The bytes that have drained to the client since it connected.
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
    """Return the bytes in the kernel's send queue that the peer has not acknowledged; one without power never does."""
    if sys.platform != "linux":  # not available: what the kernel has accepted counts as drained
        return 0
    answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder)

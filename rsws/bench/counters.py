"""Numbers that all processes of a run see as they change: for publishers to keep step, and for display."""

from __future__ import annotations

import mmap
from enum import IntEnum


class Count(IntEnum):
    """What is counted, by each process on its own."""

    CONNECTED = 0
    """Connections made for the first time."""
    PUBLISHED = 1
    """Messages sent, repetitions left out."""
    ACKED = 2
    DELIVERED = 3
    """Messages received."""
    PASSED = 4
    """Messages received or passed over: how far the subscribers have come, all of them together."""
    BYTES = 5
    """Received, as they come over the wire."""
    CUTS = 6
    """Connections cut on purpose."""


_BYTES_EACH = 8
_ROW = len(Count)


class Counters:
    """A table in shared memory: a row for each process, which writes there and nowhere else.

    Args:
        descriptor: A file of at least :meth:`size_bytes`, filled with zeros.
        processes: How many rows there are.
    """

    def __init__(self, descriptor: int, processes: int) -> None:
        self._numbers = memoryview(mmap.mmap(descriptor, self.size_bytes(processes))).cast("q")

    @staticmethod
    def size_bytes(processes: int) -> int:
        return processes * _ROW * _BYTES_EACH

    def row(self, process: int) -> memoryview[int]:
        """The numbers of one process, by :class:`Count`."""
        return self._numbers[process * _ROW : (process + 1) * _ROW]

    def total(self, count: Count) -> int:
        """The sum over all processes."""
        return sum(self._numbers[count::_ROW])

    def totals(self) -> list[int]:
        """Every sum, by :class:`Count`."""
        return [self.total(count) for count in Count]

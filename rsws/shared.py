"""A table of numbers in shared memory: each process has a row, which it alone writes and all may read."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile

_BYTES_EACH = 8  # a write of 8 aligned bytes is atomic: no reader sees half of it


def shared_memory(rows: int, columns: int) -> int:
    """Return a descriptor of zeroed memory for a table; the memory lives as long as a descriptor or a table of it."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("rsws")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, rows * columns * _BYTES_EACH)
    return descriptor


class SharedRows:
    """A view of a table of numbers that several processes share.

    Args:
        rows: The number of processes.
        columns: The number of numbers that each process has.
        descriptor: The table's descriptor from :func:`shared_memory`; -1 for a table that only this process has.
    """

    def __init__(self, rows: int, columns: int, descriptor: int = -1) -> None:
        self._cells = memoryview(mmap.mmap(descriptor, rows * columns * _BYTES_EACH)).cast("q")
        self._columns = columns

    def row(self, number: int) -> memoryview[int]:
        """Return the numbers of one process."""
        return self._cells[number * self._columns : (number + 1) * self._columns]

    def total(self, column: int) -> int:
        """Return the sum of one column over all processes."""
        return sum(self._cells[column :: self._columns])

    def totals(self) -> list[int]:
        """Return the sum of each column over all processes."""
        return [self.total(column) for column in range(self._columns)]

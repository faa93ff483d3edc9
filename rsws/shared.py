"""Numbers in memory that several processes share: a row for each of them, which it alone writes and all may read."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile

_BYTES_EACH = 8  # a store of so many is never half seen


def shared_memory(rows: int, columns: int) -> int:
    """A descriptor of zeroed memory for such a table; the memory lives as long as a descriptor or a table of it."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("rsws")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, rows * columns * _BYTES_EACH)
    return descriptor


class SharedRows:
    """A table as each of the processes has it.

    Args:
        rows: How many processes there are.
        columns: How many numbers each of them has.
        descriptor: Of :func:`shared_memory` for that table; -1 for a process that shares it with nobody.
    """

    def __init__(self, rows: int, columns: int, descriptor: int = -1) -> None:
        self._cells = memoryview(mmap.mmap(descriptor, rows * columns * _BYTES_EACH)).cast("q")
        self._columns = columns

    def row(self, number: int) -> memoryview[int]:
        """The numbers of one process."""
        return self._cells[number * self._columns : (number + 1) * self._columns]

    def total(self, column: int) -> int:
        """The sum over all processes."""
        return sum(self._cells[column :: self._columns])

    def totals(self) -> list[int]:
        """The sum of each column."""
        return [self.total(column) for column in range(self._columns)]

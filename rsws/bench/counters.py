"""Counters in shared memory of all processes of a run: for publishers to keep step, and for display."""

from __future__ import annotations

from enum import IntEnum

from rsws.shared import SharedRows, shared_memory


class Count(IntEnum):
    """The counts that each process keeps."""

    CONNECTED = 0
    """Connections made for the first time."""
    PUBLISHED = 1
    """Messages sent, without repetitions."""
    ACKED = 2
    """Messages acknowledged."""
    DELIVERED = 3
    """Messages received."""
    PASSED = 4
    """Messages received or skipped: the progress of all subscribers together."""
    BYTES = 5
    """Bytes received, as they come over the wire."""
    CUTS = 6
    """Connections cut on purpose."""


class Counters(SharedRows):
    """The table of a run: each row is a process, each column a :class:`Count`.

    Args:
        descriptor: The descriptor that :meth:`memory` returned.
        processes: The number of rows.
    """

    def __init__(self, descriptor: int, processes: int) -> None:
        super().__init__(processes, len(Count), descriptor)

    @staticmethod
    def memory(processes: int) -> int:
        """See :func:`rsws.shared.shared_memory`."""
        return shared_memory(processes, len(Count))

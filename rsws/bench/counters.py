"""Numbers that all processes of a run see as they change: for publishers to keep step, and for display."""

from __future__ import annotations

from enum import IntEnum

from rsws.shared import SharedRows, shared_memory


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


class Counters(SharedRows):
    """The table of a run: each row is a process, each column a :class:`Count`.

    Args:
        descriptor: Of :meth:`memory`.
        processes: How many rows there are.
    """

    def __init__(self, descriptor: int, processes: int) -> None:
        super().__init__(processes, len(Count), descriptor)

    @staticmethod
    def memory(processes: int) -> int:
        """See :func:`rsws.shared.shared_memory`."""
        return shared_memory(processes, len(Count))

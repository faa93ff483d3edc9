"""How much to ask for of a stream whose reads may have broken the connection: one entry, and more once that works.

A server ends a connection to which it would have to send more than its ``client-output-buffer-limit``, without a word.
Whatever was being read then may have been too much. No I/O.
"""

from __future__ import annotations

LARGE_PART = 4
"""An entry larger than this part of what is usually read at once is read on its own while there is caution."""
GROWTH = 8
LEAST_BYTES = 4096
"""Where growth ends in any case, however often the connection has broken."""
TRIES = 2
"""How often the read of a single entry may break the connection before it is taken for the cause."""
MOST_NEEDED = 4096


class Caution:
    """The caution with which one stream is read.

    Args:
        usual_bytes: The size at which a read usually stops.

    Attributes:
        room_bytes: The size at which the next read is to stop; its last entry may exceed it.
    """

    __slots__ = ("_breaks_alone", "_most_bytes", "_needed", "_usual_bytes", "_worked", "room_bytes")

    def __init__(self, usual_bytes: int) -> None:
        self.room_bytes = usual_bytes
        self._usual_bytes = usual_bytes
        self._most_bytes = usual_bytes
        self._needed = 8
        """How many reads have to work before more is asked for than half of what broke the connection."""
        self._worked = 0
        self._breaks_alone = 0

    @property
    def is_over(self) -> bool:
        """Whether it may be read as usual."""
        return self.room_bytes >= self._usual_bytes

    @property
    def is_hopeless(self) -> bool:
        """Whether the next entry alone is too large to be read."""
        return self._breaks_alone >= TRIES

    def broke(self, asked_bytes: int) -> None:
        """Take note that the connection broke during a read.

        Args:
            asked_bytes: The size at which it was to stop; 1 for a single entry.
        """
        if asked_bytes == 1:
            self._breaks_alone += 1
        elif self.room_bytes > 1:  # else another read broke with the same connection
            self._most_bytes = max(LEAST_BYTES, asked_bytes // 2)
            self._needed = min(2 * self._needed, MOST_NEEDED)
        self.room_bytes = 1
        self._worked = 0

    def worked(self, largest_bytes: int) -> None:
        """Take note of a read that has brought entries.

        Args:
            largest_bytes: The size of the largest of them.
        """
        self._breaks_alone = 0
        if largest_bytes > self._usual_bytes // LARGE_PART:
            self.room_bytes = 1
            return
        self._worked += 1
        if self._worked >= self._needed:
            self._worked = 0
            self._most_bytes = min(2 * self._most_bytes, self._usual_bytes)
        self.room_bytes = min(GROWTH * self.room_bytes, self._most_bytes)

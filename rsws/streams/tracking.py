"""What Redis remembers to tell when keys change (``CLIENT TRACKING``), as far as it can be known from outside. No I/O.

Redis keeps a table of the keys that were read, each with the connections that have read it. An entry goes when the key
changes, not when nobody follows it any more nor when the connection ends; so what a gateway leaves there has to be
counted. Where the table is full, Redis forgets a key for each one that is added, and tells that as if it had changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

_KEY_BYTES = 128
"""What Redis needs to remember a key, without its name."""
_AGAIN_BYTES = 64
"""What Redis needs to remember that one more connection has read a key, even if the others have ended."""
_VAIN_READS = 1000
_VAIN_S = 60.0
"""So many reads without news in so short a time, and three for each stream, are due to something else than changes."""


class TrackingTable:
    """The memory that Redis' table may need for one reader, over all its connections.

    Args:
        limit_bytes: How much that may be.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._left: dict[bytes, int] = {}
        """The bytes for each key that is no longer followed."""
        self._again: dict[bytes, int] = {}
        """The bytes for connections that have ended, for each key that is followed and was read over such a one."""
        self._vain_reads = self._reads_with_news = 0
        self._counted_since = 0.0

    @property
    def is_full(self) -> bool:
        """Whether it is more than may be."""
        return self._bytes > self._limit_bytes

    def add(self, key: bytes) -> None:
        """Count a key that is to be read, unless Redis remembers it already."""
        before = self._left.pop(key, 0)
        if not before:
            self._bytes += _bytes_of(key)
        elif again := before - _bytes_of(key):
            self._again[key] = again

    def leave(self, key: bytes) -> None:
        """Go on counting a key that is no longer followed."""
        self._left[key] = _bytes_of(key) + self._again.pop(key, 0)

    def forget(self, key: bytes) -> None:
        """Stop counting a key that has changed, but for the connection over which it is read again, if it is."""
        if self._left:
            self._bytes -= self._left.pop(key, 0)
        if self._again:
            self._bytes -= self._again.pop(key, 0)

    def add_connection(self, keys: Iterable[bytes]) -> None:
        """Count keys that are read over another connection: Redis still remembers the one that has ended."""
        for key in keys:
            self._again[key] = self._again.get(key, 0) + _AGAIN_BYTES
            self._bytes += _AGAIN_BYTES

    def restart(self, keys: Iterable[bytes]) -> None:
        """Begin with these keys: it is another server, or the same one with an empty table."""
        self._left.clear()
        self._again.clear()
        self._bytes = sum(map(_bytes_of, keys))

    def read_with_news(self) -> None:
        """Count a read that has brought entries."""
        self._reads_with_news += 1

    def is_too_small(self, followed: int) -> bool:
        """Count a read that has brought nothing; return whether Redis must be forgetting keys for lack of room.

        Args:
            followed: How many streams are followed.
        """
        self._vain_reads += 1
        if self._vain_reads < max(_VAIN_READS, 3 * followed):
            return False
        now = time.monotonic()
        is_it = now - self._counted_since < _VAIN_S and self._vain_reads > 4 * self._reads_with_news
        self.begin_counting_reads(now)
        return is_it

    def begin_counting_reads(self, now: float = 0.0) -> None:
        """Count reads from the beginning, as on a new connection, over which all is read once."""
        self._vain_reads = self._reads_with_news = 0
        self._counted_since = now


def _bytes_of(key: bytes) -> int:
    return _KEY_BYTES + len(key)

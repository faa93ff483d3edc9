"""Durations counted in buckets: as many as are measured, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

_BITS = 6
_HALF = 1 << (_BITS - 1)
"""Buckets of each power of two: one is at most 1/32 of its value wide, so that is how exact quantiles are."""
_MAX_US = (1 << 36) - 1
_BUCKETS = _HALF * (36 - _BITS + 2)


class Histogram:
    """Counts durations, in whole microseconds below 19 hours; longer ones count as that long.

    Attributes:
        count: How many there are.
        total_us: Their sum.
        min_us: The shortest; 0 where there is none.
        max_us: The longest, likewise.
    """

    __slots__ = ("_counts", "count", "max_us", "min_us", "total_us")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.total_us = 0
        self.min_us = 0
        self.max_us = 0

    def add(self, value_us: int, count: int = 1) -> None:
        """Count ``value_us`` as often as ``count`` says; below 0 it counts as 0."""
        value_us = min(max(value_us, 0), _MAX_US)
        if value_us < self.min_us or not self.count:
            self.min_us = value_us
        if value_us > self.max_us:
            self.max_us = value_us
        shift = value_us.bit_length() - _BITS
        self._counts[value_us if shift <= 0 else shift * _HALF + (value_us >> shift)] += count
        self.count += count
        self.total_us += value_us * count

    @property
    def mean_us(self) -> float:
        """0 where there is none."""
        return self.total_us / self.count if self.count else 0.0

    def quantile_us(self, share: float) -> float:
        """The duration that ``share`` (0 to 1) of all don't exceed, as exact as the buckets; 0 where there is none."""
        wanted = share * self.count
        seen = 0
        for low, high, count in self.buckets():
            seen += count
            if seen >= wanted:
                return min(max((low + high - 1) / 2, self.min_us), self.max_us)
        return 0.0

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """Those that aren't empty, in order: from (included), to (excluded), how many."""
        for index, count in enumerate(self._counts):
            if count:
                shift = max(0, index // _HALF - 1)
                low = (index - shift * _HALF) << shift
                yield low, low + (1 << shift), count

    def pack(self) -> dict[str, int]:
        """For :meth:`merge`, as JSON can have it."""
        counts = {str(index): count for index, count in enumerate(self._counts) if count}
        return counts | {"total": self.total_us, "min": self.min_us, "max": self.max_us}

    def merge(self, packed: Mapping[str, int]) -> Self:
        """Add what another one has counted."""
        for name, count in packed.items():
            if name.isdigit():
                self._counts[int(name)] += count
        added = sum(count for name, count in packed.items() if name.isdigit())
        if added:
            self.min_us = min(packed["min"], self.min_us) if self.count else packed["min"]
            self.max_us = max(packed["max"], self.max_us)
            self.total_us += packed["total"]
            self.count += added
        return self

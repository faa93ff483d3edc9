"""A histogram of durations: it counts any number of them in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

_BITS = 6
_HALF = 1 << (_BITS - 1)
"""The number of buckets for each power of two: a bucket's width, and so a quantile's error, is at most 1/32."""
_MAX_US = (1 << 36) - 1


class Histogram(msgspec.Struct):
    """Counts of durations, in whole microseconds below about 19 hours; longer ones count as that long."""

    count: int = 0
    total_us: int = 0
    min_us: int = 0
    """The shortest duration; 0 where there is none."""
    max_us: int = 0
    counts: dict[int, int] = {}
    """The number of durations in each bucket, by the bucket's number."""

    def add(self, value_us: int, count: int = 1) -> None:
        """Count the duration ``value_us`` ``count`` times; below 0 it counts as 0."""
        value_us = min(max(value_us, 0), _MAX_US)
        if value_us < self.min_us or not self.count:
            self.min_us = value_us
        if value_us > self.max_us:
            self.max_us = value_us
        shift = value_us.bit_length() - _BITS
        bucket = value_us if shift <= 0 else shift * _HALF + (value_us >> shift)
        self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.count += count
        self.total_us += value_us * count

    def merge(self, other: Histogram) -> None:
        """Add the durations of ``other``."""
        if other.count:
            self.min_us = min(other.min_us, self.min_us) if self.count else other.min_us
            self.max_us = max(other.max_us, self.max_us)
            self.count += other.count
            self.total_us += other.total_us
            for bucket, count in other.counts.items():
                self.counts[bucket] = self.counts.get(bucket, 0) + count

    @property
    def mean_us(self) -> float:
        """The mean duration; 0 where there is none."""
        return self.total_us / self.count if self.count else 0.0

    def quantile_us(self, share: float) -> float:
        """Return the duration that ``share`` (0 to 1) of all don't exceed, as exact as a bucket; 0 if there is none."""
        wanted = share * self.count
        seen = 0
        for low, high, count in self.buckets():
            seen += count
            if seen >= wanted:
                return min(max((low + high - 1) / 2, self.min_us), self.max_us)
        return 0.0

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """Yield the buckets that aren't empty, in order: lower bound (included), upper bound (excluded), count."""
        for bucket, count in sorted(self.counts.items()):
            shift = max(0, bucket // _HALF - 1)
            low = (bucket - shift * _HALF) << shift
            yield low, low + (1 << shift), count

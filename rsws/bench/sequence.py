"""The check of what one subscriber of one channel has received against what was published. No I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from rsws.protocol import ZERO, StreamId

Ranges: TypeAlias = Sequence[tuple[int, int]]
"""Numbers as ascending ranges: first (included), end (excluded)."""

MAX_RANGES = 10_000
"""The most ranges of missing numbers that are remembered: it bounds the memory when every other message is lost."""


class Received:
    """The account of one channel's messages: numbered from 0, each is to arrive once, in order, with ascending ids.

    Attributes:
        next: One above the highest number received.
        last_id: The highest id received: where to resume.
        count: How many were received, repetitions included.
        duplicated: How many were received again.
        reordered: How many arrived after a message that was published later, or that has a higher id.
    """

    __slots__ = ("_forgotten", "_missing", "count", "duplicated", "last_id", "next", "reordered")

    def __init__(self) -> None:
        self.next = 0
        self.last_id = ZERO
        self.count = 0
        self.duplicated = 0
        self.reordered = 0
        self._missing: list[tuple[int, int]] = []
        self._forgotten = 0

    def add(self, first: int, stop: int, first_id: StreamId, last_id: StreamId) -> None:
        """Count the consecutive messages with the numbers from ``first`` up to ``stop`` (excluded) as received.

        Args:
            first_id: The id of the first of them; the ids that follow ascend.
            last_id: The id of the last of them.
        """
        self.count += stop - first
        if first == self.next:
            if first_id <= self.last_id:
                self.reordered += 1
            self.next = stop
        else:
            self._add_unexpected(first, stop)
        if last_id > self.last_id:
            self.last_id = last_id

    def _add_unexpected(self, first: int, stop: int) -> None:
        for number in range(first, min(stop, self.next)):
            if self._found(number):
                self.reordered += 1
            else:
                self.duplicated += 1
        if first > self.next:
            self._missing.append((self.next, first))
            if len(self._missing) > MAX_RANGES:
                low, high = self._missing.pop(0)
                self._forgotten += high - low
        self.next = max(stop, self.next)

    def _found(self, number: int) -> bool:
        """Remove ``number`` from the missing ones, and return whether it was one of them."""
        index = bisect_right(self._missing, number, key=lambda missing: missing[0]) - 1
        if index < 0 or number >= self._missing[index][1]:
            return False
        low, high = self._missing[index]
        self._missing[index : index + 1] = [part for part in ((low, number), (number + 1, high)) if part[0] < part[1]]
        return True

    def missing(self, published: int, holes: Ranges = ()) -> int:
        """Return how many messages have not been received.

        Args:
            published: One above the highest number published.
            holes: The numbers of messages that need not arrive.
        """
        gaps = [*self._missing, *([(self.next, published)] if published > self.next else [])]
        return self._forgotten + sum(high - low for low, high in gaps) - _overlap(gaps, holes)


def _overlap(some: Ranges, others: Ranges) -> int:
    """Return how many numbers are in both."""
    return sum(
        max(0, min(high, other_high) - max(low, other_low)) for low, high in some for other_low, other_high in others
    )


def as_ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Join ascending numbers into ranges."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return ranges

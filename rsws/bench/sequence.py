"""What one subscriber of one channel has got, held against what was published. No I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from rsws.protocol import ZERO, StreamId

Ranges: TypeAlias = Sequence[tuple[int, int]]
"""Numbers as ascending ranges: from (included), to (excluded)."""

MAX_RANGES = 10_000
"""Of missing numbers that are remembered: a bound for what a gateway that loses every other message can cost."""


class Received:
    """The messages of a channel are numbered from 0; each is to come once, in order, with ascending ids.

    Attributes:
        next: One above the highest number that came.
        last_id: The highest id that came: where to resume.
        count: How many came, each repetition included.
        duplicated: How many came again.
        reordered: How many came after one that was published, or has an id, behind theirs.
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
        """Messages with the numbers from ``first`` up to ``stop`` (excluded) have come, one after the other.

        Args:
            first_id: The id of the first of them; those that follow ascend.
            last_id: The id of the last.
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
        """Whether ``number`` was missing, which it is no more."""
        index = bisect_right(self._missing, number, key=lambda missing: missing[0]) - 1
        if index < 0 or number >= self._missing[index][1]:
            return False
        low, high = self._missing[index]
        self._missing[index : index + 1] = [part for part in ((low, number), (number + 1, high)) if part[0] < part[1]]
        return True

    def missing(self, published: int, holes: Ranges = ()) -> int:
        """How many have not come.

        Args:
            published: One above the highest number published.
            holes: Numbers that need not come.
        """
        gaps = [*self._missing, *([(self.next, published)] if published > self.next else [])]
        return self._forgotten + sum(high - low for low, high in gaps) - _overlap(gaps, holes)


def _overlap(some: Ranges, others: Ranges) -> int:
    """How many numbers are in both."""
    return sum(
        max(0, min(high, other_high) - max(low, other_low)) for low, high in some for other_low, other_high in others
    )


def as_ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending numbers as ranges."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return ranges

"""Limits on how many, or how much, in a second: token buckets. No I/O."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cached_property

from rsws.errors import UsageError

_RATE = re.compile(r"([0-9]{1,12})(?:,([0-9]{1,12}))?")
_FAULT = "it must be N, or N,BURST: so many a second, and so many at once; 0 is no limit"
PAUSE_S = 1.0
"""How long a bucket that has run dry stays closed, unless it is full sooner."""
_ROUNDING_S = 1e-6


@dataclass(frozen=True)
class Rate:
    """A limit: so many a second in the long run, and so many at once."""

    per_s: int
    burst: int

    @cached_property
    def interval_s(self) -> float:
        """The time in which there is one more."""
        return 1 / self.per_s

    @cached_property
    def whole_s(self) -> float:
        """The time in which a bucket fills."""
        return self.burst / self.per_s

    @cached_property
    def lease(self) -> int:
        """What a bucket gives away at once to whoever has no clock to hand: far less than the burst."""
        return max(1, self.burst // 10_000)

    @classmethod
    def parse(cls, text: str) -> Rate | None:
        """Parse ``N`` or ``N,BURST``; without BURST it is one second's. None stands for no limit: ``0``.

        Raises:
            UsageError: The text is neither.
        """
        match = _RATE.fullmatch(text)
        if match is None:
            raise UsageError(_FAULT)
        per_s, burst = int(match[1]), int(match[2] or match[1])
        if per_s == 0:
            return None
        if burst == 0:
            raise UsageError("it must be N,BURST with a BURST of 1 or more: 0 would let nothing pass")
        return cls(per_s, burst)


def rate_fault(text: str) -> str | None:
    """Return why a text is no rate; None when it is one."""
    try:
        Rate.parse(text)
    except UsageError as fault:
        return str(fault)
    return None


_ONE = Rate(1, 1)


class Bucket:
    """What one party may still do of what a rate allows.

    Once it has run dry it lets nothing pass for ``PAUSE_S``, or for as long as it takes to fill: so that of what is
    sent in a row and refused from some point on nothing passes that stands behind something refused. In the long run
    no less passes for that, as it fills meanwhile.

    Args:
        rate: The rate; None for no limit.

    Attributes:
        left: What may be done without a look at the clock: whoever has none to hand takes it from here, and where that
            makes it negative asks :meth:`refill`. It is far less than the burst.
    """

    __slots__ = ("_full_at", "_opens_at", "_rate", "_room_s", "left")

    def __init__(self, rate: Rate | None) -> None:
        self.left = sys.maxsize if rate is None else 0
        self._rate = rate or _ONE
        self._room_s = self._rate.whole_s + _ROUNDING_S
        """How far in the future ``_full_at`` may be; negative while it is closed."""
        self._full_at = 0.0
        self._opens_at = 0.0

    def refill(self, now: float) -> float:
        """Make up for what was taken from ``left`` and was not there; return as :meth:`wait_s`."""
        amount = max(self._rate.lease, -self.left)
        wait_s = self.wait_s(now, amount)
        self.left = 0 if wait_s else self.left + amount
        return wait_s

    def wait_s(self, now: float, amount: int = 1) -> float:
        """Take ``amount``; return 0.0, or the seconds after which to try again: then nothing is taken.

        An amount above the burst passes when the bucket is full, and has to be made up for by those that follow.

        Args:
            now: The current time in seconds, of a clock that never goes back.
        """
        full_at = self._full_at
        if full_at < now:
            full_at = now
        full_at += amount * self._rate.interval_s
        if full_at - now <= self._room_s:
            self._full_at = full_at
            return 0.0
        return self._refuse(now, amount)

    def _refuse(self, now: float, amount: int) -> float:
        rate = self._rate
        if self._room_s < 0:
            left_s = self._opens_at - now
            if left_s > 0:
                return left_s
            self._room_s = rate.whole_s + _ROUNDING_S
            return self.wait_s(now, amount)
        missing_s = max(self._full_at, now) - now + min(amount * rate.interval_s, rate.whole_s) - rate.whole_s
        if missing_s <= _ROUNDING_S:
            self._full_at = now + amount * rate.interval_s
            return 0.0
        wait_s = max(missing_s, min(rate.whole_s, PAUSE_S))
        self._opens_at = now + wait_s
        self._room_s = -1.0
        return wait_s

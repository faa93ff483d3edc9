"""Exponential backoff: how long to wait before something that has failed is tried again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

_MOST_DOUBLINGS = 100  # more than any longest wait needs, and no overflow of a float


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double with each failure in a row, up to the longest."""

    first_s: float
    longest_s: float
    least: float = 1.0
    """The smallest factor, of at most 1.0, that chance multiplies a wait by: below 1.0, clients that failed together
    don't retry together."""

    def wait_s(self, failures: int) -> float:
        """Return the seconds to wait after this many failures in a row; 0.0 when nothing has failed."""
        if failures < 1:
            return 0.0
        wait_s = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
        return wait_s * random.uniform(self.least, 1.0)

    def waits_s(self) -> Iterator[float]:
        """Yield the seconds to wait after the first failure, after the second, and so on without end."""
        return map(self.wait_s, count(1))

    async def wait(self, failures: int) -> None:
        """Sleep for as long as :meth:`wait_s` says after this many failures in a row."""
        await asyncio.sleep(self.wait_s(failures))

"""How long to wait before what has failed is tried again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

_MOST_DOUBLINGS = 100  # which no longest wait needs, and a float can hold


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double with each failure in a row, up to the longest."""

    first_s: float
    longest_s: float
    least: float = 1.0
    """The part of each wait that is not left to chance: with less than all of it, a herd does not return at once."""

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row; none, as long as nothing has failed."""
        if failures < 1:
            return 0.0
        wait_s = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
        return wait_s * random.uniform(self.least, 1.0)

    def waits_s(self) -> Iterator[float]:
        """The seconds after the first failure, the second, and so on for ever."""
        return map(self.wait_s, count(1))

    async def wait(self, failures: int) -> None:
        """Wait after so many failures in a row."""
        await asyncio.sleep(self.wait_s(failures))

"""Messages that a command makes by itself (``--template``, ``--count``), and how fast they are sent (``--rate``)."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from uuid import uuid4

from rsws.cli.lines import WINDOW_MESSAGES
from rsws.cli.stdio import Line
from rsws.errors import UsageError


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_VALUES: dict[str, Callable[[int], str]] = {
    "n": str,
    "time": lambda number: _now(),
    "uuid": lambda number: str(uuid4()),
    "random": lambda number: str(random.randrange(1_000_000)),
}
TEMPLATE_HELP = (
    "Make each message of this text: {{n}} is its number from 1 on, {{time}} the time (UTC), {{uuid}} a new UUID, "
    "{{random}} a whole number below 1000000."
)
_PLACE = re.compile(r"\{\{ *(\w+) *\}\}")


class Template:
    """A text with places such as ``{{n}}``, which each message has its own values for.

    Raises:
        UsageError: It names a place that there is not, or is not valid UTF-8.
    """

    def __init__(self, text: str) -> None:
        for name in _PLACE.findall(text):
            if name not in _VALUES:
                there = ", ".join(f"{{{{{each}}}}}" for each in _VALUES)
                raise UsageError(f"--template: there is no {{{{{name}}}}}; there are {there}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError("--template is not valid UTF-8") from None
        self._text = text

    def fill(self, number: int) -> bytes:
        """Return the text of message ``number``."""
        return _PLACE.sub(lambda place: _VALUES[place[1]](number), self._text).encode()


class Pace:
    """When messages are due: ``rate`` a second from the first one on. What was late is made up for.

    Args:
        rate: Messages a second; None for no limit.
        clock: Returns the time, in seconds.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        rate: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._began: float | None = None
        self._sent = 0

    async def due(self, wanted: int) -> int:
        """Wait until a message is due, and return how many are, up to ``wanted``; they count as sent."""
        if self._rate is None:
            return wanted
        if self._began is None:
            self._began = self._clock()
        await self._sleep(self._began + self._sent / self._rate - self._clock())
        passed_s = self._clock() - self._began
        number = min(wanted, max(1, int(passed_s * self._rate) + 1 - self._sent))
        self._sent += number
        return number


async def make(fill: Callable[[int], bytes], count: int | None, pace: Pace) -> AsyncIterator[list[Line]]:
    """Yield messages as they are due, each made at that moment.

    Args:
        fill: Returns the message of a number.
        count: How many; None for any number.
    """
    made = 0
    while count is None or made < count:
        number = await pace.due(1 if count is None else min(WINDOW_MESSAGES, count - made))
        yield [Line(each, fill(each)) for each in range(made + 1, made + number + 1)]
        made += number


async def paced(batches: AsyncIterator[list[Line]], pace: Pace) -> AsyncIterator[list[Line]]:
    """Yield the lines of ``batches`` as they are due."""
    async for batch in batches:
        while batch:
            number = await pace.due(len(batch))
            yield batch[:number]
            batch = batch[number:]

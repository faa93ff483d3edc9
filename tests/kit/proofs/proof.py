"""What the long proofs share: where their figures go, and how they wait."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from rich.progress import Progress

from kit.checker import History, Publisher, Stream, Subscriber
from kit.gateway import add, until
from kit.load import Tap
from kit.support import RedisServer

CHANNEL = "proof"


@dataclass
class Figure:
    """One line of the table."""

    proof: str
    what: str
    measured: str
    wanted: str
    reached: bool


class Proof:
    """What a proof is given: a seed, the progress bar, and where its figures go."""

    def __init__(self, name: str, seed: int, progress: Progress, figures: list[Figure]) -> None:
        self.name, _, parts = name.partition(":")
        self.parts = [part for part in parts.split(",") if part]
        """What of it is wanted, as in ``hostile:pings,names``; none is all."""
        self.seed = seed
        self._progress = progress
        self._figures = figures
        self._task = progress.add_task(name, total=None)

    def total(self, count: float) -> None:
        """How much there is to do."""
        self._progress.update(self._task, total=count)

    def advance(self, by: float = 1) -> None:
        """So much more is done."""
        self._progress.advance(self._task, by)

    def figure(self, what: str, measured: float, wanted: str, reached: bool, unit: str = "") -> None:
        """A figure, with what it has to be, and whether it is."""
        text = f"{measured:,}" if isinstance(measured, int) else f"{measured:,.3g}"
        self._figures.append(Figure(self.name, what, text + unit, wanted, reached))

    def none(self, what: str, count: int) -> None:
        """What must not happen."""
        self.figure(what, count, "0", count == 0)

    def judged(self, history: History, stream: Stream | Mapping[str, Stream]) -> None:
        """What the checker finds, each kind of breach a figure of its own; one stream is that of ``CHANNEL``."""
        streams = stream if isinstance(stream, Mapping) else {CHANNEL: stream}
        found = Counter(finding.kind for finding in history.judge(streams))
        for kind in ("lost", "duplicated", "reordered"):
            self.none(kind, found.pop(kind, 0))
        self.none("other breaches (phantom, wrong body, false answers, gaps)", found.total())

    async def sleep(self, seconds: float) -> None:
        """With the progress bar going on."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            await asyncio.sleep(min(1, left))
            self.advance(min(1, left))

    def finished(self) -> None:
        self._progress.update(self._task, total=1, completed=1)


async def reached(condition: Callable[[], object], within_s: float = 30) -> None:
    """Wait until ``condition()`` is true, and notice it soon: proofs measure how long it takes."""
    await until(condition, within_s=within_s, every_s=0.002)


def have_acked(publishers: list[Publisher], count: int) -> bool:
    return sum(publisher.acked for publisher in publishers) >= count


def has_ended(client: Tap) -> bool:
    return client.code is not None or client.closed.done()


async def end_of(history: History, redis: RedisServer, subscribers: list[Subscriber], within_s: float = 60) -> None:
    """Wait until all have got the last entry there is."""
    last = add(redis, CHANNEL, '"the end"')[0]
    history.written([(last, b'"the end"')])
    async with asyncio.timeout(within_s):
        await asyncio.gather(*[subscriber.reached(last) for subscriber in subscribers])


@contextmanager
def durable_redis() -> Iterator[RedisServer]:
    with RedisServer(appendonly="yes", appendfsync="always") as redis:
        yield redis

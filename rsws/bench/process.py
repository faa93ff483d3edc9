"""A process of a run: does its share, in step with the others. Run as ``python -m rsws.bench.process DESCRIPTOR``."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress

from rsws.bench.counters import Counters
from rsws.bench.crew import Crew
from rsws.bench.link import (
    MAX_LINE_BYTES,
    Abort,
    Fault,
    FromProcess,
    Go,
    Ready,
    Result,
    Start,
    Stop,
    decode_to_process,
    encode,
)
from rsws.bench.works import Phase, Published, Run
from rsws.errors import RswsError, SubscribeRefused
from rsws.runtime import allow_many_files, loop_factory
from rsws.text import log_safely


class Aborted(Exception):
    """The coordinator wants the report now, or has gone."""


class Link:
    """To the coordinator: standard input and output.

    Attributes:
        start: What it said first.
    """

    def __init__(self, lines: asyncio.StreamReader, start: Start) -> None:
        self.start = start
        self._lines = lines
        self._go: asyncio.Queue[Go] = asyncio.Queue(1)

    @classmethod
    async def open(cls) -> Link:
        lines = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        start = decode_to_process(await lines.readline())
        assert isinstance(start, Start)
        return cls(lines, start)

    async def listen(self, crew: Crew) -> None:
        """Do what it says, until it has gone."""
        while line := await self._lines.readline():
            match decode_to_process(line):
                case Go() as go:
                    await self._go.put(go)
                case Stop():
                    crew.stopping.set()
                case Abort():
                    break
        raise Aborted

    async def step(self, phase: Phase, published: dict[int, Published]) -> dict[int, Published]:
        """See :data:`rsws.bench.works.Step`."""
        self.say(Ready(phase, published))
        return (await self._go.get()).published

    def say(self, what: FromProcess) -> None:
        """
        Raises:
            Aborted: It has gone.
        """
        try:
            sys.stdout.buffer.write(encode(what) + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise Aborted from None


async def work(descriptor: int) -> None:
    """Do what the coordinator says, and report."""
    link = await Link.open()
    plan = link.start.plan
    counters = Counters(descriptor, plan.processes)
    crew = Crew(plan, link.start.process, link.start.token, counters.row(link.start.process))
    run = Run(crew, counters, link.step)
    crew.spawn(link.listen(crew))
    fault = None
    try:
        await crew.guard(run.work())
    except (RswsError, Aborted) as error:
        crew.stopping.set()  # what has not come yet is not lost
        if isinstance(error, RswsError):
            code, channel = (error.code, error.channel) if isinstance(error, SubscribeRefused) else ("", "")
            fault = Fault(type(error).__name__, str(error), code, channel)
    latencies = {name: histogram.pack() for name, histogram in crew.latencies.items() if histogram.count}
    findings = run.finish()
    with suppress(Aborted):  # the coordinator has gone, so nobody wants to know
        link.say(
            Result(
                findings,
                latencies,
                crew.gaps,
                crew.foreign,
                crew.refused,
                crew.refusal,
                crew.refusal_code,
                crew.unknown,
                fault,
            )
        )


def main() -> None:
    """Run one process; the argument is the descriptor of :class:`Counters`' memory."""
    log_safely(logging.StreamHandler())
    allow_many_files()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(work(int(sys.argv[1])))


if __name__ == "__main__":
    main()

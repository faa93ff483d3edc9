"""Starts the processes of a run, leads them from phase to phase, and adds up what they find."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from rsws.bench.counters import Counters
from rsws.bench.crew import together
from rsws.bench.link import (
    MAX_LINE_BYTES,
    Abort,
    Fault,
    Go,
    Ready,
    Result,
    Start,
    Stop,
    ToProcess,
    decode_from_process,
    encode,
)
from rsws.bench.plan import Plan
from rsws.bench.report import Report
from rsws.bench.works import Phase, Published
from rsws.client.address import Address
from rsws.errors import (
    BenchFailed,
    CannotConnect,
    ClientError,
    ConnectionLost,
    RswsError,
    SubscribeRefused,
    Unauthorized,
    UsageError,
)
from rsws.runtime import start_module

PROGRESS_S = 0.1
END_S = 5.0
"""How long a process may take to report when it is told to."""
SPARE_FILES = 32
"""Open files of a process beside its connections."""

_FAULTS: dict[str, type[ClientError]] = {each.__name__: each for each in (CannotConnect, ConnectionLost, Unauthorized)}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has got."""

    plan: Plan
    phase: Phase
    seconds: float
    """Since the phase began."""
    counts: list[int]
    """By :class:`Count`, since the run began."""


async def run(
    plan: Plan,
    token: str,
    on_progress: Callable[[Progress], None],
    stop: asyncio.Event,
) -> Report:
    """Measure.

    Args:
        plan: What.
        token: Of the gateway.
        on_progress: Called ten times a second.
        stop: Ends the run early when it is set.

    Raises:
        UsageError: The system does not allow so many connections.
        CannotConnect: No gateway answers, at the beginning.
        Unauthorized: It refuses the token, at the beginning.
        BenchFailed: A process has died.
    """
    check_files(plan)
    probe = await Address.of(plan.url, token).open(plan.timeout_s)
    await probe.close()
    memory = Counters.memory(plan.processes)
    try:
        coordinator = Coordinator(plan, Counters(memory, plan.processes), on_progress)
        async with coordinator.processes(memory, token):
            return await coordinator.lead(stop)
    finally:
        os.close(memory)


def check_files(plan: Plan) -> None:
    """
    Raises:
        UsageError: The system does not allow so many open files.
    """
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = -(-plan.connections // plan.processes) + SPARE_FILES
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise UsageError(
            f"{plan.clients:,} clients need {needed:,} open files in each process, and this system allows {limit:,} "
            "(`ulimit -Hn`): take fewer --clients, more --processes, or raise the limit"
        )


class Coordinator:
    """See :func:`run`."""

    def __init__(self, plan: Plan, counters: Counters, on_progress: Callable[[Progress], None]) -> None:
        self._plan = plan
        self._counters = counters
        self._on_progress = on_progress
        self._processes: list[asyncio.subprocess.Process] = []
        self._ready: dict[int, Ready] = {}
        self._results: dict[int, Result] = {}
        self._phase = Phase("starting")
        self._phase_since = time.monotonic()
        self._failure: RswsError | None = None
        self._interrupted = False
        self._aborted_at: float | None = None

    @asynccontextmanager
    async def processes(self, descriptor: int, token: str) -> AsyncIterator[None]:
        """Meanwhile they run."""
        try:
            for number in range(self._plan.processes):
                process = await start_module(
                    "rsws.bench.process", str(descriptor), descriptors=(descriptor,), line_bytes=MAX_LINE_BYTES
                )
                self._processes.append(process)
                self._tell(number, Start(self._plan, token, number))
            yield
        finally:
            for process in self._processes:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def lead(self, stop: asyncio.Event) -> Report:
        """From phase to phase, to the end."""
        hearing = asyncio.create_task(together(*(self._hear(number) for number in range(self._plan.processes))))
        watching = asyncio.create_task(self._watch(stop))
        try:
            await asyncio.wait((hearing, watching), return_when=asyncio.FIRST_COMPLETED)
            (hearing if hearing.done() else watching).result()
        finally:
            hearing.cancel()
            watching.cancel()
            await asyncio.wait((hearing, watching))
        results = self._results.values()
        return Report.of(
            self._plan, self._counters.totals(), results, interrupted=self._interrupted, failure=self._failure
        )

    async def _watch(self, stop: asyncio.Event) -> NoReturn:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(PROGRESS_S):
                    await (asyncio.Event() if self._interrupted else stop).wait()
                self._interrupted = True
                if self._phase.is_measured:
                    self._tell_all(Stop())
                else:
                    self._abort()
            now = time.monotonic()
            if self._aborted_at is not None and now - self._aborted_at > END_S:
                raise BenchFailed(f"a process of the benchmark has not reported within {END_S:g} s")
            self._on_progress(Progress(self._plan, self._phase, now - self._phase_since, self._counters.totals()))

    def _abort(self) -> None:
        self._aborted_at = time.monotonic()
        self._tell_all(Abort())

    async def _hear(self, number: int) -> None:
        """Take what a process says, until it has reported."""
        lines = self._processes[number].stdout
        assert lines is not None
        while number not in self._results:
            line = await lines.readline()
            if not line:
                raise BenchFailed("a process of the benchmark has died; the reason is above")
            match decode_from_process(line):
                case Ready() as ready:
                    self._take_ready(number, ready)
                case Result() as result:
                    self._take_result(number, result)

    def _take_ready(self, number: int, ready: Ready) -> None:
        self._ready[number] = ready
        if len(self._ready) < self._plan.processes:
            return
        published: dict[int, Published] = {}
        for each in self._ready.values():
            published |= each.published
        self._ready.clear()
        self._phase = ready.phase
        self._phase_since = time.monotonic()
        self._tell_all(Go(published))

    def _take_result(self, number: int, result: Result) -> None:
        self._results[number] = result
        if result.fault is not None and self._failure is None:
            self._failure = _error(result.fault)
            self._abort()

    def _tell_all(self, what: ToProcess) -> None:
        for number in range(self._plan.processes):
            if number not in self._results:
                self._tell(number, what)

    def _tell(self, number: int, what: ToProcess) -> None:
        pipe = self._processes[number].stdin
        assert pipe is not None
        pipe.write(encode(what) + b"\n")


def _error(fault: Fault) -> RswsError:
    if fault.kind == SubscribeRefused.__name__:
        return SubscribeRefused(fault.text, fault.code, fault.channel)
    return _FAULTS.get(fault.kind, BenchFailed)(fault.text)

"""The coordinator of a run: starts the workers, leads them from phase to phase, and adds up what they find."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NoReturn, TypeAlias

from rsws.bench.counters import Counters
from rsws.bench.plan import (
    MAX_LINE_BYTES,
    Assignment,
    Findings,
    Go,
    Phase,
    Plan,
    Published,
    Ready,
    Stop,
    ToWorker,
    decode_from_worker,
    encode,
)
from rsws.bench.report import Report
from rsws.client.address import Address
from rsws.errors import BenchFailed, UsageError
from rsws.runtime import start_module, together

PROGRESS_S = 0.1
END_S = 5.0
"""How long a process may take to report when it is told to, and then to exit."""
SPARE_FILES = 32
"""The open files of a process beside its connections."""

OnProgress: TypeAlias = Callable[[Phase, float, list[int]], None]
"""A callback for the phase, the seconds since it began, and the counts since the run began, by :class:`Count`."""


async def run(plan: Plan, token: str, on_progress: OnProgress, stop: asyncio.Event) -> Report:
    """Carry out a run, and return its result.

    Args:
        plan: What the run measures.
        token: The gateway's token.
        on_progress: Called ten times a second.
        stop: Ends the run early when it is set.

    Raises:
        UsageError: The system does not allow so many connections, or the environment names a proxy.
        CannotConnect: No gateway answers at the beginning.
        Unauthorized: The gateway refuses the token at the beginning.
        BenchFailed: A process has died, or has not reported in time.
    """
    check_files(plan)
    address = Address.of(plan.url, token, plan.tls)
    if address.proxy is not None:
        raise UsageError(
            f"the environment names a proxy for {address.url}, and rsws bench measures without one: unset it, or put "
            "the gateway's host into no_proxy"
        )
    probe = await address.open(plan.timeout_s)
    await probe.close()
    memory = Counters.memory(plan.processes)
    try:
        async with _workers(plan, token, memory) as workers:
            return await Coordinator(plan, workers, Counters(memory, plan.processes), on_progress).lead(stop)
    finally:
        os.close(memory)


def check_files(plan: Plan) -> None:
    """Check the limit of open files.

    Raises:
        UsageError: The system does not allow as many open files as the plan needs.
    """
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = -(-plan.connections // plan.processes) + SPARE_FILES
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise UsageError(
            f"{plan.clients:,} clients need {needed:,} open files in each process, and this system allows {limit:,} "
            "(`ulimit -Hn`): take fewer --clients, more --processes, or raise the limit"
        )


@asynccontextmanager
async def _workers(plan: Plan, token: str, memory: int) -> AsyncIterator[list[Process]]:
    """Start the workers, and kill them after the block; if it succeeds, they have END_S seconds to exit first."""
    workers: list[Process] = []
    try:
        for number in range(plan.processes):
            workers.append(
                await start_module("rsws.bench.worker", str(memory), descriptors=(memory,), line_bytes=MAX_LINE_BYTES)
            )
            _tell(workers[-1], Assignment(plan, token, number))
        yield workers
        with suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                for worker in workers:
                    await worker.wait()
    finally:
        for worker in workers:
            with suppress(ProcessLookupError):
                worker.kill()
        for worker in workers:
            await worker.wait()


def _tell(worker: Process, what: ToWorker) -> None:
    assert worker.stdin is not None
    worker.stdin.write(encode(what) + b"\n")


class Coordinator:
    """The state of a run: see :func:`run`."""

    def __init__(self, plan: Plan, workers: list[Process], counters: Counters, on_progress: OnProgress) -> None:
        self._plan = plan
        self._workers = workers
        self._counters = counters
        self._on_progress = on_progress
        self._ready: list[Ready] = []
        self._findings: list[Findings] = []
        self._phase = Phase.STARTING
        self._phase_since = time.monotonic()
        self._interrupted = False
        self._ended_at: float | None = None

    async def lead(self, stop: asyncio.Event) -> Report:
        """Lead the workers through all phases, and return the result."""
        hearing = asyncio.create_task(together(*map(self._follow_worker, self._workers)))
        watching = asyncio.create_task(self._watch(stop))
        try:
            await asyncio.wait((hearing, watching), return_when=asyncio.FIRST_COMPLETED)
            (hearing if hearing.done() else watching).result()
        finally:
            hearing.cancel()
            watching.cancel()
            await asyncio.wait((hearing, watching))
        return Report(self._plan, self._counters.totals(), Findings.sum(self._findings), self._interrupted)

    async def _watch(self, stop: asyncio.Event) -> NoReturn:
        while True:
            if stop.is_set():
                await asyncio.sleep(PROGRESS_S)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PROGRESS_S):
                        await stop.wait()
            if stop.is_set() and not self._interrupted:
                self._interrupted = True
                if self._phase is Phase.MEASURING:
                    self._tell_all(Stop())
                else:
                    self._end()
            now = time.monotonic()
            if self._ended_at is not None and now - self._ended_at > END_S:
                raise BenchFailed(f"a process of the benchmark has not reported within {END_S:g} s")
            self._on_progress(self._phase, now - self._phase_since, self._counters.totals())

    async def _follow_worker(self, worker: Process) -> None:
        """Read a worker's lines until its findings: begin a phase when all are ready, end the run on a fault."""
        assert worker.stdout is not None
        while (line := await worker.stdout.readline()).endswith(b"\n"):  # it may die in the middle of one
            match decode_from_worker(line):
                case Ready() as ready:
                    self._ready.append(ready)
                    if len(self._ready) == len(self._workers):
                        self._begin(ready.phase)
                case Findings() as findings:
                    self._findings.append(findings)
                    if findings.fault is not None:
                        self._end()
                    return
        raise BenchFailed("a process of the benchmark has died; the reason is above")

    def _begin(self, phase: Phase) -> None:
        published: dict[int, Published] = {}
        for each in self._ready:
            assert each.phase is phase, "a worker is in another phase"
            published |= each.published
        self._ready.clear()
        self._phase = phase
        self._phase_since = time.monotonic()
        self._tell_all(Go(published))

    def _tell_all(self, what: ToWorker) -> None:
        if self._ended_at is None:
            for worker in self._workers:
                _tell(worker, what)

    def _end(self) -> None:
        """Have all workers report immediately, by closing their standard input."""
        if self._ended_at is None:
            self._ended_at = time.monotonic()
            for worker in self._workers:
                assert worker.stdin is not None
                worker.stdin.close()

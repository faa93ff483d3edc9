"""A worker: a process that makes a share of the load, and begins each phase together with the other workers.

The coordinator starts it as ``python -P -m rsws.bench.worker DESCRIPTOR``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rsws.bench.client import BenchClient, cut_in_turn, join
from rsws.bench.context import CoordinatorGone, WorkerContext
from rsws.bench.counters import Count
from rsws.bench.messages import MessageReader, now_us
from rsws.bench.plan import Fault, Findings, Phase, Published, Workload
from rsws.bench.publisher import BenchPublisher
from rsws.bench.subscriber import BenchSubscriber
from rsws.errors import RswsError
from rsws.log_lines import log_safely
from rsws.runtime import allow_many_files, loop_factory, together


class Worker:
    """The part of a run that one process does.

    Args:
        context: The state that the process' clients share.
    """

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        self.plan = context.plan
        self.findings = context.findings
        self._subscribers: list[BenchSubscriber] = []
        self._publishers: list[BenchPublisher] = []
        self._published: dict[int, Published] = {}
        self._begun: tuple[int, float, float] | None = None

    async def work(self) -> None:
        """Run the plan's workload."""
        match self.plan.workload:
            case Workload.FANOUT | Workload.PAIRS:
                await self._deliver()
            case Workload.CATCHUP:
                await self._catch_up()
            case Workload.CONNECT:
                await self._connect()

    def finish(self) -> Findings:
        """Close the clients and return the findings, however the work has ended."""
        self._end_measuring()
        if self._begun is not None:
            self.findings.seconds = max(self.findings.seconds, (self.context.last_us - self._begun[0]) / 1e6)
        for subscriber in self._subscribers:
            self._add_findings(subscriber)
            subscriber.leave()
        for publisher in self._publishers:
            publisher.leave()
        return self.findings

    # --- fanout and pairs ---

    async def _deliver(self) -> None:
        plan, context = self.plan, self.context
        if plan.workload is Workload.PAIRS:
            for client in plan.share(context.process):
                self._add_pair(client)
        else:
            self._add_subscribers()
            if context.process == 0:
                self._add_publisher(0, lambda: context.counters.total(Count.PASSED) // plan.clients)
        await context.step(Phase.CONNECTING)
        await join(context, [*self._subscribers, *self._publishers])
        await context.step(Phase.MEASURING)
        self._begin_measuring()
        with self._cutting(self._subscribers, self._publishers):
            await self._publish(plan.duration_s)
            self._published = await context.step(Phase.FINISHING, self._own_published())
        self._end_measuring()
        await context.until(lambda: not any(map(self._missing, self._subscribers)))

    def _add_subscribers(self, latency: str | None = "delivery") -> None:
        reader = MessageReader(self.plan, 0, shared=True)
        share = self.plan.share(self.context.process)
        self._subscribers = [BenchSubscriber(self.context, 0, reader, latency=latency) for _ in share]

    def _add_pair(self, channel: int) -> None:
        subscriber = BenchSubscriber(self.context, channel, MessageReader(self.plan, channel, shared=False))
        publisher = self._add_publisher(channel, lambda: subscriber.received.next)
        subscriber.on_progress = publisher.publish
        self._subscribers.append(subscriber)

    def _add_publisher(self, channel: int, delivered: Callable[[], int]) -> BenchPublisher:
        plan = self.plan
        messages = plan.messages
        if messages is not None:
            messages = messages * (channel + 1) // plan.publishers - messages * channel // plan.publishers
        poll = plan.workload is Workload.FANOUT
        publisher = BenchPublisher(
            self.context, channel, messages=messages, rate=plan.rate / plan.publishers, delivered=delivered, poll=poll
        )
        self._publishers.append(publisher)
        return publisher

    async def _publish(self, duration_s: float | None) -> None:
        """Publish until all is published or the time is over, and every publish is answered."""
        plan, context = self.plan, self.context
        ends_us = None if duration_s is None else now_us() + duration_s * 1e6
        for publisher in self._publishers:
            publisher.begin(1e6 / plan.rate * publisher.channel if plan.rate else 0)

        def done() -> bool:
            if context.stopping.is_set() or (ends_us is not None and now_us() >= ends_us):
                for publisher in self._publishers:
                    publisher.end()
            return all(publisher.is_done for publisher in self._publishers)

        if not await context.until(done, lambda: any(publisher.is_waiting for publisher in self._publishers)):
            for publisher in self._publishers:
                publisher.give_up()

    def _own_published(self) -> dict[int, Published]:
        return {each.channel: Published(each.published, each.holes) for each in self._publishers}

    # --- catchup ---

    async def _catch_up(self) -> None:
        plan, context = self.plan, self.context
        if context.process == 0:
            self._add_publisher(0, lambda: sys.maxsize)
        await context.step(Phase.CONNECTING)
        await join(context, self._publishers)
        await context.step(Phase.LOADING)
        await self._publish(None)
        self._published = await context.step(Phase.MEASURING, self._own_published())
        self._begin_measuring()
        ends_us = now_us() + (plan.duration_s or 0) * 1e6
        self._add_subscribers(latency=None)
        with self._cutting(self._subscribers):
            await self._unless_stopped(*(self._read_rounds(place, ends_us) for place in range(len(self._subscribers))))
        self._end_measuring()
        await context.step(Phase.FINISHING)

    async def _read_rounds(self, place: int, ends_us: float) -> None:
        """Read the whole history again and again, until the time is over or a part of it is missing."""
        subscriber = self._subscribers[place]
        while await self._read_all(subscriber) and now_us() < ends_us:
            self._add_findings(subscriber)
            subscriber.leave()
            subscriber = self._subscribers[place] = BenchSubscriber(self.context, 0, subscriber.reader, latency=None)

    async def _read_all(self, subscriber: BenchSubscriber) -> bool:
        """Connect, read the whole history, and return whether all of it arrived."""
        complete = asyncio.Event()

        def check() -> None:
            if not self._missing(subscriber):
                complete.set()

        subscriber.on_progress = check
        since_us = now_us()
        await subscriber.join()
        seen = -1
        while not complete.is_set() and seen < subscriber.received.count:
            seen = subscriber.received.count
            with suppress(TimeoutError):
                async with asyncio.timeout(self.plan.timeout_s):
                    await complete.wait()
        if complete.is_set():
            self.context.latency("history").add(now_us() - since_us)
            self.findings.rounds += 1
        return complete.is_set()

    # --- connect ---

    async def _connect(self) -> None:
        plan, context = self.plan, self.context
        self._add_subscribers()
        await context.step(Phase.MEASURING)
        self._begin_measuring()
        await self._unless_stopped(join(context, self._subscribers, len(plan.share(context.process, plan.window))))
        self._end_measuring()
        await context.step(Phase.FINISHING)

    # --- all workloads ---

    async def _unless_stopped(self, *works: Coroutine[Any, Any, None]) -> None:
        """Run all coroutines concurrently until they are done; cancel them when the run is ended early."""
        stopped = asyncio.create_task(self.context.stopping.wait())
        working = asyncio.create_task(together(*works))
        try:
            await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            stopped.cancel()
            working.cancel()
            await asyncio.wait((stopped, working))

    @contextmanager
    def _cutting(self, *groups: Sequence[BenchClient]) -> Iterator[None]:
        """Cut connections in turn while the block runs, if the plan says so."""
        if self.plan.kill_every_s is None:
            yield
            return
        cutting = self.context.spawn(cut_in_turn(self.plan.kill_every_s, groups))
        try:
            yield
        finally:
            cutting.cancel()

    def _begin_measuring(self) -> None:
        gc.freeze()  # what exists now stays, so the garbage collector need not look through it
        self._begun = (now_us(), time.process_time(), _waited_s())

    def _end_measuring(self) -> None:
        """End the measured time, unless it has ended; messages may still arrive after it."""
        if self._begun is None or self.findings.seconds:
            return
        begun_us, cpu_s, waited_s = self._begun
        self.findings.seconds = (now_us() - begun_us) / 1e6
        self.findings.cpu = (time.process_time() - cpu_s) / self.findings.seconds
        self.findings.waiting = (_waited_s() - waited_s) / self.findings.seconds

    def _missing(self, subscriber: BenchSubscriber) -> int:
        published = self._published.get(subscriber.channel)
        return 0 if published is None else subscriber.received.missing(published.count, published.holes)

    def _add_findings(self, subscriber: BenchSubscriber) -> None:
        received, findings = subscriber.received, self.findings
        findings.duplicated += received.duplicated
        findings.reordered += received.reordered
        if self.context.stopping.is_set():
            findings.outstanding += self._missing(subscriber)
        else:
            findings.lost += self._missing(subscriber)


def _waited_s() -> float:
    """Return the seconds that this process was ready to run and had no CPU; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


async def _run(descriptor: int) -> None:
    """Do the work that the coordinator assigns, and report the findings."""
    context = await WorkerContext.open(descriptor)
    worker = Worker(context)
    try:
        await context.guard(worker.work())
    except (RswsError, CoordinatorGone) as error:
        context.stopping.set()  # messages that have not arrived yet count as outstanding, not as lost
        if isinstance(error, RswsError):
            context.findings.fault = Fault.of(error)
    findings = worker.finish()
    with suppress(CoordinatorGone):  # then nobody reads the findings
        context.tell(findings)


def main() -> None:
    """Run a worker process; its argument is the descriptor of :class:`Counters`' memory."""
    log_safely(logging.StreamHandler())
    allow_many_files()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_run(int(sys.argv[1])))


if __name__ == "__main__":
    main()

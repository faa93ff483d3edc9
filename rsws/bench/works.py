"""The works, as each process does them: on its own share, in step with the others from phase to phase."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from rsws.bench.counters import Count, Counters
from rsws.bench.crew import Crew, together
from rsws.bench.member import Member, cut_in_turn, join
from rsws.bench.messages import MessageReader, now_us
from rsws.bench.plan import Plan, Work
from rsws.bench.publisher import Publisher
from rsws.bench.subscriber import Subscriber


class Phase(msgspec.Struct, frozen=True):
    """A part of a run, which all processes begin together."""

    name: str
    is_measured: bool = False
    """Whether it is the one that counts."""


CONNECTING = Phase("connecting")
LOADING = Phase("publishing the history")
MEASURING = Phase("measuring", is_measured=True)
FINISHING = Phase("waiting for the last messages")


class Published(msgspec.Struct, frozen=True):
    """What was published on a channel."""

    count: int
    holes: list[tuple[int, int]]
    """Ranges of numbers that need not come."""


class Findings(msgspec.Struct):
    """What one process has measured and found."""

    lost: int = 0
    outstanding: int = 0
    """What had not come when the run was ended early."""
    duplicated: int = 0
    reordered: int = 0
    seconds: float = 0.0
    """How long it was measured."""
    cpu: float = 0.0
    """Share of that time in which this process has computed."""
    waiting: float = 0.0
    """Share of that time in which it could have, but the machine had no CPU for it; 0 where the system does not say."""
    rounds: int = 0
    """Of CATCHUP: how often a client has read the whole history."""


Step = Callable[[Phase, dict[int, Published]], Awaitable[dict[int, Published]]]
"""Wait until all processes have come as far and the next phase begins; what all of them have published until then."""


class Run:
    """One process' part.

    Args:
        crew: Its clients.
        counters: What all processes count.
        step: See there.

    Attributes:
        findings: What it has found so far.
    """

    def __init__(self, crew: Crew, counters: Counters, step: Step) -> None:
        self.crew = crew
        self.plan: Plan = crew.plan
        self.findings = Findings()
        self._counters = counters
        self._step = step
        self._subscribers: list[Subscriber] = []
        self._publishers: list[Publisher] = []
        self._published: dict[int, Published] = {}
        self._begun: tuple[int, float, float] | None = None

    async def work(self) -> None:
        """Do it all."""
        match self.plan.work:
            case Work.FANOUT | Work.PAIRS:
                await self._deliver()
            case Work.CATCHUP:
                await self._catch_up()
            case Work.CONNECT:
                await self._connect()

    def finish(self) -> Findings:
        """What was found, however it ended."""
        self._measured()
        if self._begun is not None:
            self.findings.seconds = max(self.findings.seconds, (self.crew.last_us - self._begun[0]) / 1e6)
        for subscriber in self._subscribers:
            self._judge(subscriber)
            subscriber.leave()
        for publisher in self._publishers:
            publisher.leave()
        return self.findings

    # --- fanout and pairs ---

    async def _deliver(self) -> None:
        plan, crew = self.plan, self.crew
        if plan.work is Work.PAIRS:
            for client in plan.share(crew.process):
                self._add_pair(client)
        else:
            reader = MessageReader(plan, 0, shared=True)
            self._subscribers = [Subscriber(crew, 0, reader) for _ in plan.share(crew.process)]
            if crew.process == 0:
                self._publishers = [self._publisher(0, lambda: self._counters.total(Count.PASSED) // plan.clients)]
        await self._step(CONNECTING, {})
        await join(crew, [*self._subscribers, *self._publishers])
        await self._step(MEASURING, {})
        self._measure()
        with self._cutting(self._subscribers, self._publishers):
            await self._publish(plan.duration_s)
            self._published = await self._step(FINISHING, self._account())
        self._measured()
        await crew.until(lambda: not any(map(self._missing, self._subscribers)))

    def _add_pair(self, channel: int) -> None:
        subscriber = Subscriber(self.crew, channel, MessageReader(self.plan, channel, shared=False))
        publisher = self._publisher(channel, lambda: subscriber.received.next)
        subscriber.on_progress = publisher.publish
        self._subscribers.append(subscriber)
        self._publishers.append(publisher)

    def _publisher(self, channel: int, delivered: Callable[[], int]) -> Publisher:
        plan = self.plan
        messages = plan.messages
        if messages is not None:
            messages = messages * (channel + 1) // plan.publishers - messages * channel // plan.publishers
        rate = plan.rate / plan.publishers
        return Publisher(
            self.crew, channel, messages=messages, rate=rate, delivered=delivered, poll=plan.work is Work.FANOUT
        )

    async def _publish(self, duration_s: float | None) -> None:
        """Until all is published or the time is over, and the last publish is answered."""
        plan, crew = self.plan, self.crew
        ends_us = None if duration_s is None else now_us() + duration_s * 1e6
        for publisher in self._publishers:
            publisher.begin(1e6 / plan.rate * publisher.channel if plan.rate else 0)

        def done() -> bool:
            if crew.stopping.is_set() or (ends_us is not None and now_us() >= ends_us):
                for publisher in self._publishers:
                    publisher.end()
            return all(publisher.is_done for publisher in self._publishers)

        if not await crew.until(done, lambda: any(publisher.is_waiting for publisher in self._publishers)):
            for publisher in self._publishers:
                publisher.give_up()

    def _account(self) -> dict[int, Published]:
        return {each.channel: Published(each.published, [*each.holes]) for each in self._publishers}

    # --- catchup ---

    async def _catch_up(self) -> None:
        plan, crew = self.plan, self.crew
        if crew.process == 0:
            self._publishers = [
                Publisher(crew, 0, messages=plan.messages, rate=0, delivered=lambda: sys.maxsize, poll=False)
            ]
        await self._step(CONNECTING, {})
        await join(crew, self._publishers)
        await self._step(LOADING, {})
        await self._publish(None)
        self._published = await self._step(MEASURING, self._account())
        self._measure()
        ends_us = now_us() + (plan.duration_s or 0) * 1e6
        reader = MessageReader(plan, 0, shared=True)
        self._subscribers = [self._new_reader(reader) for _ in plan.share(crew.process)]
        with self._cutting(self._subscribers):
            await self._unless_stopped(
                *(self._read_again(place, reader, ends_us) for place in range(len(self._subscribers)))
            )
        self._measured()
        await self._step(FINISHING, {})

    def _new_reader(self, reader: MessageReader) -> Subscriber:
        return Subscriber(self.crew, 0, reader, latency=None)

    async def _read_again(self, place: int, reader: MessageReader, ends_us: float) -> None:
        """Read the whole history, and again until the time is over."""
        while await self._read_all(self._subscribers[place]) and now_us() < ends_us:
            self._judge(self._subscribers[place])
            self._subscribers[place].leave()
            self._subscribers[place] = self._new_reader(reader)

    async def _read_all(self, subscriber: Subscriber) -> bool:
        """Whether all of it has come."""
        complete = asyncio.Event()

        def look() -> None:
            if not self._missing(subscriber):
                complete.set()

        subscriber.on_progress = look
        since_us = now_us()
        await subscriber.join()
        seen = -1
        while not complete.is_set() and seen < subscriber.received.count:
            seen = subscriber.received.count
            with suppress(TimeoutError):
                async with asyncio.timeout(self.plan.timeout_s):
                    await complete.wait()
        if complete.is_set():
            self.crew.latency("history").add(now_us() - since_us)
            self.findings.rounds += 1
        return complete.is_set()

    # --- connect ---

    async def _connect(self) -> None:
        plan, crew = self.plan, self.crew
        reader = MessageReader(plan, 0, shared=True)
        self._subscribers = [Subscriber(crew, 0, reader) for _ in plan.share(crew.process)]
        await self._step(MEASURING, {})
        self._measure()
        await self._unless_stopped(join(crew, self._subscribers, max(1, plan.window // plan.processes)))
        self._measured()
        await self._step(FINISHING, {})

    # --- all of them ---

    async def _unless_stopped(self, *works: Coroutine[Any, Any, None]) -> None:
        """Do it all, or what there is time for until the run is ended early."""
        stopped = asyncio.create_task(self.crew.stopping.wait())
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
    def _cutting(self, *groups: Sequence[Member]) -> Iterator[None]:
        """Meanwhile connections are cut, if that is wanted."""
        if self.plan.kill_every_s is None:
            yield
            return
        cutting = self.crew.spawn(cut_in_turn(self.plan.kill_every_s, groups))
        try:
            yield
        finally:
            cutting.cancel()

    def _measure(self) -> None:
        """What is measured begins now."""
        gc.freeze()  # what is there now stays, and need not be looked through again and again
        self._begun = (now_us(), time.process_time(), _waited_s())

    def _measured(self) -> None:
        """It is over, but for messages that are still to come."""
        if self._begun is None or self.findings.seconds:
            return
        begun_us, cpu_s, waited_s = self._begun
        self.findings.seconds = (now_us() - begun_us) / 1e6
        self.findings.cpu = (time.process_time() - cpu_s) / self.findings.seconds
        self.findings.waiting = (_waited_s() - waited_s) / self.findings.seconds

    def _missing(self, subscriber: Subscriber) -> int:
        published = self._published.get(subscriber.channel)
        return 0 if published is None else subscriber.received.missing(published.count, published.holes)

    def _judge(self, subscriber: Subscriber) -> None:
        received, findings = subscriber.received, self.findings
        findings.duplicated += received.duplicated
        findings.reordered += received.reordered
        if self.crew.stopping.is_set():
            findings.outstanding += self._missing(subscriber)
        else:
            findings.lost += self._missing(subscriber)


def _waited_s() -> float:
    """How long this process has been ready to run and did not; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0

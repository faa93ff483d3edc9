"""What clients that come back all at once do to the gateways that are left: a simulation, not a measurement.

    .venv/bin/python benchmarks/storm.py                         # 600,000 clients on 12 gateways, a quarter of a minute
    .venv/bin/python benchmarks/storm.py zone deploy             # these events only
    .venv/bin/python benchmarks/storm.py --gateways 200 --workers 8 --primaries 48 --scale 50    # ten million
    .venv/bin/python benchmarks/storm.py --seed 7 --json         # other chances; for programs

A gateway is killed, a zone of three goes dark, or a deploy restarts one gateway after the other with ``--drain``.
Clients wait as the Python client does, with its own code and limits, or as worse programs do. What a connect and a
subscription cost was measured (docs/performance.md, docs/scaling.md); a share of each CPU is taken by live messages.

The model: a load balancer that needs a while to miss a gateway; workers that serve one connect after the other, each
from a queue as long as the backlog of its socket; clients that give up meanwhile and cost a handshake all the same;
SYNs that the full queue drops, sent again after 1, 2 and 4 s; primaries that answer one subscription after the
other, each for a channel of its own, which is the worst case. One simulated client stands for ``--scale`` real ones,
and costs as much as they do. All clients notice the loss at the same moment, which is the worst case, too.
"""

from __future__ import annotations

import argparse
import heapq
import inspect
import json
import random
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import rsws
from rsws.client.limits import DEFAULTS as CLIENT
from rsws.gateway.process.setup import BACKLOG

CONNECT_S = 100e-6
"""CPU of a gateway for a handshake. With a subscription it is 132 us, measured; how it divides is assumed."""
SUBSCRIBE_S = 32e-6
REDIS_S = 25e-6
"""CPU of Redis for a subscription that resumes: its bounds (11.5 us) and a page of a few entries, measured."""
ZONES = 3
ROUND_TRIP_S = 0.02
NOTICE_S = 3.0
"""How long the balancer goes on sending connects to a gateway that has gone: three checks, one each second."""
START_S = 3.0
"""From the end of a gateway's drain to the moment at which it takes clients again."""
BURST_S = 0.01
HORIZON_S = 60.0
"""How long clients are watched after a loss: some may never find room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What there is before anything happens; the clients are evenly spread."""

    gateways: int = 12
    workers: int = 4
    clients: int = 50_000
    """The clients of one gateway."""
    primaries: int = 3
    busy: float = 0.3
    """The share of each CPU, of the workers and of Redis, that live messages take."""
    room: float = 3.0
    """The clients that one gateway admits (``--max-clients``), as a multiple of those it has."""
    stall: float = 5.0
    """The seconds that a connect to a machine takes to fail which does not answer: ``timeout connect`` of HAProxy."""
    scale: int = 8

    @property
    def simulated(self) -> int:
        """The simulated clients of one gateway."""
        return self.clients // self.scale


@dataclass(frozen=True, slots=True)
class Habit:
    """How one kind of client comes back."""

    name: str
    wait_s: Callable[[int], float]
    """The wait after so many failures in a row, the loss of the connection included."""
    patience_s: float = 60.0
    """How long an attempt may take before the client gives it up."""


_PATIENCE_S = float(inspect.signature(rsws.connect).parameters["connect_timeout_s"].default)
RSWS = Habit("rsws", CLIENT.retry.wait_s, _PATIENCE_S)
SAME = Habit("rsws, no chance", replace(CLIENT.retry, least=1.0).wait_s, _PATIENCE_S)
WIDE = Habit("0 to 5 s at first", replace(CLIENT.retry, first_s=5.0).wait_s, _PATIENCE_S)
PAGE = Habit("example page", lambda failures: 1 + 2 * random.random())
"""What examples/browser.html does."""
FIXED = Habit("1 s, always", lambda failures: 1.0)
HASTY = Habit("at once, 1 s each", lambda failures: 0.0, 1.0)
"""Never waits, and gives each attempt a second."""


@dataclass(frozen=True, slots=True)
class Event:
    """What happens to the fleet."""

    name: str
    kind: str
    """``gateway``, ``zone`` or ``deploy``."""
    habit: Habit
    drain_s: float = 0.0
    least: bool = False
    """Whether the balancer picks the gateway with the fewest clients, not one by chance."""
    room: float | None = None


@dataclass(frozen=True)
class Result:
    """What an event has led to. Rates and clients are in real ones, whatever the scale; times in seconds."""

    event: str
    habit: str
    connects_per_s: float
    """Of the gateway that had most, in its busiest second."""
    burst: float
    """The same, in its busiest 10 ms."""
    cpu: float
    """Of the busiest gateway, in its busiest second; 1.0 is all of its workers' CPU."""
    redis: float
    crowd: float
    """The most clients a gateway had, as a multiple of those it had before."""
    p50_s: float
    """Half of the clients were live again so long after they had lost their gateway."""
    p99_s: float
    max_s: float
    failed: float
    """Attempts that failed, for each return of a client."""
    never: int
    """Clients that were not live again at the end."""
    paper_per_s: float
    """What ``connects_per_s`` is by hand: see :func:`on_paper`."""
    paper_s: float
    """When the last client is live again, by hand."""


class Worker:
    """Something that serves one after the other: a process of a gateway, or a primary."""

    def __init__(self, busy: float) -> None:
        self._busy = busy
        self._free_at = 0.0
        self._starts: deque[float] = deque()
        self.used_s: defaultdict[int, float] = defaultdict(float)
        """The time in which it served, by the second in which that was."""

    def waiting(self, now: float) -> int:
        """Return how many wait to be served."""
        while self._starts and self._starts[0] <= now:
            self._starts.popleft()
        return len(self._starts)

    def begins_at(self, now: float) -> float:
        """Return when one that comes now is served."""
        return max(now, self._free_at)

    def serve(self, now: float, cpu_s: float) -> float:
        """Return when one that comes now has been served."""
        start = self.begins_at(now)
        end = start + cpu_s / (1 - self._busy)
        self._starts.append(start)
        self._free_at = end
        while start < end:
            part = min(end, int(start) + 1.0)
            self.used_s[int(start)] += part - start
            start = part
        return end


@dataclass(eq=False)
class Gateway:
    """One gateway, as the balancer and its clients see it."""

    workers: list[Worker]
    clients: dict[int, None] = field(default_factory=dict)
    """Those it has let in, in the order in which they came."""
    taken: int = 0
    """Clients it has, and those that it is about to let in."""
    most: int = 0
    is_up: bool = True
    offered: Counter[int] = field(default_factory=Counter)
    """Connects in each second."""
    bursts: Counter[int] = field(default_factory=Counter)
    """Connects in each ``BURST_S``."""


class Storm:
    """One run of an event."""

    def __init__(self, fleet: Fleet, event: Event) -> None:
        self._fleet, self._event, self._habit = fleet, event, event.habit
        self._gateways = [
            Gateway([Worker(fleet.busy) for _ in range(fleet.workers)], dict.fromkeys(range(first, last)), last - first)
            for first, last in (
                (number * fleet.simulated, (number + 1) * fleet.simulated) for number in range(fleet.gateways)
            )
        ]
        self._primaries = [Worker(fleet.busy) for _ in range(fleet.primaries)]
        self._believed = list(self._gateways)
        """The gateways that the balancer sends connects to."""
        self._is_silent = event.kind == "zone"
        self._room = int(fleet.simulated * (fleet.room if event.room is None else event.room))
        self._backlog = max(1, BACKLOG // fleet.scale)
        self._queue: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._number = 0
        self._now = 0.0
        self._lost_at: dict[int, float] = {}
        self._failures: Counter[int] = Counter()
        self._failed = 0
        self._outages_s: list[float] = []

    def run(self) -> Result:
        """Play the event to its end."""
        fleet, event = self._fleet, self._event
        if event.kind == "deploy":
            self._restart(0)
        else:
            gone = 1 if event.kind == "gateway" else fleet.gateways // ZONES
            for gateway in self._gateways[:gone]:
                self._at(0.0, self._lose, gateway)
            self._at(NOTICE_S, self._miss, gone)
        while self._queue:
            self._now, _, act, arguments = heapq.heappop(self._queue)
            if self._now > HORIZON_S and event.kind != "deploy":
                break
            act(*arguments)
        times_s = sorted(self._outages_s)
        cuts = statistics.quantiles(times_s, n=100)
        paper_per_s, paper_s = on_paper(fleet, event)
        return Result(
            event=event.name,
            habit=event.habit.name,
            connects_per_s=fleet.scale * max(max(each.offered.values(), default=0) for each in self._gateways),
            burst=fleet.scale * max(max(each.bursts.values(), default=0) for each in self._gateways),
            cpu=max(self._cpu(each.workers) for each in self._gateways),
            redis=max(self._cpu([each]) for each in self._primaries),
            crowd=max(each.most for each in self._gateways) / fleet.simulated,
            p50_s=cuts[49],
            p99_s=cuts[98],
            max_s=times_s[-1],
            failed=self._failed / (len(times_s) + len(self._lost_at)),
            never=len(self._lost_at) * fleet.scale,
            paper_per_s=paper_per_s,
            paper_s=paper_s,
        )

    def _at(self, time: float, act: Callable[..., None], *arguments: object) -> None:
        self._number += 1  # so that of events at the same time the earlier one comes first
        heapq.heappush(self._queue, (time, self._number, act, arguments))

    def _cpu(self, workers: list[Worker]) -> float:
        busy = self._fleet.busy
        seconds = {second for worker in workers for second in worker.used_s}
        used_s = max([sum([worker.used_s[second] for worker in workers]) for second in seconds], default=0.0)
        return busy + (1 - busy) * used_s / len(workers)

    # --- gateways ---

    def _lose(self, gateway: Gateway) -> None:
        gateway.is_up = False
        for client in list(gateway.clients):
            self._leave(client, gateway)

    def _miss(self, gone: int) -> None:
        self._believed = self._gateways[gone:]

    def _restart(self, number: int) -> None:
        """Stop one gateway, whose listener is closed at once; the next follows when it is back."""
        if number == len(self._gateways):
            return
        gateway = self._gateways[number]
        gateway.is_up = False
        self._believed.remove(gateway)
        drain_s = self._event.drain_s
        for place, client in enumerate(gateway.clients):
            self._at(self._now + place * drain_s / len(gateway.clients), self._leave, client, gateway)
        self._at(self._now + drain_s + START_S, self._start, gateway, number)

    def _start(self, gateway: Gateway, number: int) -> None:
        gateway.is_up = True
        self._believed.append(gateway)
        self._restart(number + 1)

    # --- clients ---

    def _leave(self, client: int, gateway: Gateway) -> None:
        if client in gateway.clients:
            del gateway.clients[client]
            gateway.taken -= 1
            self._lost_at[client] = self._now
            self._try_later(client)

    def _try_later(self, client: int) -> None:
        self._failures[client] += 1
        self._at(self._now + self._habit.wait_s(self._failures[client]) + ROUND_TRIP_S, self._connect, client)

    def _fail(self, client: int) -> None:
        self._failed += 1
        self._try_later(client)

    def _connect(self, client: int) -> None:
        believed = self._believed
        if self._event.least:
            gateway = min(believed, key=lambda each: each.taken)
        else:
            gateway = believed[int(random.random() * len(believed))]
        gateway.offered[int(self._now)] += 1
        gateway.bursts[int(self._now / BURST_S)] += 1
        deadline = self._now + self._habit.patience_s
        if gateway.is_up:
            self._knock(client, gateway, gateway.workers[int(random.random() * len(gateway.workers))], deadline, 1.0)
        elif self._is_silent:
            self._at(min(self._now + self._fleet.stall, deadline), self._fail, client)
        else:
            self._fail(client)

    def _knock(self, client: int, gateway: Gateway, worker: Worker, deadline: float, again_s: float) -> None:
        """Send a SYN; where the worker's queue is full it is dropped, and sent again later."""
        now, scale = self._now, self._fleet.scale
        if worker.waiting(now) >= self._backlog:
            if now + again_s < deadline:
                self._at(now + again_s, self._knock, client, gateway, worker, deadline, 2 * again_s)
            else:
                self._at(deadline, self._fail, client)
        elif worker.begins_at(now) > deadline:  # the gateway finds out when it answers
            worker.serve(now, CONNECT_S * scale)
            self._at(deadline, self._fail, client)
        elif gateway.taken >= self._room:
            self._at(worker.serve(now, CONNECT_S * scale), self._fail, client)
        else:
            gateway.taken += 1
            gateway.most = max(gateway.most, gateway.taken)
            self._at(worker.serve(now, (CONNECT_S + SUBSCRIBE_S) * scale), self._subscribe, client, gateway)

    def _subscribe(self, client: int, gateway: Gateway) -> None:
        if gateway.is_up:
            gateway.clients[client] = None
            primary = self._primaries[client % len(self._primaries)]
            self._at(primary.serve(self._now, REDIS_S * self._fleet.scale), self._live, client, gateway)
        else:
            gateway.taken -= 1
            self._fail(client)

    def _live(self, client: int, gateway: Gateway) -> None:
        if client in gateway.clients:  # else it has lost this gateway, too
            self._outages_s.append(self._now - self._lost_at.pop(client))
            del self._failures[client]


def on_paper(fleet: Fleet, event: Event) -> tuple[float, float]:
    """Return connects per second of a gateway, and the seconds until the last client is live again, by hand.

    All that are lost come in one second and are served by what is left, gateways or Redis, whichever takes longer.
    Nothing is waited for: neither a back-off nor a balancer that does not know yet. With a drain a gateway's clients
    come evenly, to all others or to the empty one, and each is away for the longest first wait.
    """
    gone = fleet.gateways // ZONES if event.kind == "zone" else 1
    left = fleet.gateways - gone
    clients = gone * fleet.clients
    if event.drain_s:
        takers = 1 if event.least else left
        return clients / event.drain_s / takers, CLIENT.retry.first_s + ROUND_TRIP_S
    serving_s = clients * (CONNECT_S + SUBSCRIBE_S) / (left * fleet.workers), clients * REDIS_S / fleet.primaries
    return clients / left, max(serving_s) / (1 - fleet.busy)


EVENTS = (
    Event("gateway lost", "gateway", RSWS),
    Event("zone lost", "zone", RSWS),
    Event("zone lost", "zone", WIDE),
    Event("zone lost", "zone", PAGE),
    Event("zone lost", "zone", SAME),
    Event("zone lost", "zone", FIXED),
    Event("zone lost", "zone", HASTY),
    Event("zone, room 1.4", "zone", RSWS, room=1.4),
    Event("zone, room 1.4", "zone", HASTY, room=1.4),
    Event("deploy, drain 0", "deploy", RSWS),
    Event("deploy, drain 20", "deploy", RSWS, drain_s=20),
    Event("  room 2.0", "deploy", RSWS, drain_s=20, room=2.0),
    Event("deploy, drain 60", "deploy", RSWS, drain_s=60),
    Event("  fewest clients", "deploy", RSWS, drain_s=20, least=True),
    Event("  fewest clients", "deploy", RSWS, drain_s=60, least=True),
)


def simulate(fleet: Fleet, event: Event, seed: int) -> Result:
    """Run one event; the result is the same for the same seed."""
    state = random.getstate()  # Backoff takes its chances from the module
    random.seed(seed)
    try:
        return Storm(fleet, event).run()
    finally:
        random.setstate(state)


def main() -> None:
    """Simulate and print."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fleet = Fleet()
    kinds = sorted({event.kind for event in EVENTS})
    parser.add_argument("events", nargs="*", help=f"which: {', '.join(kinds)} (all)")
    parser.add_argument("--gateways", type=int, default=fleet.gateways, help="how many (%(default)s)")
    parser.add_argument("--workers", type=int, default=fleet.workers, help="processes of each (%(default)s)")
    parser.add_argument("--clients", type=int, default=fleet.clients, help="clients of each (%(default)s)")
    parser.add_argument("--primaries", type=int, default=fleet.primaries, help="how many (%(default)s)")
    parser.add_argument("--busy", type=float, default=fleet.busy, help="share of CPU that messages take (%(default)s)")
    parser.add_argument("--stall", type=float, default=fleet.stall, help="the balancer's wait, seconds (%(default)s)")
    parser.add_argument("--scale", type=int, default=fleet.scale, help="clients that one stands for (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all chances (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object per event instead of the table")
    given = vars(parser.parse_args())
    wanted, seed, as_json = given.pop("events") or kinds, given.pop("seed"), given.pop("json")
    if unknown := set(wanted) - set(kinds):
        parser.error(f"no such event: {', '.join(sorted(unknown))}")
    fleet = Fleet(**given)
    rows = "{:17} {:18} {:>10} {:>8} {:>7} {:>5} {:>6} {:>6} {:>6} {:>6} {:>6} {:>7} {:>7} {:>7}"
    if not as_json:
        print(
            f"{fleet.gateways * fleet.clients:,} clients on {fleet.gateways} gateways of {fleet.workers} workers; "
            f"{fleet.primaries} primaries; seed {seed}"
        )
        print(rows.format("event", "clients wait", "connects/s", "on paper", "in 10ms", "CPU", "Redis", "crowd",
                          "p50 s", "p99 s", "max s", "paper s", "failed", "never"))  # fmt: skip
    for event in EVENTS:
        if event.kind not in wanted:
            continue
        found = simulate(fleet, event, seed)
        if as_json:
            print(json.dumps(asdict(found)), flush=True)
        else:
            times = [f"{each:.2f}" for each in (found.p50_s, found.p99_s, found.max_s, found.paper_s, found.failed)]
            print(rows.format(
                found.event, found.habit, f"{found.connects_per_s:,.0f}", f"{found.paper_per_s:,.0f}",
                f"{found.burst:,.0f}", f"{found.cpu:.0%}", f"{found.redis:.0%}", f"{found.crowd:.2f}", *times,
                f"{found.never:,}",
            ), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

"""What a run is to measure and what it finds, as the coordinator and its workers say it to each other.

They talk over pipes, one JSON object a line. The end of the coordinator's lines means: report what there is, now.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TypeAlias

import msgspec

from rsws.bench.histogram import Histogram
from rsws.bench.sequence import Ranges
from rsws.errors import BenchFailed, CannotConnect, ConnectionLost, RswsError, SubscribeRefused, Unauthorized

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Of what is said; the longest says what became of each of many channels."""


class Workload(StrEnum):
    """The kinds of load."""

    FANOUT = "fanout"
    """One publisher, all clients subscribe to its channel."""
    PAIRS = "pairs"
    """Each client is a publisher with a channel and a subscriber of its own."""
    CATCHUP = "catchup"
    """Each client reads the history of one channel from its beginning to its end, again and again."""
    CONNECT = "connect"
    """Clients connect, subscribe and stay."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one run measures."""

    workload: Workload
    url: str
    """Of the gateway, without the token."""
    run_id: str
    """Eight characters that no other run has: in the names of the channels, and in each message."""
    prefix: str
    """What the names of the channels begin with."""
    clients: int
    processes: int
    size_bytes: int = 0
    """Of a message's data, as JSON text."""
    messages: int | None = None
    """How many are published, by all publishers together; None for as many as the time allows."""
    duration_s: float | None = None
    """For how long; None until ``messages`` are published."""
    rate: float = 0.0
    """Messages a second that are published, by all publishers together; 0 for as many as the window allows."""
    window: int = 1
    """How many messages of a publisher are under way at once; for CONNECT, how many connections are being made."""
    kill_every_s: float | None = None
    """How often some of the connections are cut; None for never."""
    timeout_s: float
    """How long nothing may come before what is awaited counts as lost."""

    @property
    def publishers(self) -> int:
        match self.workload:
            case Workload.PAIRS:
                return self.clients
            case Workload.CONNECT:
                return 0
        return 1

    @property
    def channels(self) -> int:
        return self.clients if self.workload is Workload.PAIRS else 1

    @property
    def connections(self) -> int:
        """How many are open at once, in all processes."""
        return self.clients + self.publishers

    def channel(self, number: int) -> str:
        """The name of the channel with that number."""
        return f"{self.prefix}{self.run_id}:{number}"

    @property
    def pattern(self) -> str:
        """What all its channels match, as Redis writes a pattern."""
        return self.channel(0) if self.channels == 1 else f"{self.prefix}{self.run_id}:*"

    def share(self, process: int) -> range:
        """The clients that are up to that process."""
        return range(process * self.clients // self.processes, (process + 1) * self.clients // self.processes)


class Phase(StrEnum):
    """The parts of a run, each of which all processes begin together."""

    STARTING = "starting"
    CONNECTING = "connecting"
    LOADING = "publishing the history"
    MEASURING = "measuring"
    """The one that counts."""
    FINISHING = "waiting for the last messages"


class Published(msgspec.Struct, frozen=True):
    """What was published on a channel."""

    count: int
    holes: Ranges
    """Numbers that need not come."""


class Fault(msgspec.Struct, frozen=True):
    """Why a process could not go on."""

    kind: str
    """The name of the exception's class."""
    text: str
    code: str = ""
    channel: str = ""

    @classmethod
    def of(cls, error: RswsError) -> Fault:
        code, channel = (error.code, error.channel) if isinstance(error, SubscribeRefused) else ("", "")
        return cls(type(error).__name__, str(error), code, channel)

    def error(self) -> RswsError:
        """The exception, in another process than the one that raised it."""
        if self.kind == SubscribeRefused.__name__:
            return SubscribeRefused(self.text, self.code, self.channel)
        kinds = {each.__name__: each for each in (CannotConnect, ConnectionLost, Unauthorized)}
        return kinds.get(self.kind, BenchFailed)(self.text)


class Findings(msgspec.Struct, tag=True):
    """What has been measured and found: what a process says last, or the sum of what all say."""

    lost: int = 0
    outstanding: int = 0
    """What had not come when the run was ended early."""
    duplicated: int = 0
    reordered: int = 0
    foreign: int = 0
    """Messages that nobody of this run has published."""
    gaps: int = 0
    """How often the gateway said that it can't prove continuity."""
    refused: int = 0
    """Publishes that the gateway said it has not stored."""
    refusal: str = ""
    """What it said of the first of them; empty where there is none."""
    refusal_code: str = ""
    """The ``code`` of that."""
    unknown: int = 0
    """Publishes that may be stored or not."""
    rounds: int = 0
    """Of CATCHUP: how often a client has read the whole history."""
    seconds: float = 0.0
    """How long it was measured; 0 where it ended before."""
    cpu: float = 0.0
    """Share of that time in which the process, or the busiest one, has computed."""
    waiting: float = 0.0
    """Share of that time in which it could have, but the machine had no CPU for it; 0 where the system does not say."""
    latencies: dict[str, Histogram] = {}
    """By what they measure."""
    fault: Fault | None = None

    @classmethod
    def sum(cls, parts: Iterable[Findings]) -> Findings:
        """What all processes have found together."""
        total = cls()
        for part in parts:
            total.lost += part.lost
            total.outstanding += part.outstanding
            total.duplicated += part.duplicated
            total.reordered += part.reordered
            total.foreign += part.foreign
            total.gaps += part.gaps
            total.refused += part.refused
            total.unknown += part.unknown
            total.rounds += part.rounds
            total.seconds = max(total.seconds, part.seconds)
            if not total.refusal:
                total.refusal, total.refusal_code = part.refusal, part.refusal_code
            if part.cpu + part.waiting > total.cpu + total.waiting:
                total.cpu, total.waiting = part.cpu, part.waiting
            for name, histogram in part.latencies.items():
                if histogram.count:
                    total.latencies.setdefault(name, Histogram()).merge(histogram)
            total.fault = total.fault or part.fault
        return total


class Assignment(msgspec.Struct, tag=True):
    """To a process, first of all."""

    plan: Plan
    token: str
    process: int


class Go(msgspec.Struct, tag=True):
    """To a process that is ready: so are all the others."""

    published: dict[int, Published]
    """By all of them, by the number of the channel."""


class Stop(msgspec.Struct, tag=True):
    """To a process: publish no more, and come to an end."""


class Ready(msgspec.Struct, tag=True):
    """From a process: it has come as far as this phase."""

    phase: Phase
    published: dict[int, Published]
    """By this process, in the phase before."""


ToWorker: TypeAlias = Assignment | Go | Stop
FromWorker: TypeAlias = Ready | Findings

encode = msgspec.json.Encoder().encode
decode_to_worker = msgspec.json.Decoder(ToWorker).decode
decode_from_worker = msgspec.json.Decoder(FromWorker).decode

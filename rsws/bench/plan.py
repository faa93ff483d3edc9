"""The plan and the findings of a run, and the messages between the coordinator and its workers.

They talk over pipes, one JSON object a line. The end of the coordinator's lines tells a worker to report immediately.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from ssl import SSLContext
from typing import TypeAlias

import msgspec

from rsws.bench.histogram import Histogram
from rsws.bench.sequence import Ranges
from rsws.certificates import client_context
from rsws.errors import BenchFailed, CannotConnect, ConnectionLost, RswsError, SubscribeRefused, Unauthorized

MAX_LINE_BYTES = 64 * 1024 * 1024
"""The longest line between coordinator and worker; the longest ones list what was published on many channels."""


class Workload(StrEnum):
    """The kinds of load."""

    FANOUT = "fanout"
    """One publisher publishes; all clients subscribe to its channel."""
    PAIRS = "pairs"
    """Each client is a publisher with a channel and a subscriber of its own."""
    CATCHUP = "catchup"
    """Each client reads the history of one channel from its beginning to its end, again and again."""
    CONNECT = "connect"
    """Clients connect, subscribe and stay."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of one run."""

    workload: Workload
    url: str
    """The gateway's URL, without the token."""
    ca: str | None = None
    """With ``wss://``: the file of the authorities to trust; None for the system's."""
    insecure: bool = False
    """Whether to trust any certificate."""
    run_id: str
    """Eight characters that no other run has: in the names of the channels, and in each message."""
    prefix: str
    """The beginning of the channels' names."""
    clients: int
    processes: int
    size_bytes: int = 0
    """The size of a message's data, as JSON text."""
    messages: int | None = None
    """How many messages all publishers together publish; None for as many as the time allows."""
    duration_s: float | None = None
    """How long the run measures; None until ``messages`` are published."""
    rate: float = 0.0
    """How many messages a second all publishers together publish; 0 for as many as the window allows."""
    window: int = 1
    """The most messages of a publisher that are not acked or not delivered; for CONNECT, connections being made."""
    kill_every_s: float | None = None
    """How often some of the connections are cut; None for never."""
    timeout_s: float
    """How long nothing may arrive before what is awaited counts as lost."""

    @property
    def tls(self) -> SSLContext | None:
        """Which certificates to trust; None for the usual ones."""
        return client_context(None if self.ca is None else Path(self.ca), insecure=self.insecure)

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
        """The number of connections that are open simultaneously, in all processes."""
        return self.clients + self.publishers

    def channel(self, number: int) -> str:
        """Return the name of the channel with that number."""
        return f"{self.prefix}{self.run_id}:{number}"

    @property
    def pattern(self) -> str:
        """The pattern, in Redis' syntax, that matches all channels of the run."""
        return self.channel(0) if self.channels == 1 else f"{self.prefix}{self.run_id}:*"

    def share(self, process: int, of: int | None = None) -> range:
        """Return the numbers of the clients that the process has to run, or its share of so many other things."""
        count = self.clients if of is None else of
        return range(process * count // self.processes, (process + 1) * count // self.processes)


class Phase(StrEnum):
    """The parts of a run, each of which all processes begin together."""

    STARTING = "starting"
    CONNECTING = "connecting"
    LOADING = "publishing the history"
    MEASURING = "measuring"
    """The phase whose duration and CPU use are measured."""
    FINISHING = "waiting for the last messages"


class Published(msgspec.Struct, frozen=True):
    """The account of what was published on a channel."""

    count: int
    holes: Ranges
    """The numbers of messages that need not arrive."""


class Fault(msgspec.Struct, frozen=True):
    """The error for which a process could not go on."""

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
        """Return the exception anew, in another process than the one that raised it."""
        if self.kind == SubscribeRefused.__name__:
            return SubscribeRefused(self.text, self.code, self.channel)
        kinds = {each.__name__: each for each in (CannotConnect, ConnectionLost, Unauthorized)}
        return kinds.get(self.kind, BenchFailed)(self.text)


class Findings(msgspec.Struct, tag=True):
    """What was measured and found: a worker's last message, or the sum over all workers."""

    lost: int = 0
    outstanding: int = 0
    """Messages that had not arrived when the run was ended early."""
    duplicated: int = 0
    reordered: int = 0
    foreign: int = 0
    """Messages that were not published by this run."""
    gaps: int = 0
    """How often the gateway reported a gap."""
    refused: int = 0
    """Publishes that the gateway answered as not stored."""
    refusal: str = ""
    """The gateway's text for the first of them; empty where there is none."""
    refusal_code: str = ""
    """The ``code`` of the first of them; empty where there is none."""
    unknown: int = 0
    """Publishes whose outcome is unknown: stored or not."""
    rounds: int = 0
    """How often clients have read the whole history (CATCHUP)."""
    seconds: float = 0.0
    """The measured time; 0 where the run ended before."""
    cpu: float = 0.0
    """The share of that time in which the process, or the busiest of all, used a CPU."""
    waiting: float = 0.0
    """The share of that time in which it was ready to run and had no CPU; 0 where the system does not say."""
    latencies: dict[str, Histogram] = {}
    """The measured durations, by the name of what they measure."""
    fault: Fault | None = None

    @classmethod
    def sum(cls, parts: Iterable[Findings]) -> Findings:
        """Return the findings of all processes together."""
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
    """The message that a worker gets first: the plan, the token, and the number of its process."""

    plan: Plan
    token: str
    process: int


class Go(msgspec.Struct, tag=True):
    """The message to a worker that all are ready and the phase begins."""

    published: dict[int, Published]
    """What all processes published in the phase before, by the number of the channel."""


class Stop(msgspec.Struct, tag=True):
    """The message to a worker to publish no more and finish early."""


class Ready(msgspec.Struct, tag=True):
    """The message from a worker that it is ready for a phase."""

    phase: Phase
    published: dict[int, Published]
    """What this process published in the phase before, by the number of the channel."""


ToWorker: TypeAlias = Assignment | Go | Stop
FromWorker: TypeAlias = Ready | Findings

encode = msgspec.json.Encoder().encode
decode_to_worker = msgspec.json.Decoder(ToWorker).decode
decode_from_worker = msgspec.json.Decoder(FromWorker).decode

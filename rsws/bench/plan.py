"""What is to be measured, and who does which part of it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Work(StrEnum):
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
    """One run."""

    work: Work
    url: str
    """Of the gateway, without the token."""
    run: str
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
        match self.work:
            case Work.PAIRS:
                return self.clients
            case Work.CONNECT:
                return 0
        return 1

    @property
    def channels(self) -> int:
        return self.clients if self.work is Work.PAIRS else 1

    @property
    def connections(self) -> int:
        """How many are open at once, in all processes."""
        return self.clients + self.publishers

    def channel(self, number: int) -> str:
        """The name of the channel with that number."""
        return f"{self.prefix}{self.run}:{number}"

    @property
    def pattern(self) -> str:
        """What all its channels match, as Redis writes a pattern."""
        return self.channel(0) if self.channels == 1 else f"{self.prefix}{self.run}:*"

    def share(self, process: int) -> range:
        """The clients that are up to that process."""
        return range(process * self.clients // self.processes, (process + 1) * self.clients // self.processes)

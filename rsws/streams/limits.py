"""What the Redis side may hold, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass

from rsws.backoff import Backoff
from rsws.settings import KIB, MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds and waits of what is asked of Redis. Sizes are in bytes, times in seconds."""

    pending_bytes: int = 64 * MIB
    """What callers may have waiting in one link; more is refused as unavailable."""
    crowded_bytes: int = 512 * KIB
    """With more waiting, callers that can wait should."""
    reconnect: Backoff = Backoff(0.1, 2.0, least=0.5)
    """The waits before it connects to Redis again."""
    idle_ping_s: float = 5.0
    """How long a link is asked nothing before it is asked whether it is alive."""
    gather_s: float = 0.001
    """A stream is read again no sooner: each message alone would cost a read, and each of its clients a write."""
    read_bytes: int = 256 * KIB
    """What one read of a followed stream brings at most, a last entry that goes over it included."""
    refused_retry_s: float = 0.5
    """How long after a read that Redis refuses for the moment it is tried again."""
    unreadable_retry_s: float = 30.0
    """How long a stream that Redis refuses to read is left alone before it is tried again."""
    block_s: float = 5.0
    """How long Redis waits for the next entries of streams in one read."""
    refused_block_s: float = 0.5
    """The same where Redis does not let such a read be interrupted."""
    step_s: float = 0.0015
    """One step of counting back in so much time: Redis has a quarter of its time for them, whoever waits. Not as long
    as a step was seen to take: that may be the gateway's own event loop, and counts would slow down with it.
    """
    trim_every_s: float = 10.0
    """How long after all rules of retention were applied they are applied again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalLimits:
    """The waits for a server of this machine, in seconds."""

    probe_timeout_s: float = 2.0
    """How long the answer to one command may take."""
    start_timeout_s: float = 30.0
    """How long its start may take before it loads its data."""
    load_timeout_s: float = 300.0
    """How long its start may take if it loads data."""
    progress_interval_s: float = 5.0
    """How often it is logged how much is loaded."""
    stop_timeout_s: float = 5.0
    """How long it may take to end before it is killed."""
    poll_s: float = 0.02
    """How long after a look that showed no change the next one comes."""
    takeover_timeout_s: float = 10.0
    """How long the server of a gateway that has gone may take to end, or that of another gateway to answer."""
    restart: Backoff = Backoff(0.1, 30.0)
    """The waits before it is started again."""
    steady_s: float = 60.0
    """A server that ran this long is restarted without the waits of earlier failures."""


DEFAULTS = Limits()
LOCAL_DEFAULTS = LocalLimits()

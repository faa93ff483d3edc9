"""What the gateway may hold, and how long it waits, beside what its settings say."""

from __future__ import annotations

from dataclasses import dataclass

from rsws.backoff import Backoff
from rsws.settings import KIB, MIB
from rsws.streams.limits import DEFAULTS as STREAM_DEFAULTS
from rsws.streams.limits import Limits as StreamLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds and waits of the gateway, each process for itself. Sizes are in bytes, times in seconds."""

    streams: StreamLimits = STREAM_DEFAULTS
    """Those of what it asks of Redis."""
    ring_bytes: int = 256 * KIB
    """What the ring of one channel holds at most."""
    rings_bytes: int = 3 * MIB
    """What the rings of all channels hold together."""
    chunk_bytes: int = 64 * KIB
    """What is handed over in one piece while a client catches up."""
    check_s: float = 5.0
    """A channel that was quiet for so long is looked after: reading a stream that was reset waits in silence for ever.
    """
    open_timeout_s: float = 10.0
    """How long a client may take for its handshake."""
    door_least: int = 16
    """Connections that are not let in have room for at least so many."""
    door_most: int = 8192
    """Connections that are not let in never have room for more."""
    door_share: int = 8
    """One of so many connections is for those that are not let in, however many clients there are."""
    free_tries: int = 8
    """So many wrong tokens of an address are refused at once: somebody mistypes, or a page has an old one."""
    refusal: Backoff = Backoff(0.1, 2.0)
    """The waits before each further wrong token of the address is refused."""
    forget_tries_s: float = 60.0
    """An address that has sent no wrong token for so long starts anew."""
    max_addresses: int = 10_000
    """For how many addresses wrong tokens are counted; the one that was longest without is forgotten."""
    publish_s: float = 1.0
    """How often a worker writes its metrics for the others; that it does is the sign that it lives."""
    silent_checks: int = 10
    """A worker that has not written its metrics in so many turns of writing hangs, and is killed."""
    counted_at_once: int = 200
    """Channels whose subscriptions are counted whenever somebody asks; those of more at most every ``publish_s``."""


DEFAULTS = Limits()

"""The bounds and timeouts of the Redis side."""

from __future__ import annotations

from dataclasses import dataclass

from rsws.backoff import Backoff
from rsws.options import KIB, MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds and timeouts for commands to Redis. Sizes are in bytes, times in seconds."""

    pending_bytes: int = 64 * MIB
    """The size of a link's queue above which further commands are refused as unavailable."""
    crowded_bytes: int = 512 * KIB
    """The size of a link's queue above which callers that can wait should wait."""
    reconnect: Backoff = Backoff(0.1, 0.8, least=0.5)
    """The backoff before reconnecting to Redis."""
    role_check_s: float = 0.5
    """How often a server is asked whether it is still a primary."""
    idle_ping_s: float = 5.0
    """The time without commands after which a link sends a PING to check the connection."""
    gather_s: float = 0.001
    """The delay before a busy stream is read again: without it each message costs a read, and a write per client."""
    read_bytes: int = 256 * KIB
    """The size at which one read of a followed stream stops; its last entry may exceed it."""
    table_bytes: int = 3 * MIB // 2
    """How much of Redis' memory a reader may use to be told which of the streams that it has read change."""
    refused_retry_s: float = 0.5
    """The time before a read that Redis refuses for the moment is retried."""
    lasting_s: float = 2.0
    """The time for which a stream can't be read before its followers are told."""
    unreadable_retry_s: float = 30.0
    """The time before reading a stream that Redis refuses to read (no stream, or forbidden) is retried."""
    block_s: float = 5.0
    """The time for which one blocking read waits for the next entries of streams."""
    refused_block_s: float = 0.5
    """The time for which a blocking read waits when Redis does not allow it to be interrupted."""
    step_s: float = 0.0015
    """The time from one step of counting back to the next, so that they use a quarter of Redis' time, however many
    counts wait. It is fixed, not derived from measured durations, which include delays of the gateway's event loop.
    """
    replica_wait_s: float = 1.0
    """How long replicas may take to have what is published, where they are waited for."""
    map_every_s: float = 30.0
    """How often a cluster is asked for its map when nothing is known to have changed."""
    map_retry_s: float = 0.25
    """How often it is asked while a slot has no primary that answers."""
    map_pause_s: float = 0.1
    """How long it is not asked after it was, whatever has changed."""
    map_timeout_s: float = 1.0
    """How long one node may take to send the map."""
    unused_s: float = 30.0
    """How long the connections to a node of a cluster are kept that has no slot any more, or none yet."""
    free_redirects: int = 3
    """How often in a second a stream is followed at once where a redirect says."""
    redirect_pause_s: float = 0.1
    """How long after a further redirect it is followed there: the nodes disagree."""
    trim_every_s: float = 10.0
    """The pause between two rounds of applying all retention rules."""


DEFAULTS = Limits()

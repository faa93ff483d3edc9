"""The gateway's bounds and timeouts that are not settings."""

from __future__ import annotations

from dataclasses import dataclass

from rsws.backoff import Backoff
from rsws.options import KIB, MIB
from rsws.rates import Rate
from rsws.redis.limits import DEFAULTS as STREAM_DEFAULTS
from rsws.redis.limits import Limits as StreamLimits
from rsws.tokens.signed import CLOCK_DIFFERENCE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds and timeouts of the gateway, which hold for each process. Sizes are in bytes, times in seconds."""

    streams: StreamLimits = STREAM_DEFAULTS
    """The limits of the Redis side."""
    ring_bytes: int = 256 * KIB
    """The maximum size of one channel's ring."""
    rings_bytes: int = 3 * MIB
    """The maximum size of all channels' rings together."""
    chunk_bytes: int = 64 * KIB
    """The approximate size of one write to a client that is catching up."""
    connections_check_s: float = 1.0
    """How often it is checked that all connections to Redis are up; one missing twice is reported."""
    check_s: float = 5.0
    """The interval at which quiet channels are checked: a read of a stream that was reset would wait forever."""
    check_pause_s: float = 0.1
    """The pause between two of those checks, each of which costs Redis two commands."""
    door_least: int = 16
    """The number of connections that are not admitted for which there is always room."""
    door_most: int = 8192
    """The maximum number of connections that are not admitted."""
    door_share: int = 8
    """The share of all connections that is reserved for those that are not admitted: one in this many."""
    free_tries: int = 8
    """The number of wrong tokens of an address that are refused without delay: typing errors, or a page's old token."""
    refusal: Backoff = Backoff(0.1, 2.0)
    """The delay before each further wrong token of the address is refused."""
    forget_tries_s: float = 60.0
    """The time without a wrong token after which an address's count starts again."""
    max_addresses: int = 10_000
    """The maximum number of addresses whose wrong tokens, and whose attempts to connect, are counted; the one seen
    longest ago is forgotten first."""
    polite: Rate = Rate(1000, 1000)
    """How many connections beyond a limit on addresses are told so; further ones are cut off when they are accepted."""
    polite_tls: int = 20
    """How many of them one counts as that speaks TLS, whose handshake costs so much more."""
    clock_difference_s: float = CLOCK_DIFFERENCE_S
    """The difference between the clocks of the gateway and of those who make tokens that is forgiven."""
    token_warning_s: float = 60.0
    """The time before a token's end at which its holder is told; half of its life where that is shorter."""
    key_files_check_s: float = 2.0
    """The interval at which it is checked whether the files of keys have changed."""
    blank_s: float = 15.0
    """The interval at which something that means nothing is sent to those who subscribe over plain HTTP."""
    publish_s: float = 1.0
    """The interval at which a worker writes its metrics for the others, which also shows that it is alive."""
    silent_checks: int = 10
    """The number of ``publish_s`` intervals without written metrics after which a worker is killed as hanging."""
    counted_at_once: int = 200
    """The most channels whose subscriptions are counted on every request; with more, at most every ``publish_s``."""


DEFAULTS = Limits()

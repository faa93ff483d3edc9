"""The limits of a client's buffers, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass

from rsws.backoff import Backoff
from rsws.options import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds and waits of one client. Sizes are in bytes, times in seconds."""

    queue_entries: int = 1000
    """The messages and events that a subscription queues for the application."""
    queue_bytes: int = 4 * MIB
    """The memory that the texts of queued messages take. One message above that fills the queue by itself."""
    max_message_bytes: int = 64 * MIB
    """The longest message the client accepts: far above a gateway's default limit, which can be raised."""
    max_pong_bytes: int = MIB
    """The pongs that may wait to be sent to a gateway that pings and does not read."""
    max_pings: int = 100
    """The pings that may be unanswered at the same time, including those that nobody waits for any more."""
    max_given_up: int = 10_000
    """The unanswered publishes nobody waits for any more that are remembered; above that the oldest are forgotten."""
    max_warnings: int = 20
    """The lines of one kind that it logs in ``warning_period_s``; the last one says that more are left out."""
    warning_period_s: float = 10.0
    """The period in which lines are counted; then the count begins anew."""
    retry: Backoff = Backoff(0.1, 5.0, least=0.0)
    """The waits before it connects, subscribes or publishes again."""
    resend_s: float = 100.0
    """How long a publish is resent after it was first sent. By default a gateway recognizes a repeat for 120 s."""
    least_hold_s: float = 0.01
    """The least time to wait after the gateway has refused something for its rate."""
    longest_hold_s: float = 3600.0
    """The longest, whatever the gateway says."""
    token_timeout_s: float = 10.0
    """How long the application may take to give a token, and the gateway to answer to it on an open connection."""
    close_timeout_s: float = 2.0
    """How long closing a connection may take."""
    unsubscribe_timeout_s: float = 2.0
    """How long closing a subscription waits for the gateway to confirm the unsubscribe."""

    def hold_s(self, retry_after_s: float | None) -> float:
        """Return how long to wait where the gateway limits the rate and says this, or nothing."""
        return min(max(retry_after_s or 0.0, self.least_hold_s), self.longest_hold_s)


DEFAULTS = Limits()

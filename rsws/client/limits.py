"""What a client may hold, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass

from rsws.backoff import Backoff
from rsws.settings import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds and waits of one client. Sizes are in bytes, times in seconds."""

    queue_entries: int = 1000
    """Messages and events that a subscription holds for the application."""
    queue_bytes: int = 4 * MIB
    """What the texts of those messages take in memory. A longer one alone fills the queue."""
    max_message_bytes: int = 64 * MIB
    """The longest message it receives: well above a gateway's default, which may be configured larger."""
    max_pong_bytes: int = MIB
    """What may wait to be sent of answers to the pings of a gateway that does not read them."""
    max_pings: int = 100
    """Pings that may be without an answer at once, those included that nobody waits for any more."""
    max_given_up: int = 10_000
    """Publishes that nobody waits for any more and the gateway has not answered; of more the oldest are forgotten."""
    max_warnings: int = 20
    """Lines of one kind that it logs in ``warning_period_s``; the last of them says that more are left out."""
    warning_period_s: float = 10.0
    """How long lines are counted before the count begins anew."""
    retry: Backoff = Backoff(0.1, 5.0, least=0.0)
    """The waits before it connects, subscribes or publishes again."""
    resend_s: float = 100.0
    """How long after its first time a publish is sent again. By default a gateway knows a repeat for 120 s."""
    close_timeout_s: float = 2.0
    """How long closing a connection may take."""
    unsubscribe_timeout_s: float = 2.0
    """How long closing a subscription waits for the gateway's word."""


DEFAULTS = Limits()

"""The timeouts of a server on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from rsws.backoff import Backoff


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The timeouts for a server on this machine, in seconds."""

    probe_timeout_s: float = 2.0
    """The timeout for the reply to one command."""
    start_timeout_s: float = 30.0
    """The timeout for the server's start until it begins to load data."""
    load_timeout_s: float = 300.0
    """The timeout for the server's start if it loads data."""
    progress_interval_s: float = 5.0
    """The interval at which the progress of loading is logged."""
    stop_timeout_s: float = 5.0
    """The timeout for the server's end, after which it is killed."""
    poll_s: float = 0.02
    """The interval at which the state of a server or a lock is polled."""
    takeover_timeout_s: float = 10.0
    """The timeout for an earlier gateway's server to end, and for another gateway's server to answer."""
    restart: Backoff = Backoff(0.1, 30.0)
    """The backoff before the server is started again."""
    steady_s: float = 60.0
    """The time that a server has to run for the backoff to start again from the beginning."""


DEFAULTS = Limits()

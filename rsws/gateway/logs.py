"""The gateway's logging: one line per event, on standard error, times in UTC.

A log line never contains a token or a control sequence that a terminal obeys, though clients, Redis and other programs
supply part of its text.
"""

from __future__ import annotations

import logging
import sys
import time

from rsws.text import SafeFormatter, log_safely


def configure(level: str, worker: int | None = None) -> None:
    """Log records of ``level`` and above to standard error, each with the number of the worker if there is one."""
    handler = logging.StreamHandler(sys.stderr)
    who = "%(name)s" if worker is None else f"%(name)s worker={worker}"
    formatter = SafeFormatter(f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {who} %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    log_safely(handler, level.upper())


INTERVAL_S = 10.0


class NowAndThen:
    """A rate limit for a log line about frequent events: the first is logged, then at most one every ``INTERVAL_S``.

    The caller counts the events and puts the count into the line.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._logged_at = -INTERVAL_S

    def warning(self, text: str, *facts: object) -> None:
        """Log the line, unless one was logged less than ``INTERVAL_S`` ago."""
        now = time.monotonic()
        if now - self._logged_at >= INTERVAL_S:
            self._logged_at = now
            self._log.warning(text, *facts)

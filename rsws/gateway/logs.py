"""How the gateway logs: one line an event, on standard error, times in UTC.

Never a token, and nothing that a terminal obeys: clients, Redis and other programs have a part in what is logged.
"""

from __future__ import annotations

import logging
import sys
import time

from rsws.text import SafeFormatter, log_safely


def configure(level: str, worker: int | None = None) -> None:
    """Send log lines of ``level`` and above to standard error, each with the number of the worker if there is one."""
    handler = logging.StreamHandler(sys.stderr)
    who = "%(name)s" if worker is None else f"%(name)s worker={worker}"
    formatter = SafeFormatter(f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {who} %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    log_safely(handler, level.upper())


INTERVAL_S = 10.0


class NowAndThen:
    """A line of the log about what comes in crowds: the first, and then at most one every ``INTERVAL_S``.

    Whoever counts them says in the line how many there were.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said_at = -INTERVAL_S

    def warning(self, text: str, *facts: object) -> None:
        """Log it, if the last line is old enough."""
        now = time.monotonic()
        if now - self._said_at >= INTERVAL_S:
            self._said_at = now
            self._log.warning(text, *facts)

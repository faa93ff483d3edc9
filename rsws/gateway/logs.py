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

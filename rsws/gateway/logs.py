"""How the gateway logs: one line an event, on standard error, times in UTC; never a token."""

from __future__ import annotations

import logging
import sys
import time


def configure(level: str, worker: int | None = None) -> None:
    """Send log lines of ``level`` and above to standard error, each with the number of the worker if there is one."""
    handler = logging.StreamHandler(sys.stderr)
    who = "%(name)s" if worker is None else f"%(name)s worker={worker}"
    formatter = logging.Formatter(f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {who} %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)

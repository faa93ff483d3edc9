"""The client's log: safe text, and a bounded number of warnings, however much a gateway sends."""

from __future__ import annotations

import logging
import time

from rsws.client.limits import Limits
from rsws.text import safe

log = logging.getLogger("rsws.client")


class Warnings:
    """A log of warnings that writes no more than ``limits`` allow; its last line says that more are left out."""

    def __init__(self, limits: Limits) -> None:
        self._most = limits.max_warnings
        self._period_s = limits.warning_period_s
        self._began_at = -self._period_s
        self._count = 0

    def add(self, text: str) -> None:
        """Log ``text`` as a warning, unless the limit of this period is reached."""
        now = time.monotonic()
        if now - self._began_at >= self._period_s:
            self._began_at, self._count = now, 0
        self._count += 1
        if self._count < self._most:
            log.warning("%s", safe(text))
        elif self._count == self._most:
            log.warning("%s; of more like this the next %g s show none", safe(text), self._period_s)

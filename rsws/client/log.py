"""What the client logs: safe text, and a bounded number of lines, however much a gateway says."""

from __future__ import annotations

import logging
import time

from rsws.text import safe

MAX_WARNINGS = 20
PERIOD_S = 10.0

log = logging.getLogger("rsws.client")


class Warnings:
    """Logs up to MAX_WARNINGS in PERIOD_S; the last of them says that more are left out."""

    def __init__(self) -> None:
        self._began_at = -PERIOD_S
        self._count = 0

    def add(self, text: str) -> None:
        """Log it as a warning, if not too many were."""
        now = time.monotonic()
        if now - self._began_at >= PERIOD_S:
            self._began_at, self._count = now, 0
        self._count += 1
        if self._count < MAX_WARNINGS:
            log.warning("%s", safe(text))
        elif self._count == MAX_WARNINGS:
            log.warning("%s; of more like this the next %g s show none", safe(text), PERIOD_S)

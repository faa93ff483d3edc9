"""The gateway's logging: one line per event, on standard error, times in UTC.

A log line never contains a token, a message's data or a control sequence that a terminal obeys, though clients, Redis
and other programs supply part of its text.
"""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import TextIO

from rsws.log_lines import JsonFormatter, LogLine, Record, TextFormatter, log_safely
from rsws.settings import Settings

log = logging.getLogger("rsws.gateway")

_UNSAID = ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks")
"""What logging finds out for each line, unless it is told not to ("Optimization" in its HOWTO): where in the code that
is, and in which thread, process and task. No line says so.
"""


class _ToStandardError(logging.StreamHandler[TextIO]):
    """The handler for standard error. Each line is one write: there is nothing to lock, to flush or to filter."""

    def handle(self, record: logging.LogRecord) -> bool:
        try:
            self.stream.write(f"{self.format(record)}\n")
        except Exception:
            self.handleError(record)
        return True

    def flush(self) -> None:
        pass


def configure(settings: Settings, worker: int | None = None) -> None:
    """Log to standard error as the settings say, each line with the number of the worker if there is one."""
    is_json = settings.log_format == "json"
    handler = _ToStandardError(sys.stderr)
    handler.setFormatter(JsonFormatter(worker) if is_json else TextFormatter(worker))
    log_safely(handler, settings.log_level.upper())
    logging.setLogRecordFactory(Record)
    for name in _UNSAID:
        setattr(logging, name, None)
    if is_json:
        sys.excepthook = _log_bug


def _log_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("a bug in the gateway, which ends", exc_info=(kind, error, trace))


INTERVAL_S = 10.0


class NowAndThen:
    """A rate limit for a log line about frequent events: the first is logged, then at most one every ``INTERVAL_S``.

    The caller counts the events and puts the count into the line.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._logged_at = -INTERVAL_S

    def warning(self, text: str, /, **facts: str | float | None) -> None:
        """Log a :class:`.LogLine`, unless one was logged less than ``INTERVAL_S`` ago."""
        now = time.monotonic()
        if now - self._logged_at >= INTERVAL_S:
            self._logged_at = now
            self._log.warning(LogLine(text, **facts))

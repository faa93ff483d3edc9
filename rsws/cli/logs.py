"""Log lines of a command, on standard error. Only commands that run import logging: a help has nothing to log."""

from __future__ import annotations

import logging

from rsws.cli import terminal
from rsws.log_lines import log_safely


class _LogLines(logging.Handler):
    """A handler that prints log lines as warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            terminal.print_line(terminal.format_log(self.format(record)))
        except Exception:
            self.handleError(record)


def show_logs() -> None:
    """Show warnings and errors of the log. A gateway replaces this by its own log."""
    log_safely(_LogLines())

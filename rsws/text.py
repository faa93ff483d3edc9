"""Text from others, made fit for a terminal, a log line or the text of an error."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from types import TracebackType

SHOWN_CHARACTERS = 500
"""Of a text from others that becomes part of an error or a log line."""

# Control characters, and those that change the order in which the text around them is shown.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def safe(text: str) -> str:
    """``text`` without anything that a terminal obeys instead of showing it: such a character becomes ``\\u009b``.

    Of JSON without line breaks the result is JSON again, and means the same.
    """
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text.replace("\t", " "))


def safe_lines(text: str) -> str:
    """``text`` as :func:`safe` has it, line by line; all but the first are indented: none passes for one of ours."""
    return "\n    ".join(map(safe, text.split("\n")))


def excerpt(text: str) -> str:
    """What others say, as a part of what we say: safe, and not too long."""
    return safe(text[:SHOWN_CHARACTERS]) + ("..." if len(text) > SHOWN_CHARACTERS else "")


class SafeFormatter(logging.Formatter):
    """Makes log lines of what others may have had a part in: one line an event, and the lines of its traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return safe(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return safe_lines(super().format(record))


def log_safely(handler: logging.Handler, level: int | str = logging.WARNING) -> None:
    """Send log lines of ``level`` and above to ``handler`` alone, and the traceback of what nobody caught to stderr.

    Args:
        handler: Its formatter should be a :class:`SafeFormatter`; it gets one if it has none.
    """
    if handler.formatter is None:
        handler.setFormatter(SafeFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    sys.excepthook = _show_bug


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if sys.stderr is not None:
        lines = "".join(traceback.format_exception(kind, error, trace)).rstrip("\n")
        sys.stderr.write(safe_lines(lines) + "\n")

"""Text from others, made safe for a terminal, a log line or the text of an error."""

from __future__ import annotations

import re
import sys
import traceback
from types import TracebackType

SHOWN_CHARACTERS = 500
"""The most characters that an error or a log line shows of a text from others."""

# Compiled where they are used: few commands have such a text.
# Control characters, and those that change the order in which the text around them is shown.
_UNSAFE = "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"

# The lookbehind lets it match only at the beginning of a run of blanks: else the time would grow by the run's square.
_LINE_BREAK = r"(?<![ \t])[ \t]*+[\r\n][ \t\r\n]*+"


def safe(text: str) -> str:
    """Return ``text`` with each character that a terminal would obey, not show, as an escape such as ``\\u009b``.

    JSON without line breaks stays JSON, with the same meaning.
    """
    if text.isprintable():  # as nearly all is, which the expression takes ten times as long to find out
        return text
    return re.sub(_UNSAFE, lambda match: f"\\u{ord(match[0]):04x}", text.replace("\t", " "))


def counted(count: int, one: str, many: str) -> str:
    """Return a number with what it counts: ``1 entry``, ``2,000 entries``."""
    return f"{count:,} {one if count == 1 else many}"


def one_line(json: str) -> str:
    """Return JSON text without line breaks, which can only be between its tokens: each becomes one space."""
    return re.sub(_LINE_BREAK, " ", json) if "\n" in json or "\r" in json else json


def safe_lines(text: str) -> str:
    """Apply :func:`safe` to each line; all but the first are indented, so that none passes for a separate log line."""
    return text if text.isprintable() else "\n    ".join(map(safe, text.split("\n")))


def excerpt(text: str) -> str:
    """Return a text from others in a form to be quoted in a message of ours: safe, and not too long."""
    return safe(text[:SHOWN_CHARACTERS]) + ("..." if len(text) > SHOWN_CHARACTERS else "")


def show_bugs() -> None:
    """Write the traceback of an uncaught exception to standard error with :func:`safe_lines`."""
    sys.excepthook = _show_bug


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if sys.stderr is not None:
        lines = "".join(traceback.format_exception(kind, error, trace)).rstrip("\n")
        sys.stderr.write(safe_lines(lines) + "\n")

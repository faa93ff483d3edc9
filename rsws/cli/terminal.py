"""How things look: rich on a terminal, JSON Lines in a pipe. The only module that imports rich.

``format_*`` returns, ``print_*`` writes to standard error: standard output is for data alone, and
:mod:`rsws.cli.stdio` writes it. What comes from others is never let through to a terminal as it is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from types import TracebackType
from typing import Self
from zlib import crc32

from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.rule import Rule
from rich.text import Text

from rsws.cli import stdio
from rsws.protocol import Message, StreamId

PROGRESS_AFTER_S = 0.5
HIGHLIGHT_CHARACTERS = 20_000
"""Longer data is shown plain: to colour it would take longer than to read it."""

_COLOURS = (
    "cyan", "green", "magenta", "yellow", "blue",
    "bright_cyan", "bright_green", "bright_magenta", "bright_yellow", "bright_blue",
)  # fmt: skip
# Control characters, and those that reorder or hide the text around them.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]")
_LINE_BREAK = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")

"""The format of output: rich on a terminal, JSON Lines in a pipe. Only this module and ``*_display`` import rich.

``format_*`` returns a text, ``print_*`` writes it to standard error: standard output is for data alone, and
:mod:`rsws.cli.stdio` writes it. Text from others is always made safe before it goes to a terminal.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Self
from zlib import crc32

import msgspec
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.highlighter import RegexHighlighter
from rich.rule import Rule
from rich.text import Text

from rsws.cli import stdio
from rsws.protocol import Gap, Message, StreamId, json_text
from rsws.text import log_safely
from rsws.text import one_line as one_line
from rsws.text import safe as safe

if TYPE_CHECKING:
    from rich.progress import Progress

Shown = Text | Rule
"""The type of what ``format_*`` returns, to be shown on standard error or above the prompt."""

PROGRESS_AFTER_S = 0.5
HIGHLIGHT_CHARACTERS = 20_000
"""The longest data, in characters, that is coloured: to colour more would take longer than to read it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COLOURS = (
    "cyan", "green", "magenta", "yellow", "blue",
    "bright_cyan", "bright_green", "bright_magenta", "bright_yellow", "bright_blue",
)  # fmt: skip


class _JsonHighlighter(RegexHighlighter):
    base_style = "json."
    highlights = (
        r'(?P<key>"(?:[^"\\]|\\.)*+"(?=\s*:))|(?P<str>"(?:[^"\\]|\\.)*+")'
        r"|(?P<bool_true>true)|(?P<bool_false>false)|(?P<null>null)"
        r"|(?P<number>-?\d[\d.eE+-]*)|(?P<brace>[{}\[\]])",
    )  # fmt: skip


_highlight_json = _JsonHighlighter().highlight


# --- standard output ---


def format_json(message: Message) -> str:
    """Return a message as one JSON object; its data is unchanged, byte for byte, except for line breaks."""
    head = json_text({"channel": message.channel, "id": str(message.id), "time": iso_time(message.id)})
    return f'{head.decode()[:-1]},"data":{one_line(message.json)}}}'


class MessageFormat:
    """The format of messages for people: time, channel, id and data in columns, each channel in its own colour.

    Args:
        channels: The channels that are expected; their names determine the width of the column.
        indent: Whether the data have lines of their own, indented.
        highlight: What to mark in the data.
    """

    WIDEST_CHANNEL = 24

    def __init__(
        self, channels: Sequence[str], *, indent: bool = False, highlight: Sequence[re.Pattern[str]] = ()
    ) -> None:
        self._indent = indent
        self._highlight = highlight
        self._colours: dict[str, str] = {}
        self._width = min(self.WIDEST_CHANNEL, max((cell_len(safe(channel)) for channel in channels), default=0))
        for channel in channels:
            self.colour(channel)

    def colour(self, channel: str) -> str:
        """Return the colour of a channel: the same in every run, unless another channel of this run has it already."""
        if channel not in self._colours:
            first = crc32(channel.encode()) % len(_COLOURS)
            choices = _COLOURS[first:] + _COLOURS[:first]
            taken = set(self._colours.values())
            self._colours[channel] = next((each for each in choices if each not in taken), choices[0])
        return self._colours[channel]

    def format(self, message: Message) -> Text:
        """Return one message as a line; a long line is wrapped by the terminal, so that it can be copied whole."""
        channel = safe(message.channel)
        self._width = max(self._width, min(self.WIDEST_CHANNEL, cell_len(channel)))
        line = Text.assemble(
            (clock(message.id), "dim"),
            "  ",
            (channel, f"bold {self.colour(message.channel)}"),
            " " * (max(0, self._width - cell_len(channel)) + 2),
            (str(message.id), "dim"),
            "\n" if self._indent else "  ",
            end="",
        )
        return line.append_text(
            format_data(indented(message.json) if self._indent else one_line(message.json), self._highlight)
        )


def indented(json: str) -> str:
    """Return JSON text in several lines, indented; its tokens are unchanged."""
    return msgspec.json.format(json, indent=2)


def format_data(json: str, highlight: Iterable[re.Pattern[str]] = ()) -> Text:
    """Return JSON text in colours, safe for a terminal; its line breaks stay, and what matches is marked."""
    data = Text("\n".join(map(safe, json.split("\n"))))
    if len(data) <= HIGHLIGHT_CHARACTERS:
        _highlight_json(data)
    return mark(data, highlight)


def mark(text: Text, patterns: Iterable[re.Pattern[str]]) -> Text:
    """Mark what matches one of ``patterns``."""
    if len(text) <= HIGHLIGHT_CHARACTERS:
        for pattern in patterns:
            for match in pattern.finditer(text.plain):
                text.stylize("black on yellow", *match.span())
    return text


def marked(text: str, patterns: Iterable[re.Pattern[str]]) -> str:
    """Return text that is safe for a terminal with what matches one of ``patterns`` marked."""
    return render(mark(Text(text), patterns))[:-1] if patterns else text


def format_ack(stream_id: StreamId, took_s: float) -> Text:
    """Return the line that says that a message is stored, with its id and how long that took."""
    return Text.assemble(("stored ", "green"), (str(stream_id), "dim"), (f"  {took_s * 1000:.0f} ms", "dim"))


def render(what: RenderableType) -> str:
    """Return lines for standard output, coloured where that is a terminal that shows colours."""
    console = stdout()
    with console.capture() as capture:
        console.print(what, soft_wrap=isinstance(what, Text))
    return capture.get()


def _time(stream_id: StreamId, zone: tzinfo | None) -> datetime | None:
    """Return when an entry of this id was made, in ``zone`` (None is local time); None if the time is out of range."""
    try:
        return (_EPOCH + timedelta(milliseconds=stream_id.ms)).astimezone(zone)
    except (OverflowError, ValueError, OSError):  # an id that a client of Redis chose
        return None


def iso_time(stream_id: StreamId) -> str | None:
    """Return when an entry of this id was made, in UTC, as ISO 8601 has it; None if the time is out of range."""
    when = _time(stream_id, UTC)
    return None if when is None else when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local_time(stream_id: StreamId) -> datetime | None:
    """Return when an entry of this id was made, in local time; None if the time is out of range."""
    return _time(stream_id, None)


def clock(stream_id: StreamId) -> str:
    """Return the local time of day of an entry, with the date if that is not today."""
    when = local_time(stream_id)
    if when is None:
        return "(no time)"
    today = when.date() == datetime.now().date()
    return when.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S") + f".{stream_id.ms % 1000:03d}"


# --- everything beside the data ---


def format_error(text: str) -> Text:
    """Return a line that says why a command ends, or did not do what was asked."""
    return Text(safe(one_line(text)), style="red")


def format_warning(text: str) -> Text:
    """Return a line that says what is wrong, while the command goes on."""
    return Text(safe(one_line(text)), style="yellow")


def format_note(text: str) -> Text:
    """Return a line with information."""
    return Text(safe(one_line(text)), style="dim")


def format_gap(gap: Gap) -> Text:
    """Return :func:`gap_text` as a warning."""
    return format_warning(gap_text(gap))


def gap_text(gap: Gap) -> str:
    """Return the text that says that messages may be missing, and why."""
    why = "they were trimmed" if gap.reason == "trimmed" else "the stream was deleted, made anew or rolled back"
    goes_on = "nothing is there yet" if gap.resumes_at is None else f"going on at {gap.resumes_at}"
    return f"{gap.channel}: gap, messages after {gap.last_message_id} may be missing ({why}); {goes_on}"


def format_disconnected(reason: str) -> Text:
    """Return the line that says that the connection to the gateway is lost."""
    return format_warning(f"{reason}; reconnecting")


def format_reconnected(after_s: float, caught_up: int | None = None) -> Text:
    """Return the line that says that the client reconnected, and how many missed messages came, where that is known."""
    what = "" if caught_up is None else f", caught up {caught_up}"
    return format_note(f"reconnected after {after_s:.1f} s{what}")


def format_rule(title: str) -> Rule:
    """Return a horizontal rule with a title."""
    return Rule(Text(safe(title)), style="dim")


def print_line(what: Shown) -> None:
    """Print on standard error; a long line is wrapped by the terminal."""
    if isinstance(what, Text):
        stderr().print(Text.assemble(("rsws: ", f"bold {what.style}"), what), soft_wrap=True)
    else:
        stderr().print(what)


def print_banner(title: str, facts: Mapping[str, str], heading: str, lines: Sequence[str]) -> None:
    """Print the title, facts and examples that introduce a server that has started."""
    text = Text.assemble((f"\n{title}\n\n", "bold"))
    width = max(map(len, facts))
    for name, fact in facts.items():
        text.append_text(Text.assemble((f"  {name:{width}}  ", "dim"), safe(fact), "\n"))
    text.append(f"\n  {heading}\n", "dim")
    for line in lines:
        text.append(f"    {safe(line)}\n", "bold cyan")
    stderr().print(text, soft_wrap=True)


class _LogLines(logging.Handler):
    """A handler that prints log lines on standard error in the format of :func:`print_line`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print_line(Text(self.format(record), style="yellow"))
        except Exception:
            self.handleError(record)


def show_logs() -> None:
    """Show warnings and errors of the log on standard error. A gateway replaces this by its own log."""
    log_safely(_LogLines())


class Meter:
    """A progress bar on a terminal, for what takes long.

    Args:
        total_bytes: The length of the input; None where it is unknown.
        what: What is counted, in the plural.
    """

    def __init__(self, total_bytes: int | None, what: str) -> None:
        self._total_bytes = total_bytes
        self._what = what
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def set(self, size_bytes: int, count: int) -> Progress | None:
        """Show that so many more bytes of the input are done, and how many there are of what is counted.

        Returns:
            The progress bar, if it is shown.
        """
        if self._progress is None and stderr().is_terminal and time.monotonic() - self._started > PROGRESS_AFTER_S:
            self._progress = _new_progress(self._what)
            self._progress.start()
            self._progress.add_task("", total=self._total_bytes, count=0)
        if self._progress is not None:
            self._progress.update(self._progress.tasks[0].id, advance=size_bytes, count=count)
        return self._progress


class Tally:
    """A printer of the ids of stored messages, one a line, and on a terminal of a progress bar when it takes long.

    Args:
        total_bytes: The length of the input; None where it is unknown.
    """

    def __init__(self, total_bytes: int | None) -> None:
        self._meter = Meter(total_bytes, "messages")
        self._count = 0

    def __enter__(self) -> Self:
        self._meter.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._meter.__exit__(kind, error, traceback)

    async def add(self, ids: Sequence[StreamId], size_bytes: int) -> None:
        """Print the ids of messages that were stored.

        Args:
            ids: Their ids, in the order of the input.
            size_bytes: The length of their input.
        """
        self._count += len(ids)
        progress = self._meter.set(size_bytes, self._count)
        lines = "".join(f"{stream_id}\n" for stream_id in ids)
        if progress is not None and stdout().is_terminal:  # the bar's terminal, and only the bar knows where to write
            progress.print(lines, end="")
            return
        await stdio.write(lines.encode())


def _new_progress(what: str) -> Progress:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        SpinnerColumn(),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[count]:,} " + what),
        TimeRemainingColumn(),
        console=stderr(),
        transient=True,
    )


class StatusLine:
    """A line at the bottom of a terminal that says how far something is; elsewhere nothing is shown."""

    def __init__(self) -> None:
        self._status = stderr().status("")

    def __enter__(self) -> Self:
        if stderr().is_terminal:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._status.stop()

    @property
    def is_shown(self) -> bool:
        """Whether there is a terminal."""
        return stderr().is_terminal

    def set(self, text: str) -> None:
        """Show another text."""
        if stderr().is_terminal:
            self._status.update(Text(safe(text)))


@cache
def stdout() -> Console:
    """Return the console that formats for standard output: see :func:`render`."""
    return Console(highlight=False, markup=False, emoji=False)


@cache
def stderr() -> Console:
    """Return the console for standard error, where everything beside the data goes."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)

"""Messages as people and programs see them: in columns and colours on a terminal, or as a JSON object.

``format_*`` returns a text. Text from others is always made safe before it goes to a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec

from rsws.cli.terminal import format_note, format_warning, render
from rsws.protocol import Gap, Message, StreamId, json_text
from rsws.text import one_line, safe

if TYPE_CHECKING:
    from rich.highlighter import RegexHighlighter
    from rich.text import Text

HIGHLIGHT_CHARACTERS = 20_000
"""The longest data, in characters, that is coloured: to colour more would take longer than to read it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COLOURS = (
    "cyan", "green", "magenta", "yellow", "blue",
    "bright_cyan", "bright_green", "bright_magenta", "bright_yellow", "bright_blue",
)  # fmt: skip


@cache
def _json_highlighter() -> RegexHighlighter:
    from rich.highlighter import RegexHighlighter

    class Json(RegexHighlighter):
        base_style = "json."
        highlights = (
            r'(?P<key>"(?:[^"\\]|\\.)*+"(?=\s*:))|(?P<str>"(?:[^"\\]|\\.)*+")'
            r"|(?P<bool_true>true)|(?P<bool_false>false)|(?P<null>null)"
            r"|(?P<number>-?\d[\d.eE+-]*)|(?P<brace>[{}\[\]])",
        )  # fmt: skip

    return Json()


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
        from rich.cells import cell_len

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
        from rich.cells import cell_len
        from rich.text import Text

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
    from rich.text import Text

    data = Text("\n".join(map(safe, json.split("\n"))))
    if len(data) <= HIGHLIGHT_CHARACTERS:
        _json_highlighter().highlight(data)
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
    from rich.text import Text

    return render(mark(Text(text), patterns))[:-1] if patterns else text


def format_ack(stream_id: StreamId, took_s: float) -> Text:
    """Return the line that says that a message is stored, with its id and how long that took."""
    from rich.text import Text

    return Text.assemble(("stored ", "green"), (str(stream_id), "dim"), (f"  {took_s * 1000:.0f} ms", "dim"))


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

"""``--format``: a line for each message, as the user has written it. Nothing of Python can be reached from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import msgspec

from rsws.cli import terminal
from rsws.cli.message_display import local_time
from rsws.cli.sub.places import Place, scan_place
from rsws.errors import UsageError
from rsws.protocol import Message
from rsws.text import safe

FIELDS = ("channel", "id", "time", "ms", "seq", "data")
"""The fields of a message that a format may name."""
_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\0": "\0", "\\\\": "\\", "{{": "{", "}}": "}"}
_ALIGNMENT = re.compile(r"(?:[^{}]?[<>^])?[1-9]?[0-9]{0,2}(?:\.[0-9]{1,3})?")
_ENDS = ("\n", "\0")
_BREAKS = str.maketrans({"\n": "\\n", "\r": "\\r", "\0": "\\u0000"})

Part = str | Callable[[Message], str]


@dataclass(frozen=True, slots=True)
class Template:
    """A format: what stands between the fields, and what each field is of a message."""

    parts: list[Part]
    end: str

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse a format such as ``{time:%H:%M} {channel} {data.user}: {data.text}``.

        Raises:
            UsageError: It names what is not there, or is not written as it must be.
        """
        parts: list[Part] = []
        at = 0
        try:
            while at < len(text):
                if (escape := text[at : at + 2]) in _ESCAPES:
                    parts.append(_ESCAPES[escape])
                    at += 2
                elif text[at] == "\\":
                    raise ValueError(f"there is no {escape}: write \\n, \\t, \\0 or \\\\")
                elif text[at] == "}":
                    raise ValueError("a } alone: write }} for one")
                elif text[at] == "{":
                    part, at = _field(text, at + 1)
                    parts.append(part)
                else:
                    parts.append(text[at])
                    at += 1
        except ValueError as fault:
            raise UsageError(f"--format {text!r}: {fault}") from None
        last = parts[-1] if parts else ""
        return cls(parts, "" if last in _ENDS else "\n")

    def format(self, message: Message, *, on_terminal: bool) -> str:
        """Return the text for a message, its end included.

        What comes from the message has no line breaks, and for a terminal nothing that it would obey.
        """
        said = []
        for part in self.parts:
            if isinstance(part, str):
                said.append(part)
            else:
                value = part(message).translate(_BREAKS)
                said.append(safe(value) if on_terminal else value)
        return "".join(said) + self.end


def _field(text: str, at: int) -> tuple[Part, int]:
    """Read a field after its ``{``, and return it with the position after its ``}``."""
    place, end = scan_place(text, at)
    if place.field not in FIELDS or (place.keys and place.field != "data"):
        raise ValueError(f"there is no {{{text[at:end]}}}; there are {', '.join(FIELDS)} and data.PATH")
    close = text.find("}", end)
    if close < 0:
        raise ValueError("a { without its }: write {{ for one")
    spec = text[end:close]
    if spec and not spec.startswith(":"):
        raise ValueError(
            f"{spec!r} can't follow {text[at:end]!r}: elements are data.0, odd keys stand in double quotes"
        )
    return _value(place, spec[1:]), close + 1


def _value(place: Place, spec: str) -> Callable[[Message], str]:
    if place.field == "time":
        _check_time(spec)
        return partial(_time, spec)
    if not _ALIGNMENT.fullmatch(spec):
        raise ValueError(f"{spec!r} is no alignment: write as in {{{place.field}:<12}}; only time has %H and the like")
    return lambda message: format(_text(place, message), spec)


def _check_time(spec: str) -> None:
    """Raise a ValueError here, and not at the first message: libraries of C print what they do not know as it is."""
    now = datetime.now()
    for each in re.findall(r"%[-_0^#]*[EO:]*.", spec):
        if each != "%%" and now.strftime(each) == each:
            raise ValueError(f"{each} is no part of a time: see strftime, which knows %Y, %m, %d, %H, %M, %S")
    now.strftime(spec)


def _text(place: Place, message: Message) -> str:
    match place.field:
        case "channel":
            return message.channel
        case "id":
            return str(message.id)
        case "ms":
            return str(message.id.ms)
        case "seq":
            return str(message.id.seq)
    if not place.keys:
        return terminal.one_line(message.json)
    value = place.json(message)
    if value is None:
        return ""
    if value.startswith(b'"'):
        return msgspec.json.decode(value, type=str)
    return terminal.one_line(value.decode())


def _time(spec: str, message: Message) -> str:
    when = local_time(message.id)
    if when is None:
        return "(no time)"
    return when.strftime(spec) if spec else when.isoformat(timespec="milliseconds")

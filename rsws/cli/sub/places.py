"""What of a message an option names: its channel, its id, its data, or what is in its data (``data.items.0.price``)."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec
from msgspec import Raw

from rsws.protocol import Message

_KEY = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s."=!<>~:{}\[\]\\]+')
_INDEX = re.compile(r"-?[0-9]{1,9}")
_object = msgspec.json.Decoder(dict[str, Raw])
_array = msgspec.json.Decoder(list[Raw])


class Place(NamedTuple):
    """A field of a message, and the way to a value in it."""

    field: str
    keys: tuple[str, ...] = ()
    """The keys of objects and the numbers of elements that lead to the value; empty for the whole field."""

    def json(self, message: Message) -> bytes | None:
        """Return the JSON text of a value in the message's data, as it was published; None where there is none."""
        value = message.json.encode()
        for key in self.keys:
            found: Raw | None = None
            if value.startswith(b"{"):
                found = _object.decode(value).get(key)
            elif value.startswith(b"[") and _INDEX.fullmatch(key):
                elements = _array.decode(value)
                if -len(elements) <= int(key) < len(elements):
                    found = elements[int(key)]
            if found is None:
                return None
            value = bytes(found).strip()
        return value.strip()


def scan_place(text: str, at: int = 0) -> tuple[Place, int]:
    """Read a place, and return it with the position behind it.

    Keys are separated by dots; one with other characters than letters, digits, ``_`` and the like stands in double
    quotes, as in JSON.

    Raises:
        ValueError: There is none.
    """
    keys = []
    while match := _KEY.match(text, at):
        try:
            keys.append(msgspec.json.decode(match[0], type=str) if match[0].startswith('"') else match[0])
        except msgspec.DecodeError:
            raise ValueError(f"{match[0]} is no JSON string") from None
        at = match.end()
        if text[at : at + 1] != ".":
            return Place(keys[0], tuple(keys[1:])), at
        at += 1
    raise ValueError("a name or an index is missing")

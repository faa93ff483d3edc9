"""Which messages are wanted: ``--include``, ``--exclude`` and ``--where``."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal, DecimalException
from typing import Any

from rsws.cli.sub.places import Place, scan_place
from rsws.errors import UsageError
from rsws.protocol import Message

_OPERATOR = re.compile(r"!=|<=|>=|[=<>~]")
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filter:
    """The messages that match one of ``include`` (any, where there is none), none of ``exclude``, and all of ``where``.

    The patterns are looked for in the JSON text of a message's data.
    """

    include: list[re.Pattern[str]]
    exclude: list[re.Pattern[str]]
    where: list[Where]

    @classmethod
    def of(
        cls, include: list[re.Pattern[str]], exclude: list[re.Pattern[str]], where: Iterable[Where]
    ) -> Filter | None:
        """Return the filter; None where it would let everything pass."""
        made = cls(include, exclude, [*where])
        return made if made.include or made.exclude or made.where else None

    def __call__(self, message: Message) -> bool:
        text = message.json
        return (
            (not self.include or any(each.search(text) for each in self.include))
            and not any(each.search(text) for each in self.exclude)
            and all(each(message) for each in self.where)
        )


@dataclass(frozen=True, slots=True)
class Where:
    """A comparison of what stands at a place of a message with a value.

    Numbers are compared with numbers, exactly, and strings with strings; two values of different types are not equal,
    and neither is less. A place where nothing is equals nothing.
    """

    place: Place
    operator: str
    value: Any

    @classmethod
    def parse(cls, text: str) -> Where:
        """Parse ``PATH=VALUE``, or one with ``!=``, ``<``, ``<=``, ``>``, ``>=`` or ``~`` (a regular expression).

        Raises:
            UsageError: It is none.
        """
        try:
            place, end = scan_place(text)
            match = _OPERATOR.match(text, end)
            if match is None:
                raise ValueError("after PATH comes =, !=, <, <=, >, >= or ~")
            if not (place.field == "data" or place == Place("channel")):
                raise ValueError(f"PATH is channel, data, or begins with data, as in data.{text[: match.start()]}")
        except ValueError as fault:
            raise UsageError(f"--where {text!r}: {fault}; as in data.price>5 or data.items.0.name=tea") from None
        said = text[match.end() :]
        return cls(place, match[0], regex("--where", said) if match[0] == "~" else _value_of(said))

    def __call__(self, message: Message) -> bool:
        found: Any
        if self.place.field == "channel":
            found = message.channel
        else:
            text = self.place.json(message)
            if text is None:
                return self.operator == "!="
            found = _parse(text.decode())
            if self.operator == "~" and not isinstance(found, str):
                found = text.decode()
        match self.operator:
            case "=":
                return _is_same(found, self.value)
            case "!=":
                return not _is_same(found, self.value)
            case "~":
                return bool(self.value.search(found))
        comparable = isinstance(found, str | Decimal) and type(found) is type(self.value)
        return comparable and _ORDERS[self.operator](found, self.value)


def regex(option: str, text: str) -> re.Pattern[str]:
    """Return ``text`` as a regular expression.

    Raises:
        UsageError: It is none.
    """
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"{option} {text!r}: no regular expression: {error}") from None


def regexes(option: str, texts: Iterable[str] | None) -> list[re.Pattern[str]]:
    """Apply :func:`regex` to each of ``texts``."""
    return [regex(option, text) for text in texts or ()]


def _value_of(text: str) -> Any:
    """Return the value that was written: JSON, or else the text itself."""
    try:
        return _parse(text)
    except (ValueError, RecursionError):
        return text


def _parse(text: str) -> Any:
    return json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_refuse)


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except DecimalException:  # its exponent is beyond any bound
        return Decimal("-Infinity" if text.startswith("-") else "Infinity")


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _is_same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are equal; to Python true is 1."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(value, other[key]) for key, value in one.items())
    return type(one) is type(other) and bool(one == other)

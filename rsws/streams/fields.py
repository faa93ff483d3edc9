"""Which field of a stream's entries holds the messages, and what an entry's fields say."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

import msgspec

from rsws.errors import UsageError
from rsws.patterns import Patterns
from rsws.protocol import END_FIELD, FIELD
from rsws.redis.connection import pack

FIELD_NAME = FIELD.encode()
END_NAME = END_FIELD.encode()
ALL = b"*"
"""In place of a field's name: all fields together are the message, as one object."""
PACKED = b""
"""In place of a field's name: all fields together, exactly as they are, packed by :func:`rsws.redis.connection.pack`.
That is for whoever copies entries; no rule can say it, as no field's name is empty there.
"""
WHOLE = (ALL, PACKED)


class MessageFields:
    """The field that holds the messages of each channel.

    Args:
        rules: As somebody wrote them, ``PATTERN=FIELD`` each. The first whose pattern names a channel holds for it;
            where none does, the field is ``messageData``.

    Raises:
        UsageError: A rule can't be used.
    """

    def __init__(self, rules: Iterable[str] = ()) -> None:
        self._rules: list[tuple[Patterns, bytes]] = []
        for rule in rules:
            fault = field_rule_fault(rule)
            if fault is not None:
                raise UsageError(f"{rule!r}: {fault}")
            pattern, _, field = rule.rpartition("=")
            self._rules.append((Patterns([pattern]), field.encode()))

    def of(self, channel: str) -> bytes:
        """Return the name of the field for a channel, or ``ALL``."""
        for patterns, field in self._rules:
            if channel in patterns:
                return field
        return FIELD_NAME


class _Packed(MessageFields):
    def of(self, channel: str) -> bytes:
        return PACKED


DEFAULT_FIELDS = MessageFields()
"""``messageData`` in all channels."""
PACKED_FIELDS = _Packed()
"""``PACKED`` in all channels."""


def field_rule_fault(rule: str) -> str | None:
    """Return why a text is no rule for :class:`MessageFields`; None when it is one."""
    pattern, _, field = rule.rpartition("=")
    if not pattern or not field:
        return "it must be PATTERN=FIELD, such as 'orders.*=payload', or PATTERN=* for all fields"
    return None if field == ALL.decode() else field_fault(field)


def field_fault(field: str) -> str | None:
    """Return why messages can't be in a field of that name; None when they can."""
    if field == END_FIELD:
        return f"the field {END_FIELD} marks the end of a channel, and can't hold its messages"
    if not field or field == ALL.decode() or "=" in field:
        return "it must be the name of one field, which has no ="
    try:
        field.encode()
    except UnicodeEncodeError:
        return "it is not valid UTF-8"
    return None


def read_fields(fields: Sequence[bytes], field: bytes) -> tuple[bytes | None, bool]:
    """Return the message in an entry's fields, and whether it ends its channel.

    Args:
        fields: Names and values in turn.
        field: The name of the field that holds the message; the last one counts. ``ALL`` or ``PACKED`` for all of them.

    Returns:
        The message, unchecked, or None if there is none; and whether there is a field ``end``.
    """
    data, ends = None, False
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        if name == field:
            data = value
        elif name == END_NAME:
            ends = True
    return (together(fields, field) if field in WHOLE else data), ends


def together(fields: Sequence[bytes], field: bytes) -> bytes:
    """Return all fields of an entry as one message, in the form that ``field``, one of ``WHOLE``, says."""
    return pack(*fields) if field == PACKED else as_object(fields)


def as_object(fields: Sequence[bytes]) -> bytes:
    """Return an entry's fields as a JSON object of strings; of a repeated field the last counts.

    A value that is not UTF-8 becomes ``{"base64":"..."}``; in a name, each byte that is not becomes ``\\xNN``.
    """
    names = [name.decode(errors="backslashreplace") for name in fields[::2]]
    return msgspec.json.encode(dict(zip(names, map(_as_value, fields[1::2]), strict=True)))


def _as_value(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}

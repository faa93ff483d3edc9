"""Plain commands in place of the scripts that read, for a server that forbids scripts.

A script sees a stream at one moment. Plain commands are executed one after the other, and others may write in between;
so each answer here is that of the moment of its first command, and what the later ones show is held against it:

- The last id is asked for first. Nothing after it belongs to the answer, whatever is read later.
- Entries are read next, and the first id is asked for last. As streams are trimmed from the front, a first id that is
  not after the position then was not after it before: nothing that was read is missing an entry before it.
- A step of reading on begins with the last entry of the step before. If that is gone, reading ends there.

The functions are generators: they yield commands, are sent the replies, and return what the script would.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

from rsws.protocol import StreamId
from rsws.redis.connection import ReplyError, pack
from rsws.streams.fields import ALL, END_NAME
from rsws.streams.refusals import Refusals
from rsws.streams.scripts import checksum

Keys: TypeAlias = tuple[bytes, ...]
Steps: TypeAlias = Generator[tuple[bytes, ...], list[Any], Any]
"""Yields commands to be sent in one go, is sent the replies, errors among them; returns what the script replies."""

STEP_ENTRIES = 16
"""The most entries asked for at a time: each may be a megabyte."""
_NOTHING = b"0-0"


class PlainReads:
    """The plain commands for one connection.

    Args:
        refusals: Says that XINFO is refused, too.
    """

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals
        self._has_info: bool | None = None
        """Whether XINFO is allowed; None while that is not known, as on a new connection."""

    def forget(self) -> None:
        """Find out again what is allowed."""
        self._has_info = None

    def look(self, keys: Keys, arguments: Keys) -> Steps:
        """Do what LOOK does. Without XINFO, entries deleted at the end of the stream are as if they had never been."""
        (key,) = keys
        last = self._ask_last(key)
        info, backwards, forwards = self._last_replies((yield (*last, _first(key))))
        if info is not None:
            return _bounds_of(info)
        if not backwards or not forwards:
            return [None, _NOTHING, 0, 0]
        return [forwards[0][0], backwards[0][0], sys.maxsize, _size(forwards[0]) + _size(backwards[0])]

    def read(self, keys: Keys, arguments: Keys) -> Steps:
        """Do what READ does."""
        (key,) = keys
        after, limit, limit_bytes, field, with_check = arguments
        is_start = after == _NOTHING
        count = int(limit)
        walked = yield from _walk(b"XRANGE", key, after, b"+", count + (not is_start), int(limit_bytes), skip=after)
        entries, is_end = walked
        if is_start:
            return [_flat(entries, field), is_end, None, None, _ends(entries)]
        if entries and entries[0][0] == after:
            flat = _flat(entries, field)
            check = None if with_check != b"1" else flat[1] if field == ALL else checksum(flat[1])
            return [flat[2:], is_end, None, check, _ends(entries)]
        # The entry at the position is gone.
        asked = min(count, 2)
        replies = yield (*self._ask_last(key), _range(b"XRANGE", key, after, b"+", asked), _first(key))
        entries = _checked(replies[-2])
        is_end = len(entries) < asked
        info, backwards, forwards = self._last_replies([*replies[:-2], replies[-1]])
        if info is not None:
            _, last, length, size = _bounds_of(info)
        else:
            last, length, size = (backwards[0][0] if backwards else _NOTHING), sys.maxsize, 0
        then = StreamId.from_redis(last)
        there = [entry for entry in entries if StreamId.from_redis(entry[0]) <= then]
        first = forwards[0][0] if forwards and StreamId.from_redis(forwards[0][0]) <= then else None
        bounds = [first, last, length if first else 0, size]
        return [_flat(there, field), is_end or len(there) < len(entries), bounds, None, _ends(there)]

    def step_back(self, keys: Keys, arguments: Keys) -> Steps:
        """Do what STEP_BACK does; the entries' bodies are sent."""
        end, limit, limit_bytes = arguments
        entries, is_end = yield from _walk(b"XREVRANGE", keys[0], end, b"-", int(limit), int(limit_bytes))
        return [len(entries), entries[-1][0] if entries else None, int(is_end)]

    def _ask_last(self, key: bytes) -> tuple[bytes, ...]:
        """Return the commands that ask for the last id: XINFO as far as it may be allowed, else for the last entry."""
        info = pack(b"XINFO", b"STREAM", key)
        backwards = _range(b"XREVRANGE", key, b"+", b"-", 1)
        if self._has_info is None:
            return info, backwards
        return (info,) if self._has_info else (backwards,)

    def _last_replies(self, replies: list[Any]) -> tuple[Any, list[Any], list[Any]]:
        """Return the replies to :meth:`_ask_last` and :func:`_first`: XINFO's or None, the last entry, the first."""
        *lasts, first = replies
        if self._has_info is not False:
            info = lasts[0]
            if isinstance(info, ReplyError) and info.forbids_command:
                self._has_info = False
                self._refusals.say("XINFO", info)
                if len(lasts) == 1:
                    raise info
            else:
                if isinstance(info, ReplyError) and "no such key" in str(info):
                    info = []
                self._has_info = True
                return _checked(info), [], _checked(first)
        return None, _checked(lasts[-1]), _checked(first)


def _walk(
    command: bytes, key: bytes, start: bytes, end: bytes, count: int, limit_bytes: int, *, skip: bytes = b""
) -> Generator[tuple[bytes, ...], list[Any], tuple[list[Any], bool]]:
    """Return up to ``count`` entries, until their size reaches ``limit_bytes``, and whether there are no more.

    The first steps are small, as nothing is known of the entries' sizes; ``skip`` is an id that counts for nothing.
    """
    found: list[Any] = []
    size, step = 0, 2
    while True:
        asked = min(step, count - len(found)) + bool(found)
        (reply,) = yield (_range(command, key, found[-1][0] if found else start, end, asked),)
        entries = _checked(reply)
        is_end = len(entries) < asked
        if found:
            if not entries or entries[0][0] != found[-1][0]:
                return found, False
            entries = entries[1:]
        for entry in entries:
            found.append(entry)
            if entry[0] != skip:
                size += _size(entry)
            if size >= limit_bytes:
                return found, is_end and entry is entries[-1]
        if is_end or len(found) >= count:
            return found, is_end
        step = max(1, min(2 * step, STEP_ENTRIES, (limit_bytes - size) * len(found) // (size or 1)))


def _range(command: bytes, key: bytes, start: bytes, end: bytes, count: int) -> bytes:
    return pack(command, key, start, end, b"COUNT", b"%d" % count)


def _first(key: bytes) -> bytes:
    return _range(b"XRANGE", key, b"-", b"+", 1)


def _checked(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


def _bounds_of(info: Sequence[Any] | dict[bytes, Any]) -> list[Any]:
    facts = info if isinstance(info, dict) else dict(zip(info[::2], info[1::2], strict=True))  # a map in RESP3
    first, last = facts.get(b"first-entry"), facts.get(b"last-entry")
    size = sum(_size(entry) for entry in (first, last) if entry)
    return [first[0] if first else None, facts.get(b"last-generated-id", _NOTHING), facts.get(b"length", 0), size]


def _size(entry: Sequence[Any]) -> int:
    return sum(map(len, entry[1] or ()))


def _flat(entries: Sequence[Any], field: bytes) -> list[Any]:
    """Return ids alternating with the values of ``field``, or all fields, as READ does."""
    flat: list[Any] = []
    for raw_id, fields in entries:
        values = [fields[index + 1] for index in range(0, len(fields or ()), 2) if fields[index] == field]
        flat += [raw_id, fields if field == ALL else values[-1] if values else None]
    return flat


def _ends(entries: Sequence[Any]) -> list[bytes]:
    """Return the ids of the entries that end their channel."""
    return [raw_id for raw_id, fields in entries if fields and END_NAME in fields[::2]]

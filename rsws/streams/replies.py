"""What the replies about streams mean: entries, the ends of a stream, and errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from rsws.errors import ChannelUnreadable, RedisRefused, RedisUnavailable, StoreError
from rsws.protocol import ZERO, StreamId
from rsws.redis.connection import ReplyError, unpack
from rsws.streams.fields import ALL, FIELD_NAME, WHOLE, read_fields, together
from rsws.streams.scripts import checksum
from rsws.streams.slots import REDIRECTS, Redirected

_REFUSED = "Redis refused: "
_UNAVAILABLE = ("LOADING ", "MASTERDOWN ")
"""How the errors begin with which a server says that it can't serve for now."""
MOST_ARGUMENTS = 4000
"""The most names and values of an entry's fields that a script can pass on: Lua's stack has 8,000 places."""
_ID_TAKEN = re.compile("ID specified in XADD is equal or smaller|exhausted the last possible ID")


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A stream entry. One is created per message: a Struct takes a quarter of a NamedTuple's time."""

    raw_id: bytes
    """The id as Redis wrote it."""
    data: bytes | None
    """The message that it holds, unchecked; None if it holds none."""
    ends: bool = False
    """Whether it marks the end of its channel."""

    @property
    def id(self) -> StreamId:
        """The id to compare with others."""
        return StreamId.from_redis(self.raw_id)


class IdTaken(RedisRefused):
    """The stream has an entry with this id, or a later one: nothing was stored."""


class StreamBounds(NamedTuple):
    """The two ends of a stream at one moment."""

    first: StreamId | None
    """The id of the first entry; None if the stream is empty or missing."""
    last: StreamId
    """The last id the stream ever generated, ``0-0`` if it is missing; no entry beyond it exists."""
    length: int = 0
    """The number of entries."""


class History(NamedTuple):
    """The result of one read of a stream's history."""

    entries: list[Entry]
    is_end: bool
    """Whether the stream ended after the entries."""
    broken: Literal["trimmed", "reset"] | None = None
    """Why it can't be proven that nothing is missing before the entries; None when it is proven."""
    bounds: StreamBounds | None = None
    """The stream's bounds as of that read, if it returned them: always when continuity is broken."""


def broken_continuity(after: StreamId, bounds: StreamBounds) -> Literal["trimmed", "reset"] | None:
    """Return why it can't be proven that everything after the position ``after`` is still there; None when it can.

    ``trimmed`` may be a false alarm, when the entry at ``after`` was the last one trimmed. The stream's own
    ``max-deleted-entry-id`` and ``entries-added`` prove nothing.
    """
    if after == ZERO or after == bounds.last:
        return None
    if after > bounds.last:
        return "reset"
    return None if bounds.first is not None and bounds.first <= after else "trimmed"


def parse_entries(reply: Sequence[Any], field: bytes = FIELD_NAME) -> list[Entry]:
    """Return the entries of one stream in a reply to XRANGE or XREAD.

    Args:
        field: See :func:`rsws.streams.fields.read_fields`.
    """
    if field in WHOLE:
        return [_entry(raw_id, fields, field) for raw_id, fields in reply]
    return [
        # Nearly all entries have only this field: calling _entry for each would cost as much as everything else here.
        Entry(raw_id, fields[1])
        if fields and len(fields) == 2 and fields[0] == field
        else _entry(raw_id, fields, field)
        for raw_id, fields in reply
    ]


def _entry(raw_id: bytes, fields: Sequence[bytes] | None, field: bytes) -> Entry:
    if fields is None:  # an entry that was deleted while an old server was reading it
        return Entry(raw_id, None)
    return Entry(raw_id, *read_fields(fields, field))


def read_arguments(
    after: bytes, limit: int, limit_bytes: int, field: bytes, *, with_check: bool = False
) -> tuple[bytes, ...]:
    """Return the arguments for READ."""
    asked = ALL if field in WHOLE else field
    return after, b"%d" % limit, b"%d" % limit_bytes, asked, b"1" if with_check else b"0"


def insert_arguments(entries: Sequence[Entry], maxlen: int | None) -> tuple[bytes, ...]:
    """Return the arguments for INSERT with as many of the entries, from the first on, as it takes; none if it is none.

    Args:
        entries: Their data is ``PACKED``.
    """
    arguments = [b"" if maxlen is None else b"%d" % maxlen]
    for entry in entries:
        fields = unpack(entry.data or b"")
        if len(fields) > MOST_ARGUMENTS:
            break
        arguments += (entry.raw_id, b"%d" % len(fields), *fields)
    return tuple(arguments) if len(arguments) > 1 else ()


def xadd_arguments(entry: Entry, maxlen: int | None) -> tuple[bytes, ...]:
    """Return what follows the key in the XADD command that does the same with one entry."""
    trim = () if maxlen is None else (b"MAXLEN", b"~", b"%d" % maxlen)
    return *trim, entry.raw_id, *unpack(entry.data or b"")


def parse_read(reply: Any, field: bytes) -> tuple[list[Entry], bool, StreamBounds | None, bytes | None]:
    """Parse READ's reply.

    Args:
        field: The one that READ was asked for.

    Returns:
        The entries, whether the stream ends after them, its bounds if the position's entry is gone, and the checksum of
        that entry, if it was asked for.
    """
    found, is_end, look, check, ends = reply
    if field in WHOLE:
        found[1::2] = [None if fields is None else together(fields, field) for fields in found[1::2]]
        check = None if check is None else checksum(together(check, field))
    values = iter(found)
    entries = list(map(Entry, values, values))
    if ends:
        ending = set(ends)
        entries = [Entry(each.raw_id, each.data, each.raw_id in ending) for each in entries]
    return entries, is_end == 1, None if look is None else parse_look(look), check


def parse_look(reply: Sequence[Any]) -> StreamBounds:
    first, last, length, _ = reply
    return StreamBounds(None if first is None else StreamId.from_redis(first), StreamId.from_redis(last), length)


def lasting_error(error: StoreError) -> StoreError:
    """Return the error to tell to subscribers: a server that says that it can't serve for now is unavailable."""
    text = str(error).removeprefix(_REFUSED)
    return RedisUnavailable(text) if text.startswith(_UNAVAILABLE) else error


def store_error(channel: str, error: Any) -> StoreError:
    """Convert an error reply of Redis to a StoreError.

    It is ChannelUnreadable if the key is not a stream, or it or the command is forbidden, Redirected where another node
    of a cluster has the key or no node has it for now, and RedisRefused with Redis' own text for all else. A
    StoreError is returned unchanged.
    """
    if isinstance(error, StoreError):
        return error
    text = str(error)
    if _ID_TAKEN.search(text):
        return IdTaken(f"{_REFUSED}{text}")
    if text.startswith(REDIRECTS):
        return Redirected(text)
    if text.startswith("WRONGTYPE"):
        return ChannelUnreadable(f"the key {channel!r} in Redis is not a stream ({text})")
    if isinstance(error, ReplyError) and error.is_forbidden:
        if error.is_in_script:
            text = f"NOPERM {text}"
        return ChannelUnreadable(f"Redis forbids the gateway to use {channel!r} ({text})")
    return RedisRefused(f"{_REFUSED}{text}")


def too_large(channel: str) -> ChannelUnreadable:
    """Return the error for an entry that breaks the connection over which it is read."""
    return ChannelUnreadable(
        f"Redis breaks the connection over the next entry of {channel!r}: too large for it to send"
    )

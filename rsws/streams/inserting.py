"""Writing entries into streams with the ids that they have, so that it can be done again: each is stored once."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile
from typing import NamedTuple, TypeVar

from rsws.backoff import Backoff
from rsws.errors import ChannelUnreadable, Outcome, RedisUnavailable, StoreError
from rsws.options import MIB
from rsws.protocol import StreamId
from rsws.redis.link import future_reply
from rsws.streams.replies import Entry, IdTaken, StreamBounds, lasting_error
from rsws.streams.router import Router

T = TypeVar("T")
ANY_ID = b"*"
"""The id of an entry that is to get a new one."""
PAGE_ENTRIES = 1000
PAGE_BYTES = MIB
_FORBIDDEN = ("NOPERM", "unknown command")
"""What is in errors that no waiting helps against."""
_BACKOFF = Backoff(0.1, 1.0, least=0.5)


class Refusal(NamedTuple):
    """An entry that can't be stored where it belongs, and so none after it."""

    at: int
    """Which one of those that were to be inserted."""
    why: str


class Inserted(NamedTuple):
    """What became of entries."""

    stored: int = 0
    there: int = 0
    """How many were there before, with the same fields."""
    older: int = 0
    """How many are older than all that a stream keeps that is trimmed by ``maxlen``."""
    refusal: Refusal | None = None


class Persistence:
    """How long what Redis does not do is tried again, and whom to tell.

    Args:
        limit_s: For how long; None for ever, and then what Redis refuses is tried again, too.
        on_trouble: Called with the cause, once until something has worked again; with None when it has.
    """

    def __init__(self, limit_s: float | None, on_trouble: Callable[[str | None], None]) -> None:
        self._limit_s = limit_s
        self._on_trouble = on_trouble
        self._in_trouble = False

    async def ask(self, ask: Callable[[], Awaitable[T]], *, on_lost: Callable[[], object] | None = None) -> T:
        """Return what ``ask`` does; try again as long as Redis does not serve.

        Args:
            on_lost: Called when it is not known whether something was done; may raise to end it.

        Raises:
            StoreError: It can't be done.
        """
        since, failures = time.monotonic(), 0
        while True:
            try:
                done = await ask()
            except (ChannelUnreadable, IdTaken):
                raise
            except StoreError as error:
                failures += 1
                if on_lost is not None and error.outcome is Outcome.UNKNOWN:
                    on_lost()
                lasting = lasting_error(error)
                is_over = self._limit_s is not None and time.monotonic() - since > self._limit_s
                is_lasting = not isinstance(lasting, RedisUnavailable) and (
                    self._limit_s is not None or any(word in str(lasting) for word in _FORBIDDEN)
                )
                if is_over or is_lasting:
                    raise lasting from None
                if not self._in_trouble and failures > 1:  # a connection that is made again at once is none
                    self._in_trouble = True
                    self._on_trouble(lasting.cause if isinstance(lasting, RedisUnavailable) else str(lasting))
                await _BACKOFF.wait(failures)
                continue
            if self._in_trouble:
                self._in_trouble = False
                self._on_trouble(None)
            return done


class Inserter:
    """Inserts entries into streams.

    Args:
        streams: Where; it reads ``PACKED``.
        persistence: How long Redis is waited for.
        is_same: Whether an entry that is there, and one with the same id that is to be inserted, are the same.
        maxlen: About how many of the newest entries each stream keeps; None keeps all.
    """

    def __init__(
        self,
        streams: Router,
        persistence: Persistence,
        is_same: Callable[[bytes, bytes], bool] = bytes.__eq__,
        maxlen: int | None = None,
    ) -> None:
        self._streams = streams
        self._persistence = persistence
        self._is_same = is_same
        self._maxlen = maxlen

    async def insert(self, channel: str, entries: Sequence[Entry]) -> Inserted:
        """Insert entries at the end of a stream, in order, up to the first that is refused.

        One that is there already is passed over. One that is not, while the stream has a later one, is refused.

        Raises:
            StoreError: Redis does not do it; with new ids its outcome may be unknown.
        """
        stored = there = older = at = 0
        sent: set[bytes] = set()
        """The ids of which it is not known whether they were stored."""
        while at < len(entries):
            left = entries[at:]

            def lost(left: Sequence[Entry] = left) -> None:
                if left[0].raw_id == ANY_ID:
                    raise RedisUnavailable("the connection broke", Outcome.UNKNOWN)
                sent.update(entry.raw_id for entry in left)

            try:
                count = await self._persistence.ask(lambda left=left: self._send(channel, left), on_lost=lost)  # type: ignore[misc]
                stored, at = stored + count, at + count
                continue
            except IdTaken:
                bounds, found = await self._find(channel, left)
            for entry in left:
                if entry.id > bounds.last:
                    break
                data = found.get(entry.id)
                if data is not None and self._is_same(data, entry.data or b""):
                    stored, there = (stored + 1, there) if entry.raw_id in sent else (stored, there + 1)
                elif data is None and self._maxlen is not None and (bounds.first is None or entry.id < bounds.first):
                    older += 1
                else:
                    why = "is there with other data" if data is not None else f"comes before {bounds.last}, the last id"
                    return Inserted(stored, there, older, Refusal(at, f"{entry.id} {why}"))
                at += 1
        return Inserted(stored, there, older)

    async def _send(self, channel: str, entries: Sequence[Entry]) -> int:
        future, on_result = future_reply()
        self._streams.insert(channel, entries, on_result, self._maxlen)
        stored: int = await future
        return stored

    async def _find(self, channel: str, entries: Sequence[Entry]) -> tuple[StreamBounds, dict[StreamId, bytes]]:
        """Return the bounds of the stream, and what is there of those entries up to its last one."""
        bounds = await self._persistence.ask(lambda: self._streams.bounds(channel))
        wanted = {entry.id for entry in takewhile(lambda entry: entry.id <= bounds.last, entries)}
        found: dict[StreamId, bytes] = {}
        if not wanted:
            return bounds, found
        position, end = min(wanted).before(), max(wanted)
        while position < end:
            page = await self._persistence.ask(
                lambda after=position: self._streams.page(channel, after, PAGE_ENTRIES, PAGE_BYTES)  # type: ignore[misc]
            )
            found |= {entry.id: entry.data for entry in page.entries if entry.data is not None and entry.id in wanted}
            if page.is_end or not page.entries:
                break
            position = page.entries[-1].id
        return bounds, found

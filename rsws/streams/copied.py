"""One stream that is copied from one Redis to another: where the copy stands, and how it goes on from there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from rsws.errors import ChannelUnreadable, RedisRefused, StoreError
from rsws.options import KIB
from rsws.protocol import ZERO, StreamId
from rsws.redis.link import future_reply
from rsws.streams.follower import Follower
from rsws.streams.inserting import PAGE_BYTES, PAGE_ENTRIES, Inserter, Persistence
from rsws.streams.replies import Entry, History, StreamBounds
from rsws.streams.router import Router

STEP_ENTRIES = 500
STEP_BYTES = 256 * KIB
"""How much of a stream is copied in one go: a script writes it, and Redis does nothing else meanwhile."""
COMPARED_ENTRIES = 100
"""How many of the last entries of a copy are looked for in its source."""


class Room:
    """How much may be kept of what was read and is not copied yet, of all streams together."""

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes

    def take(self, size: int) -> bool:
        """Return whether there was room for so many bytes; if so there is less now."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give_back(self, size: int) -> None:
        """Say that so many bytes are not kept any more."""
        self._left += size


@dataclass
class Ends:
    """The two Redis servers or clusters of a copy; entries are ``PACKED`` in both.

    Attributes:
        source: Whose streams are copied.
        target: Where to.
        reading: How long the source is waited for.
        writing: How long the target is waited for.
        inserter: Writes to the target.
    """

    source: Router
    target: Router
    reading: Persistence
    writing: Persistence
    inserter: Inserter


class CopiedStream(Follower):
    """A stream that is copied.

    The position is the last entry of the source that the target has. What the reader of the source delivers after that
    is kept as long as there is room; where there is none, the stream is read again from the position on.

    Args:
        on_news: Called when there is something to do.
        room: What is left of it for entries that were delivered.

    Attributes:
        name: Its name.
        position: The last entry that is copied; None where that has to be found out.
        copied: How many entries were copied.
        there: How many were there before.
        behind: About how many are still to be copied.
        refusal: Why nothing more is copied; None while it is.
        gaps: What may be missing, one sentence each, that was not told yet.
        is_gone: Whether the source does not have it any more.
        is_due: Whether somebody is to call :meth:`advance`, or does.
    """

    __slots__ = (
        "_ends",
        "_goal",
        "_is_other",
        "_kept",
        "_kept_bytes",
        "_on_news",
        "_room",
        "behind",
        "copied",
        "gaps",
        "is_due",
        "is_gone",
        "name",
        "position",
        "refusal",
        "there",
    )

    def __init__(self, name: str, ends: Ends, on_news: Callable[[CopiedStream], None], room: Room) -> None:
        self.name = name
        self.position: StreamId | None = None
        self.copied = self.there = self.behind = 0
        self.refusal: str | None = None
        self.gaps: list[str] = []
        self.is_gone = self.is_due = False
        self._ends = ends
        self._on_news = on_news
        self._room = room
        self._is_other = False
        """Whether the source has another stream under this name by now."""
        self._goal = ZERO
        """The last id of the source when it was looked at first, until the target has it, too."""
        self._kept: list[Entry] | None = None
        """What follows the position; None while the stream is not followed, and has to be read."""
        self._kept_bytes = 0

    # --- what the reader of the source calls ---

    def deliver(self, entries: list[Entry]) -> None:
        size = sum(len(entry.data or b"") for entry in entries)
        self.behind += len(entries)
        if self._kept is not None and self._room.take(size):
            self._kept += entries
            self._kept_bytes += size
        else:
            self._leave()
        self._on_news(self)

    def unreadable(self, error: StoreError) -> None:
        self.interrupted()

    def interrupted(self) -> None:
        self._leave()
        self._on_news(self)

    def replaced(self) -> None:
        self._is_other = True
        self.interrupted()

    # --- copying ---

    async def advance(self, *, follow: bool) -> bool:
        """Copy what comes next; return whether there is more to do now.

        Args:
            follow: Whether to go on with what comes once the end of the source is reached.

        Raises:
            StoreError: The stream can't be read or written: it is no stream, or forbidden.
        """
        if self.position is None or self._is_other:
            self._is_other = False
            await self._begin()
            if self.position is None:
                return False
        if self._kept is not None:
            entries, is_end = self._take_kept(), True
        else:
            page = await self._page(self._ends.source, self.position, STEP_ENTRIES, STEP_BYTES)
            if page.broken is not None and page.bounds is not None:
                self._note_broken(page.broken, page.bounds)
                if self.position is None:
                    return not self.is_gone
            entries, is_end = page.entries, page.is_end
        await self._insert(entries)
        if self.refusal is not None:
            return False
        if not is_end:
            self.behind = max(1, self.behind)
            return True
        if self._kept is None and follow:
            self._kept = []
            self._ends.source.follow(self.name, self.position, self)
        if self.position < self._goal:
            await self._ends.writing.ask(self._raise_last)
        self._goal = ZERO
        if self._kept or (self._kept is None and follow):
            return True
        self.behind = 0
        return False

    async def _insert(self, entries: list[Entry]) -> None:
        for start in range(0, len(entries), STEP_ENTRIES):
            step = entries[start : start + STEP_ENTRIES]
            done = await self._ends.inserter.insert(self.name, step)
            self.copied += done.stored
            self.there += done.there
            count = done.stored + done.there
            self.behind = max(0, self.behind - count)
            if count:
                self.position = step[count - 1].id
            if done.refusal is not None:
                self.refuse(f"the target has other entries: {done.refusal.why}")
                return

    async def _raise_last(self) -> None:
        """Have the target's last id be that of the source, whose last entries are gone; as far as it may be done."""
        future, on_result = future_reply()
        self._ends.target.raise_last(self.name, self._goal, on_result)
        with suppress(ChannelUnreadable, RedisRefused):
            await future

    async def _page(self, streams: Router, after: StreamId, limit: int, limit_bytes: int) -> History:
        persistence = self._ends.reading if streams is self._ends.source else self._ends.writing
        return await persistence.ask(partial(streams.page, self.name, after, limit, limit_bytes))

    async def _begin(self) -> None:
        """Find out where to begin: after the newest of the target's last entries that the source has, too.

        Where there is none, all is compared from the beginning on, unless the source has only later ones.
        """
        source = await self._ends.reading.ask(partial(self._ends.source.bounds, self.name))
        target = await self._ends.writing.ask(partial(self._ends.target.bounds, self.name))
        self._goal = source.last
        self.behind = max(0, source.length - target.length)
        self.position = ZERO
        if source.first is None or target.first is None:
            return
        before = await self._ends.writing.ask(
            partial(self._ends.target.before_last, self.name, COMPARED_ENTRIES, target)
        )
        theirs = (await self._page(self._ends.target, before, COMPARED_ENTRIES, PAGE_BYTES)).entries
        if not theirs:
            return
        page = await self._page(self._ends.source, theirs[0].id.before(), PAGE_ENTRIES, PAGE_BYTES)
        ours = {entry.id: entry.data for entry in page.entries}
        newest = next((entry for entry in reversed(theirs) if entry.id in ours), None)
        if newest is not None and ours[newest.id] != newest.data:
            self.refuse(f"the target has another entry {newest.id}")
            self.position = None
        elif newest is not None:
            self.position = newest.id
        elif source.first > theirs[-1].id:
            self.position = theirs[-1].id

    def _note_broken(self, broken: str, bounds: StreamBounds) -> None:
        """Take note that the source does not have the entry at the position any more, and maybe others after it."""
        if broken == "trimmed":
            at = f"going on at {bounds.first}" if bounds.first is not None else "nothing is there now"
            self.gaps.append(f"gap, entries after {self.position} may have been trimmed before they were copied; {at}")
            return
        self.position = None
        self.is_gone = bounds.last == ZERO
        self.behind = 0
        what = "deleted" if self.is_gone else "made anew"
        self.gaps.append(f"the stream was {what} at the source; what was copied of it stays")

    def refuse(self, why: str) -> None:
        """Copy nothing more."""
        self.refusal = why
        self.behind = 0
        self._leave()

    def _take_kept(self) -> list[Entry]:
        kept, self._kept = self._kept or [], []
        self._room.give_back(self._kept_bytes)
        self._kept_bytes = 0
        return kept

    def _leave(self) -> None:
        """Follow it no more, until it was read up to its end."""
        if self._kept is not None:
            self._take_kept()
            self._kept = None
            self._ends.source.unfollow(self.name)

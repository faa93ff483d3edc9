"""Follows many streams at once: Redis says which has changed, and that one is read.

The reader knows no channel and no client: whoever follows a stream gives it a callable that takes the entries.
Positions are always explicit ids. Whatever is delivered follows what was delivered before without a gap; where that
can't be proven reading stops, and whoever follows looks for himself where to go on.

Redis remembers who has read a key, and tells him once when it changes (``CLIENT TRACKING``). So a message costs one
read of one stream, however many others are followed; an XREAD over all of them would cost as much as there are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any, Protocol

from rsws.errors import ChannelUnreadable, RedisUnavailable, StoreError
from rsws.protocol import StreamId
from rsws.streams.limits import DEFAULTS, Limits
from rsws.streams.link import RedisLink
from rsws.streams.redis_connection import ReplyError, pack
from rsws.streams.scripts import READ
from rsws.streams.store import (
    Entry,
    parse_entries,
    parse_read,
    read_arguments,
    run_script,
    store_error,
)
from rsws.streams.tail_waiter import TailWaiter
from rsws.streams.target import RedisTarget

log = logging.getLogger("rsws.reader")

READ_ENTRIES = 200
"""What one read of one stream brings at most."""
FEW_ENTRIES = 20
"""So many are read without a look at their size: a script that looks costs Redis several times as much per entry."""

_BEGINNING = b"0-0"


class Follower(Protocol):
    """Whoever follows a stream."""

    __slots__ = ()

    def deliver(self, entries: list[Entry], /) -> None:
        """Take every entry after the position, in order, once."""
        raise NotImplementedError

    def unreadable(self, error: StoreError, /) -> None:
        """Redis won't read this stream; called again at each vain attempt, every 30 s."""
        raise NotImplementedError

    def interrupted(self) -> None:
        """Find out where to go on, and follow again: reading has stopped and nothing more is delivered.

        The stream was unreadable and is not any more, or entries may have been trimmed before they were read, or the
        stream is another one.
        """
        raise NotImplementedError


class _Followed:
    """One stream being read."""

    __slots__ = (
        "at_tail",
        "delivered_at",
        "follower",
        "is_busy",
        "is_unreadable",
        "key",
        "limit",
        "name",
        "position",
        "tail_trimmed",
    )

    def __init__(self, name: str, after: StreamId, follower: Follower) -> None:
        self.name = name
        self.key = name.encode()
        self.position = str(after).encode()
        self.follower = follower
        self.limit = 16
        """How many entries the next read may bring, as far as the size of the last ones tells."""
        self.is_busy = False
        """Whether the last read brought more than a few, and the next may, too."""
        self.at_tail = False
        """Whether it was read to its end, and Redis says when there is more."""
        self.tail_trimmed = False
        """Whether the last entry read was gone when the next one came, as in a stream that is trimmed to one."""
        self.is_unreadable = False
        self.delivered_at = 0.0
        """When entries were delivered last; the event loop's own clock stands still meanwhile."""


class Reader:
    """Reads what comes new in the streams it is told to follow.

    Args:
        target: Which Redis.
    """

    def __init__(self, target: RedisTarget, *, limits: Limits = DEFAULTS) -> None:
        self._gather_s = limits.gather_s
        self._read_bytes = limits.read_bytes
        self._refused_retry_s = limits.refused_retry_s
        self._unreadable_retry_s = limits.unreadable_retry_s
        self._link = RedisLink(
            target,
            "rsws-reader",
            [pack(b"HELLO", b"3"), pack(b"CLIENT", b"TRACKING", b"ON")],
            on_greeting=self._greeted,
            on_change=self._connected,
            on_push=self._invalidated,
            limits=limits,
        )
        self._tail_waiter = TailWaiter(target, self._link, limits=limits)
        self._followed: dict[bytes, _Followed] = {}
        self._is_told = True
        """Whether Redis tells what has changed; an old one does not, or a user may not ask for it."""

    @property
    def is_down(self) -> bool:
        """Whether Redis could not be reached when that was tried last: what is followed now is read once it can be."""
        return self._link.is_down

    async def run(self) -> None:
        """Read until cancelled. Nothing may be followed before this runs."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._link.run())
            tasks.create_task(self._tail_waiter.run())

    def follow(self, name: str, after: StreamId, follower: Follower) -> None:
        """Hand every entry of the stream ``name`` after a position to ``follower``.

        Following a name again replaces what was followed: nothing read for the old position arrives any more.
        """
        followed = _Followed(name, after, follower)
        before = self._remove(followed.key)
        followed.tail_trimmed = before is not None and before.tail_trimmed
        self._followed[followed.key] = followed
        self._read_bounded(followed)

    def unfollow(self, name: str) -> None:
        """Read this stream no more; nothing of it is delivered after this call."""
        self._remove(name.encode())

    def is_at_tail(self, name: str) -> bool:
        """Whether this stream was read to its end, and Redis says when there is more."""
        return self._followed[name.encode()].at_tail

    def _remove(self, key: bytes) -> _Followed | None:
        followed = self._followed.pop(key, None)
        self._tail_waiter.forget(key)
        return followed

    # --- what the link calls ---

    def _greeted(self, reply: Any) -> None:
        if isinstance(reply, ReplyError):
            self._is_told = False
            log.warning("Redis does not tell which streams change, reading them costs more: %s", reply)

    def _connected(self, cause: str | None) -> None:
        """On a new connection Redis knows nothing of what was read on the last one."""
        if cause is None:
            self._is_told = True
            self._read_those_at_tail()

    def _invalidated(self, push: list[Any]) -> None:
        """Redis says that these streams have changed since they were read.

        It says so once, and everything in the order in which it happens: a change that is told while a read is under
        way came before that read, which shows it.
        """
        kind, keys = push
        if kind != b"invalidate":
            return
        if keys is None:  # all of them
            self._read_those_at_tail()
            return
        for key in keys:
            followed = self._followed.get(key)
            if followed is not None and followed.at_tail:
                self._read_soon(followed)

    def _read_those_at_tail(self) -> None:
        for followed in self._followed.values():
            if followed.at_tail:
                self._read(followed)

    # --- reading ---

    def _read_soon(self, followed: _Followed) -> None:
        """Read at once what was quiet, and a moment later what is busy."""
        if time.monotonic() - followed.delivered_at >= self._gather_s:
            self._read(followed)
        else:
            followed.at_tail = False
            asyncio.get_running_loop().call_later(self._gather_s, self._read, followed)

    def _read(self, followed: _Followed) -> None:
        """Ask for what comes after the position, and for the entry there, without which some of that may be trimmed."""
        if self._followed.get(followed.key) is not followed:
            return
        followed.at_tail = False
        if followed.is_busy:
            self._read_bounded(followed)
            return
        count = 1 + min(followed.limit, FEW_ENTRIES)
        command = pack(b"XRANGE", followed.key, followed.position, b"+", b"COUNT", b"%d" % count)
        self._link.submit(command, partial(self._take_few, followed, count))

    def _read_bounded(self, followed: _Followed) -> None:
        """The same with a bound in bytes, and where the stream ends if the entry at the position is gone."""
        arguments = read_arguments(followed.position, followed.limit, self._read_bytes)
        run_script(self._link, READ, (followed.key,), arguments, partial(self._take, followed))

    def _take_few(self, followed: _Followed, count: int, reply: Any) -> None:
        if self._followed.get(followed.key) is not followed:
            return
        if isinstance(reply, Exception):
            self._failed(followed, reply)
        elif followed.position == _BEGINNING or (reply and reply[0][0] == followed.position):
            news = reply if followed.position == _BEGINNING else reply[1:]
            self._continue(followed, parse_entries(news), is_end=len(reply) < count)
        else:  # with no entry at the position, is that the stream's end or another's?
            self._read_bounded(followed)

    def _take(self, followed: _Followed, reply: Any) -> None:
        if self._followed.get(followed.key) is not followed:
            return
        if isinstance(reply, Exception):
            self._failed(followed, reply)
            return
        entries, is_end, bounds = parse_read(reply)
        if bounds is None:
            self._continue(followed, entries, is_end=is_end)
        elif followed.is_unreadable:
            self._continue(followed, [], is_end=True)
        elif not entries and bounds.last == StreamId.from_redis(followed.position):
            self._wait(followed)
        else:
            followed.tail_trimmed = bool(entries)
            followed.follower.interrupted()

    def _continue(self, followed: _Followed, entries: list[Entry], *, is_end: bool) -> None:
        """Go on with what follows the position without a gap."""
        if followed.is_unreadable:
            log.info("channel readable again channel=%r", followed.name)
            followed.follower.interrupted()
            return
        if entries and followed.position != _BEGINNING:
            followed.tail_trimmed = False
        self._go_on(followed, entries, has_more=not is_end)

    def _go_on(self, followed: _Followed, entries: list[Entry], has_more: bool) -> None:
        """Hand on what came, if anything did, and go on behind it."""
        if entries:
            followed.position = entries[-1].raw_id
            size = sum([len(entry.data or b"") for entry in entries])
            followed.limit = max(1, min(READ_ENTRIES, self._read_bytes * len(entries) // (size or 1)))
        followed.is_busy = len(entries) >= FEW_ENTRIES
        if has_more:
            self._read(followed)
        elif self._is_told and not followed.tail_trimmed:
            followed.at_tail = True
        else:
            self._wait(followed)
        if entries:
            followed.follower.deliver(entries)
            followed.delivered_at = time.monotonic()

    def _wait(self, followed: _Followed) -> None:
        """Without an entry at the position only a read that waits for the next one shows that it is the next."""
        self._tail_waiter.wait(followed.key, followed.position, partial(self._came, followed))

    def _came(self, followed: _Followed, raw: list[Any]) -> None:
        if raw:  # the last of them may be gone again by now
            self._go_on(followed, parse_entries(raw), has_more=True)
        else:
            self._read(followed)

    def _failed(self, followed: _Followed, error: Exception) -> None:
        if isinstance(error, RedisUnavailable):  # never for want of room: one read for each stream is all that waits
            followed.at_tail = True  # until there is a connection again
            return
        reason = store_error(followed.name, error)
        retry_s = self._refused_retry_s
        if isinstance(reason, ChannelUnreadable):
            retry_s = self._unreadable_retry_s
            followed.is_unreadable = True
            log.warning("channel unreadable channel=%r: %s", followed.name, reason)
            followed.follower.unreadable(reason)
        asyncio.get_running_loop().call_later(retry_s, self._read, followed)

"""Pages of history: one read of a stream serves all subscriptions at the same position."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from rsws.errors import ChannelUnreadable, RedisRefused, StoreError
from rsws.gateway.delivery.channel import Channel
from rsws.gateway.delivery.subscription import Page, PageEnd, PageReader, Subscription
from rsws.gateway.limits import DEFAULTS, Limits
from rsws.protocol import Gap, StreamId
from rsws.streams.replies import History, lasting_error
from rsws.streams.store import PLAIN_READ_ENTRIES, Streams

PAGE_ENTRIES = (1, 256)
CACHE_BYTES = 2 * 1024 * 1024
CACHED_PAGE_BYTES = 1024
"""The size that a cached page counts for in addition to its frames, so that empty pages are bounded, too."""
CACHE_S = 5.0
"""The time for which a cached page is served; it is short because entries can be deleted from a stream."""
YIELD_EVERY = 100
"""The number of subscriptions served in one turn of the event loop, so that a crowd does not block other work."""
RETRY_S = 0.25


class _PageKey(NamedTuple):
    channel: Channel
    generation: int
    after: StreamId


class _Read:
    """A read under way."""

    __slots__ = ("task", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[Subscription, None] = {}
        """The subscriptions that wait for the page, in the order in which they came; empty for a read-ahead."""
        self.task: asyncio.Task[None] | None = None


class Pages(PageReader):
    """The reads of history for subscriptions that are behind.

    Args:
        tasks: The task group for reads under way.
        check: Called with a channel when a read has shown that its stream ends before a subscription's position; checks
            the stream's bounds, and resets the channel if needed.
    """

    def __init__(
        self,
        streams: Streams,
        tasks: asyncio.TaskGroup,
        check: Callable[[Channel], Awaitable[None]],
        *,
        limits: Limits = DEFAULTS,
    ) -> None:
        self._streams = streams
        self._tasks = tasks
        self._check = check
        self.chunk_bytes = limits.chunk_bytes
        self._lasting_s = limits.streams.lasting_s
        self._unreadable_retry_s = limits.streams.unreadable_retry_s
        self._reads: dict[_PageKey, _Read] = {}
        self._cache = PageCache()

    def read_page(self, subscription: Subscription) -> None:
        """Read the page after the position of ``subscription``; all subscriptions at that position share one read."""
        key = _key(subscription)
        page = self._cache.get(key)
        if page is not None:
            self._read_ahead(key, page)
            asyncio.get_running_loop().call_soon(_hand_over, key, subscription, page)
            return
        read = self._reads.get(key) or self._start(key)
        read.waiting[subscription] = None

    def leave(self, subscription: Subscription) -> None:
        """Remove a closed subscription from the read it waits for; cancel the read if no other waits for it."""
        read = self._reads.get(_key(subscription)) if self._reads else None
        if read is not None:
            read.waiting.pop(subscription, None)
            if not read.waiting and read.task is not None:
                self._end(_key(subscription), read)
                read.task.cancel()

    def _start(self, key: _PageKey) -> _Read:
        read = self._reads[key] = _Read()
        read.task = self._tasks.create_task(self._run(key, read))
        return read

    def _read_ahead(self, key: _PageKey, page: Page) -> None:
        """Start to read the next page while clients are sent this one: many small entries take Redis as long."""
        following = key._replace(after=page.last)
        if page.complete or key.channel.page_entries <= PLAIN_READ_ENTRIES or following in self._reads:
            return
        if self._cache.get(following) is None:
            self._start(following)

    def _end(self, key: _PageKey, read: _Read) -> None:
        if self._reads.get(key) is read:
            del self._reads[key]

    def forget(self, channel: Channel) -> None:
        """Drop the cached pages of a closed channel."""
        self._cache.drop(channel)

    async def _run(self, key: _PageKey, read: _Read) -> None:
        try:
            page = await self._page(key, read)
        finally:
            self._end(key, read)
        if page is None:
            return  # no subscription waits any more
        if read.waiting:
            self._read_ahead(key, page)
        for number, subscription in enumerate(list(read.waiting), 1):
            _hand_over(key, subscription, page)
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    async def _page(self, key: _PageKey, read: _Read) -> Page | None:
        channel, after = key.channel, key.after
        lasts_at = time.monotonic() + self._lasting_s
        while key.generation == channel.generation:
            try:
                cursor, limit = channel.cursor, channel.page_entries
                history = await self._streams.page(channel.name, after, limit, self.chunk_bytes)
            except ChannelUnreadable as error:
                channel.unreadable(error)
                retry_s = self._unreadable_retry_s
            except StoreError as error:
                if isinstance(error, RedisRefused) and time.monotonic() >= lasts_at:
                    channel.unreadable(lasting_error(error))
                channel.page_entries = max(1, limit // 2)  # the page may have been too large to be read in time
                retry_s = RETRY_S
            else:
                if channel.is_unreadable:
                    channel.interrupted()  # it is readable again: no need to wait for the reader's next attempt
                if history.broken != "reset":
                    return self._encode(key, history, cursor)
                await self._check(channel)
                retry_s = RETRY_S
            if not read.waiting:  # it is a read-ahead
                break
            for subscription in read.waiting:
                subscription.yield_turn()
            await asyncio.sleep(retry_s)
        return None

    def _encode(self, key: _PageKey, history: History, cursor: StreamId) -> Page:
        channel, entries = key.channel, history.entries
        frames, end = [], None
        for entry in entries:
            frame = channel.encode(entry)
            if frame is not None:
                frames.append(frame)
            if entry.ends and end is None:
                end = PageEnd(entry.id, sum(map(len, frames)), len(frames))
        joined = b"".join(frames)
        if entries:
            low, high = PAGE_ENTRIES
            channel.page_entries = max(low, min(high, self.chunk_bytes * len(entries) // max(1, len(joined))))
        gap = None
        if history.bounds is not None:
            cursor = max(cursor, history.bounds.last)
            if history.broken is not None:
                gap = Gap(channel.name, key.after, history.bounds.first, history.broken)
        last = entries[-1].id if entries else key.after
        channel.metrics.history_entries_read += len(entries)
        page = Page(joined, len(frames), last, history.is_end, cursor, gap, end)
        if not page.complete:
            self._cache.put(key, page)
        return page


def _key(subscription: Subscription) -> _PageKey:
    return _PageKey(subscription.channel, subscription.channel.generation, subscription.position)


def _hand_over(key: _PageKey, subscription: Subscription, page: Page) -> None:
    """Hand a page to a subscription that waits for it, unless the page is of an earlier generation of the channel."""
    if key.generation == key.channel.generation:
        subscription.page_read(page)


class PageCache:
    """A cache of a few full pages of history, the least recently used of which is dropped first."""

    def __init__(self) -> None:
        self._pages: OrderedDict[_PageKey, tuple[float, Page]] = OrderedDict()
        self._bytes = 0

    def get(self, key: _PageKey) -> Page | None:
        """Return the page with that key; None when it is not cached, or expired."""
        found = self._pages.get(key)
        if found is None:
            return None
        if found[0] < asyncio.get_running_loop().time():
            self._drop(key)
            return None
        self._pages.move_to_end(key)
        return found[1]

    def put(self, key: _PageKey, page: Page) -> None:
        """Cache a page for ``CACHE_S``."""
        self._drop(key)
        self._pages[key] = asyncio.get_running_loop().time() + CACHE_S, page
        self._bytes += len(page.frames) + CACHED_PAGE_BYTES
        while self._bytes > CACHE_BYTES:
            self._drop(next(iter(self._pages)))

    def drop(self, channel: Channel) -> None:
        """Drop all pages of that channel."""
        for key in [key for key in self._pages if key.channel is channel]:
            self._drop(key)

    def _drop(self, key: _PageKey) -> None:
        found = self._pages.pop(key, None)
        if found is not None:
            self._bytes -= len(found[1].frames) + CACHED_PAGE_BYTES

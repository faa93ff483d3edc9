"""Which channels are open, who reads them, and the pages of history their subscribers share."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import NamedTuple

from rsws.errors import ChannelUnreadable, StoreError
from rsws.gateway.channel import Channel, RingBudget
from rsws.gateway.subscription import CHUNK_BYTES, Outlet, Page, Subscription
from rsws.protocol import ZERO, Gap, StreamId, Subscribe, Subscribed
from rsws.streams.reader import Reader
from rsws.streams.store import History, Store, Tip

log = logging.getLogger("rsws.gateway")

HISTORY_READS = 16
"""Reads of history under way at once."""
PAGE_ENTRIES = (1, 512)
CACHE_BYTES = 8 * 1024 * 1024
CACHE_S = 5.0
"""A cached page is served no longer: entries can be deleted from a stream."""
RETRY_S = 0.25
UNREADABLE_RETRY_S = 30.0


CHECK_S = 10.0
"""A channel that was quiet for so long is looked after: reading a stream that was reset waits in silence for ever."""


class _PageKey(NamedTuple):
    channel: Channel
    generation: int
    after: StreamId


class Hub:
    """Opens a channel at its first subscription, closes it after its last, and reads for those who are behind."""

    def __init__(self, store: Store, reader: Reader, tasks: asyncio.TaskGroup) -> None:
        self._store = store
        self._reader = reader
        self._tasks = tasks
        self._channels: dict[str, Channel] = {}
        self._budget = RingBudget()
        self._reads = asyncio.Semaphore(HISTORY_READS)
        self._waiting: dict[_PageKey, list[Subscription]] = {}
        self._cache = PageCache()
        self._poison: dict[str, int] = {}

    def subscribe(
        self, request: Subscribe, outlet: Outlet
    ) -> Coroutine[None, None, tuple[Subscribed, Gap | None, Subscription]]:
        """Make a subscription; it hands over nothing before its ``advance()`` is called for the first time.

        Where the stream ends is asked for at once: what is published after this call comes after ``$``.

        Raises:
            StoreError: (when awaited) Redis does not say where the stream ends.
        """
        return self._subscribe(request, outlet, self._store.tip(request.channel))

    async def _subscribe(
        self, request: Subscribe, outlet: Outlet, asked: Awaitable[Tip]
    ) -> tuple[Subscribed, Gap | None, Subscription]:
        name = request.channel
        channel = self._channels.get(name)
        reach = channel.reach if channel is not None else ZERO
        tip = await asked
        gap = None
        if request.last is not None:
            start = position = await self._store.before_last(name, request.last, tip.last)
        else:
            start = position = tip.last if request.after is None else request.after
            if position > tip.last:
                gap = Gap(name, position, tip.first, "reset")
                position = ZERO
        if channel is not None and self._is_open(channel):
            if tip.last < reach:
                self._reset(channel, tip)
            elif channel.is_unreadable:  # no more, it seems: nobody has to wait for the next attempt
                channel.reopen(tip.last)
                self._follow(channel)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, tip.last, self._budget, self._skipped)
            self._follow(channel)
        subscription = Subscription(channel, position, outlet, self, marker=request.marker)
        return Subscribed(name, start, tip.last), gap, subscription

    def _follow(self, channel: Channel) -> None:
        self._reader.follow(
            channel.name, channel.cursor, channel.deliver, channel.unreadable, partial(self._interrupted, channel)
        )

    def _is_open(self, channel: Channel) -> bool:
        return self._channels.get(channel.name) is channel

    def _interrupted(self, channel: Channel) -> None:
        """Reading has stopped and may have missed something."""
        self._tasks.create_task(self._reopen(channel))

    async def _reopen(self, channel: Channel) -> None:
        tip, reach = await self._tip(channel)
        if tip is None:
            return
        if tip.last < reach:
            self._reset(channel, tip)
        else:
            channel.reopen(tip.last)
            self._follow(channel)

    async def _start_over(self, channel: Channel) -> None:
        """Somebody's position lies beyond the end of the stream, which was not so when it was taken."""
        generation = channel.generation
        tip, _ = await self._tip(channel)
        if tip is not None and generation == channel.generation:
            self._reset(channel, tip)

    async def _tip(self, channel: Channel) -> tuple[Tip | None, StreamId]:
        """The ends of an open channel's stream, and the channel's reach when they were asked for.

        It asks until there is an answer; None instead of the ends when the channel was closed meanwhile.
        """
        reach = channel.reach
        while self._is_open(channel):
            reach = channel.reach
            try:
                tip = await self._store.tip(channel.name)
            except ChannelUnreadable as error:
                channel.unreadable(error)
                await asyncio.sleep(UNREADABLE_RETRY_S)
            except StoreError:
                await asyncio.sleep(RETRY_S)
            else:
                return (tip if self._is_open(channel) else None), reach
        return None, reach

    def _reset(self, channel: Channel, tip: Tip) -> None:
        log.warning("stream reset channel=%r cursor=%s now=%s", channel.name, channel.cursor, tip.last)
        channel.reset(tip)
        self._follow(channel)

    async def check_quiet(self) -> None:
        """Look, every now and then until cancelled, for streams that were reset while nothing came of them."""
        while True:
            await asyncio.sleep(CHECK_S)
            quiet = [channel for channel in self._channels.values() if channel.quiet]
            for channel in self._channels.values():
                channel.quiet = True
            for channel in quiet:
                reach = channel.reach
                try:
                    tip = await self._store.tip(channel.name)
                except StoreError:
                    continue  # the reader has the same trouble, and says so
                if tip.last < reach and self._is_open(channel):
                    self._reset(channel, tip)

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription, and its channel with the last one."""
        subscription.close()
        channel = subscription.channel
        if not channel.listeners and self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
            self._poison.pop(channel.name, None)
            self._reader.unfollow(channel.name)
            channel.close()

    def read_page(self, subscription: Subscription) -> None:
        """Read on from where ``subscription`` stands; all who stand there share one read."""
        channel = subscription.channel
        key = _PageKey(channel, channel.generation, subscription.position)
        page = self._cache.get(key)
        if page is not None:
            asyncio.get_running_loop().call_soon(subscription.page_read, page)
        elif key in self._waiting:
            self._waiting[key].append(subscription)
        else:
            self._waiting[key] = [subscription]
            self._tasks.create_task(self._read(key))

    async def _read(self, key: _PageKey) -> None:
        try:
            page = await self._page(key)
        finally:
            waiting = self._waiting.pop(key)
        if page is None or key.generation != key.channel.generation:
            return  # nobody waits any more, or what was read is of another stream than the one there is now
        for subscription in waiting:
            subscription.page_read(page)

    async def _page(self, key: _PageKey) -> Page | None:
        channel, after = key.channel, key.after
        while channel.listeners and key.generation == channel.generation:
            try:
                async with self._reads:
                    cursor, limit = channel.cursor, channel.page_entries
                    history = await self._store.page(channel.name, after, limit)
            except ChannelUnreadable as error:
                for subscription in self._waiting[key]:
                    subscription.unreadable(error)
                await asyncio.sleep(UNREADABLE_RETRY_S)
            except StoreError:
                await asyncio.sleep(RETRY_S)
            else:
                if history.broken != "reset":
                    return self._encode(key, history, limit, cursor)
                await self._start_over(channel)
        return None

    def _encode(self, key: _PageKey, history: History, limit: int, cursor: StreamId) -> Page:
        channel, entries = key.channel, history.entries
        frames: list[bytes] = []
        size = used = 0
        for entry in entries:
            used += 1
            frame = channel.encode(entry)
            if frame is not None:
                frames.append(frame)
                size += len(frame)
                if size >= CHUNK_BYTES:  # bigger messages than the last page had: the rest is read again
                    break
        if used:
            low, high = PAGE_ENTRIES
            channel.page_entries = max(low, min(high, CHUNK_BYTES * used // max(1, size)))
        gap = None
        if history.tip is not None:
            cursor = max(cursor, history.tip.last)
            if history.broken is not None:
                gap = Gap(channel.name, key.after, history.tip.first, history.broken)
        last = entries[used - 1].id if used else key.after
        page = Page(b"".join(frames), last, used == len(entries) < limit, cursor, gap)
        if not page.complete:
            self._cache.put(key, page)
        return page

    def _skipped(self, channel: str, entry: StreamId) -> None:
        """Count an entry that is no message; say so at the first, the tenth, the hundredth ..."""
        count = self._poison[channel] = self._poison.get(channel, 0) + 1
        if str(count).rstrip("0") == "1":
            log.warning("entry skipped channel=%r id=%s skipped=%d: no messageData that is JSON", channel, entry, count)


class PageCache:
    """A few full pages of history, the least recently used dropped first."""

    def __init__(self) -> None:
        self._pages: OrderedDict[_PageKey, tuple[float, Page]] = OrderedDict()
        self._bytes = 0

    def get(self, key: _PageKey) -> Page | None:
        """The page that starts there, if it is there and fresh."""
        found = self._pages.get(key)
        if found is None:
            return None
        if found[0] < asyncio.get_running_loop().time():
            self._drop(key)
            return None
        self._pages.move_to_end(key)
        return found[1]

    def put(self, key: _PageKey, page: Page) -> None:
        """Keep a page for a while."""
        self._drop(key)
        self._pages[key] = asyncio.get_running_loop().time() + CACHE_S, page
        self._bytes += len(page.frames)
        while self._bytes > CACHE_BYTES:
            self._drop(next(iter(self._pages)))

    def _drop(self, key: _PageKey) -> None:
        found = self._pages.pop(key, None)
        if found is not None:
            self._bytes -= len(found[1].frames)

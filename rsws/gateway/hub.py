"""Which channels are open, and whether the streams they follow are still the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from functools import partial

from rsws.errors import ChannelUnreadable, StoreError
from rsws.gateway.channel import Channel, RingBudget
from rsws.gateway.pages import PORTION, RETRY_S, UNREADABLE_RETRY_S, Pages
from rsws.gateway.subscription import Outlet, Subscription
from rsws.protocol import ZERO, Gap, StreamId, Subscribe, Subscribed
from rsws.streams.reader import Reader
from rsws.streams.store import Store, Tip

log = logging.getLogger("rsws.gateway")

POISON_CHANNELS = 1000
"""For how many channels skipped entries are counted; the one that was longest without is forgotten."""
CHECK_S = 10.0
"""A channel that was quiet for so long is looked after: reading a stream that was reset waits in silence for ever."""


class Hub:
    """Opens a channel at its first subscription and closes it after its last."""

    def __init__(self, store: Store, reader: Reader, tasks: asyncio.TaskGroup) -> None:
        self._store = store
        self._reader = reader
        self._tasks = tasks
        self._channels: dict[str, Channel] = {}
        self._budget = RingBudget()
        self._turns = asyncio.Semaphore(PORTION)
        self._pages = Pages(store, tasks, self._start_over)
        self._poison: dict[str, int] = {}

    def subscribe(
        self, request: Subscribe, outlet: Outlet
    ) -> Coroutine[None, None, tuple[Subscribed, Gap | None, Subscription]]:
        """Make a subscription; it hands over nothing before its ``advance()`` is called for the first time.

        Where the stream ends is asked for at once: what is published after this call comes after ``$``.

        Raises:
            StoreError: (when awaited) Redis does not say where the stream ends.
        """
        channel = self._channels.get(request.channel)
        reach = channel.reach if channel is not None else ZERO
        return self._subscribe(request, outlet, channel, reach, self._store.tip(request.channel))

    async def _subscribe(
        self, request: Subscribe, outlet: Outlet, channel: Channel | None, reach: StreamId, asked: Awaitable[Tip]
    ) -> tuple[Subscribed, Gap | None, Subscription]:
        name = request.channel
        tip = await asked
        async with self._turns:
            await asyncio.sleep(0)
        gap = None
        if request.last is not None:
            start = position = await self._store.before_last(name, request.last, tip)
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
        subscription = Subscription(channel, position, outlet, self._pages, marker=request.marker)
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
            self._pages.forget(channel)
            self._reader.unfollow(channel.name)
            channel.close()

    def _skipped(self, channel: str, entry: StreamId) -> None:
        """Count an entry that is no message; say so at the first, the tenth, the hundredth ..."""
        count = self._poison.pop(channel, 0) + 1
        self._poison[channel] = count
        if len(self._poison) > POISON_CHANNELS:
            del self._poison[next(iter(self._poison))]
        if str(count).rstrip("0") == "1":
            log.warning("entry skipped channel=%r id=%s skipped=%d: no messageData that is JSON", channel, entry, count)

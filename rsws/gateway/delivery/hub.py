"""Which channels are open, and whether the streams they follow are still the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from rsws.errors import ChannelUnreadable, StoreError
from rsws.gateway.delivery.channel import Channel, Framer, Listener, RingBudget
from rsws.gateway.delivery.pages import RETRY_S, YIELD_EVERY, Pages
from rsws.gateway.delivery.subscription import Outlet, Subscription
from rsws.gateway.limits import DEFAULTS, Limits
from rsws.gateway.metrics import Metrics
from rsws.protocol import MAX_DEPTH, ZERO, Gap, StreamId, Subscribe, Subscribed
from rsws.streams.reader import Reader
from rsws.streams.store import Store, StreamBounds

log = logging.getLogger("rsws.gateway")

POISON_CHANNELS = 1000
"""For how many channels skipped entries are counted; the one that was longest without is forgotten."""


class _Look(NamedTuple):
    """A look at a stream's ends that is under way, and where its channel stood when it was asked for."""

    bounds: Awaitable[StreamBounds]
    channel: Channel | None
    """None when it was not open."""
    generation: int
    cursor: StreamId
    beyond_cursor: tuple[Listener, ...]


class Hub:
    """Opens a channel at its first subscription and closes it after its last."""

    def __init__(
        self,
        store: Store,
        reader: Reader,
        tasks: asyncio.TaskGroup,
        metrics: Metrics,
        make_framer: Callable[[bytes], Framer],
        *,
        limits: Limits = DEFAULTS,
    ) -> None:
        self._store = store
        self._reader = reader
        self._tasks = tasks
        self._limits = limits
        self.metrics = metrics
        self._channels: dict[str, Channel] = {}
        self._make_channel = partial(
            Channel,
            budget=RingBudget(limits.rings_bytes, limits.ring_bytes),
            on_poison=self._skipped,
            on_interrupted=self._interrupted,
            make_framer=make_framer,
            metrics=metrics,
        )
        self._portions = asyncio.Semaphore(YIELD_EVERY)
        self._pages = Pages(store, tasks, self._check, limits=limits)
        self._poison: dict[str, int] = {}

    @property
    def channels(self) -> Collection[Channel]:
        """Those that are open."""
        return self._channels.values()

    def subscribe(
        self, request: Subscribe, outlet: Outlet
    ) -> Coroutine[None, None, tuple[Subscribed, Gap | None, Subscription]]:
        """Make a subscription; it hands over nothing before its ``advance()`` is called for the first time.

        Where the stream ends is asked for at once: what is published after this call comes after ``$``.

        Raises:
            StoreError: (when awaited) Redis does not say where the stream ends.
        """
        return self._subscribe(request, outlet, self._look(request.channel))

    async def _subscribe(
        self, request: Subscribe, outlet: Outlet, look: _Look
    ) -> tuple[Subscribed, Gap | None, Subscription]:
        name = request.channel
        bounds = await look.bounds
        async with self._portions:
            await asyncio.sleep(0)
        while not self._is_current(look):
            look = self._look(name)
            bounds = await look.bounds
        gap = None
        if request.last is not None:
            start = position = await self._store.before_last(name, request.last, bounds)
        else:
            start = position = bounds.last if request.after is None else request.after
            if position > bounds.last:
                gap = Gap(name, position, bounds.first, "reset")
                position = ZERO
        self._compare(look, bounds)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = self._make_channel(name, bounds.last)
            self._follow(channel)
        elif channel.is_unreadable:  # no more, it seems: nobody has to wait for the next attempt
            channel.reopen(bounds.last)
            self._follow(channel)
        subscription = Subscription(channel, position, outlet, self._pages, marker=request.marker)
        return Subscribed(name, start, bounds.last), gap, subscription

    def _follow(self, channel: Channel) -> None:
        self._reader.follow(channel.name, channel.cursor, channel)

    def _is_open(self, channel: Channel) -> bool:
        return self._channels.get(channel.name) is channel

    def _interrupted(self, channel: Channel) -> None:
        """Reading has stopped and may have missed something."""
        self._tasks.create_task(self._reopen(channel))

    # --- whether the stream is still the one that was read ---

    def _look(self, name: str) -> _Look:
        """Ask for a stream's ends, and note where its channel stands at this moment."""
        channel = self._channels.get(name)
        bounds = self._store.bounds(name)
        if channel is None:
            return _Look(bounds, None, 0, ZERO, ())
        return _Look(bounds, channel, channel.generation, channel.cursor, tuple(channel.beyond_cursor))

    def _is_current(self, look: _Look) -> bool:
        """Whether the channel is still the one that was looked at: neither closed nor reset meanwhile."""
        channel = look.channel
        return channel is None or (self._is_open(channel) and channel.generation == look.generation)

    def _compare(self, look: _Look, bounds: StreamBounds) -> bool:
        """Have those start over who stood beyond the stream's end when it was looked at; False when all did."""
        channel = look.channel
        if channel is None or not self._is_current(look):
            return True
        if bounds.last < look.cursor:
            self._reset(channel, bounds)
            return False
        channel.reset_beyond_cursor(look.beyond_cursor, bounds)
        return True

    def _reset(self, channel: Channel, bounds: StreamBounds) -> None:
        log.warning("stream reset channel=%r cursor=%s now=%s", channel.name, channel.cursor, bounds.last)
        channel.reset(bounds)
        self._follow(channel)

    async def _reopen(self, channel: Channel) -> None:
        """Find out where to go on after reading was interrupted, however long that takes."""
        while self._is_open(channel):
            look = self._look(channel.name)
            try:
                bounds = await look.bounds
            except ChannelUnreadable as error:
                channel.unreadable(error)
                await asyncio.sleep(self._limits.streams.unreadable_retry_s)
            except StoreError:
                await asyncio.sleep(RETRY_S)
            else:
                if self._is_current(look) and self._compare(look, bounds):
                    channel.reopen(bounds.last)
                    self._follow(channel)
                return

    async def _check(self, channel: Channel) -> None:
        look = self._look(channel.name)
        with suppress(StoreError):  # the reader has the same trouble, and says so
            self._compare(look, await look.bounds)

    async def check_quiet(self) -> None:
        """Look, every now and then until cancelled, for streams that were reset while nothing came of them."""
        while True:
            await asyncio.sleep(self._limits.check_s)
            quiet = [channel for channel in self._channels.values() if channel.quiet]
            for channel in self._channels.values():
                channel.quiet = True
            for channel in quiet:
                if self._is_open(channel):
                    await self._check(channel)

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription, and its channel with the last one."""
        subscription.close()
        self._pages.leave(subscription)
        channel = subscription.channel
        if not channel.listeners and self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
            self._pages.forget(channel)
            self._reader.unfollow(channel.name)
            channel.close()

    def _skipped(self, channel: str, entry: StreamId) -> None:
        """Count an entry that is no message; say so at the first, the tenth, the hundredth ..."""
        self.metrics.entries_skipped += 1
        count = self._poison.pop(channel, 0) + 1
        self._poison[channel] = count
        if len(self._poison) > POISON_CHANNELS:
            del self._poison[next(iter(self._poison))]
        if str(count).rstrip("0") == "1":
            text = "entry skipped channel=%r id=%s skipped=%d: no messageData that is JSON, at most %d levels deep"
            log.warning(text, channel, entry, count, MAX_DEPTH)

"""The open channels, and the checks whether the streams they follow are still the same."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial

import msgspec

from rsws.errors import ChannelUnreadable, ErrorCode, RedisRefused, RedisUnavailable, RequestError, StoreError
from rsws.gateway.delivery.catalogue import ChannelPage, list_channels
from rsws.gateway.delivery.channel import Channel, Framer, Listener, RingBudget
from rsws.gateway.delivery.pages import RETRY_S, YIELD_EVERY, Pages
from rsws.gateway.delivery.subscription import Outlet, Subscription
from rsws.gateway.limits import DEFAULTS, Limits
from rsws.gateway.metrics import Metrics
from rsws.gateway.portions import Portions
from rsws.log_lines import LogLine
from rsws.protocol import MAX_DEPTH, ZERO, End, Gap, StreamId, Subscribe, Subscribed
from rsws.streams.replies import StreamBounds, lasting_error
from rsws.streams.router import Router

log = logging.getLogger("rsws.gateway")

FEW_LISTENERS = 8
"""The listeners that are written to in less time than a round trip to Redis takes."""
POISON_CHANNELS = 1000
"""The maximum number of channels whose skipped entries are counted; the one without any for longest is forgotten."""


class _Look(msgspec.Struct, frozen=True):
    """The state of a channel when its stream's bounds were requested."""

    channel: Channel | None
    """The stream's channel; None when it was not open."""
    generation: int
    cursor: StreamId
    beyond_cursor: tuple[Listener, ...]


_NOT_OPEN = _Look(None, 0, ZERO, ())


class Opened(msgspec.Struct, frozen=True):
    """A subscription that was made, and what the client is told of it first."""

    subscribed: Subscribed
    gap: Gap | None
    subscription: Subscription


class Opening(msgspec.Struct, eq=False):
    """A subscribe under way."""

    request: Subscribe
    outlet: Outlet
    on_end: Callable[[Subscription], None]
    """See :meth:`Hub.subscribe`, for ``on_result``, too."""
    on_result: Callable[[Opened | End | Exception], None]
    is_cancelled: bool = False
    task: asyncio.Task[None] | None = None
    """What asks for more than the stream's bounds; None where they are enough."""

    def cancel(self) -> None:
        """Make no subscription any more, and say nothing: the client is gone."""
        self.is_cancelled = True
        if self.task is not None:
            self.task.cancel()


class Hub:
    """The open channels: each is opened at its first subscription and closed after its last.

    Args:
        max_channels: The most channels that are open at the same time.
    """

    def __init__(
        self,
        streams: Router,
        tasks: asyncio.TaskGroup,
        metrics: Metrics,
        make_framer: Callable[[bytes], Framer],
        max_channels: int,
        *,
        limits: Limits = DEFAULTS,
    ) -> None:
        self._streams = streams
        self._max_channels = max_channels
        self._tasks = tasks
        self._limits = limits
        self.metrics = metrics
        self._channels: dict[str, Channel] = {}
        self._make_channel = partial(
            Channel,
            budget=RingBudget(limits.rings_bytes, limits.ring_bytes),
            on_poison=self._skipped,
            on_interrupted=self._interrupted,
            on_replaced=self._replaced,
            make_framer=make_framer,
            metrics=metrics,
        )
        self._portions = Portions(YIELD_EVERY)
        self._pages = Pages(streams, tasks, self._check, limits=limits)
        self._poison: dict[str, int] = {}
        self._told: set[Listener] = set()
        """The subscriptions that were told that a connection to read their channel is missing."""

    @property
    def channels(self) -> Collection[Channel]:
        """The channels that are open."""
        return self._channels.values()

    async def list_channels(self, match: str, cursor: str | None, may_read: Callable[[str], bool]) -> ChannelPage:
        """See :func:`rsws.gateway.delivery.catalogue.list_channels`; the subscriptions are those of this process."""

        def subscribers(name: str) -> int:
            channel = self._channels.get(name)
            return 0 if channel is None else len(channel.listeners)

        return await list_channels(self._streams, match, cursor, may_read, subscribers)

    def subscribe(
        self,
        request: Subscribe,
        outlet: Outlet,
        on_end: Callable[[Subscription], None],
        on_result: Callable[[Opened | End | Exception], None],
    ) -> Opening:
        """Make a subscription; it sends nothing before its ``advance()`` is called for the first time.

        The stream's bounds are requested within this call: what is published after it comes after ``$``.

        Args:
            on_end: Called when the channel has ended, if that was asked for. The subscription sends nothing any more,
                and has to be passed to :meth:`unsubscribe` soon, but not within this call.
            on_result: Called once, maybe before this returns: with the subscription; with the end, where the client has
                been handed the entry that is it; with a StoreError where Redis did not return the stream's bounds, or a
                RequestError where as many channels are open as may be; or with any other exception, which is a bug.
        """
        opening = Opening(request, outlet, on_end, on_result)
        look = self._look(request.channel)
        self._streams.look(request.channel, partial(self._looked, opening, look))
        return opening

    def read_behind(self, name: str) -> None:
        """Have a channel with few listeners read right behind an append to it, which has just been asked for.

        The message mostly comes before the ack then, and so this is not for one who listens, nor for many, for whom the
        ack would have to wait.
        """
        channel = self._channels.get(name)
        if channel is not None and len(channel.listeners) <= FEW_LISTENERS:
            self._streams.read_behind(name)

    def _looked(self, opening: Opening, look: _Look, bounds: StreamBounds | StoreError) -> None:
        if self._portions.has_room():
            self._serve(opening, look, bounds)
        else:
            self._portions.wait(partial(self._serve, opening, look, bounds))

    def _serve(self, opening: Opening, look: _Look, bounds: StreamBounds | StoreError) -> None:
        """Serve a subscribe now that the stream's bounds are known; in a task where more has to be asked."""
        if opening.is_cancelled:
            return
        request = opening.request
        if isinstance(bounds, StoreError):
            opening.on_result(bounds)
        elif request.last is not None or (request.end and request.resume) or not self._is_current(look):
            opening.task = self._tasks.create_task(self._serve_later(opening, look, bounds))
        else:
            try:
                result: Opened | End | Exception = self._open(opening, look, bounds)
            except Exception as error:
                result = error
            opening.on_result(result)

    async def _serve_later(self, opening: Opening, look: _Look, bounds: StreamBounds) -> None:
        request, name = opening.request, opening.request.channel
        result: Opened | End | Exception
        try:
            if (
                request.end
                and request.resume
                and request.after is not None
                and await self._ends_at(name, request.after)
            ):
                result = End(name, request.after)
            else:
                while not self._is_current(look):
                    look = self._look(name)
                    bounds = await self._streams.bounds(name)
                start = None
                if request.last is not None:
                    start = await self._streams.before_last(name, request.last, bounds)
                result = self._open(opening, look, bounds, start)
        except Exception as error:
            result = error
        opening.on_result(result)

    def _open(self, opening: Opening, look: _Look, bounds: StreamBounds, start: StreamId | None = None) -> Opened:
        """Make the subscription.

        Args:
            start: Where it starts, if that had to be found out.

        Raises:
            RequestError: As many channels are open as may be.
        """
        request, name = opening.request, opening.request.channel
        if start is None:
            start = bounds.last if request.after is None else request.after
        gap, position = None, start
        if request.last is None and position > bounds.last:
            gap = Gap(name, position, bounds.first, "reset")
            position = ZERO
        self._reset_if_rolled_back(look, bounds)
        channel = self._channels.get(name)
        if channel is None:
            self._check_room(name)
            channel = self._channels[name] = self._make_channel(name, bounds.last)
            self._follow(channel)
        elif channel.is_unreadable:  # maybe not any more: no need to wait for the reader's next attempt
            self._follow(channel)
        on_end = opening.on_end if request.end else None
        subscription = Subscription(
            channel, position, opening.outlet, self._pages, marker=request.marker, on_end=on_end
        )
        return Opened(Subscribed(name, start, bounds.last), gap, subscription)

    async def _ends_at(self, name: str, position: StreamId) -> bool:
        """Whether the entry at a position ends its channel."""
        history = await self._streams.page(name, position.before(), 1, 1)
        return any(entry.ends and entry.id == position for entry in history.entries)

    def _check_room(self, name: str) -> None:
        if len(self._channels) >= self._max_channels:
            self.metrics.channels_refused += 1
            text = (
                f"the gateway follows {self._max_channels} channels, and may not follow more (--max-channels); "
                "try again later, or at another gateway"
            )
            raise RequestError(ErrorCode.TOO_MANY, text, channel=name)

    def _follow(self, channel: Channel) -> None:
        self._streams.follow(channel.name, channel.cursor, channel)

    def _is_open(self, channel: Channel) -> bool:
        return self._channels.get(channel.name) is channel

    def _interrupted(self, channel: Channel) -> None:
        """Reopen a channel whose reading has stopped and may have missed something."""
        self._tasks.create_task(self._reopen(channel))

    def _replaced(self, channel: Channel) -> None:
        """Begin a channel anew whose stream is known to be another one."""
        self._tasks.create_task(self._reopen(channel, is_other=True))

    # --- whether the stream is still the one that was read ---

    def _look(self, name: str) -> _Look:
        """Record the state of a channel, whose stream's bounds are requested next."""
        channel = self._channels.get(name)
        if channel is None:
            return _NOT_OPEN
        return _Look(channel, channel.generation, channel.cursor, tuple(channel.beyond_cursor))

    def _is_current(self, look: _Look) -> bool:
        """Whether the channel is still the same as at the request: neither closed nor reset since."""
        channel = look.channel
        return channel is None or (
            self._channels.get(channel.name) is channel and channel.generation == look.generation
        )

    def _reset_if_rolled_back(self, look: _Look, bounds: StreamBounds) -> bool:
        """Restart the listeners that were beyond the stream's end at the request; False when the channel was reset."""
        channel = look.channel
        if channel is None or (bounds.last >= look.cursor and not look.beyond_cursor) or not self._is_current(look):
            return True
        if bounds.last < look.cursor:
            self._reset(channel, bounds)
            return False
        channel.reset_beyond_cursor(look.beyond_cursor, bounds)
        return True

    def _reset(self, channel: Channel, bounds: StreamBounds) -> None:
        log.warning(LogLine("stream reset", channel=channel.name, cursor=str(channel.cursor), now=str(bounds.last)))
        channel.reset(bounds)
        self._follow(channel)

    async def _reopen(self, channel: Channel, *, is_other: bool = False) -> None:
        """Find out where to continue after reading was interrupted, and retry until that succeeds."""
        lasts_at = time.monotonic() + self._limits.streams.lasting_s
        while self._is_open(channel):
            look = self._look(channel.name)
            try:
                bounds = await self._streams.bounds(channel.name)
            except ChannelUnreadable as error:
                channel.unreadable(error)
                await asyncio.sleep(self._limits.streams.unreadable_retry_s)
            except StoreError as error:
                if isinstance(error, RedisRefused) and time.monotonic() >= lasts_at:
                    channel.unreadable(lasting_error(error))
                await asyncio.sleep(RETRY_S)
            else:
                if is_other and self._is_current(look):
                    self._reset(channel, bounds)
                elif self._is_current(look) and self._reset_if_rolled_back(look, bounds):
                    channel.reopen(bounds.last)
                    self._follow(channel)
                return

    async def _check(self, channel: Channel) -> None:
        look = self._look(channel.name)
        with suppress(StoreError):  # the reader gets the same error, and reports it
            self._reset_if_rolled_back(look, await self._streams.bounds(channel.name))

    def tell_missing(self, trouble_of: Callable[[str], str | None]) -> None:
        """Tell each subscription once that a connection to read its channel is missing.

        Args:
            trouble_of: Returns why it is, given a channel's name; None where there is one.
        """
        told, self._told = self._told, set()
        for channel in self.channels:
            trouble = trouble_of(channel.name)
            if trouble is not None:
                self._told |= channel.listeners
                for listener in channel.listeners - told:
                    listener.unreadable(RedisUnavailable(trouble))

    async def check_quiet(self) -> None:
        """Check quiet channels for streams that were reset where Redis would not tell of it, until cancelled."""
        while True:
            await asyncio.sleep(self._limits.check_s)
            quiet = [channel for channel in self._channels.values() if channel.quiet]
            for channel in self._channels.values():
                channel.quiet = True
            for channel in quiet:
                is_told = self._streams.is_told_of(channel.name) and not channel.beyond_cursor
                if self._is_open(channel) and not is_told:
                    await self._check(channel)
                    await asyncio.sleep(self._limits.check_pause_s)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Close a subscription, and its channel if it was the last."""
        subscription.close()
        self._pages.leave(subscription)
        channel = subscription.channel
        if not channel.listeners and self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
            self._pages.forget(channel)
            self._streams.unfollow(channel.name)
            channel.close()

    def _skipped(self, channel: str, entry: StreamId) -> None:
        """Count an entry that is not a message; log the first, the tenth, the hundredth ... of a channel."""
        self.metrics.entries_skipped += 1
        count = self._poison.pop(channel, 0) + 1
        self._poison[channel] = count
        if len(self._poison) > POISON_CHANNELS:
            del self._poison[next(iter(self._poison))]
        if str(count).rstrip("0") == "1":
            field = self._streams.fields.of(channel).decode()
            text = f"entry skipped: no {field} that is JSON, at most {MAX_DEPTH} levels deep"
            log.warning(LogLine(text, channel=channel, id=str(entry), skipped=count))

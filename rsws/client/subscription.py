"""Subscriptions: what the application iterates over, and how each of its channels stands with the gateway. No I/O.

The queue between the two is bounded, and reading the connection never waits for the application (whose loop may
itself wait for an ack on that connection). When the queue is full, a channel does what the gateway does for a slow
client: it lets the stream be the buffer. It unsubscribes, remembers its position, and subscribes after it again
once the queue has drained. What can't be had again from the stream is queued all the same, in a form that has a bound:
gaps of a channel with nothing between them are one gap, and of its errors only the last is kept.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from enum import Enum, auto
from types import TracebackType
from typing import Self, TypeAlias, TypeVar, assert_never, cast

import msgspec

from rsws.client.limits import DEFAULTS, Limits
from rsws.client.log import Warnings, log
from rsws.errors import ErrorCode, SubscribeRefused
from rsws.protocol import (
    ZERO,
    CaughtUp,
    Error,
    Gap,
    Message,
    StreamId,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    encode_request,
)
from rsws.text import safe

Event: TypeAlias = Message | Subscribed | CaughtUp | Gap | Error
"""What a subscription with ``events=True`` yields."""
T_co = TypeVar("T_co", covariant=True)


class _Notice:
    """A gap or an error in the queue, which others of its kind may join until the application takes it."""

    def __init__(self, event: Gap | Error) -> None:
        self.event = event
        self.is_queued = True

    def join(self, event: Gap | Error) -> None:
        """One event for both: from the beginning of the one to the end of the other."""
        if isinstance(self.event, Gap) and isinstance(event, Gap):
            reason = self.event.reason if event.reason == "trimmed" else event.reason
            event = Gap(event.channel, self.event.last_message_id, event.resumes_at, reason)
        self.event = event


class Inbox:
    """What the channels of one subscription have received and the application has not.

    Attributes:
        events: Whether the application wants events beside the messages.
        limits: What it may hold.
        ended: Whether nothing is taken any more.
        feeds: The channels.
        paused: Those of them that wait for room.
    """

    def __init__(
        self,
        starts: Iterable[Subscribe],
        events: bool,
        post: Callable[[Feed], None],
        forget: Callable[[Feed], None],
        limits: Limits = DEFAULTS,
    ) -> None:
        self.events = events
        self.limits = limits
        self.ended = False
        self.feeds = [Feed(start, self, post, forget) for start in starts]
        self.paused: set[Feed] = set()
        self._queue: deque[Event | _Notice] = deque()
        self._bytes = 0
        self._most_entries = limits.queue_entries
        self._most_bytes = limits.queue_bytes
        self._news = asyncio.Event()
        self._error: Exception | None = None

    @property
    def queued(self) -> int:
        """How many items there are to get."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether the next message has to wait in the stream."""
        return len(self._queue) >= self._most_entries or self._bytes >= self._most_bytes

    @property
    def _drained(self) -> bool:
        # Not only when it is empty: the next messages come while the application is busy with the last ones.
        return 4 * len(self._queue) <= self._most_entries and 4 * self._bytes <= self._most_bytes

    def put(self, item: Event | _Notice) -> None:
        """Queue it for the application."""
        if self.ended:
            return
        if isinstance(item, Message):
            self._bytes += sys.getsizeof(item.json)
        self._queue.append(item)
        self._news.set()

    async def get(self) -> Event:
        """The next item.

        Raises:
            StopAsyncIteration: It has ended and nothing is left.
            Exception: The error it has ended with.
        """
        while not self._queue:
            if self.ended:
                raise StopAsyncIteration if self._error is None else self._error.with_traceback(None)
            self._news.clear()
            await self._news.wait()
        item = self._queue.popleft()
        if isinstance(item, Message):
            self._bytes -= sys.getsizeof(item.json)
        elif isinstance(item, _Notice):
            item.is_queued = False
            item = item.event
        if self.paused and self._drained:
            paused, self.paused = self.paused, set()
            for feed in paused:
                feed.sync()
        return item

    def refused(self, feed: Feed, reply: Error) -> None:
        """The gateway refused a channel. With events the other channels go on; without, and with none left, it ends."""
        self.feeds.remove(feed)
        if self.events:
            self.put(reply)
        if not (self.events and self.feeds):
            self.end(SubscribeRefused(f"{safe(feed.channel)}: {reply.error}", reply.code, feed.channel))

    def end(self, error: Exception | None = None) -> None:
        """Take nothing more; what is queued is still to be had when there is an error, and is dropped otherwise."""
        if self.ended:
            return
        self.ended = True
        self._error = error
        self.paused.clear()
        if error is None:
            self._queue.clear()
        self._news.set()
        for feed in self.feeds:
            feed.sync()


class _State(Enum):
    OFF = auto()
    JOINING = auto()
    """Subscribe was sent."""
    ON = auto()
    BEHIND = auto()
    """A message was not taken, for want of room; so none is until it comes again from the stream."""
    LEAVING = auto()
    """Unsubscribe was sent."""


_PASSING = (ErrorCode.REDIS_UNAVAILABLE, ErrorCode.REDIS_REFUSED, ErrorCode.CHANNEL_UNREADABLE)
"""Why a subscription that was good may be refused for a while."""


class Feed:
    """One channel of a subscription: what the gateway was asked last, and the position to go on from.

    One request at a time is under way, and messages count in state ON alone. So those of a subscription that was
    given up, which may still be on the wire, can't be taken for messages of the next one: the gateway sends none
    of them behind its ``unsubscribed``.

    Args:
        start: The subscribe to send for as long as no position is known.
        inbox: Where messages and events go.
        post: Has :meth:`next_frame` called when something can be sent.
        forget: Called when the gateway knows nothing of this feed and will not hear of it again.
    """

    def __init__(
        self, start: Subscribe, inbox: Inbox, post: Callable[[Feed], None], forget: Callable[[Feed], None]
    ) -> None:
        self.channel = start.channel
        self.inbox = inbox
        self.forgotten = asyncio.Event()
        self._start = start
        self._post = post
        self._forget = forget
        self._state = _State.OFF
        self._position: StreamId | None = None
        self._announced = False
        self._caught_up = False
        self._notices: dict[type[Gap | Error], _Notice] = {}
        """Those since the last message or event, of each kind."""
        self._warnings = Warnings(inbox.limits)
        self._in_trouble = False
        self._delays = self.inbox.limits.retry.waits_s()
        self._retry: asyncio.TimerHandle | None = None

    def sync(self) -> None:
        """What is wanted of the gateway, or what it has done, has changed: see to what is to be done next."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self.inbox.ended and self._state is _State.OFF:
            self._forget(self)
            self.forgotten.set()
        else:
            self._post(self)

    def next_frame(self) -> bytes | None:
        """The request to send now; None when all is as it should be, or an answer is awaited first."""
        wanted = not self.inbox.ended and self not in self.inbox.paused
        request: Subscribe | Unsubscribe
        if self._state is _State.OFF and wanted:
            self._state = _State.JOINING
            start = self._start if self._position is None else Subscribe(self.channel, self._position)
            request = msgspec.structs.replace(start, marker=self.inbox.events and not self._caught_up)
        elif self._state is _State.BEHIND or (self._state is _State.ON and not wanted):
            self._state = _State.LEAVING
            request = Unsubscribe(self.channel)
        else:
            return None
        return encode_request(request).encode()

    def disconnected(self) -> None:
        """The gateway knows nothing any more: go on from the position with the next connection."""
        self._state = _State.OFF
        self._announced = self._caught_up = False
        if not self.inbox.full:
            self.inbox.paused.discard(self)
        elif not self.inbox.ended:
            self.inbox.paused.add(self)
        self.sync()

    def receive(self, reply: Message | Subscribed | Unsubscribed | CaughtUp | Gap | Error) -> None:
        """Take what the gateway says of this channel."""
        match self._state:
            case _State.ON:
                self._go_on(reply)
            case _State.JOINING if isinstance(reply, Subscribed):
                self._joined(reply)
            case _State.JOINING if isinstance(reply, Error):
                self._refused(reply)
            case _State.LEAVING if isinstance(reply, Unsubscribed):
                self._state = _State.OFF
                self.sync()
            case _:
                pass  # of a subscription that was given up

    def _go_on(self, reply: Message | Subscribed | Unsubscribed | CaughtUp | Gap | Error) -> None:
        inbox = self.inbox
        match reply:
            case Message():
                if not inbox.full:
                    self._position = reply.id
                    self._put(reply)
                else:
                    self._state = _State.BEHIND
                    inbox.paused.add(self)
                    self.sync()
            case CaughtUp() if inbox.events and not self._caught_up:
                self._caught_up = True
                self._put(reply)
            case Gap():
                if reply.reason == "reset":
                    self._position = ZERO  # ids begin anew
                self._notify(reply, f"{self.channel}: gap after {reply.last_message_id} ({reply.reason})")
            case Error():
                self._notify(reply, f"{self.channel}: {reply.error} ({reply.code})")
            case Subscribed() | Unsubscribed() | CaughtUp():
                pass  # nothing was asked
            case _:
                assert_never(reply)

    def _put(self, item: Message | Subscribed | CaughtUp) -> None:
        self._notices.clear()
        self.inbox.put(item)

    def _notify(self, event: Gap | Error, text: str) -> None:
        """Tell the application: as an event, or in the log when it does not want events."""
        if not self.inbox.events:
            self._warnings.add(text)
            return
        notice = self._notices.get(type(event))
        if notice is not None and notice.is_queued:
            notice.join(event)
        else:
            notice = self._notices[type(event)] = _Notice(event)
            self.inbox.put(notice)

    def _joined(self, reply: Subscribed) -> None:
        self._state = _State.ON
        self._position = reply.last_message_id
        self._in_trouble = False
        self._delays = self.inbox.limits.retry.waits_s()
        if self.inbox.events and not self._announced:
            self._announced = True
            self._put(reply)
        self.sync()  # it may not be wanted any more

    def _refused(self, reply: Error) -> None:
        self._state = _State.OFF
        passing = _PASSING if self._position is not None else (ErrorCode.REDIS_UNAVAILABLE,)
        if self.inbox.ended:
            self.sync()
        elif reply.code in passing:
            if not self._in_trouble:
                self._in_trouble = True
                self._notify(reply, f"{self.channel}: {reply.error} ({reply.code}); trying again")
            self._retry = asyncio.get_running_loop().call_later(next(self._delays), self.sync)
        else:
            self._forget(self)
            self.forgotten.set()
            self.inbox.refused(self, reply)


class Subscription(AsyncIterator[T_co]):
    """The messages of one or more channels in one iterator, each channel in its own order.

    It begins at once, not with the first step of the iteration. It goes on across reconnects. It ends with
    :meth:`close`, with the ``async with`` block it is used in, or with the client; not with a ``break``.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    @property
    def queued(self) -> int:
        """Messages and events that were received and not taken yet."""
        return self._inbox.queued

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        """The next message or event. Cancelling it loses nothing.

        Raises:
            SubscribeRefused: The gateway refused the channel; with events, the last one of the channels.
            ConnectionLost: The connection is lost for good. What was received before it has been yielded.
            Unauthorized: The gateway does not take the token any more.
        """
        return cast(T_co, await self._inbox.get())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End it. The iteration stops, what is queued is dropped, the channels are free for another subscription."""
        self._inbox.end()
        timeout_s = self._inbox.limits.unsubscribe_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                for feed in self._inbox.feeds:
                    await feed.forgotten.wait()
        except TimeoutError:
            log.info("the gateway has not confirmed an unsubscribe within %g s", timeout_s)

"""Subscriptions: the iterator that an application reads, and the state of each of its channels at the gateway. No I/O.

The queue between the two is bounded, and reading the connection never waits for the application (whose loop may
itself wait for an ack on that connection). When the queue is full, a channel does what the gateway does for a slow
client: it lets the stream be the buffer. It unsubscribes, remembers its position, and subscribes after it again
once the queue has drained. What can't be read again from the stream is queued even then, but bounded: gaps of a channel
with nothing between them are merged into one, and only the last of its errors is kept.
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
    End,
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

Event: TypeAlias = Message | Subscribed | CaughtUp | End | Gap | Error
"""What a subscription with ``events=True`` yields."""
T_co = TypeVar("T_co", covariant=True)


class _Notice:
    """A gap or an error in the queue, which later ones are merged into until the application reads it."""

    def __init__(self, event: Gap | Error) -> None:
        self.event = event
        self.is_queued = True

    def join(self, event: Gap | Error) -> None:
        """Merge a later event into this one: gaps become one from first to last, an error replaces the former one."""
        if isinstance(self.event, Gap) and isinstance(event, Gap):
            reason = self.event.reason if event.reason == "trimmed" else event.reason
            event = Gap(event.channel, self.event.last_message_id, event.resumes_at, reason)
        self.event = event


class Inbox:
    """The queue of one subscription: what its channels have received and the application has not read.

    Attributes:
        events: Whether the application wants events beside the messages.
        limits: The limits of the queue, among others.
        ended: Whether nothing more is queued.
        feeds: The channels.
        paused: The channels that wait for room in the queue.
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
        """Whether the queue is full, so that the next message has to wait in the stream."""
        return len(self._queue) >= self._most_entries or self._bytes >= self._most_bytes

    @property
    def _drained(self) -> bool:
        # A quarter full is enough: the next messages arrive while the application handles the last ones.
        return 4 * len(self._queue) <= self._most_entries and 4 * self._bytes <= self._most_bytes

    def put(self, item: Event | _Notice) -> None:
        """Queue ``item`` for the application."""
        if self.ended:
            return
        if isinstance(item, Message):
            self._bytes += sys.getsizeof(item.json)
        self._queue.append(item)
        self._news.set()

    async def get(self) -> Event:
        """Return the next item, and wait for it if there is none.

        Raises:
            StopAsyncIteration: The subscription has ended and nothing is left.
            Exception: The error that the subscription has ended with.
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
        """Handle the refusal of a channel: with events, other channels go on; without, or with none left, it ends."""
        self.feeds.remove(feed)
        if self.events:
            self.put(reply)
        if not (self.events and self.feeds):
            self.end(SubscribeRefused(f"{safe(feed.channel)}: {reply.error}", reply.code, feed.channel))

    def channel_ended(self, feed: Feed, event: End) -> None:
        """Handle that a channel has ended: others go on; with none left it ends once what is queued was read."""
        self.feeds.remove(feed)
        if self.events:
            self.put(event)
        if not self.feeds:
            self.end(StopAsyncIteration())

    def end(self, error: Exception | None = None) -> None:
        """Queue nothing more; what is queued can still be read when there is an error, and is dropped otherwise."""
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
    """A subscribe was sent and is not answered."""
    ON = auto()
    BEHIND = auto()
    """The queue was full and a message was dropped, as are the next ones, until the stream is read again from there."""
    LEAVING = auto()
    """An unsubscribe was sent and is not answered."""


_PASSING = (ErrorCode.REDIS_UNAVAILABLE, ErrorCode.REDIS_REFUSED, ErrorCode.CHANNEL_UNREADABLE)
"""The error codes that are temporary for a channel that was subscribed before."""


class Feed:
    """One channel of a subscription: what the gateway was asked last, and the position to go on from.

    At most one request is unanswered, and messages count in state ON only. So messages of a subscription that was
    given up, which may still be on the wire, can't be mistaken for those of the next one: the gateway sends none
    of them after its ``unsubscribed``.

    Args:
        start: The subscribe to send as long as no position is known.
        inbox: The queue for messages and events.
        post: Has :meth:`next_frame` called when something can be sent.
        forget: Called when the gateway no longer has this subscription and won't be asked for it again.
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
        self._is_of_message = False
        """Whether the position is the id of a message that was received."""
        self._announced = False
        self._caught_up = False
        self._notices: dict[type[Gap | Error], _Notice] = {}
        """The gap and the error queued since the last message or other event; later ones may be merged into them."""
        self._warnings = Warnings(inbox.limits)
        self._in_trouble = False
        self._delays = self.inbox.limits.retry.waits_s()
        self._retry: asyncio.TimerHandle | None = None

    def sync(self) -> None:
        """Queue the next request, after a change of what is wanted of the gateway or of what it has done."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self.inbox.ended and self._state is _State.OFF:
            self._forget(self)
            self.forgotten.set()
        else:
            self._post(self)

    def next_frame(self) -> bytes | None:
        """Return the request to send now; None when none is needed, or an answer has to come first."""
        wanted = not self.inbox.ended and self not in self.inbox.paused
        request: Subscribe | Unsubscribe
        if self._state is _State.OFF and wanted:
            self._state = _State.JOINING
            request = msgspec.structs.replace(self._start, marker=self.inbox.events and not self._caught_up)
            if self._position is not None:
                resume = request.end and self._is_of_message
                request = msgspec.structs.replace(request, after=self._position, last=None, resume=resume)
        elif self._state is _State.BEHIND or (self._state is _State.ON and not wanted):
            self._state = _State.LEAVING
            request = Unsubscribe(self.channel)
        else:
            return None
        return encode_request(request).encode()

    def disconnected(self) -> None:
        """Handle the loss of the connection: the subscription goes on from its position over the next one."""
        self._state = _State.OFF
        self._announced = self._caught_up = False
        if not self.inbox.full:
            self.inbox.paused.discard(self)
        elif not self.inbox.ended:
            self.inbox.paused.add(self)
        self.sync()

    def receive(self, reply: Message | Subscribed | Unsubscribed | CaughtUp | End | Gap | Error) -> None:
        """Handle what the gateway sends about this channel."""
        match self._state:
            case _State.ON:
                self._receive_while_on(reply)
            case _State.JOINING if isinstance(reply, Subscribed):
                self._joined(reply)
            case _State.JOINING if isinstance(reply, End):
                self._ended(reply)
            case _State.JOINING if isinstance(reply, Error):
                self._refused(reply)
            case _State.LEAVING if isinstance(reply, Unsubscribed):
                self._state = _State.OFF
                self.sync()
            case _:
                pass  # it belongs to a subscription that was given up

    def _receive_while_on(self, reply: Message | Subscribed | Unsubscribed | CaughtUp | End | Gap | Error) -> None:
        inbox = self.inbox
        match reply:
            case Message():
                if not inbox.full:
                    self._position = reply.id
                    self._is_of_message = True
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
                    self._position, self._is_of_message = ZERO, False  # ids begin anew
                self._notify(reply, f"{self.channel}: gap after {reply.last_message_id} ({reply.reason})")
            case End():
                self._ended(reply)
            case Error(code=ErrorCode.NOT_ALLOWED):  # another token does not cover it: the gateway has ended it
                self._refused(reply)
            case Error():
                self._notify(reply, f"{self.channel}: {reply.error} ({reply.code})")
            case Subscribed() | Unsubscribed() | CaughtUp():
                pass  # no request is unanswered, so it means nothing
            case _:
                assert_never(reply)

    def _put(self, item: Message | Subscribed | CaughtUp) -> None:
        self._notices.clear()
        self.inbox.put(item)

    def _notify(self, event: Gap | Error, text: str) -> None:
        """Pass an event to the application, or log ``text`` when the application does not want events."""
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
        self.sync()  # the subscription may have ended or been paused meanwhile

    def _ended(self, event: End) -> None:
        self._state = _State.OFF
        self._forget(self)
        self.forgotten.set()
        self.inbox.channel_ended(self, event)

    def _refused(self, reply: Error) -> None:
        self._state = _State.OFF
        passing = _PASSING if self._position is not None else (ErrorCode.REDIS_UNAVAILABLE,)
        if self.inbox.ended:
            self.sync()
        elif reply.code == ErrorCode.RATE_LIMITED:
            wait_s = self.inbox.limits.hold_s(reply.retry_after_s)
            self._retry = asyncio.get_running_loop().call_later(wait_s, self.sync)
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

    It begins immediately, not with the first step of the iteration. It goes on across reconnects. It ends with
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
        """Return the next message or event. Cancelling it loses nothing.

        Raises:
            SubscribeRefused: The gateway refused the channel; with events, the last of the channels.
            ConnectionLost: The connection is lost for good. What was received before has been yielded.
            Unauthorized: The gateway no longer accepts the token.
        """
        return cast(T_co, await self._inbox.get())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the subscription: the iteration stops, the queue is dropped, the channels may be subscribed to again."""
        self._inbox.end()
        timeout_s = self._inbox.limits.unsubscribe_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                for feed in self._inbox.feeds:
                    await feed.forgotten.wait()
        except TimeoutError:
            log.info("the gateway has not confirmed an unsubscribe within %g s", timeout_s)

"""Subscriptions: what the application iterates over, and how each channel stands with the gateway. No I/O.

The queue between the two is bounded, and reading the connection never waits for the application (whose loop may
itself wait for an ack on that connection). When the queue is full, a channel does what the gateway does for a slow
client: it lets the stream be the buffer. It unsubscribes, remembers its position, and subscribes after it again
once the queue has drained.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import replace
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar, assert_never

from rsws.errors import ErrorCode, RswsError, SubscribeRefused
from rsws.protocol import (
    CaughtUp,
    Error,
    Gap,
    Message,
    StreamId,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    ZERO,
    encode_request,
)
from rsws.settings import MIB

QUEUE_ENTRIES = 1000
QUEUE_CHARACTERS = 4 * MIB
"""Of JSON text; a queue may exceed it by one message, which is then the only reason it is full."""
FIRST_RETRY_S = 0.1
MAX_RETRY_S = 5.0
UNSUBSCRIBE_TIMEOUT_S = 2.0

Event: TypeAlias = Message | Subscribed | CaughtUp | Gap | Error
"""What a subscription with ``events=True`` yields."""
T_co = TypeVar("T_co", covariant=True)

log = logging.getLogger("rsws.client")


def retry_delays() -> Iterator[float]:
    """Seconds to wait before each attempt, for ever: doubling, and random so that a herd does not return at once."""
    ceiling = FIRST_RETRY_S
    while True:
        yield random.uniform(0, ceiling)
        ceiling = min(2 * ceiling, MAX_RETRY_S)


class _State(Enum):
    OFF = auto()
    JOINING = auto()
    """Subscribe was sent."""
    ON = auto()
    LEAVING = auto()
    """Unsubscribe was sent."""


class Feed:
    """One channel of a subscription on the wire.

    One request at a time is under way, and what comes counts in state ON alone. So messages of a subscription
    that was given up, which may still be on the wire, can't be taken for those of the next one: the gateway sends
    none of the channel behind its ``unsubscribed``.

    Args:
        start: The first subscribe, for as long as no position is known.
        post: Has :meth:`take` called as soon as something can be sent.
        forget: Called when the gateway has, or will have, nothing to do with this feed any more.
    """

    def __init__(
        self,
        start: Subscribe,
        subscription: Subscription[Any],
        post: Callable[[Feed], None],
        forget: Callable[[Feed], None],
    ) -> None:
        self.channel = start.channel
        self.subscription = subscription
        self.gone = asyncio.Event()
        self._start = start
        self._post = post
        self._forget = forget
        self._state = _State.OFF
        self._position: StreamId | None = None
        self._paused = False
        self._announced = False
        self._caught_up = False
        self._in_trouble = False
        self._delays = retry_delays()
        self._retry: asyncio.TimerHandle | None = None

    @property
    def _wanted(self) -> bool:
        return not (self._paused or self.subscription.ended)

    def take(self) -> bytes | None:
        """The request to send now; None when all is as it should be, or an answer is still awaited."""
        request: Subscribe | Unsubscribe
        if self._state is _State.OFF and self._wanted:
            self._state = _State.JOINING
            start = self._start if self._position is None else Subscribe(self.channel, self._position)
            request = replace(start, marker=self.subscription.events and not self._caught_up)
        elif self._state is _State.ON and not self._wanted:
            self._state = _State.LEAVING
            request = Unsubscribe(self.channel)
        else:
            return None
        return encode_request(request).encode()

    def receive(self, reply: Message | Subscribed | Unsubscribed | CaughtUp | Gap | Error) -> None:
        """Take what the gateway says of this channel."""
        match self._state:
            case _State.ON:
                self._receive_on(reply)
            case _State.JOINING if isinstance(reply, Subscribed):
                self._joined(reply)
            case _State.JOINING if isinstance(reply, Error):
                self._refused(reply)
            case _State.LEAVING if isinstance(reply, Unsubscribed):
                self._turn_off()
            case _:
                pass  # of a subscription that was given up

    def _receive_on(self, reply: Message | Subscribed | Unsubscribed | CaughtUp | Gap | Error) -> None:
        subscription = self.subscription
        match reply:
            case Message():
                if not subscription.full:
                    self._position = reply.id
                    subscription.put(reply)
                elif not self._paused:
                    self._paused = True
                    self._post(self)
            case CaughtUp():
                self._caught_up = True
                subscription.put(reply)
            case Gap():
                # After a reset the ids start anew; everything there is follows.
                self._position = ZERO if reply.reason == "reset" else reply.last_message_id
                subscription.notify(reply, f"{self.channel}: gap after {reply.last_message_id} ({reply.reason})")
            case Error():
                subscription.notify(reply, f"{self.channel}: {reply.error} ({reply.code})")
            case Subscribed() | Unsubscribed():
                pass  # nothing was asked
            case _:
                assert_never(reply)

    def _joined(self, reply: Subscribed) -> None:
        self._state = _State.ON
        self._position = reply.last_message_id
        self._in_trouble = False
        self._delays = retry_delays()
        if not self._announced:
            self._announced = True
            if self.subscription.events:
                self.subscription.put(reply)
        self._post(self)  # it may be unwanted by now

    def _refused(self, reply: Error) -> None:
        self._state = _State.OFF
        lasting = self._position is None and reply.code != ErrorCode.REDIS_UNAVAILABLE
        if self.subscription.ended:
            self._turn_off()
        elif lasting or reply.code not in _PASSING:
            self.subscription.refused(self, reply)
        else:
            if not self._in_trouble:
                self._in_trouble = True
                self.subscription.notify(reply, f"{self.channel}: {reply.error} ({reply.code}); trying again")
            self._retry = asyncio.get_running_loop().call_later(next(self._delays), self._post, self)

    def resume(self) -> None:
        """Go on after a pause: there is room again."""
        if self._paused:
            self._paused = False
            self._post(self)

    def leave(self) -> None:
        """The subscription has ended: have the gateway forget it."""
        self._stop_retrying()
        if self._state is _State.OFF:
            self._turn_off()
        else:
            self._post(self)

    def disconnected(self) -> None:
        """The gateway knows nothing any more: start again from the position, on the next connection."""
        self._stop_retrying()
        self._announced = self._caught_up = False
        self._paused = self.subscription.full
        self._turn_off()

    def _turn_off(self) -> None:
        self._state = _State.OFF
        if self.subscription.ended:
            self._forget(self)
            self.gone.set()
        else:
            self._post(self)

    def _stop_retrying(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None


_PASSING = (ErrorCode.REDIS_UNAVAILABLE, ErrorCode.REDIS_REFUSED, ErrorCode.CHANNEL_UNREADABLE)
"""What a subscription that was good gets over by itself."""


class Subscription(AsyncIterator[T_co]):
    """The messages of one or more channels, each channel in its own order, in one iterator.

    It begins at once, not with the first step of the iteration. It goes on across reconnects, and ends with
    :meth:`close`, with the ``async with`` block it is used in, or with the client.

    Attributes:
        events: Whether events are yielded too.
        ended: Whether it is closed or has failed.
    """

    def __init__(self, events: bool) -> None:
        self.events = events
        self.ended = False
        self._feeds: list[Feed] = []
        self._queue: deque[Any] = deque()
        self._characters = 0
        self._news = asyncio.Event()
        self._error: Exception | None = None

    def begin(self, feeds: Iterable[Feed]) -> None:
        """Called once, by the client."""
        self._feeds = list(feeds)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        """The next message or event. Cancelling it loses nothing.

        Raises:
            SubscribeRefused: The gateway refused the subscription (without ``events``).
            ConnectionLost: The connection is lost for good; what was received before it has been yielded.
            Unauthorized: The gateway takes the token no more.
        """
        while not self._queue:
            if self.ended:
                raise StopAsyncIteration if self._error is None else self._error.with_traceback(None)
            self._news.clear()
            await self._news.wait()
        item = self._queue.popleft()
        if isinstance(item, Message):
            self._characters -= len(item.json)
        if 4 * len(self._queue) <= QUEUE_ENTRIES and 4 * self._characters <= QUEUE_CHARACTERS and not self.ended:
            for feed in self._feeds:
                feed.resume()
        return item  # type: ignore[no-any-return]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End it: the iteration stops, what is queued is dropped, the channels are free for another subscription."""
        self.end()
        try:
            async with asyncio.timeout(UNSUBSCRIBE_TIMEOUT_S):
                for feed in self._feeds:
                    await feed.gone.wait()
        except TimeoutError:
            log.warning("no answer to unsubscribe within %g s", UNSUBSCRIBE_TIMEOUT_S)

    @property
    def full(self) -> bool:
        """Whether the next message has to wait in the stream."""
        return len(self._queue) >= QUEUE_ENTRIES or self._characters >= QUEUE_CHARACTERS

    def put(self, item: Event) -> None:
        """Queue it for the application."""
        if isinstance(item, Message):
            self._characters += len(item.json)
        self._queue.append(item)
        self._news.set()

    def notify(self, item: Gap | Error, text: str) -> None:
        """Tell the application, as an event or in the log."""
        if self.events:
            self.put(item)
        else:
            log.warning("%s", text)

    def refused(self, feed: Feed, reply: Error) -> None:
        """The gateway refused a channel: without events the end, with events the other channels go on."""
        if not self.events:
            self.end(SubscribeRefused(f"{feed.channel}: {reply.error}", reply.code, feed.channel))
            return
        self.put(reply)
        ...

    def end(self, error: RswsError | None = None) -> None:
        """End it, with an error after what is queued or without; only the first call counts."""
        if self.ended:
            return
        self.ended = True
        self._error = error
        if error is None:
            self._queue.clear()
        self._news.set()
        for feed in self._feeds:
            feed.leave()

"""One client's position in a channel: catching up, then live, and catching up again when it lags. No I/O, no await.

A new subscriber, a client that comes back after an outage and a client that reads too slowly are the same thing: a
position behind the end of the stream. The stream is the buffer; nothing is queued here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from rsws.errors import StoreError
from rsws.gateway.delivery.channel import Channel, Listener
from rsws.protocol import ZERO, CaughtUp, Error, Gap, StreamId, encode_reply


class State(Enum):
    """How a subscription gets what comes next."""

    BEHIND = auto()
    """It stands before the channel's cursor, and goes on when its client has room."""
    READING = auto()
    """It stands before the channel's cursor, and a page of the stream is being read for it."""
    LIVE = auto()
    """It stands at the channel's cursor, and is handed each message as it is dispatched."""
    BEYOND = auto()
    """It starts at an id that the channel's cursor has yet to reach."""
    CLOSED = auto()
    """Nothing is handed over any more."""


@dataclass(frozen=True, slots=True)
class Page:
    """What one read of the stream found, encoded."""

    frames: bytes
    messages: int
    """How many they are."""
    last: StreamId
    """The position after it: the last id read, or where the read started when it found nothing."""
    complete: bool
    """Whether the read found less than it asked for, and so came to the end of the stream."""
    cursor: StreamId
    """Up to there a complete page has seen everything: the channel's cursor when the read was *issued*, or better."""
    gap: Gap | None = None
    """What to tell before the page: it can't be proven that nothing is missing."""


class Outlet(Protocol):
    """The way to one client."""

    __slots__ = ()

    @property
    def has_room(self) -> bool:
        """Whether more may be written now."""
        raise NotImplementedError

    def write(self, frames: bytes) -> None:
        """Write frames behind everything written before."""
        raise NotImplementedError

    def try_send(self, frames: bytes) -> bool:
        """Write frames if there is room; False when there is none."""
        raise NotImplementedError

    def reply(self, payload: bytes) -> None:
        """Write an event other than a message, behind everything written before."""
        raise NotImplementedError

    def when_room(self, subscription: Subscription) -> None:
        """Call ``subscription.advance()`` once there is room, and no page being read, soon but not within this call."""
        raise NotImplementedError

    @property
    def is_reading_page(self) -> bool:
        """Whether a page is being read for one of the client's subscriptions.

        However many they are, no more than one page comes on top of what is queued for the client.
        """
        raise NotImplementedError

    def page_begins(self) -> None:
        """A page is being read from now on."""
        raise NotImplementedError

    def page_done(self) -> None:
        """No page is being read any more: the subscriptions that wait may go on."""
        raise NotImplementedError


class PageReader(Protocol):
    """Reads the stream for subscriptions that are behind."""

    chunk_bytes: int
    """What is handed over in one piece while catching up."""

    def read_page(self, subscription: Subscription) -> None:
        """Read on from ``subscription.position``; the page goes to ``subscription.page_read``."""
        raise NotImplementedError


class Subscription(Listener):
    """Everything of a channel after a position, to one client.

    Args:
        position: Where it starts. Everything up to it has been handed over, or is not wanted.
        marker: Whether the client is told when it reaches live for the first time.

    Attributes:
        state: How it gets what comes next; changed by :meth:`_enter` alone.
    """

    __slots__ = ("_has_turn", "_marker", "_outlet", "_pages", "_position", "channel", "state")

    def __init__(
        self, channel: Channel, position: StreamId, outlet: Outlet, pages: PageReader, *, marker: bool = False
    ) -> None:
        self.channel = channel
        self.state = State.BEHIND
        self._position = position
        self._outlet = outlet
        self._pages = pages
        self._marker = marker
        self._has_turn = False
        """Whether it is this one for which the outlet reads a page."""
        channel.listeners.add(self)

    @property
    def position(self) -> StreamId:
        """Everything up to it has been handed over: while live, all that the channel has dispatched."""
        return self.channel.cursor if self.state is State.LIVE else self._position

    def _enter(self, state: State) -> None:
        """Change the state, and so the groups of the channel that it belongs to."""
        channel, before = self.channel, self.state
        self.state = state
        if before is State.LIVE:
            channel.live.discard(self)
        elif before is State.BEYOND:
            channel.discard_beyond_cursor(self)
        if state is State.LIVE:
            channel.live.add(self)
        elif state is State.BEYOND:
            channel.add_beyond_cursor(self)
        elif state is State.CLOSED:
            channel.listeners.discard(self)

    def close(self) -> None:
        """End it: nothing is handed over any more."""
        self.yield_turn()
        self._enter(State.CLOSED)

    def try_send(self, frames: bytes) -> bool:
        """See :class:`rsws.gateway.delivery.channel.Listener`."""
        return self._outlet.try_send(frames)

    def fell_behind(self, position: StreamId) -> None:
        """See :class:`rsws.gateway.delivery.channel.Listener`."""
        self._position = position
        self._enter(State.BEHIND)

    def advance(self) -> None:
        """Hand over what can be handed over now; join the live ones once nothing is left behind."""
        channel, outlet = self.channel, self._outlet
        if self.state is State.BEYOND:
            self._enter(State.BEHIND)
        while self.state is State.BEHIND:
            if self._position >= channel.cursor:
                self._caught_up()
                return
            if not outlet.has_room:
                outlet.when_room(self)
                return
            if self._position >= channel.floor:
                frames, count, self._position = channel.recent(self._position, self._pages.chunk_bytes)
                if frames:
                    self._write(frames, count)
            elif outlet.is_reading_page:
                outlet.when_room(self)
                return
            else:
                outlet.page_begins()
                self._has_turn = True
                self._enter(State.READING)
                self._pages.read_page(self)

    def page_read(self, page: Page) -> None:
        """Hand over a page that was read for this subscription, and go on."""
        if self.state is not State.READING:
            return
        self._enter(State.BEHIND)
        if not self._has_turn and not self._outlet.has_room:
            self._outlet.when_room(self)  # it took too long to wait with room for it: it is read again
            return
        self.yield_turn()
        if page.gap is not None:
            self._write_gap(page.gap)
        if page.frames:
            self._write(page.frames, page.messages)
        # A complete page saw everything up to the cursor of the moment it was issued. The cursor of now would be
        # too much: entries dispatched in between were not yet there when Redis answered.
        self._position = max(page.last, page.cursor) if page.complete else page.last
        self.advance()

    def yield_turn(self) -> None:
        """Let other subscriptions of the client read: the page is there, or will take a while to come."""
        if self._has_turn:
            self._has_turn = False
            self._outlet.page_done()

    def reset(self, first: StreamId | None) -> None:
        """See :class:`rsws.gateway.delivery.channel.Listener`. A page of the old stream will not be handed to it."""
        self.yield_turn()
        if self.position != ZERO:
            self._write_gap(Gap(self.channel.name, self.position, first, "reset"))
        self._position = ZERO
        self._enter(State.BEHIND)

    def unreadable(self, error: StoreError) -> None:
        """See :class:`rsws.gateway.delivery.channel.Listener`."""
        self._outlet.reply(encode_reply(Error(str(error), error.code, self.channel.name)))

    def _write(self, frames: bytes, messages: int) -> None:
        self._outlet.write(frames)
        self.channel.metrics.delivered += messages
        self.channel.metrics.delivered_bytes += len(frames)

    def _write_gap(self, gap: Gap) -> None:
        self._outlet.reply(encode_reply(gap))
        self.channel.metrics.gaps += 1

    def _caught_up(self) -> None:
        channel = self.channel
        if self._marker:
            self._marker = False
            self._outlet.reply(encode_reply(CaughtUp(channel.name, self._position)))
        self._enter(State.LIVE if self._position == channel.cursor else State.BEYOND)

"""A client's position in a channel: catching up, then live, and catching up again when it lags. No I/O, no await.

A new subscriber, a client that comes back after an outage and a client that reads too slowly are the same thing: a
position behind the end of the stream. The stream is the buffer; nothing is queued here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol

from rsws.errors import StoreError
from rsws.gateway.delivery.channel import Channel, Listener, Sender
from rsws.protocol import ZERO, CaughtUp, End, Error, Gap, StreamId, encode_reply


class State(Enum):
    """The state of a subscription, which decides how it gets the next messages."""

    BEHIND = auto()
    """The subscription is before the channel's cursor, and continues when its client has room."""
    READING = auto()
    """The subscription is before the channel's cursor, and a page of the stream is being read for it."""
    LIVE = auto()
    """The subscription is at the channel's cursor, and gets each message as it is dispatched."""
    BEYOND = auto()
    """The subscription starts at an id that the channel's cursor has not reached yet."""
    CLOSED = auto()
    """The subscription has ended; nothing is sent any more."""


class PageEnd(NamedTuple):
    """The first entry of a page that ends the channel, and where that is."""

    id: StreamId
    bytes: int
    """The bytes of the page's frames up to and including that entry's, if it has one."""
    messages: int
    """The number of messages in them."""


@dataclass(frozen=True, slots=True)
class Page:
    """The result of one read of the stream, encoded."""

    frames: bytes
    messages: int
    """The number of messages in ``frames``."""
    last: StreamId
    """The position after the page: the last id read, or the start of the read when it found nothing."""
    complete: bool
    """Whether the read reached the end of the stream."""
    cursor: StreamId
    """The id up to which a complete page covers everything: the channel's cursor when it was *issued*, or later."""
    gap: Gap | None = None
    """The gap to tell the client before the page, when it can't be proven that nothing is missing."""
    end: PageEnd | None = None
    """The first entry of the page that ends the channel; None if none does."""


class Outlet(Sender, Protocol):
    """The output to one client."""

    __slots__ = ()

    @property
    def has_room(self) -> bool:
        """Whether the write queue is below its high-water mark, so that more may be written now."""

    def write(self, frames: bytes) -> None:
        """Queue frames behind everything written before."""

    def reply(self, payload: bytes) -> None:
        """Queue an event other than a message, behind everything written before."""

    def when_room(self, subscription: Subscription) -> None:
        """Call ``subscription.advance()`` soon after there is room and no page being read, but not within this call."""

    @property
    def is_reading_page(self) -> bool:
        """Whether a page is being read for one of the client's subscriptions.

        However many subscriptions there are, at most one page comes on top of the client's write queue.
        """

    def page_begins(self) -> None:
        """Note that a page is being read from now on."""

    def page_done(self) -> None:
        """Note that no page is being read any more, and let the subscriptions that wait continue."""


class PageReader(Protocol):
    """The reader of history for subscriptions that are behind."""

    chunk_bytes: int
    """The approximate size of one write to a client that is catching up."""

    def read_page(self, subscription: Subscription) -> None:
        """Read the page after ``subscription.position``, and pass it to ``subscription.page_read``."""


class Subscription(Listener):
    """A subscription of one client: it sends everything in a channel after a position.

    Args:
        position: The id after which it starts. Everything up to it has been sent, or is not wanted.
        marker: Whether to tell the client when it has caught up for the first time.
        on_end: Called with this when it is over because the channel has ended; None where it goes on then.

    Attributes:
        state: The current state, changed only by :meth:`_enter`.
    """

    __slots__ = ("_has_turn", "_marker", "_on_end", "_pages", "_position", "channel", "outlet", "state")

    outlet: Outlet

    def __init__(
        self,
        channel: Channel,
        position: StreamId,
        outlet: Outlet,
        pages: PageReader,
        *,
        marker: bool = False,
        on_end: Callable[[Subscription], None] | None = None,
    ) -> None:
        self.channel = channel
        self.state = State.BEHIND
        self._position = position
        self.outlet = outlet
        self._pages = pages
        self._marker = marker
        self._on_end = on_end
        self._has_turn = False
        """Whether the page that the outlet says is being read is for this subscription."""
        channel.listeners.add(self)

    @property
    def position(self) -> StreamId:
        """The id up to which everything has been sent; while live, the channel's cursor."""
        return self.channel.cursor if self.state is State.LIVE else self._position

    def _enter(self, state: State) -> None:
        """Change the state, and with it the channel's groups that the subscription belongs to."""
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
        """End the subscription: nothing is sent any more."""
        if self._has_turn:
            self.yield_turn()
        self._enter(State.CLOSED)

    def fell_behind(self, position: StreamId) -> None:
        """See :class:`rsws.gateway.delivery.channel.Listener`."""
        self._position = position
        self._enter(State.BEHIND)

    def advance(self) -> None:
        """Send what can be sent now; become live once nothing is left to catch up on."""
        channel, outlet = self.channel, self.outlet
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
                end = None if self._on_end is None else channel.next_end(self._position)
                frames, count, self._position = channel.recent(self._position, self._pages.chunk_bytes, end)
                if frames:
                    self._write(frames, count)
                if end is not None and self._position == end:
                    self.end(end)
            elif outlet.is_reading_page:
                outlet.when_room(self)
                return
            else:
                outlet.page_begins()
                self._has_turn = True
                self._enter(State.READING)
                self._pages.read_page(self)

    def page_read(self, page: Page) -> None:
        """Send a page that was read for this subscription, and continue."""
        if self.state is not State.READING:
            return
        self._enter(State.BEHIND)
        if not self._has_turn and not self.outlet.has_room:
            self.outlet.when_room(self)  # the turn was yielded, and the room is used up: the page is read again
            return
        self.yield_turn()
        if page.gap is not None:
            self._write_gap(page.gap)
        if page.end is not None and self._on_end is not None:
            if page.end.messages:
                self._write(page.frames[: page.end.bytes], page.end.messages)
            self.end(page.end.id)
            return
        if page.frames:
            self._write(page.frames, page.messages)
        # A complete page covers everything up to the cursor of the moment the read was issued. The current cursor
        # would be too far: entries dispatched in between were not there yet when Redis answered.
        self._position = max(page.last, page.cursor) if page.complete else page.last
        self.advance()

    def yield_turn(self) -> None:
        """Let the client's other subscriptions read: the page has arrived, or will take a while."""
        if self._has_turn:
            self._has_turn = False
            self.outlet.page_done()

    def reset(self, first: StreamId | None) -> None:
        """See :class:`rsws.gateway.delivery.channel.Listener`. A page of the old stream under way is not sent."""
        self.yield_turn()
        if self.position != ZERO:
            self._write_gap(Gap(self.channel.name, self.position, first, "reset"))
        self._position = ZERO
        self._enter(State.BEHIND)

    def unreadable(self, error: StoreError) -> None:
        """See :class:`rsws.gateway.delivery.channel.Listener`."""
        self.outlet.reply(encode_reply(Error(str(error), error.code, self.channel.name)))

    @property
    def wants_end(self) -> bool:
        """See :class:`rsws.gateway.delivery.channel.Listener`."""
        return self._on_end is not None

    def end(self, last: StreamId) -> None:
        """See :class:`rsws.gateway.delivery.channel.Listener`."""
        self.outlet.reply(encode_reply(End(self.channel.name, last)))
        self.close()
        if self._on_end is not None:
            self._on_end(self)

    def _write(self, frames: bytes, messages: int) -> None:
        self.outlet.write(frames)
        self.channel.metrics.delivered += messages
        self.channel.metrics.delivered_bytes += len(frames)

    def _write_gap(self, gap: Gap) -> None:
        self.outlet.reply(encode_reply(gap))
        self.channel.metrics.gaps += 1
        self.channel.gaps += 1

    def _caught_up(self) -> None:
        channel = self.channel
        if self._marker:
            self._marker = False
            self.outlet.reply(encode_reply(CaughtUp(channel.name, self._position)))
        self._enter(State.LIVE if self._position == channel.cursor else State.BEYOND)

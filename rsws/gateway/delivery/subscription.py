"""One client's position in a channel: catching up, then live, and catching up again when it lags. No I/O, no await.

A new subscriber, a client that comes back after an outage and a client that reads too slowly are the same thing: a
position behind the end of the stream. The stream is the buffer; nothing is queued here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rsws.errors import StoreError
from rsws.gateway.delivery.channel import Channel
from rsws.gateway.websocket.frames import text_frame
from rsws.protocol import ZERO, CaughtUp, Error, Gap, StreamId, encode_reply

CHUNK_BYTES = 64 * 1024
"""What is handed over in one piece while catching up."""


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
    """The way to one client.

    Attributes:
        is_reading_page: Whether a page is being read for one of its subscriptions. However many they are, no more than
            that comes on top of what is queued for the client.
    """

    is_reading_page: bool

    @property
    def has_room(self) -> bool:
        """Whether more may be written now."""

    def write(self, frames: bytes) -> None:
        """Write frames behind everything written before."""

    def offer(self, frames: bytes) -> bool:
        """Write them if there is room; False when there is none."""

    def when_room(self, subscription: Subscription) -> None:
        """Call ``subscription.advance()`` once there is room, and no page being read, soon but not within this call."""

    def page_done(self) -> None:
        """No page is being read any more: those who wait may go on."""


class PageReader(Protocol):
    """Reads the stream for those who are behind."""

    def read_page(self, subscription: Subscription) -> None:
        """Read on from ``subscription.position``; the page goes to ``subscription.page_read``."""


class Subscription:
    """Everything of a channel after a position, to one client.

    Args:
        position: Where it starts. Everything up to it has been handed over, or is not wanted.
        marker: Whether the client is told when it reaches live for the first time.
    """

    __slots__ = ("_has_turn", "_marker", "_open", "_outlet", "_pages", "_reading", "_told", "channel", "position")

    def __init__(
        self, channel: Channel, position: StreamId, outlet: Outlet, pages: PageReader, *, marker: bool = False
    ) -> None:
        self.channel = channel
        self.position = position
        """While live, the channel's cursor stands in for it."""
        self._outlet = outlet
        self._pages = pages
        self._marker = marker
        self._open = True
        self._reading = False
        self._has_turn = False
        """Whether it is this one for which a page is being read."""
        self._told = False
        channel.listeners.add(self)

    def close(self) -> None:
        """End it: nothing is handed over any more."""
        self._open = False
        self.yield_turn()
        self.channel.leave(self)

    def take(self, frames: bytes) -> bool:
        """See :class:`rsws.gateway.delivery.channel.Listener`."""
        return self._outlet.offer(frames)

    def advance(self) -> None:
        """Hand over what can be handed over now; join the live ones once nothing is left behind."""
        channel, outlet = self.channel, self._outlet
        while self._open and not self._reading:
            if self.position >= channel.cursor:
                self._caught_up()
                return
            if not outlet.has_room:
                outlet.when_room(self)
                return
            if self.position >= channel.floor:
                frames, count, self.position = channel.recent(self.position, CHUNK_BYTES)
                if frames:
                    self._write(frames, count)
            elif outlet.is_reading_page:
                outlet.when_room(self)
                return
            else:
                self._reading = self._has_turn = outlet.is_reading_page = True
                self._pages.read_page(self)

    def page_read(self, page: Page) -> None:
        """Hand over a page that was read for this subscription, and go on."""
        self._reading = False
        if not self._open:
            return
        self.readable()
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
        self.position = max(page.last, page.cursor) if page.complete else page.last
        self.advance()

    def yield_turn(self) -> None:
        """Let other subscriptions of the client read: the page is there, or will take a while to come."""
        if self._has_turn:
            self._has_turn = False
            self._outlet.page_done()

    def reset(self, first: StreamId | None) -> None:
        """Start at the beginning: the stream is another one now, which begins at ``first`` (None: with nothing)."""
        self._reading = False  # a page of the old stream will not be handed to this subscription
        self.yield_turn()
        if self.position != ZERO:
            self._write_gap(Gap(self.channel.name, self.position, first, "reset"))
        self.position = ZERO

    def unreadable(self, error: StoreError) -> None:
        """Tell the client, once, that nothing can be read for now."""
        if self._open and not self._told:
            self._told = True
            self._outlet.write(text_frame(encode_reply(Error(str(error), error.code, self.channel.name))))

    def readable(self) -> None:
        """From now on the next trouble is told again."""
        self._told = False

    def _write(self, frames: bytes, messages: int) -> None:
        self._outlet.write(frames)
        self.channel.metrics.delivered += messages
        self.channel.metrics.delivered_bytes += len(frames)

    def _write_gap(self, gap: Gap) -> None:
        self._outlet.write(text_frame(encode_reply(gap)))
        self.channel.metrics.gaps += 1

    def _caught_up(self) -> None:
        channel = self.channel
        if self._marker:
            self._marker = False
            self._outlet.write(text_frame(encode_reply(CaughtUp(channel.name, self.position))))
        if self.position == channel.cursor:
            channel.live.add(self)
        else:
            channel.wait_ahead(self)

"""A channel: its cursor, its recent messages and its listeners. No I/O, no await.

The channel's cursor is the id up to which it has dispatched the stream. The ring holds exactly the dispatched messages
in (floor, cursor], already encoded; a listener whose position is in that range is served from it. Whatever moves the
cursor never awaits, so that nothing can happen between a subscription's check that it is at the cursor and its becoming
live.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import Protocol, TypeAlias

from rsws.errors import StoreError
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.metrics import Metrics
from rsws.protocol import StreamId, is_json, message_template
from rsws.streams.follower import Follower
from rsws.streams.replies import Entry, StreamBounds

BATCH_BYTES = 256 * 1024
"""The size at which a batch for live listeners is sent, in bytes; its last message may exceed it."""

MAX_ENDS = 64
"""The ends in a channel's ring at which it is dropped: they cost memory even where they have no data."""

Encoded: TypeAlias = tuple[bytes, bytes]
"""A message's id as Redis wrote it, and its frame."""


class Framer(Protocol):
    """The encoder of one channel's messages for clients."""

    __slots__ = ()

    def frame(self, stream_id: bytes, data: bytes) -> bytes:
        """Return the encoded form of one message; ``data`` is JSON."""


class Sender(Protocol):
    """What new messages are sent with."""

    __slots__ = ()

    def try_send(self, frames: bytes) -> bool:
        """Send frames if there is room; return False, with nothing sent, when there is none."""


class Listener(Protocol):
    """A receiver of a channel's messages.

    It adds itself to the groups of the channel: always to ``listeners``, to ``live`` while it is at the cursor, and to
    ``beyond_cursor`` while the cursor has not reached its position.
    """

    __slots__ = ()

    @property
    def position(self) -> StreamId:
        """The id up to which everything has been sent, or is not wanted."""

    @property
    def outlet(self) -> Sender:
        """Where the newest messages go while it is live: a method of its own would be another call for each of them."""

    def fell_behind(self, position: StreamId) -> None:
        """Stop being live, and continue from ``position`` at the next :meth:`advance`."""

    def advance(self) -> None:
        """Continue from ``position``: the channel's cursor has moved, or this listener is no longer live."""

    def reset(self, first: StreamId | None) -> None:
        """Start at the beginning of the new stream that replaced the old one; ``first`` is None when it is empty."""

    def unreadable(self, error: StoreError) -> None:
        """Tell the client that the stream can't be read for now."""

    @property
    def wants_end(self) -> bool:
        """Whether it is over at the first entry that ends the channel."""

    def end(self, last: StreamId) -> None:
        """Tell the client that the channel has ended with the entry ``last``, which was sent; it is over then."""


class RingBudget:
    """The memory limit of all channels' rings together, and of each ring.

    When the total exceeds the limit, rings lose their older half, one ring at a time in turn. A ring that messages were
    added to since its last turn is skipped once, so that quiet channels make room for busy ones; large rings give most.
    """

    def __init__(self, limit_bytes: int = DEFAULTS.rings_bytes, ring_bytes: int = DEFAULTS.ring_bytes) -> None:
        self.limit_bytes = limit_bytes
        self.ring_bytes = ring_bytes
        self.used_bytes = 0
        self._rings: OrderedDict[Channel, None] = OrderedDict()
        """The channels whose rings are not empty, in the order of their turns."""

    def add(self, channel: Channel) -> None:
        """Include ``channel``, whose ring is no longer empty."""
        self._rings[channel] = None

    def remove(self, channel: Channel) -> None:
        """Exclude ``channel``, whose ring is empty, if it was included."""
        self._rings.pop(channel, None)

    def make_room(self) -> None:
        """Shrink rings until they are within the limit. A ring with additions since its last turn is skipped once."""
        while self.used_bytes > self.limit_bytes and self._rings:
            channel = next(iter(self._rings))
            self._rings.move_to_end(channel)
            if channel.ring_in_use:
                channel.ring_in_use = False
            else:
                channel.shrink_ring(channel.ring_bytes // 2)


class Channel(Follower):
    """A stream with at least one subscription.

    Args:
        name: The name of the channel, which is that of the stream.
        cursor: The initial cursor: the stream's last id when the channel is opened.
        budget: The memory limit shared by all channels' rings.
        on_poison: Called with the channel's name and the id of an entry that is skipped because its data is missing or
            not valid JSON.
        on_interrupted: Called with the channel when reading it has stopped: see :class:`.Follower`.
        on_replaced: Called with the channel when its stream is known to be another one.
        make_framer: Called with the template of the channel's messages; returns their encoder.
        metrics: The metrics in which messages read and delivered are counted.
    """

    # There may be tens of thousands of channels, most of them quiet, so that each has to be small.
    __slots__ = (
        "_beyond_cursor", "_budget", "_ends", "_framer", "_on_interrupted", "_on_poison", "_on_replaced", "_ring",
        "_told", "cursor", "floor", "gaps", "generation", "listeners", "live", "metrics", "name", "page_entries",
        "quiet", "ring_bytes", "ring_in_use",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        cursor: StreamId,
        budget: RingBudget,
        on_poison: Callable[[str, StreamId], None],
        on_interrupted: Callable[[Channel], None],
        on_replaced: Callable[[Channel], None],
        make_framer: Callable[[bytes], Framer],
        metrics: Metrics,
    ) -> None:
        self.name = name
        self.cursor = cursor
        self.floor = cursor
        self.listeners: set[Listener] = set()
        """All listeners, live or not."""
        self.live: set[Listener] = set()
        """The listeners that have received everything up to the cursor."""
        self._beyond_cursor: set[Listener] | None = None
        """The listeners whose position the cursor has not reached yet; None while there has never been one."""
        self._framer = make_framer(message_template(name))
        self._on_poison = on_poison
        self._on_interrupted = on_interrupted
        self._on_replaced = on_replaced
        self.metrics = metrics
        self._budget = budget
        self._ring: deque[Encoded] | None = None
        """The newest messages, those after the floor; None while there are none."""
        self._ends: deque[StreamId] | None = None
        """The entries after the floor that end the channel; None while there are none."""
        self.ring_bytes = 0
        self.ring_in_use = False
        """Whether anything was added to the ring since its last turn to make room."""
        self._told: set[Listener] | None = None
        """The listeners that were told that the stream can't be read; None while it can."""
        self.page_entries = 16
        """The number of entries to read for a page of history, estimated from the size of the last page."""
        self.gaps = 0
        """The gaps that listeners were told."""
        self.generation = 0
        """The number of times the stream was replaced by another; pages of an earlier generation are void."""
        self.quiet = True
        """Whether nothing was delivered since this was last set to True."""

    def encode(self, entry: Entry) -> bytes | None:
        """Return the frame of an entry; None when it is not a message and has to be skipped."""
        if entry.data is not None and is_json(entry.data):
            return self._framer.frame(entry.raw_id, entry.data)
        if entry.data is not None or not entry.ends:
            self._on_poison(self.name, entry.id)
        return None

    def deliver(self, entries: Sequence[Entry]) -> None:
        """Send new entries of the stream to all live listeners, encoded once.

        A listener without room stops being live; it continues from the cursor of before once it has room again.
        """
        last = entries[-1].id
        if entries[0].id <= self.cursor:
            entries = [entry for entry in entries if entry.id > self.cursor]
        self.quiet = False
        self.metrics.entries_read += len(entries)
        self._told = None
        messages: list[Encoded] = []
        size = 0
        for entry in entries:
            frame = self.encode(entry)
            if frame is not None:
                messages.append((entry.raw_id, frame))
                size += len(frame)
            if size >= BATCH_BYTES or entry.ends:
                self._dispatch(messages, size, entry.id, ends=entry.ends)
                messages, size = [], 0
        if entries:
            self._dispatch(messages, size, last)
        if self._beyond_cursor:
            for listener in [listener for listener in self._beyond_cursor if listener.position <= self.cursor]:
                listener.advance()

    def _dispatch(self, messages: list[Encoded], size: int, last: StreamId, *, ends: bool = False) -> None:
        before = self.cursor
        batch = b"".join([frame for _, frame in messages])
        lagging = [listener for listener in self.live if not listener.outlet.try_send(batch)] if batch else []
        metrics, taken = self.metrics, len(self.live) - len(lagging)
        metrics.delivered += taken * len(messages)
        metrics.delivered_bytes += taken * len(batch)
        self.cursor = last
        self._remember(messages, size)
        if ends:
            self._remember_end(last)
        for listener in lagging:
            metrics.subscriptions_lagged += 1
            listener.fell_behind(before)
            listener.advance()
        if ends:
            for listener in [listener for listener in self.live if listener.wants_end]:
                listener.end(last)

    @property
    def beyond_cursor(self) -> Collection[Listener]:
        """The listeners whose position the cursor has not reached yet; they advance when it does."""
        return self._beyond_cursor or ()

    def add_beyond_cursor(self, listener: Listener) -> None:
        """Add a listener to :attr:`beyond_cursor`."""
        if self._beyond_cursor is None:
            self._beyond_cursor = set()
        self._beyond_cursor.add(listener)

    def discard_beyond_cursor(self, listener: Listener) -> None:
        """Remove a listener from :attr:`beyond_cursor`, if it is there."""
        if self._beyond_cursor:
            self._beyond_cursor.discard(listener)

    def next_end(self, after: StreamId) -> StreamId | None:
        """Return the next entry that ends the channel after a position that is not below the floor, if it has come."""
        return next((each for each in self._ends or () if each > after), None)

    def recent(self, after: StreamId, limit_bytes: int, until: StreamId | None = None) -> tuple[bytes, int, StreamId]:
        """Return the next messages in the ring after a position that is not below the floor.

        Args:
            until: The last id that is wanted, which is not beyond the cursor; None for the cursor.

        Returns:
            The frames, about ``limit_bytes`` of them (at least one message if there is any), the number of messages,
            and the position after them.
        """
        ring = self._ring or ()
        start = bisect_right(ring, after, key=_id_of)
        stop = len(ring) if until is None else bisect_right(ring, until, key=_id_of)
        frames = []
        size = 0
        for item in islice(ring, start, stop):
            frames.append(item[1])
            size += len(item[1])
            if size >= limit_bytes:
                break
        end = start + len(frames)
        return b"".join(frames), len(frames), _id_of(ring[end - 1]) if end < stop else until or self.cursor

    def came_after(self, after: StreamId) -> tuple[int, StreamId | None]:
        """Return how many messages the ring has after an id, and the id of the first of them: what came of late."""
        ring = self._ring or ()
        start = bisect_right(ring, after, key=_id_of)
        return len(ring) - start, _id_of(ring[start]) if start < len(ring) else None

    @property
    def is_unreadable(self) -> bool:
        """Whether listeners were told that the stream can't be read."""
        return self._told is not None

    def unreadable(self, error: StoreError) -> None:
        """Tell each listener once that this stream can't be read for now, those that have come since, too."""
        told, self._told = self._told or set(), set(self.listeners)
        for listener in self._told - told:
            listener.unreadable(error)

    def interrupted(self) -> None:
        """See :class:`rsws.streams.follower.Follower`."""
        self._on_interrupted(self)

    def replaced(self) -> None:
        """See :class:`rsws.streams.follower.Follower`."""
        self._on_replaced(self)

    def reopen(self, cursor: StreamId) -> None:
        """Continue at a new end of the same stream; listeners read what lies in between, which was not dispatched.

        Called after reading was interrupted, when nothing proves that what the reader would deliver next follows the
        cursor without a gap; reading pages from the stream proves it.
        """
        self._told = None
        if cursor == self.cursor:
            return
        for listener in list(self.live):
            listener.fell_behind(self.cursor)
        self._restart(cursor)

    def reset(self, bounds: StreamBounds) -> None:
        """Restart all listeners at the beginning: the stream was deleted, recreated or rolled back."""
        self._told = None
        self.generation += 1
        for listener in self.listeners:
            listener.reset(bounds.first)
        self._restart(bounds.last)

    def reset_beyond_cursor(self, listeners: Iterable[Listener], bounds: StreamBounds) -> None:
        """Restart those of ``listeners`` still waiting beyond the stream's end, for an id that will not come."""
        for listener in listeners:
            if listener in self.beyond_cursor and listener.position > bounds.last:
                listener.reset(bounds.first)
                listener.advance()

    def close(self) -> None:
        """Drop the ring, and return its memory to the budget."""
        self._budget.used_bytes -= self.ring_bytes
        self._budget.remove(self)
        self._ring = None
        self._ends = None
        self.ring_bytes = 0

    def _restart(self, cursor: StreamId) -> None:
        self.close()
        self.cursor = self.floor = cursor
        for listener in list(self.listeners):
            listener.advance()

    def _remember(self, messages: list[Encoded], size: int) -> None:
        if not messages:
            return
        budget = self._budget
        if self._ring is None:
            self._ring = deque()
            budget.add(self)
        self._ring.extend(messages)
        self.ring_bytes += size
        self.ring_in_use = True
        budget.used_bytes += size
        if self.ring_bytes > budget.ring_bytes:
            self.shrink_ring(budget.ring_bytes)
        if budget.used_bytes > budget.limit_bytes:
            budget.make_room()

    def _remember_end(self, last: StreamId) -> None:
        if self._ends is None:
            self._ends = deque()
        self._ends.append(last)
        if len(self._ends) > MAX_ENDS:
            self.close()
            self.floor = self.cursor

    def shrink_ring(self, limit_bytes: int) -> None:
        """Drop the oldest messages until the ring holds at most ``limit_bytes``."""
        ring, left, dropped = self._ring, self.ring_bytes, None
        while ring and left > limit_bytes:
            dropped = ring.popleft()
            left -= len(dropped[1])
        if dropped is not None:
            self.floor = _id_of(dropped)
            self._budget.used_bytes -= self.ring_bytes - left
            self.ring_bytes = left
            while self._ends and self._ends[0] <= self.floor:
                self._ends.popleft()
            if not ring:
                self._ring = None
                self._budget.remove(self)


def _id_of(message: Encoded) -> StreamId:
    return StreamId.from_redis(message[0])

"""One channel: how far it has been read, its recent entries, and who is live. No I/O, no await.

The channel's cursor is the last id dispatched. The ring holds exactly all dispatched messages in (floor, cursor],
already encoded; whoever is behind by no more than that is served from it. Only :meth:`Channel.deliver` moves the
cursor, and it never waits, so that nothing can come between a subscription's test and its joining the live ones.
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
from rsws.streams.reader import Follower
from rsws.streams.store import Entry, StreamBounds

BATCH_BYTES = 256 * 1024
"""What is handed to a live listener in one piece, a last message that goes over it included."""

Encoded: TypeAlias = tuple[bytes, bytes]
"""A message's id as Redis wrote it, and its frame."""


class Framer(Protocol):
    """Makes what clients are handed for the messages of one channel."""

    __slots__ = ()

    def frame(self, stream_id: bytes, data: bytes) -> bytes:
        """Return what stands for one message; ``data`` is JSON."""
        raise NotImplementedError


class Listener(Protocol):
    """Whoever a channel hands its messages to.

    It puts itself into the groups of the channel: ``listeners`` in any case, ``live`` while it is at the cursor, and
    those beyond the cursor while its position is not reached yet.
    """

    __slots__ = ()

    @property
    def position(self) -> StreamId:
        """Everything up to it has been handed over, or is not wanted."""
        raise NotImplementedError

    def try_send(self, frames: bytes) -> bool:
        """Take the newest messages; False when there is no room for them: then nothing was taken."""
        raise NotImplementedError

    def fell_behind(self, position: StreamId) -> None:
        """It is live no more, and goes on from ``position`` at the next :meth:`advance`."""
        raise NotImplementedError

    def advance(self) -> None:
        """Go on from ``position``: the channel has moved, or this listener is live no more."""
        raise NotImplementedError

    def reset(self, first: StreamId | None) -> None:
        """Start at the beginning: the stream is another one now, which begins at ``first`` (None: with nothing)."""
        raise NotImplementedError

    def unreadable(self, error: StoreError) -> None:
        """Tell the client that nothing can be read for now."""
        raise NotImplementedError


class RingBudget:
    """What the rings of all channels may hold together, and each of them alone.

    Once they hold more together it takes the older half of a ring at a time, in turns: of those that were delivered
    nothing since their last turn first, so that what is quiet makes room for what is busy, and the largest rings give
    most.
    """

    def __init__(self, limit_bytes: int = DEFAULTS.rings_bytes, ring_bytes: int = DEFAULTS.ring_bytes) -> None:
        self.limit_bytes = limit_bytes
        self.ring_bytes = ring_bytes
        self.used_bytes = 0
        self._rings: OrderedDict[Channel, None] = OrderedDict()
        """Those that hold something, in the order of their turns."""

    def add(self, channel: Channel) -> None:
        """The ring of ``channel`` holds something now."""
        self._rings[channel] = None

    def remove(self, channel: Channel) -> None:
        """It holds nothing any more, if it ever did."""
        self._rings.pop(channel, None)

    def make_room(self) -> None:
        """Have rings shrink until all is within the limit. Each delivery defers the turn of its ring once."""
        while self.used_bytes > self.limit_bytes and self._rings:
            channel = next(iter(self._rings))
            self._rings.move_to_end(channel)
            if channel.ring_in_use:
                channel.ring_in_use = False
            else:
                channel.shrink_ring(channel.ring_bytes // 2)


class Channel(Follower):
    """One channel with at least one subscription.

    Args:
        name: The stream's name.
        cursor: Everything up to it counts as dispatched: the stream's end when the channel was opened.
        budget: Shared by all channels.
        on_poison: Called with the id of an entry that is skipped because its data is missing or no JSON.
        on_interrupted: Called with the channel when reading it has stopped: see :meth:`rsws.streams.reader.Follower`.
        make_framer: Called with the template of the channel's messages.
        metrics: Where it counts what is read and handed over.
    """

    # There may be tens of thousands, most of them quiet: each is small.
    __slots__ = (
        "_beyond_cursor", "_budget", "_framer", "_on_interrupted", "_on_poison", "_ring", "cursor", "floor",
        "generation", "is_unreadable", "listeners", "live", "metrics", "name", "page_entries", "quiet", "ring_bytes",
        "ring_in_use",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        cursor: StreamId,
        budget: RingBudget,
        on_poison: Callable[[str, StreamId], None],
        on_interrupted: Callable[[Channel], None],
        make_framer: Callable[[bytes], Framer],
        metrics: Metrics,
    ) -> None:
        self.name = name
        self.cursor = cursor
        self.floor = cursor
        self.listeners: set[Listener] = set()
        """All of them, live or not."""
        self.live: set[Listener] = set()
        """Those at the cursor."""
        self._beyond_cursor: set[Listener] | None = None
        """Those that start at an id the cursor has yet to reach; None where there never was one."""
        self._framer = make_framer(message_template(name))
        self._on_poison = on_poison
        self._on_interrupted = on_interrupted
        self.metrics = metrics
        self._budget = budget
        self._ring: deque[Encoded] | None = None
        """The last messages, from the floor on; None where there are none."""
        self.ring_bytes = 0
        self.ring_in_use = False
        """Whether anything was added to the ring since its last turn to make room."""
        self.is_unreadable = False
        """Whether Redis won't read it for now. It is known here alone, and everyone was told."""
        self.page_entries = 16
        """How many entries make a page of history, as the last one read has shown."""
        self.generation = 0
        """Counts the streams this channel has been: what was read of an earlier one is void."""
        self.quiet = True
        """Whether nothing was delivered since somebody last set this."""

    def encode(self, entry: Entry) -> bytes | None:
        """The frame of an entry; None when it is no message, and is skipped."""
        if entry.data is not None and is_json(entry.data):
            return self._framer.frame(entry.raw_id, entry.data)
        self._on_poison(self.name, entry.id)
        return None

    def deliver(self, entries: Sequence[Entry]) -> None:
        """Hand what comes new in the stream to everyone who is live, encoded once.

        A listener without room is live no more; it goes on from where it stood when it has room again.
        """
        last = entries[-1].id
        if entries[0].id <= self.cursor:
            entries = [entry for entry in entries if entry.id > self.cursor]
        self.quiet = False
        self.metrics.entries_read += len(entries)
        self.is_unreadable = False
        messages: list[Encoded] = []
        size = 0
        for entry in entries:
            frame = self.encode(entry)
            if frame is not None:
                messages.append((entry.raw_id, frame))
                size += len(frame)
                if size >= BATCH_BYTES:
                    self._dispatch(messages, size, entry.id)
                    messages, size = [], 0
        if entries:
            self._dispatch(messages, size, last)
        if self._beyond_cursor:
            for listener in [listener for listener in self._beyond_cursor if listener.position <= self.cursor]:
                listener.advance()

    def _dispatch(self, messages: list[Encoded], size: int, last: StreamId) -> None:
        before = self.cursor
        batch = b"".join([frame for _, frame in messages])
        lagging = [listener for listener in self.live if not listener.try_send(batch)] if batch else []
        metrics, taken = self.metrics, len(self.live) - len(lagging)
        metrics.delivered += taken * len(messages)
        metrics.delivered_bytes += taken * len(batch)
        self.cursor = last
        self._remember(messages, size)
        for listener in lagging:
            metrics.subscriptions_lagged += 1
            listener.fell_behind(before)
            listener.advance()

    @property
    def beyond_cursor(self) -> Collection[Listener]:
        """Those that start at an id the cursor has yet to reach, and advance when it has."""
        return self._beyond_cursor or ()

    def add_beyond_cursor(self, listener: Listener) -> None:
        """See :attr:`beyond_cursor`."""
        if self._beyond_cursor is None:
            self._beyond_cursor = set()
        self._beyond_cursor.add(listener)

    def discard_beyond_cursor(self, listener: Listener) -> None:
        """See :attr:`beyond_cursor`."""
        if self._beyond_cursor:
            self._beyond_cursor.discard(listener)

    def recent(self, after: StreamId, limit_bytes: int) -> tuple[bytes, int, StreamId]:
        """The next messages after a position not below the floor, from the ring.

        Returns:
            Frames, of about ``limit_bytes`` (at least one message where there is any), how many, and the position
            after them.
        """
        ring = self._ring or ()
        start = bisect_right(ring, after, key=_id_of)
        frames = []
        size = 0
        for item in islice(ring, start, None):
            frames.append(item[1])
            size += len(item[1])
            if size >= limit_bytes:
                break
        end = start + len(frames)
        return b"".join(frames), len(frames), _id_of(ring[end - 1]) if end < len(ring) else self.cursor

    def unreadable(self, error: StoreError) -> None:
        """Redis won't read this stream for now: say so to everyone, once."""
        if not self.is_unreadable:
            self.is_unreadable = True
            for listener in self.listeners:
                listener.unreadable(error)

    def interrupted(self) -> None:
        """See :class:`rsws.streams.reader.Follower`."""
        self._on_interrupted(self)

    def reopen(self, cursor: StreamId) -> None:
        """Go on at another end of the same stream: what lies in between was not dispatched, everyone reads it.

        Called when reading was interrupted, and so nothing proves that what the reader would deliver next follows
        the cursor without a gap; reading the stream does.
        """
        self.is_unreadable = False
        if cursor == self.cursor:
            return
        for listener in list(self.live):
            listener.fell_behind(self.cursor)
        self._restart(cursor)

    def reset(self, bounds: StreamBounds) -> None:
        """The stream was deleted, recreated or rolled back: everyone starts at the beginning of what is there."""
        self.is_unreadable = False
        self.generation += 1
        for listener in self.listeners:
            listener.reset(bounds.first)
        self._restart(bounds.last)

    def reset_beyond_cursor(self, listeners: Iterable[Listener], bounds: StreamBounds) -> None:
        """Those of ``listeners`` who wait beyond the end of the stream wait for what will not come: they start anew."""
        for listener in listeners:
            if listener in self.beyond_cursor and listener.position > bounds.last:
                listener.reset(bounds.first)
                listener.advance()

    def close(self) -> None:
        """Give the ring's share of the budget back."""
        self._budget.used_bytes -= self.ring_bytes
        self._budget.remove(self)
        self._ring = None
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

    def shrink_ring(self, limit_bytes: int) -> None:
        """Forget the oldest messages, so that the ring holds no more than that."""
        ring, before, dropped = self._ring, self.ring_bytes, None
        while ring and self.ring_bytes > limit_bytes:
            dropped = ring.popleft()
            self.ring_bytes -= len(dropped[1])
        if dropped is not None:
            self.floor = _id_of(dropped)
            self._budget.used_bytes -= before - self.ring_bytes
            if not ring:
                self._ring = None
                self._budget.remove(self)


def _id_of(message: Encoded) -> StreamId:
    return StreamId.from_redis(message[0])

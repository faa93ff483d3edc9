"""The join/lag/resume machine against a model of everything around it, one event at a time.

The real :class:`Channel` and :class:`Subscription` run between a model stream (which grows, is trimmed and is deleted
and made anew), a model reader (which is interrupted and goes on), page reads whose three moments (issued, carried out
by Redis, arrived) are events of their own, and clients whose buffers fill and drain. A world is reached by a sequence
of events; :func:`search` visits every world up to a depth, :meth:`World.settle` lets one come to rest and judges it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from kit.gateway import first_frame
from rsws.gateway.delivery.channel import Channel, RingBudget
from rsws.gateway.delivery.subscription import Outlet, Page, PageEnd, PageReader, State, Subscription
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.metrics import Metrics
from rsws.gateway.websocket.frames import MessageFramer, text_frame
from rsws.protocol import Gap, StreamId
from rsws.streams.replies import Entry, StreamBounds, broken_continuity

PAGE_ENTRIES = 2
ROOM = 2

Event = tuple[str, int]
Seen = tuple[str, int]
"""What a client saw: ("message", id), ("end", id), ("trimmed", C) or ("reset", C)."""


class Violation(AssertionError):
    """The promise is broken: a message missing, twice, out of order, or a gap wrongly told or not told."""


def entry(number: int, *, ends: bool = False) -> Entry:
    return Entry(b"%d-0" % number, b"1", ends)


def make_channel(
    name: str, cursor: StreamId, budget: RingBudget | None = None, kind: type[Channel] = Channel
) -> Channel:
    """A channel that stands alone."""
    return kind(
        name,
        cursor,
        budget=budget or RingBudget(),
        on_poison=lambda name, id: None,
        on_interrupted=lambda channel: None,
        on_replaced=lambda channel: None,
        make_framer=MessageFramer,
        metrics=Metrics(),
    )


def seen_in(frames: bytes) -> Iterator[Seen]:
    """What a run of (short) text frames shows a client."""
    end = 0
    while (found := first_frame(frames, end)) is not None:
        _, payload, end = found
        event: dict[str, Any] = msgspec.json.decode(payload)
        if event["event"] in ("message", "end"):
            yield event["event"], int(event["streamId"].partition("-")[0])
        elif event["event"] == "gap":
            yield event["reason"], int(event["lastMessageId"].partition("-")[0])


@dataclass
class Read:
    """A page read under way."""

    after: int
    generation: int
    cursor: StreamId
    waiting: list[Subscription]
    done: bool = False
    found: list[int] = field(default_factory=list)
    complete: bool = False
    gap: Gap | None = None


@dataclass
class Connection:
    """What the subscriptions of one client share."""

    room: int = ROOM
    is_reading_page: bool = False
    waiting: list[Subscription] = field(default_factory=list)


@dataclass
class Client(Outlet):
    """One subscription of a client: what it was sent."""

    start: int
    connection: Connection = field(default_factory=Connection)
    wants_end: bool = False
    seen: list[Seen] = field(default_factory=list)
    subscription: Subscription | None = None
    gone: bool = False

    @property
    def has_room(self) -> bool:
        return self.connection.room > 0

    def write(self, frames: bytes) -> None:
        if self.gone:
            raise Violation("sent something after unsubscribed")
        self.connection.room -= 1
        self.seen.extend(seen_in(frames))

    def try_send(self, frames: bytes) -> bool:
        if self.has_room:
            self.write(frames)
            return True
        return False

    def reply(self, payload: bytes) -> None:
        self.write(text_frame(payload))

    def when_room(self, subscription: Subscription) -> None:
        self.connection.waiting.append(subscription)

    @property
    def is_reading_page(self) -> bool:
        return self.connection.is_reading_page

    def page_begins(self) -> None:
        self.connection.is_reading_page = True

    def page_done(self) -> None:
        self.connection.is_reading_page = False


class World(PageReader):
    """Everything that takes part, in one state.

    Args:
        max_entries: How far the stream grows.
        faults: Which of "trim", "interrupt", "reset" and "shrink" (of the ring, for want of room) may happen.
        trusting: Whether the reader takes all that it finds for all that came: a bug.
        together: Whether all subscriptions are those of one connection, as of one client to several channels.
        ring_bytes: What the channel's ring holds at most.
        chunk_bytes: What is handed over in one piece while catching up.
        ends: The entries that end the channel, for the first client alone: the second does not ask for the end.
    """

    def __init__(
        self,
        channel: type[Channel] = Channel,
        subscription: type[Subscription] = Subscription,
        max_entries: int = 6,
        faults: str = "",
        trusting: bool = False,
        together: bool = False,
        ring_bytes: int = DEFAULTS.ring_bytes,
        chunk_bytes: int = DEFAULTS.chunk_bytes,
        ends: tuple[int, ...] = (),
    ) -> None:
        self.ends = ends
        self.stream: list[int] = [1, 2]
        self.last = 2
        self.channel = make_channel("c", StreamId(2, 0), RingBudget(ring_bytes=ring_bytes), kind=channel)
        self.chunk_bytes = chunk_bytes
        self.clients: list[Client] = []
        self.reads: list[Read] = []
        self.interrupted = False
        self.was_reset = False
        self._max_entries = max_entries
        self._faults = faults
        self._subscription = subscription
        self.trusting = trusting
        self._shared = Connection() if together else None

    @property
    def bounds(self) -> StreamBounds:
        return StreamBounds(StreamId(self.stream[0], 0) if self.stream else None, StreamId(self.last, 0))

    @property
    def reach(self) -> int:
        """The furthest anybody stands."""
        return max([self.channel.cursor.ms, *[listener.position.ms for listener in self.channel.beyond_cursor]])

    def compare(self) -> bool:
        """What a look at the stream's ends leads to; False when all start over."""
        if self.last < self.channel.cursor.ms:
            self.channel.reset(self.bounds)
            return False
        self.channel.reset_beyond_cursor(list(self.channel.beyond_cursor), self.bounds)
        return True

    @property
    def hidden(self) -> bool:
        """Whether there was a reset that nobody can see: the new stream had grown beyond the old one's end."""
        return self.was_reset and self.channel.generation == 0 and self.last >= self.reach

    # --- what the machine calls ---

    def read_page(self, subscription: Subscription) -> None:
        after, generation = subscription.position.ms, self.channel.generation
        for read in self.reads:
            if (read.after, read.generation) == (after, generation):
                read.waiting.append(subscription)
                return
        self.reads.append(Read(after, generation, self.channel.cursor, [subscription]))

    # --- what may happen next ---

    def events(self) -> Iterator[Event]:
        if self.last < self._max_entries:
            yield "add", 0
        if not self.interrupted and any(number > self.channel.cursor.ms for number in self.stream):
            yield "deliver", 1
            yield "deliver", 2
        for index, read in enumerate(self.reads):
            yield ("arrive" if read.done else "execute"), index
        if len(self.clients) < 2:
            for start in {0, 1, self.last}:
                if start <= self.last:
                    yield "subscribe", start
        for index, client in enumerate(self.clients):
            connection = client.connection
            if connection.room < ROOM or (connection.waiting and not connection.is_reading_page):
                yield "drain", index
            if not client.gone:
                yield "unsubscribe", index
        if "trim" in self._faults and self.stream:
            yield "trim", 0
        if "interrupt" in self._faults or self.interrupted:
            yield ("resume" if self.interrupted else "interrupt"), 0
        if "reset" in self._faults and not self.was_reset:
            yield "reset", 0
        if self.last < self.reach and not self.interrupted:
            yield "notice", 0
        if "shrink" in self._faults and self.channel.ring_bytes:
            yield "shrink", 0

    def happen(self, event: Event, *, is_checked: bool = True) -> None:
        name, argument = event
        getattr(self, name)(argument)
        if is_checked:
            self.check()

    def add(self, _: int) -> None:
        self.last += 1
        self.stream.append(self.last)

    def deliver(self, count: int) -> None:
        if self.channel.cursor.ms and self.channel.cursor.ms not in self.stream and not self.trusting:
            self.resume(0)  # what was there without waiting need not follow
            return
        news = [number for number in self.stream if number > self.channel.cursor.ms]
        self.channel.deliver([entry(number, ends=number in self.ends) for number in news[:count]])

    def execute(self, index: int) -> None:
        read = self.reads[index]
        after = StreamId(read.after, 0)
        found = [number for number in self.stream if number > read.after]
        read.done, read.found, read.complete = True, found[:PAGE_ENTRIES], len(found) < PAGE_ENTRIES
        if read.after in self.stream or not read.after:
            return
        broken = broken_continuity(after, self.bounds)
        read.cursor = max(read.cursor, self.bounds.last)
        read.gap = None if broken is None else Gap("c", after, self.bounds.first, broken)

    def arrive(self, index: int) -> None:
        read = self.reads.pop(index)
        if read.generation != self.channel.generation:
            return
        if read.gap is not None and read.gap.reason == "reset":
            self.compare()
            self.reads.append(Read(read.after, read.generation, self.channel.cursor, read.waiting))
            return
        each = [self.channel.encode(entry(number)) or b"" for number in read.found]
        frames = b"".join(each)
        counts = [count for count, number in enumerate(read.found, 1) if number in self.ends]
        end = None
        if counts:
            end = PageEnd(StreamId(read.found[counts[0] - 1], 0), len(b"".join(each[: counts[0]])), counts[0])
        last = StreamId((read.found or [read.after])[-1], 0)
        for subscription in read.waiting:
            subscription.page_read(Page(frames, len(read.found), last, read.complete, read.cursor, read.gap, end))

    def subscribe(self, start: int) -> None:
        self.compare()  # the same look at the stream's end that places a subscription
        client = Client(start, self._shared or Connection(), bool(self.ends) and not self.clients)
        self.clients.append(client)

        def ended(_: Subscription) -> None:
            client.gone = True

        on_end = ended if client.wants_end else None
        client.subscription = self._subscription(self.channel, StreamId(start, 0), client, self, on_end=on_end)
        client.subscription.advance()

    def drain(self, index: int) -> None:
        connection = self.clients[index].connection
        connection.room = ROOM
        waiting, connection.waiting = connection.waiting, []
        for subscription in waiting:
            subscription.advance()

    def unsubscribe(self, index: int) -> None:
        client = self.clients[index]
        assert client.subscription is not None
        client.subscription.close()
        client.gone = True

    def trim(self, _: int) -> None:
        self.stream.pop(0)

    def interrupt(self, _: int) -> None:
        self.interrupted = True

    def resume(self, _: int) -> None:
        self.interrupted = False
        if self.compare():
            self.channel.reopen(StreamId(self.last, 0))

    def reset(self, _: int) -> None:
        self.was_reset = True
        self.stream = [1]
        self.last = 1

    def notice(self, _: int) -> None:
        self.compare()

    def shrink(self, _: int) -> None:
        self.channel.shrink_ring(self.channel.ring_bytes // 2)

    # --- judging ---

    def check(self) -> None:
        """What holds at every moment."""
        for client in self.clients:
            self._judge(client)
        stayed = [client.subscription for client in self.clients if client.subscription and not client.gone]
        reading = [subscription.state is State.READING for subscription in stayed]
        if self._shared is not None and sum(reading) > 1:
            raise Violation("two pages are read for one client")
        if len(self.reads) > 2 * len(self.clients):
            raise Violation("reads are not shared")
        for client in [] if self.was_reset and not self.channel.generation else self.clients:
            if client.subscription in self.channel.live and self._position(client) < self.channel.cursor.ms:
                missing = [number for number in self.stream if number > self._position(client)]
                if any(number <= self.channel.cursor.ms for number in missing):
                    raise Violation("live, but not at the cursor")

    def _judge(self, client: Client) -> None:
        """Ascending, each once, nothing left out without a word."""
        position, told = client.start, -1
        is_due = False
        for kind, number in client.seen:
            if is_due != (kind == "end"):
                raise Violation(f"start {client.start}: {client.seen} with the ends {self.ends}")
            is_due = client.wants_end and kind == "message" and number in self.ends
            if kind == "end":
                pass
            elif kind == "reset":
                if not self.was_reset:
                    raise Violation("a reset that was none")
                position, told = 0, -1
            elif kind == "trimmed":
                if not (self._faults and "trim" in self._faults):
                    raise Violation("trimmed, but nothing was")
                if number < position or number == told:
                    raise Violation(f"a gap told twice, or after {number} when the client was at {position}")
                told = number
            else:
                if number <= position:
                    raise Violation(f"start {client.start}: {client.seen}")
                # Until the reset is noticed, what is read at a position may already be of the new stream.
                if number > position + 1 and position and told < 0 and not self.was_reset:
                    raise Violation(f"start {client.start}: {client.seen} leaves something out")
                position, told = number, -1
        if is_due:
            raise Violation(f"start {client.start}: {client.seen} and no end")

    def _position(self, client: Client) -> int:
        for kind, number in reversed(client.seen):
            if kind == "message":
                return number
            if kind == "reset":
                return 0
        return client.start

    def settle(self) -> None:
        """Let everything under way end; then each client that stayed must have everything and be live."""
        urgent = ("resume", "notice", "deliver", "execute", "arrive", "drain")
        for _ in range(200):
            event = next((event for event in self.events() if event[0] in urgent), None)
            if event is None:
                break
            self.happen(event)
        else:
            raise Violation("it never comes to rest")
        for client in self.clients:
            if client.gone or self.hidden:
                continue
            left = [number for number in self.stream if number > self._position(client)]
            if left or client.subscription not in {*self.channel.live, *self.channel.beyond_cursor}:
                raise Violation(f"at rest, start {client.start}: saw {client.seen}, still due {left}")

    def state(self) -> object:
        """What tells this world from others, for the search not to go twice the same way."""
        channel = self.channel
        order = {id(client.subscription): index for index, client in enumerate(self.clients)}
        return (
            tuple(self.stream), self.last, self.interrupted, self.was_reset, channel.generation,
            channel.cursor, channel.floor, tuple(id for id, _ in channel._ring or ()),
            tuple((c.start, tuple(c.seen), c.connection.room, len(c.connection.waiting), c.is_reading_page, c.gone,
                   c.subscription in channel.live,
                   c.subscription in channel.beyond_cursor, c.subscription and c.subscription.position)
                  for c in self.clients),
            tuple((r.after, r.generation, r.cursor, tuple(order[id(s)] for s in r.waiting), r.done, tuple(r.found),
                   r.complete, r.gap) for r in self.reads),
        )  # fmt: skip


def search(depth: int, make: Callable[[], World] = World) -> int:
    """Visit every world up to ``depth`` events away and settle each.

    Returns:
        The number of different worlds.

    Raises:
        Violation: With the events that lead to it.
    """
    seen: set[object] = set()
    frontier: list[tuple[Event, ...]] = [()]
    for _ in range(depth):
        reached: list[tuple[Event, ...]] = []
        for path in frontier:
            for event in list(replay(path, make).events()):
                longer = (*path, event)
                try:
                    world = replay(longer, make)
                    state = world.state()
                    if state in seen:
                        continue
                    seen.add(state)
                    reached.append(longer)
                    world.settle()
                except Violation as violation:
                    raise Violation(f"{violation} after {longer}") from None
        frontier = reached
    return len(seen)


def replay(path: tuple[Event, ...], make: Callable[[], World]) -> World:
    """The world that these events lead to, checked after the last one: the shorter paths have been checked before."""
    world = make()
    for index, event in enumerate(path, 1):
        world.happen(event, is_checked=index == len(path))
    return world


FRAME_BYTES = len(World().channel.encode(entry(1)) or b"")
small_world = partial(World, ring_bytes=2 * FRAME_BYTES, chunk_bytes=1)
"""One whose ring holds two messages, so that few events are enough for everything to happen."""

"""The join/lag/resume machine against a model of everything around it, one event at a time.

The real :class:`Channel` and :class:`Subscription` run between a model stream, a model reader, page reads whose three
moments (issued, carried out by Redis, arrived) are events of their own, and clients whose buffers fill and drain. A
world is reached by a sequence of events; :func:`search` visits every world up to a depth, :func:`settle` lets one come
to rest and judges it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from rsws.gateway.channel import Channel, RingBudget
from rsws.gateway.subscription import Page, Subscription
from rsws.protocol import StreamId
from rsws.streams.store import Entry

PAGE_ENTRIES = 2
RING_MESSAGES = 2
ROOM = 2

Event = tuple[str, int]


class Violation(AssertionError):
    """The promise is broken: a message missing, twice, out of order, or nobody's."""


def entry(number: int) -> Entry:
    return Entry(StreamId(number, 0), b"%d-0" % number, b"1")


def ids_in(frames: bytes) -> Iterator[int]:
    """The ids of the message events in a run of (short) text frames."""
    while frames:
        size = frames[1]
        event = msgspec.json.decode(frames[2 : 2 + size])
        if event["event"] == "message":
            yield int(event["streamId"].partition("-")[0])
        frames = frames[2 + size :]


@dataclass
class Read:
    """A page read under way."""

    after: int
    cursor: StreamId
    waiting: list[Subscription]
    result: list[int] | None = None
    complete: bool = False


@dataclass
class Client:
    """One client: what it was sent, and how much room is left on the way to it."""

    start: int
    received: list[int] = field(default_factory=list)
    room: int = ROOM
    waiting: list[Subscription] = field(default_factory=list)
    subscription: Subscription | None = None
    gone: bool = False

    @property
    def has_room(self) -> bool:
        return self.room > 0

    def write(self, frames: bytes) -> None:
        if self.gone:
            raise Violation("sent something after unsubscribed")
        self.room -= 1
        self.received.extend(ids_in(frames))

    def when_room(self, subscription: Subscription) -> None:
        self.waiting.append(subscription)


class World:
    """Everything that takes part, in one state."""

    def __init__(
        self,
        channel: type[Channel] = Channel,
        subscription: type[Subscription] = Subscription,
        max_entries: int = 6,
    ) -> None:
        self.stream: list[int] = [1, 2]
        self.max_entries = max_entries
        self.channel = channel("c", StreamId(2, 0), RingBudget(), lambda name, id: None)
        self._subscription = subscription
        self.clients: list[Client] = []
        self.reads: list[Read] = []

    # --- what the machine calls ---

    def read_page(self, subscription: Subscription) -> None:
        after = subscription.position.ms
        for read in self.reads:
            if read.after == after:
                read.waiting.append(subscription)
                return
        self.reads.append(Read(after, self.channel.cursor, [subscription]))

    # --- what may happen next ---

    def events(self) -> Iterator[Event]:
        if self.stream[-1] < self.max_entries:
            yield "add", 0
        if self.channel.cursor.ms < self.stream[-1]:
            yield "deliver", 1
            yield "deliver", 2
        for index, read in enumerate(self.reads):
            yield ("execute", index) if read.result is None else ("arrive", index)
        if len(self.clients) < 2:
            for start in (0, 1, self.stream[-1]):
                yield "subscribe", start
        for index, client in enumerate(self.clients):
            if client.room < ROOM:
                yield "drain", index
            if not client.gone:
                yield "unsubscribe", index

    def happen(self, event: Event) -> None:
        name, argument = event
        getattr(self, name)(argument)
        self.check()

    def add(self, _: int) -> None:
        self.stream.append(self.stream[-1] + 1)

    def deliver(self, count: int) -> None:
        news = [number for number in self.stream if number > self.channel.cursor.ms]
        self.channel.deliver([entry(number) for number in news[:count]])

    def execute(self, index: int) -> None:
        read = self.reads[index]
        found = [number for number in self.stream if number > read.after]
        read.result, read.complete = found[:PAGE_ENTRIES], len(found) < PAGE_ENTRIES

    def arrive(self, index: int) -> None:
        read = self.reads.pop(index)
        assert read.result is not None
        frames = b"".join(frame for _, frame in self.channel.encode(entry(number) for number in read.result))
        page = Page(frames, StreamId((read.result or [read.after])[-1], 0), read.complete, read.cursor)
        for subscription in read.waiting:
            subscription.page_read(page)

    def subscribe(self, start: int) -> None:
        client = Client(start)
        self.clients.append(client)
        client.subscription = self._subscription(self.channel, StreamId(start, 0), client, self)
        client.subscription.advance()

    def drain(self, index: int) -> None:
        client = self.clients[index]
        client.room = ROOM
        waiting, client.waiting = client.waiting, []
        for subscription in waiting:
            subscription.advance()

    def unsubscribe(self, index: int) -> None:
        client = self.clients[index]
        assert client.subscription is not None
        client.subscription.close()
        client.gone = True

    # --- judging ---

    def check(self) -> None:
        """What holds at every moment."""
        for client in self.clients:
            due = [number for number in self.stream if number > client.start]
            if client.received != due[: len(client.received)]:
                raise Violation(f"start {client.start}: received {client.received} of {due}")
        live = self.channel.live
        if len(self.reads) > 2 * len(self.clients):
            raise Violation("reads are not shared")
        for client in self.clients:
            if client.subscription in live and client.received != [
                number for number in self.stream if client.start < number <= self.channel.cursor.ms
            ]:
                raise Violation("live, but not at the cursor")

    def settle(self) -> None:
        """Let everything under way end; then each client that stayed must have everything and be live."""
        for _ in range(100):
            event = next(
                (event for event in self.events() if event[0] in ("deliver", "execute", "arrive", "drain")), None
            )
            if event is None:
                break
            self.happen(event)
        else:
            raise Violation("it never comes to rest")
        for client in self.clients:
            due = [number for number in self.stream if number > client.start]
            if not client.gone and (client.received != due or client.subscription not in self.channel.live):
                raise Violation(f"at rest, start {client.start}: received {client.received} of {due}")

    def state(self) -> object:
        """What tells this world from others, for the search not to go twice the same way."""
        ring = tuple(id.ms for id, _ in self.channel._ring)
        order = {id(client.subscription): index for index, client in enumerate(self.clients)}
        return (
            tuple(self.stream), self.channel.cursor, self.channel.floor, ring,
            tuple((c.start, tuple(c.received), c.room, len(c.waiting), c.gone, c.subscription in self.channel.live,
                   c.subscription in self.channel.ahead, c.subscription and c.subscription.position)
                  for c in self.clients),
            tuple((r.after, r.cursor, tuple(order[id(s)] for s in r.waiting),
                   None if r.result is None else tuple(r.result), r.complete) for r in self.reads),
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
    for _ in range(depth + 1):
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
    world = make()
    for event in path:
        world.happen(event)
    return world

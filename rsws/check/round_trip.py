"""The live round trip: publish, receive, cut the connection, publish meanwhile, resume."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from rsws.check.findings import Check, Finding, Found, critical, note
from rsws.check.gateway_checks import Gateway
from rsws.check.redis_server import NAME, Server
from rsws.client import Client, ConnectionEvent, Reconnected, Subscription, connect
from rsws.client.subscription import Event
from rsws.errors import ErrorCode, PublishFailed, RswsError, SubscribeRefused, Unauthorized
from rsws.protocol import Error, Gap, Message, StreamId, Subscribed, json_text
from rsws.redis.connection import ReplyError, pack
from rsws.streams.publisher import xadd

T = TypeVar("T")


class Failed(Exception):
    """The round trip has failed; the text says how."""


@dataclass(slots=True)
class RoundTrip:
    """What a round trip needs, and what comes out of it.

    Attributes:
        channel: Where to publish.
        mark: What tells its messages from those of others.
        is_own: Whether the channel was made for this, and may be deleted.
        gateway: Through which gateway; None for none, or none that answers.
        servers: The Redis servers that answer.
        timeout_s: How long each step may take.
        took_s: How long it took from publishing a message to receiving it; None until it is known.
        ids: What was published.
    """

    channel: str
    mark: str
    is_own: bool
    gateway: Gateway | None
    servers: Sequence[Server]
    timeout_s: float
    took_s: float | None = None
    ids: list[StreamId] = field(default_factory=list)

    @property
    def home(self) -> Server | None:
        """The server that has the channel."""
        return next((each for each in self.servers if each.has(self.channel)), None)

    @property
    def data(self) -> dict[str, str | int]:
        """The next message to publish."""
        return {NAME: self.mark, "n": len(self.ids) + 1}

    async def add(self, home: Server) -> None:
        """Publish a message straight to Redis.

        Raises:
            Failed: Redis refuses it.
        """
        field = home.plan.fields.of(self.channel).decode()
        [reply] = await home.ask(xadd(self.channel, json_text(self.data), field=field))
        if not isinstance(reply, bytes):
            raise Failed(f"Redis refuses to write to {self.channel!r}: {reply}")
        self.ids.append(StreamId.from_redis(reply))

    def compare(self, received: Sequence[StreamId]) -> None:
        """Hold what was received against what was published.

        Raises:
            Failed: It is not the same, in the same order.
        """
        if list(received) != self.ids:
            raise Failed(f"published {' '.join(map(str, self.ids))}, received {' '.join(map(str, received))}")


async def round_trip(trip: RoundTrip) -> Found:
    """Make the round trip, and delete what it has left in Redis."""
    home = trip.home
    found: list[Finding] = []
    try:
        if trip.gateway is not None:
            await _through_gateway(trip, trip.gateway)
        elif home is not None:
            await _straight_to_redis(trip, home)
        else:
            return None  # that nothing answers is said already
    except (Failed, RswsError, OSError) as error:
        found.append(critical(f"The round trip failed: {error}", _what_to_do(error)))
    if trip.ids and not await _delete(trip, home):
        action = f"DEL {trip.channel} in Redis, or start the gateway with --retain '{NAME}-*=0,1h,expire'"
        found.append(note(f"The messages of this check stay in {trip.channel}", action))
    return found


async def _delete(trip: RoundTrip, home: Server | None) -> bool:
    """Delete the messages, and the stream if it was made for them; return whether that is done."""
    if home is None:
        return False
    key, ids = trip.channel.encode(), [str(each).encode() for each in trip.ids]
    [reply] = await home.ask([b"DEL", key] if trip.is_own else [b"XDEL", key, *ids])
    return not isinstance(reply, ReplyError)


def _what_to_do(error: Exception) -> str:
    match error:
        case SubscribeRefused(code=ErrorCode.BAD_CHANNEL) | PublishFailed(code=ErrorCode.BAD_CHANNEL):
            return "name a channel that --channels of the gateway names with --channel"
        case SubscribeRefused(code=ErrorCode.NOT_ALLOWED) | PublishFailed(code=ErrorCode.NOT_ALLOWED):
            return (
                "name a channel that the token may read and write, and that takes publishes (--field), with --channel; "
                "a publish needs EVAL in Redis"
            )
        case Unauthorized():
            return "give the gateway's token with --token-file or RSWS_TOKEN; the gateway's log says why it is refused"
    return "see what else was found, and the gateway's log"


# --- through a gateway ---


async def _through_gateway(trip: RoundTrip, gateway: Gateway) -> None:
    back = asyncio.Event()

    def changed(event: ConnectionEvent) -> None:
        if isinstance(event, Reconnected):
            back.set()

    open_client = partial(connect, gateway.url, token=gateway.token, ssl=gateway.tls, connect_timeout_s=trip.timeout_s)
    async with AsyncExitStack() as stack:
        subscriber = await stack.enter_async_context(open_client(on_connection=changed))
        events = subscriber.subscribe(trip.channel, events=True)
        await _next(trip, events, Subscribed, "not subscribed")
        since = time.monotonic()
        await _publish(trip, subscriber)
        received = [await _next(trip, events, Message, "what was published did not come")]
        trip.took_s = time.monotonic() - since
        other = await stack.enter_async_context(open_client())
        home = await _same_redis(trip)
        subscriber.cut()
        await _publish_elsewhere(trip, home, other)
        await _within(trip, back.wait(), "the connection was cut, and not made again")
        await _publish_elsewhere(trip, home, other)
        while len(received) < len(trip.ids):
            received.append(await _next(trip, events, Message, "what was published meanwhile did not come"))
        await _within(trip, subscriber.ping(trip.timeout_s), "no pong")  # by then a second copy would have come
        while events.queued:
            event = await anext(events)
            received += [event.id] if isinstance(event, Message) and trip.mark in event.json else []
        trip.compare(received)


async def _publish(trip: RoundTrip, client: Client) -> None:
    trip.ids.append(await client.publish(trip.channel, trip.data, timeout_s=trip.timeout_s))


async def _publish_elsewhere(trip: RoundTrip, home: Server | None, other: Client) -> None:
    """Publish without the connection that was cut: straight to Redis where that is allowed, else over another one."""
    if home is not None:
        with suppress(Failed):
            await trip.add(home)
            return
    await _publish(trip, other)


async def _same_redis(trip: RoundTrip) -> Server | None:
    """Return the server that has the channel, if it can be read and has what the gateway has stored.

    Raises:
        Failed: It has it not.
    """
    if trip.home is None or trip.home.info("role") == "slave":
        return None
    stored = str(trip.ids[0]).encode()
    [reply] = await trip.home.ask([b"XRANGE", trip.channel.encode(), stored, stored])
    if reply == []:
        shown = trip.home.target.shown
        raise Failed(f"the gateway has stored it, but not in {shown}: it uses another Redis, or another database")
    return trip.home if isinstance(reply, list) else None


async def _next(trip: RoundTrip, events: Subscription[Event], kind: type[Event], trouble: str) -> StreamId:
    """Return the id of the next event of a kind; of messages, of the next one of this check."""

    async def wait() -> StreamId:
        async for event in events:
            match event:
                case Error(text, ErrorCode.NOT_ALLOWED as code):
                    raise SubscribeRefused(f"{trouble}: {text}", code, trip.channel)
                case Error(text, code):
                    raise Failed(f"{trouble}: {text} ({code})")
                case Gap(reason=reason):
                    raise Failed(f"a gap ({reason}) where nothing was trimmed")
                case Message(id=stream_id) if kind is Message and trip.mark in event.json:
                    return stream_id
                case Subscribed(latest_id=stream_id) if kind is Subscribed:
                    return stream_id
        raise Failed(trouble)

    return await _within(trip, wait(), trouble)


# --- straight to Redis ---


async def _straight_to_redis(trip: RoundTrip, home: Server) -> None:
    since = time.monotonic()
    await trip.add(home)
    received = await _read(trip, home, trip.ids[0].before())
    trip.took_s = time.monotonic() - since
    await trip.add(home)
    await trip.add(home)
    trip.compare([*received, *await _read(trip, home, trip.ids[0])])


async def _read(trip: RoundTrip, home: Server, after: StreamId) -> list[StreamId]:
    """Read over a connection that is cut off afterwards."""
    connection = await home.target.connect(NAME, any_node=True)
    try:
        words = b"XREAD", b"COUNT", b"1000", b"STREAMS", trip.channel.encode(), str(after).encode()
        [reply] = await connection.ask(pack(*words), timeout_s=trip.timeout_s)
    finally:
        await connection.close()
    if isinstance(reply, ReplyError):
        raise Failed(f"Redis refuses to read {trip.channel!r}: {reply}")
    entries = reply[0][1] if reply else []
    return [StreamId.from_redis(stream_id) for stream_id, fields in entries if trip.mark.encode() in fields[-1]]


async def _within(trip: RoundTrip, work: Awaitable[T], trouble: str) -> T:
    """Wait no longer than a step may take."""
    try:
        async with asyncio.timeout(trip.timeout_s):
            return await work
    except TimeoutError:
        raise Failed(f"{trouble}: nothing within {trip.timeout_s:g} s") from None


ROUND_TRIP = Check("round-trip", "a message that is published, received, and received after an outage", round_trip)

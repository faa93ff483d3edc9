"""Channels that end, as the client library sees them."""

from __future__ import annotations

from kit.client import connected, ids, in_a_loop, message, take
from rsws.protocol import End, Gap, Message, StreamId, Subscribed


def end(number: int, channel: str = "c") -> End:
    return End(channel, StreamId(number, 0))


@in_a_loop
async def test_the_iteration_ends_once_what_is_queued_was_read() -> None:
    async with connected() as (_, peer, client):
        subscription = client.subscribe("c", after="0", end=True)
        await peer.expect(action="subscribe", channel="c", lastMessageId="0-0", end=True)
        await peer.grant("c", 0)
        await peer.say(message("c", 1), message("c", 2), end(2), message("c", 3))
        assert ids([each async for each in subscription]) == [1, 2]
        again = client.subscribe("c", after="2-0")  # the channel is free
        await peer.expect(action="subscribe", channel="c", lastMessageId="2-0")
        await peer.grant("c", 2)
        await peer.say(message("c", 3), end(3))
        assert (await anext(again)).id == StreamId(3, 0)


@in_a_loop
async def test_other_channels_go_on_and_the_end_is_an_event() -> None:
    async with connected() as (_, peer, client):
        subscription = client.subscribe("a", "b", after="0", end=True, events=True)
        for _ in range(2):
            await peer.grant((await peer.hear())["channel"], 0)
        await peer.say(message("a", 1), end(1, "a"), message("b", 2), end(2, "b"))
        events = [event async for event in subscription if not isinstance(event, Subscribed)]
        assert [(type(event), event.channel) for event in events] == [
            (Message, "a"), (End, "a"), (Message, "b"), (End, "b"),
        ]  # fmt: skip


@in_a_loop
async def test_an_end_that_the_connection_has_lost_is_asked_for() -> None:
    async with connected() as (script, peer, client):
        subscription = client.subscribe("c", end=True)
        await peer.hear()
        await peer.grant("c", 4)
        await peer.drop()
        peer = await script.peer()  # nothing was received: what stands there may have been the end of an earlier time
        await peer.expect(action="subscribe", channel="c", lastMessageId="4-0", end=True)
        await peer.grant("c", 4)
        await peer.say(message("c", 5))
        assert (await anext(subscription)).id == StreamId(5, 0)
        await peer.drop()
        peer = await script.peer()
        await peer.expect(action="subscribe", channel="c", lastMessageId="5-0", end=True, resume=True)
        await peer.say(end(5))
        assert [each async for each in subscription] == []


@in_a_loop
async def test_after_a_reset_nothing_was_received() -> None:
    async with connected() as (script, peer, client):
        subscription = client.subscribe("c", end=True, events=True)
        await peer.hear()
        await peer.grant("c", 4)
        await peer.say(message("c", 5), Gap("c", StreamId(5, 0), None, "reset"))
        assert [type(event) for event in await take(subscription, 3)] == [Subscribed, Message, Gap]
        await peer.drop()
        peer = await script.peer()
        await peer.expect(action="subscribe", channel="c", lastMessageId="0-0", end=True, marker=True)

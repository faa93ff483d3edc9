"""Subscriptions of a client, and an application that is slower than its stream."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any

import pytest

from kit.client import QUICK, connected, ids, in_a_loop, message, scripted, sending_stops, take
from rsws.client import (
    Event,
    connect,
)
from rsws.errors import (
    ConnectionLost,
    Outcome,
    PublishFailed,
    SubscribeRefused,
    UsageError,
)
from rsws.protocol import (
    Ack,
    CaughtUp,
    Error,
    Gap,
    Message,
    Pong,
    StreamId,
    Subscribed,
    Unsubscribed,
)

# --- subscribing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "request_"),
    [
        ({}, {"lastMessageId": "$"}),
        ({"after": "0"}, {"lastMessageId": "0-0"}),
        ({"after": "5-1"}, {"lastMessageId": "5-1"}),
        ({"after": StreamId(5, 1)}, {"lastMessageId": "5-1"}),
        ({"last": 3}, {"last": 3}),
        ({"last": 3, "events": True}, {"last": 3, "marker": True}),
        ({"after": "0", "end": True}, {"lastMessageId": "0-0", "end": True}),
    ],
)
@in_a_loop
async def test_where_a_subscription_starts(options: dict[str, Any], request_: dict[str, Any]) -> None:
    async with connected() as (_, peer, client):
        client.subscribe("c", **options)
        await peer.expect(action="subscribe", channel="c", **request_)


@in_a_loop
async def test_a_subscription_that_makes_no_sense_is_a_usage_error() -> None:
    async with connected() as (_, _peer, client):
        calls: list[tuple[tuple[str, ...], dict[str, Any]]] = [
            ((), {}),
            (("a", "a"), {}),
            (("",), {}),
            (("a\0",), {}),
            (("a",), {"after": "+"}),
            (("a",), {"after": ""}),
            (("a",), {"last": -1}),
            (("a",), {"last": 1, "after": "0"}),
        ]
        for channels, options in calls:
            with pytest.raises(UsageError):
                client.subscribe(*channels, **options)
        client.subscribe("a")
        with pytest.raises(UsageError, match="'a' is subscribed already"):
            client.subscribe("b", "a")
        client.subscribe("b")


@in_a_loop
async def test_messages_come_in_order_and_resume_after_the_last_one_received() -> None:
    async with connected() as (script, peer, client):
        messages = client.subscribe("c", after="0")
        await peer.expect(action="subscribe", channel="c", lastMessageId="0-0")
        await peer.grant("c", 0)
        await peer.say(message("c", 1, {"text": "hi"}), message("c", 2))
        first = await anext(messages)
        assert (first.channel, first.id, first.json, first.data) == (
            "c",
            StreamId(1, 0),
            '{"text": "hi"}',
            {"text": "hi"},
        )
        await peer.say(message("c", 3))
        assert ids(await take(messages, 2)) == [2, 3]
        for last, code in ((3, 1012), (4, 1001), (5, 1011), (6, 1013)):
            await peer.close(code)
            peer = await script.peer()
            await peer.expect(action="subscribe", channel="c", lastMessageId=f"{last}-0")
            await peer.grant("c", last)
            await peer.say(message("c", last + 1))
            assert ids(await take(messages, 1)) == [last + 1]


@in_a_loop
async def test_a_subscription_that_has_seen_nothing_resumes_where_the_gateway_pinned_it() -> None:
    async with connected() as (script, peer, client):
        client.subscribe("new", events=True)
        client.subscribe("last", last=2)
        client.subscribe("unanswered", last=9)
        assert [(await peer.hear())["channel"] for _ in range(3)] == ["new", "last", "unanswered"]
        await peer.grant("new", 100)
        await peer.grant("last", 98)
        await peer.say(Pong())
        await peer.drop()
        peer = await script.peer()
        await peer.expect(action="subscribe", channel="new", lastMessageId="100-0", marker=True)
        await peer.expect(action="subscribe", channel="last", lastMessageId="98-0")
        await peer.expect(action="subscribe", channel="unanswered", last=9)


@in_a_loop
async def test_several_channels_in_one_iterator() -> None:
    async with connected() as (script, peer, client):
        messages = client.subscribe("a", "b", after="0")
        await peer.expect(action="subscribe", channel="a", lastMessageId="0-0")
        await peer.expect(action="subscribe", channel="b", lastMessageId="0-0")
        await peer.grant("a", 0)
        await peer.grant("b", 0)
        await peer.say(message("b", 1), message("a", 5), message("b", 2), message("other", 1))
        assert [(each.channel, each.id.ms) for each in await take(messages, 3)] == [("b", 1), ("a", 5), ("b", 2)]
        await peer.drop()
        peer = await script.peer()
        await peer.expect(action="subscribe", channel="a", lastMessageId="5-0")
        await peer.expect(action="subscribe", channel="b", lastMessageId="2-0")


@in_a_loop
async def test_events_tell_the_start_the_end_of_history_and_each_return() -> None:
    async with connected() as (script, peer, client):
        events = client.subscribe("c", after="0", events=True)
        await peer.expect(action="subscribe", channel="c", lastMessageId="0-0", marker=True)
        await peer.grant("c", 0, 1)
        await peer.say(message("c", 1), CaughtUp("c", StreamId(1, 0)))
        await peer.say(Error("the key is not a stream", "channel_unreadable", "c"), message("c", 2))
        await peer.say(Gap("c", StreamId(2, 0), StreamId(9, 0), "trimmed"), message("c", 9))
        kinds: list[type[Event]] = [Subscribed, Message, CaughtUp, Error, Message, Gap, Message]
        assert [type(event) for event in await take(events, 7)] == kinds
        await peer.drop()
        peer = await script.peer()
        await peer.expect(action="subscribe", channel="c", lastMessageId="9-0", marker=True)
        await peer.grant("c", 9, 10)
        await peer.say(message("c", 10), CaughtUp("c", StreamId(10, 0)))
        assert await take(events, 3) == [
            Subscribed("c", StreamId(9, 0), StreamId(10, 0)),
            message("c", 10),
            CaughtUp("c", StreamId(10, 0)),
        ]


@in_a_loop
async def test_without_events_gaps_and_troubles_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as (script, peer, client):
        messages = client.subscribe("c", after="4")
        await peer.hear()
        await peer.grant("c", 4)
        await peer.say(Gap("c", StreamId(4, 0), None, "reset"))
        await peer.say(Error("the key is not a stream", "channel_unreadable", "c"))
        await peer.drop()
        peer = await script.peer()
        await peer.expect(action="subscribe", channel="c", lastMessageId="0-0")  # ids begin anew
        await peer.grant("c", 0)
        await peer.say(message("c", 1))
        assert ids(await take(messages, 1)) == [1]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "c: gap after 4-0 (reset)",
        "c: the key is not a stream (channel_unreadable)",
    ]


@in_a_loop
async def test_a_refused_subscription_raises() -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("a", "b", after="0")
        await peer.hear()
        await peer.hear()
        await peer.grant("a", 0)
        await peer.say(message("a", 1), Error("the key is not a stream", "channel_unreadable", "b"))
        assert ids(await take(messages, 1)) == [1]
        with pytest.raises(SubscribeRefused, match="b: the key is not a stream") as caught:
            await anext(messages)
        assert (caught.value.code, caught.value.channel) == ("channel_unreadable", "b")
        await peer.expect(action="unsubscribe", channel="a")
        client.subscribe("b")
        await peer.expect(action="subscribe", channel="b", lastMessageId="$")
        with pytest.raises(UsageError):
            client.subscribe("a")  # the gateway may still send messages of the other one
        await peer.say(Unsubscribed("a"))
        await messages.close()
        client.subscribe("a")


@in_a_loop
async def test_with_events_a_refused_channel_does_not_end_the_others() -> None:
    async with connected() as (_, peer, client):
        events = client.subscribe("a", "b", after="0", events=True)
        await peer.hear()
        await peer.hear()
        refused = Error("no", "not_allowed", "a")
        await peer.say(refused)
        await peer.grant("b", 0)
        await peer.say(message("b", 1))
        assert await take(events, 3) == [refused, Subscribed("b", StreamId(0, 0), StreamId(0, 0)), message("b", 1)]

        events = client.subscribe("a", events=True)
        await peer.hear()
        await peer.say(refused)
        assert await anext(events) == refused
        with pytest.raises(SubscribeRefused):
            await anext(events)


@in_a_loop
async def test_a_subscribe_while_redis_is_away_is_tried_again_and_said_once() -> None:
    async with connected() as (_, peer, client):
        events = client.subscribe("c", after="0", events=True)
        away = Error("Server Redis tidak siap", "redis_unavailable", "c")
        for _ in range(3):
            await peer.expect(action="subscribe", channel="c", lastMessageId="0-0", marker=True)
            await peer.say(away)
        await peer.expect(action="subscribe", channel="c", lastMessageId="0-0", marker=True)
        await peer.grant("c", 0)
        assert await take(events, 2) == [away, Subscribed("c", StreamId(0, 0), StreamId(0, 0))]


@pytest.mark.parametrize("code", ["redis_unavailable", "redis_refused", "channel_unreadable"])
@in_a_loop
async def test_a_subscription_that_was_good_gets_over_a_refusal(code: str) -> None:
    async with connected() as (script, peer, client):
        messages = client.subscribe("c", after="0")
        await peer.hear()
        await peer.grant("c", 0)
        await peer.say(message("c", 1))
        assert ids(await take(messages, 1)) == [1]
        await peer.drop()
        peer = await script.peer()
        for _ in range(2):
            await peer.expect(action="subscribe", channel="c", lastMessageId="1-0")
            await peer.say(Error("not now", code, "c"))
        await peer.expect(action="subscribe", channel="c", lastMessageId="1-0")
        await peer.grant("c", 1)
        await peer.say(message("c", 2))
        assert ids(await take(messages, 1)) == [2]


@in_a_loop
async def test_a_cancelled_step_loses_nothing() -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("c", after="0")
        await peer.hear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await anext(messages)
        await peer.grant("c", 0)
        await peer.say(message("c", 1))
        assert ids(await take(messages, 1)) == [1]


@in_a_loop
async def test_closing_a_subscription_unsubscribes_and_frees_the_channel() -> None:
    async with connected() as (_, peer, client):
        async with client.subscribe("c", after="0") as messages:
            await peer.hear()
            await peer.grant("c", 0)
            await peer.say(message("c", 1), message("c", 2))
            assert ids(await take(messages, 1)) == [1]
            closing = asyncio.create_task(messages.close())
            await peer.expect(action="unsubscribe", channel="c")
            await peer.say(message("c", 3), Unsubscribed("c"))
            await closing
        assert [each async for each in messages] == []
        other = client.subscribe("c", after="7")
        await peer.expect(action="subscribe", channel="c", lastMessageId="7-0")
        await peer.grant("c", 7)
        await peer.say(message("c", 8))
        assert ids(await take(other, 1)) == [8]


@in_a_loop
async def test_a_subscription_closed_before_it_was_granted_is_ended_when_it_is() -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("c")
        await peer.expect(action="subscribe", channel="c", lastMessageId="$")
        closing = asyncio.create_task(messages.close())
        await asyncio.sleep(0)
        await peer.grant("c", 0)
        await peer.say(message("c", 1))
        await peer.expect(action="unsubscribe", channel="c")
        await peer.say(Unsubscribed("c"))
        await closing
        assert [each async for each in messages] == []


@in_a_loop
async def test_closing_a_subscription_does_not_wait_for_a_connection() -> None:
    lost = asyncio.Event()
    async with scripted() as script:
        client = await (context := connect(script.url, on_connection=lambda _: lost.set(), limits=QUICK)).__aenter__()
        messages = client.subscribe("c")
        await (await script.peer()).hear()
    await lost.wait()
    await messages.close()
    assert client.queued == 0
    client.subscribe("c")
    await context.__aexit__(None, None, None)


@in_a_loop
async def test_leaving_the_client_ends_its_iterators_and_calls() -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("c", after="0")
        await peer.hear()
        await peer.grant("c", 0)
        await peer.say(message("c", 1))
        assert ids(await take(messages, 1)) == [1]
        reading = asyncio.create_task(take(messages, 1))
        publishing = asyncio.create_task(client.publish("c", 1))
        await peer.hear_publish()
    assert peer.websocket.close_code == 1000
    with pytest.raises(StopAsyncIteration):
        await reading
    with pytest.raises(PublishFailed) as caught:
        await publishing
    assert caught.value.outcome == Outcome.UNKNOWN
    assert [each async for each in messages] == []
    for call in (client.publish("c", 1), client.ping()):
        with pytest.raises(ConnectionLost, match="the client is closed"):
            await call
    with pytest.raises(ConnectionLost, match="the client is closed"):
        client.subscribe("d")
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("rsws")]


@in_a_loop
async def test_leaving_does_not_wait_for_a_gateway_that_does_not_answer() -> None:
    limits = replace(QUICK, close_timeout_s=0.2)
    async with connected(limits) as (_, peer, client):
        peer.websocket.transport.pause_reading()
        publishing = asyncio.gather(*(client.publish("c", "x" * 100_000) for _ in range(200)), return_exceptions=True)
        await sending_stops(client)
        since = time.monotonic()
    assert time.monotonic() - since < 5
    assert {type(result) for result in await publishing} == {PublishFailed, ConnectionLost}


# --- a slow application -----------------------------------------------------------------------------------


@pytest.mark.parametrize("events", [False, True])
@in_a_loop
async def test_a_full_queue_lets_the_stream_be_the_buffer(events: Any) -> None:
    limits = replace(QUICK, queue_entries=8)
    async with connected(limits) as (_, peer, client):
        received = client.subscribe("c", after="0", events=events)
        await peer.hear()
        await peer.grant("c", 0)
        await peer.say(*(message("c", number) for number in range(1, 13)))
        await peer.expect(action="unsubscribe", channel="c")
        await peer.say(message("c", 13))
        assert ids(await take(received, 6)) == [1, 2, 3, 4, 5, 6][: 6 - events]
        await peer.say(message("c", 14), Unsubscribed("c"))
        last = 8 - events
        marker = {"marker": True} if events else {}
        await peer.expect(action="subscribe", channel="c", lastMessageId=f"{last}-0", **marker)
        await peer.grant("c", last)
        await peer.say(*(message("c", number) for number in range(last + 1, 11)))
        assert ids(await take(received, 4 + events)) == [6, 7, 8, 9, 10][1 - events :]


@in_a_loop
async def test_a_queue_is_bounded_in_size_too() -> None:
    limits = replace(QUICK, queue_bytes=1000)
    async with connected(limits) as (_, peer, client):
        messages = client.subscribe("c", after="0")
        await peer.hear()
        await peer.grant("c", 0)
        await peer.say(message("c", 1, "x" * 5000), message("c", 2, "y"), message("c", 3, "z"))
        await peer.expect(action="unsubscribe", channel="c")
        await peer.say(Unsubscribed("c"))
        assert ids(await take(messages, 1)) == [1]
        await peer.expect(action="subscribe", channel="c", lastMessageId="1-0")


@in_a_loop
async def test_a_full_queue_holds_up_neither_acks_nor_other_subscriptions() -> None:
    limits = replace(QUICK, queue_entries=4)
    async with connected(limits) as (script, peer, client):
        client.subscribe("full", after="0")
        messages = client.subscribe("other", after="0")
        for channel in ("full", "other"):
            await peer.hear()
            await peer.grant(channel, 0)
        await peer.say(*(message("full", number) for number in range(1, 100)), message("other", 1))
        assert ids(await take(messages, 1)) == [1]
        await peer.expect(action="unsubscribe", channel="full")
        publishing = asyncio.create_task(client.publish("c", 1, message_id="m"))
        await peer.hear_publish()
        await peer.say(Ack("m", StreamId(1, 0)))
        await publishing
        # A new connection doesn't fill it further: the full one waits, the other goes on.
        await peer.drop()
        peer = await script.peer()
        await peer.expect(action="subscribe", channel="other", lastMessageId="1-0")
        pinging = asyncio.create_task(client.ping())
        await peer.expect(action="ping")
        await peer.say(Pong())
        await pinging


@in_a_loop
async def test_an_application_that_keeps_up_is_never_unsubscribed() -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("c", after="0")
        await peer.hear()
        await peer.grant("c", 0)
        reading = asyncio.create_task(take(messages, 20_000))
        await peer.say(*(message("c", number) for number in range(1, 20_001)))
        assert ids(await reading) == [*range(1, 20_001)]
        pinging = asyncio.create_task(client.ping())
        await peer.expect(action="ping")
        await peer.say(Pong())
        await pinging

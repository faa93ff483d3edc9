"""Channels that end: an entry with a field ``end``, for whoever has asked to be told."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from kit.gateway import Client, add, async_test, connect, gateway, until
from kit.http import BEARER, Answer, http_client
from kit.interleavings import make_channel
from kit.support import RedisServer
from rsws.gateway.delivery.channel import MAX_ENDS
from rsws.protocol import ZERO, StreamId
from rsws.streams.replies import Entry


def end(redis: RedisServer, channel: str, data: str | None = None) -> str:
    """An entry that ends the channel; its id."""
    message = [] if data is None else ["messageData", data]
    stream_id: bytes = redis.call("XADD", channel, "*", *message, "end", "1")
    return stream_id.decode()


async def expect_end(client: Client, channel: str, stream_id: str) -> None:
    await client.expect(f'{{"event":"end","channel":"{channel}","streamId":"{stream_id}"}}')


@pytest.mark.parametrize("has_data", [True, False])
@pytest.mark.parametrize("count", [1, 100])
@async_test
async def test_the_end_of_history(redis_server: RedisServer, channel: str, count: int, has_data: bool) -> None:
    ids = add(redis_server, channel, *map(str, range(count)))
    last = end(redis_server, channel, "-1" if has_data else None)
    [later] = add(redis_server, channel, "-2")
    due = [*zip(ids, range(count), strict=True), *([(last, -1)] if has_data else [])]
    async with gateway(redis_server.url) as server, connect(server) as client, connect(server) as other:
        await client.subscribe(channel, end=True, marker=True)
        assert await client.messages(channel, len(due)) == due
        await expect_end(client, channel, last)
        await client.nothing_more()
        await other.subscribe(channel)
        assert await other.messages(channel, len(due) + 1) == [*due, (later, -2)]
        # Whoever subscribes after it gets what comes after it, and the next end.
        await client.subscribe(channel, end=True, lastMessageId=last)
        assert await client.message(channel) == (later, -2)
        await expect_end(client, channel, end(redis_server, channel))
        assert server.server.board.metrics.entries_skipped == 0


@async_test
async def test_the_end_while_live(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client, connect(server) as other:
        await client.subscribe(channel, end=True, lastMessageId="$")
        await other.subscribe(channel, end=False)
        together = redis_server.client.pipeline(transaction=True)
        for number in range(1, 5):
            fields: dict[Any, Any] = {"messageData": number}
            together.xadd(channel, fields | ({"end": "x"} if number == 3 else {}))
        due = [(stream_id.decode(), number) for number, stream_id in enumerate(together.execute(), 1)]
        assert await client.messages(channel, 3) == due[:3]
        await expect_end(client, channel, due[2][0])
        await client.nothing_more()
        assert await other.messages(channel, 4) == due
        await client.subscribe(channel, end=True, lastMessageId="$")  # as "$" is after the end
        [newer] = add(redis_server, channel, "5")
        assert await client.message(channel) == (newer, 5)


@async_test
async def test_what_has_ended_is_no_subscription_any_more(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, max_subscriptions=1) as server, connect(server) as client:
        for each in (channel, f"{channel}-2"):
            await client.subscribe(each, end=True)
            await expect_end(client, each, end(redis_server, each))
            await until(lambda: not server.server.hub.channels)
        await client.send(action="unsubscribe", channel=channel)
        await client.expect(f'{{"status":"unsubscribed","channel":"{channel}"}}')
        await client.subscribe(channel, end=True, lastMessageId="$")
        await client.subscribe(channel, lastMessageId="$")  # replaced by one that does not ask
        end(redis_server, channel)
        [later] = add(redis_server, channel, "1")
        assert await client.message(channel) == (later, 1)


@async_test
async def test_who_has_the_last_message_and_not_the_end_is_told_on_coming_back(
    redis_server: RedisServer, channel: str
) -> None:
    ids = add(redis_server, channel, "1")
    last = end(redis_server, channel, "2")
    add(redis_server, channel, "3")
    async with gateway(redis_server.url) as server, connect(server) as client, connect(server) as other:
        await client.send(action="subscribe", channel=channel, lastMessageId=last, end=True, resume=True)
        await expect_end(client, channel, last)
        await client.subscribe(channel, lastMessageId=ids[0], end=True, resume=True)
        assert await client.message(channel) == (last, 2)
        await expect_end(client, channel, last)
        await other.subscribe(channel, lastMessageId="9-9", end=True, resume=True)  # that entry is gone
        await other.gap(channel)


@async_test
async def test_data_that_is_none_is_skipped_and_the_channel_ends_all_the_same(
    redis_server: RedisServer, channel: str
) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel, end=True)
        await expect_end(client, channel, end(redis_server, channel, "{no json"))
        assert server.server.board.metrics.entries_skipped == 1


@pytest.mark.parametrize("key", ["end", "resume"])
@async_test
async def test_a_wrong_type_is_refused(redis_server: RedisServer, channel: str, key: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.send(action="subscribe", channel=channel, **{key: 1})
        assert (await client.expect_error("bad_request", channel))["error"] == f"{key} must be true or false"


@async_test
async def test_the_end_over_plain_http(redis_server: RedisServer, channel: str) -> None:
    [first] = add(redis_server, channel, "1")
    last = end(redis_server, channel, "2")
    add(redis_server, channel, "3")
    event = json.dumps({"event": "end", "channel": channel, "streamId": last}, separators=(",", ":"))
    lines = f'{{"streamId":"{first}","data":1}}\n{{"streamId":"{last}","data":2}}\n'
    async with gateway(redis_server.url) as server:

        async def ask(query: str, **headers: str) -> Answer:
            async with http_client(server) as client:
                return await client.ask("GET", f"/channels/{channel}?{query}", headers=BEARER | headers)

        answer = await ask("from=0&end=1", Accept="text/event-stream")
        assert answer.body.decode().endswith(f"id: {last}\ndata: 2\n\nid: {last}\nevent: end\ndata: {event}\n\n")
        answer = await ask("from=0&end=1", Accept="application/x-ndjson")
        assert answer.body.decode().strip("\n") == f"{lines}{event}"
        # An EventSource comes back by itself: this status tells it to stay away.
        coming_back = {"Accept": "text/event-stream", "Last-Event-ID": last}
        assert (await ask("end=1", **coming_back)).status == 204
        assert (await ask("follow=0", **coming_back)).body.count(b"data: 3\n") == 1
        assert (await ask("end=yes")).status == 400


@async_test
async def test_an_event_source_stays_away_after_an_end_without_a_message(
    redis_server: RedisServer, channel: str
) -> None:
    add(redis_server, channel, "1")
    end(redis_server, channel)
    async with gateway(redis_server.url) as server, http_client(server) as first, http_client(server) as second:
        path, headers = f"/channels/{channel}?from=0&end=1", BEARER | {"Accept": "text/event-stream"}
        answer = await first.ask("GET", path, headers=headers)
        last_event_id = re.findall("^id: (.+)$", answer.body.decode(), re.MULTILINE)[-1]
        assert (await second.ask("GET", path, headers=headers | {"Last-Event-ID": last_event_id})).status == 204


def test_the_ring_hands_over_what_comes_before_the_end_and_no_more() -> None:
    channel = make_channel("c", ZERO)
    channel.deliver([Entry(b"%d-0" % number, b"1", number == 3) for number in range(1, 6)])
    assert channel.next_end(ZERO) == StreamId(3, 0)
    frames, count, position = channel.recent(ZERO, 1 << 20, StreamId(3, 0))
    assert (count, position) == (3, StreamId(3, 0))
    assert len(frames) * 5 == channel.ring_bytes * 3
    assert channel.next_end(StreamId(3, 0)) is None


def test_ends_without_data_cost_a_bounded_memory() -> None:
    channel = make_channel("c", ZERO)
    channel.deliver([Entry(b"1-0", b"1")])
    for number in range(2, 3 * MAX_ENDS):
        channel.deliver([Entry(b"%d-0" % number, None, ends=True)])
        assert len(channel._ends or ()) <= MAX_ENDS
        assert channel.next_end(channel.floor) is not None or channel.floor == channel.cursor

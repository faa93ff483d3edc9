"""Where subscriptions start, what they are told, and the gaps that a subscribe comes upon."""

from __future__ import annotations

import json

import pytest

from kit.gateway import (
    WELCOME,
    Wire,
    add,
    async_test,
    connect,
    entries,
    gateway,
    request,
)
from kit.support import RedisServer
from rsws.gateway.delivery.hub import Hub

# --- subscribe ---


@pytest.mark.parametrize(
    ("start", "skipped"),
    [
        ({}, 0),
        ({"lastMessageId": "0"}, 0),
        ({"lastMessageId": "0-0"}, 0),
        ({"lastMessageId": "00-000"}, 0),
        ({"lastMessageId": 1}, 2),
        ({"lastMessageId": 4}, 5),
        ({"lastMessageId": "$"}, 5),
        ({"last": 0}, 5),
        ({"last": 2}, 3),
        ({"last": 5}, 0),
        ({"last": 6}, 0),
        ({"last": 10**30}, 0),
    ],
    ids=str,
)
@async_test
async def test_where_a_subscription_starts(
    redis_server: RedisServer, channel: str, start: dict[str, object], skipped: int
) -> None:
    ids = add(redis_server, channel, *map(str, range(5)))
    if isinstance(index := start.get("lastMessageId"), int):
        start = {"lastMessageId": ids[index]}
    async with gateway(redis_server.url) as server, connect(server) as client:
        subscribed = await client.subscribe(channel, **start)
        assert subscribed["lastMessageId"] == (ids[skipped - 1] if skipped else "0-0")
        assert subscribed["latestId"] == ids[-1]
        assert await client.messages(channel, 5 - skipped) == list(zip(ids, range(5), strict=True))[skipped:]
        ids += add(redis_server, channel, "5")
        assert await client.message(channel) == (ids[5], 5)


@async_test
async def test_subscribe_to_what_does_not_exist_yet(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        for start in ("0", "$"):
            await client.send(action="subscribe", channel=channel, lastMessageId=start)
            await client.expect(
                f'{{"status":"subscribed","channel":"{channel}","lastMessageId":"0-0","latestId":"0-0"}}'
            )
        ids = add(redis_server, channel, "1")
        assert await client.message(channel) == (ids[0], 1)


@async_test
async def test_an_id_without_its_second_half_is_given_back_in_canonical_form(
    redis_server: RedisServer, channel: str
) -> None:
    redis_server.call("XADD", channel, "5-0", "messageData", "1")
    redis_server.call("XADD", channel, "5-1", "messageData", "2")
    async with gateway(redis_server.url) as server, connect(server) as client:
        for start in ("5", "005-00"):
            assert (await client.subscribe(channel, lastMessageId=start))["lastMessageId"] == "5-0"
            assert await client.message(channel) == ("5-1", 2)


@async_test
async def test_the_greatest_ids_there_are(redis_server: RedisServer, channel: str) -> None:
    top = 2**64 - 1
    last = f"{top}-{top}"
    for stream_id in ("9-0", "10-0", f"5000-{top}", "5001-0", f"{top}-{top - 1}", last):
        redis_server.call("XADD", channel, stream_id, "messageData", "1")
    other = f"{channel}-other"
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(other)
        await client.subscribe(channel)
        received = [stream_id for stream_id, _ in await client.messages(channel, 6)]
        assert received == ["9-0", "10-0", f"5000-{top}", "5001-0", f"{top}-{top - 1}", last]
        await client.subscribe(channel, lastMessageId=f"5000-{top}")
        assert [stream_id for stream_id, _ in await client.messages(channel, 3)] == received[3:]
        await client.subscribe(channel, lastMessageId=last)
        add(redis_server, other, "1")
        await client.message(other)
        add(redis_server, other, "2")
        await client.message(other)
        await client.send(action="publish", channel=channel, data=1, messageId="m")
        await client.expect_error_ack("m", "redis_refused")


@async_test
async def test_the_marker_comes_once_between_history_and_live(redis_server: RedisServer, channel: str) -> None:
    ids = add(redis_server, channel, "1", "2", "3")
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel, marker=True)
        await client.messages(channel, 3)
        await client.expect(f'{{"event":"caught_up","channel":"{channel}","lastMessageId":"{ids[-1]}"}}')
        for index in range(3):
            add(redis_server, channel, str(index))
            await client.message(channel)
        await client.subscribe(channel, marker=False, lastMessageId="$")
        await client.nothing_more()
        latest = entries(redis_server, channel)[-1][0]
        await client.subscribe(channel, marker=True, lastMessageId="$")
        await client.expect(f'{{"event":"caught_up","channel":"{channel}","lastMessageId":"{latest}"}}')
        await client.subscribe(f"{channel}-empty", marker=True)
        await client.expect(f'{{"event":"caught_up","channel":"{channel}-empty","lastMessageId":"0-0"}}')
        await client.nothing_more()


@async_test
async def test_a_new_subscription_replaces_the_old_one(redis_server: RedisServer, channel: str) -> None:
    ids = add(redis_server, channel, "1", "2")
    async with gateway(redis_server.url) as server, connect(server) as client:
        for _ in range(3):
            await client.subscribe(channel)
            assert [stream_id for stream_id, _ in await client.messages(channel, 2)] == ids
        await client.subscribe(channel, lastMessageId="$")
        await client.nothing_more()
        ids += add(redis_server, channel, "3")
        assert await client.message(channel) == (ids[2], 3)
        await client.nothing_more()


@async_test
async def test_a_bug_in_a_subscribe_ends_its_connection_alone(
    redis_server: RedisServer, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a bug")

    async with gateway(redis_server.url) as server, connect(server) as client, connect(server) as other:
        with monkeypatch.context() as patch:
            patch.setattr(Hub, "_open", fail)
            await client.send(action="subscribe", channel=channel)
            assert await client.closed() == (1011, "internal error")
        await other.subscribe(channel)


@async_test
async def test_unsubscribe(redis_server: RedisServer, channel: str) -> None:
    other = f"{channel}-other"
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.send(action="unsubscribe", channel=channel)
        await client.expect(f'{{"status":"unsubscribed","channel":"{channel}"}}')
        await client.subscribe(channel)
        await client.subscribe(other)
        add(redis_server, channel, *map(str, range(5000)))
        await client.send(action="unsubscribe", channel=channel)
        while (frame_ := await client.next()).get("event") == "message":
            assert frame_["channel"] == channel
        assert frame_ == {"status": "unsubscribed", "channel": channel}
        add(redis_server, channel, *map(str, range(1000)))
        ids = add(redis_server, other, "1")
        assert await client.message(other) == (ids[0], 1)
        await client.nothing_more()


@async_test
async def test_subscribe_and_unsubscribe_in_one_burst_are_answered_in_order(
    redis_server: RedisServer, channel: str
) -> None:
    ids = add(redis_server, channel, "1", "2")
    sub = request(action="subscribe", channel=channel)
    sub_new = request(action="subscribe", channel=channel, lastMessageId="$")
    unsub = request(action="unsubscribe", channel=channel)
    ping = request(action="ping")
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.handshake()
        assert await wire.text() == WELCOME

        async def answers(count: int) -> list[str]:
            replies = [json.loads(await wire.text()) for _ in range(count)]
            return [reply.get("status") or reply["streamId"] for reply in replies]

        await wire.send(sub + unsub + sub)
        seen: list[str] = []
        while seen.count("subscribed") < 2 or seen[-2:] != ids:
            seen += await answers(1)
        assert [item for item in seen if item not in ids] == ["subscribed", "unsubscribed", "subscribed"]
        await wire.send(unsub + sub + unsub)
        assert (await answers(3)) == ["unsubscribed", "subscribed", "unsubscribed"]
        await wire.send(ping)
        assert await wire.text() == '{"status":"pong"}'
        await wire.send((sub_new + unsub) * 20 + sub_new)
        assert (await answers(41)) == ["subscribed", "unsubscribed"] * 20 + ["subscribed"]
        ids += add(redis_server, channel, "3")
        assert json.loads(await wire.text())["streamId"] == ids[2]


@async_test
async def test_what_a_client_publishes_after_it_subscribed_reaches_it(redis_server: RedisServer, channel: str) -> None:
    publish = request(action="publish", channel=channel, data=1, messageId="m")
    subscribe = request(action="subscribe", channel=channel, lastMessageId="$")
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.handshake()
        assert await wire.text() == WELCOME
        await wire.send(publish + subscribe + publish)
        replies = [json.loads(await wire.text()) for _ in range(4)]
        first, second = [stream_id for stream_id, _ in entries(redis_server, channel)]
        by_kind = {reply.get("status", "message"): reply for reply in replies}
        assert by_kind["subscribed"]["lastMessageId"] == first
        assert by_kind["message"]["streamId"] == second


@async_test
async def test_many_channels_on_one_connection_are_told_apart(redis_server: RedisServer, channel: str) -> None:
    names = [f"{channel}-{suffix}" for suffix in ('"quoted"', "back\\slash", "é", "a b", "\u2028", "x" * 400)]
    async with gateway(redis_server.url) as server, connect(server) as client:
        for name in names:
            await client.subscribe(name)
        for name in reversed(names):
            ids = add(redis_server, name, "1")
            assert await client.message(name) == (ids[0], 1)


# --- gaps at subscribe ---


@async_test
async def test_a_gap_where_the_stream_was_trimmed(redis_server: RedisServer, channel: str) -> None:
    ids = add(redis_server, channel, *map(str, range(6)))
    redis_server.call("XTRIM", channel, "MAXLEN", 3)
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel, lastMessageId=ids[0])
        await client.expect(
            f'{{"event":"gap","channel":"{channel}","lastMessageId":"{ids[0]}","resumesAt":"{ids[3]}",'
            '"reason":"trimmed"}'
        )
        assert await client.messages(channel, 3) == list(zip(ids[3:], (3, 4, 5), strict=True))
        for position, count in ((ids[3], 2), (ids[4], 1), (ids[5], 0), ("0", 3)):
            await client.subscribe(channel, lastMessageId=position)
            await client.messages(channel, count)
        await client.nothing_more()


@async_test
async def test_a_gap_where_nothing_is_left(redis_server: RedisServer, channel: str) -> None:
    ids = add(redis_server, channel, "1", "2")
    redis_server.call("XTRIM", channel, "MAXLEN", 0)
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel, lastMessageId=ids[1])
        await client.nothing_more()
        await client.subscribe(channel, lastMessageId=ids[0])
        await client.expect(
            f'{{"event":"gap","channel":"{channel}","lastMessageId":"{ids[0]}","resumesAt":null,"reason":"trimmed"}}'
        )
        ids += add(redis_server, channel, "3")
        assert await client.message(channel) == (ids[2], 3)


@async_test
async def test_a_gap_where_the_stream_was_made_anew(redis_server: RedisServer, channel: str) -> None:
    missing = f"{channel}-missing"
    redis_server.call("XADD", channel, "5-0", "messageData", "1")
    redis_server.call("XADD", channel, "6-0", "messageData", "2")
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel, lastMessageId="6-1")
        await client.expect(
            f'{{"event":"gap","channel":"{channel}","lastMessageId":"6-1","resumesAt":"5-0","reason":"reset"}}'
        )
        assert await client.messages(channel, 2) == [("5-0", 1), ("6-0", 2)]
        redis_server.call("XADD", channel, "6-1", "messageData", "3")
        assert await client.message(channel) == ("6-1", 3)
        await client.subscribe(missing, lastMessageId="7")
        await client.expect(
            f'{{"event":"gap","channel":"{missing}","lastMessageId":"7-0","resumesAt":null,"reason":"reset"}}'
        )
        redis_server.call("XADD", missing, "1-0", "messageData", "1")
        assert await client.message(missing) == ("1-0", 1)


@async_test
async def test_no_gap_from_an_id_between_two_entries(redis_server: RedisServer, channel: str) -> None:
    redis_server.call("XADD", channel, "5-0", "messageData", "1")
    redis_server.call("XADD", channel, "9-0", "messageData", "2")
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel, lastMessageId="7-0")
        assert await client.message(channel) == ("9-0", 2)
        redis_server.call("XDEL", channel, "9-0")
        await client.subscribe(channel, lastMessageId="7-0")
        await client.nothing_more()
        redis_server.call("XADD", channel, "10-0", "messageData", "3")
        assert await client.message(channel) == ("10-0", 3)

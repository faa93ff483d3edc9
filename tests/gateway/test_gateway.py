"""The gateway as its clients see it: a real one, real Redis, every promise of the protocol to the letter."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import logging
import select
import socket
import struct
import sys
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed

from kit import gateway as gateway_kit
from kit.gateway import (
    KEY,
    LOOPS,
    WELCOME,
    Client,
    Wire,
    add,
    async_test,
    connect,
    entries,
    frame,
    gateway,
    handshake,
    http,
    left_behind,
    new_server,
    quoted,
    request,
    until,
    until_status,
)
from kit.support import RedisServer, eventually, free_port, run_python
from rsws.errors import SetupError, UsageError
from rsws.gateway.delivery.channel import Channel
from rsws.gateway.server import Server
from rsws.streams import reader

MIB = 1024 * 1024
UNAUTHORIZED = '{"error":"Unauthorized","status":401}'
FORMAT_TEXT = "Format publish salah. Wajib ada: channel, data, messageId"


@pytest.fixture(params=LOOPS, autouse=True)
def event_loop_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    kind: str = request.param
    monkeypatch.setattr(gateway_kit, "new_loop", LOOPS[kind])
    return kind


# --- connect ---


@pytest.mark.parametrize(
    "path",
    [f"/?token={KEY}", f"?token={KEY}", f"/ws?token={KEY}", f"/a/b%20c/?x=1&token={KEY}&y", f"/healthz?token={KEY}"],
)
@async_test
async def test_connect_on_any_path(redis_server: RedisServer, path: str) -> None:
    async with gateway(redis_server.url) as server, connect(server, path, welcome=False) as client:
        await client.expect(WELCOME)
        await client.nothing_more()


@pytest.mark.parametrize("key", ["a+b/c=d", "a&b=c", "100%", "%41", "a b", "schlüssel €", "#?;"])
@async_test
async def test_a_key_may_hold_anything(redis_server: RedisServer, key: str) -> None:
    async with gateway(redis_server.url, secret_key=key) as server:
        async with connect(server, quoted(key)) as client:
            await client.nothing_more()
        async with connect(server, quoted(key + "x"), welcome=False) as client:
            await client.expect(UNAUTHORIZED)


@async_test
async def test_a_key_with_a_plus_that_the_page_did_not_escape(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, secret_key="a+b/c==") as server, connect(server, "/?token=a+b/c==") as client:
        await client.nothing_more()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/?",
        "/?token",
        "/?token=",
        "/?token=wrong",
        "/?token=K",
        "/?token=kk",
        "/?token=%00k",
        "/?token=%ff",
        "/?Token=k",
        "/?xtoken=k",
        "/?x=token=k",
        "/?token=wrong&token=k",
        "/token=k",
        "/?token=k%20",
    ],
)
@async_test
async def test_a_wrong_or_missing_token(redis_server: RedisServer, path: str) -> None:
    async with gateway(redis_server.url) as server, connect(server, path, welcome=False) as client:
        await client.expect(UNAUTHORIZED)
        assert await client.closed() == (1008, "Unauthorized")


@async_test
async def test_a_token_that_is_no_ascii_on_the_wire(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.send(handshake("/?token=XX").replace(b"XX", b"\xff\xc3"))
        received = await wire.read_to_end()
        assert received.startswith(b"HTTP/1.1 400 ")
        async with connect(server) as client:
            await client.nothing_more()


@async_test
async def test_nothing_is_looked_at_without_a_token(redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "0")
    requests = [
        request(action="publish", channel=channel, data=1, messageId="m"),
        request(action="subscribe", channel=channel),
        request(action="ping"),
        frame(b"not JSON"),
        frame(b"binary", 2),
    ]
    async with gateway(redis_server.url) as server:
        for token in ("", "wrong"):
            async with Wire(server) as wire:
                await wire.handshake(f"/?token={token}", and_send=b"".join(requests))
                assert await wire.text() == UNAUTHORIZED
                assert await wire.close_code() == 1008
                await wire.send(frame(struct.pack("!H", 1008), 8))
                assert not await wire.read_some()
            async with Wire(server) as wire:
                await wire.handshake(f"/?token={token}")
                await wire.send(b"".join(requests))
                assert await wire.text() == UNAUTHORIZED
                assert await wire.close_code() == 1008
        async with connect(server) as client:
            await client.publish(channel, 2)
    assert [fields for _, fields in entries(redis_server, channel)] == [{"messageData": "0"}, {"messageData": "2"}]


# --- publish ---


@async_test
async def test_publish(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        data = '{"user":"alice","text":"Halo semua!"}'
        await client.send_text(
            f'{{"action":"publish","channel":"{channel}","data":{data},"messageId":"client-uuid-1"}}'
        )
        ack = await client.text()
        [(stream_id, fields)] = entries(redis_server, channel)
        assert ack == f'{{"status":"ack","messageId":"client-uuid-1","streamId":"{stream_id}"}}'
        assert fields == {"messageData": data}
        assert redis_server.call("XRANGE", channel, "-", "+")[0][1] == [b"messageData", data.encode()]


ODD_DATA = [
    "1e400",
    "12345678901234567890",
    "1.10",
    '{"b":1,"a":2}',
    '{ "b" :\t1 , "a":[ 1,2 ] }',
    '{"a":1,"a":2}',
    '"\\u00e9\\u0000\\/\\ud83d\\ude00"',
    '"é\u2028😀\x7f"',
    "null",
    "false",
    '""',
    "[" * 200 + "]" * 200,
    json.dumps("x" * 100),
    json.dumps("x" * 125),
    json.dumps("x" * 65_400),
    json.dumps("x" * 65_536),
    json.dumps("x" * 70_000),
]


@async_test
async def test_data_is_carried_byte_for_byte(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client, connect(server) as reader_:
        await reader_.subscribe(channel)
        for data in ODD_DATA:
            await client.send_text(f'{{"action":"publish","channel":"{channel}","data":{data},"messageId":"m"}}')
            ack = await client.next()
            assert ack["status"] == "ack"
            live = f'{{"event":"message","channel":"{channel}","streamId":"{ack["streamId"]}","data":{data}}}'
            await reader_.expect(live)
        assert [fields["messageData"] for _, fields in entries(redis_server, channel)] == ODD_DATA
        await client.subscribe(channel)
        for (stream_id, _), data in zip(entries(redis_server, channel), ODD_DATA, strict=True):
            await client.expect(f'{{"event":"message","channel":"{channel}","streamId":"{stream_id}","data":{data}}}')


@async_test
async def test_frames_of_every_size_arrive_whole(redis_server: RedisServer, channel: str) -> None:
    overhead = len(f'{{"event":"message","channel":"{channel}","streamId":"1700000000000-0","data":""}}')
    sizes = [size - overhead for size in (124, 125, 126, 127, 65534, 65535, 65536, 65537)]
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel)
        add(redis_server, channel, *[json.dumps("x" * size) for size in sizes])
        assert [len(data) for _, data in await client.messages(channel, len(sizes))] == sizes


@async_test
async def test_an_ack_comes_once_redis_has_answered_never_before(own_redis: RedisServer, channel: str) -> None:
    async with gateway(own_redis.url) as server, connect(server) as client:
        own_redis.pause()
        try:
            await client.send(action="publish", channel=channel, data=1, messageId="m")
            await client.nothing_more()
            await client.nothing_more()
        finally:
            own_redis.resume()
        ack = await client.next()
        assert ack == {"status": "ack", "messageId": "m", "streamId": entries(own_redis, channel)[0][0]}


@async_test
async def test_the_same_message_id_twice_is_two_messages(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        assert await client.publish(channel, 1, "same") < await client.publish(channel, 2, "same")
        assert len(entries(redis_server, channel)) == 2


@async_test
async def test_many_publishes_in_one_burst_are_acked_in_order(redis_server: RedisServer, channel: str) -> None:
    count = 5000
    async with gateway(redis_server.url) as server, connect(server) as client:

        async def send() -> None:
            for index in range(count):
                await client.send(action="publish", channel=channel, data=index, messageId=str(index))

        sending = asyncio.create_task(send())
        acks = [await client.next() for _ in range(count)]
        await sending
        assert [ack["messageId"] for ack in acks] == [str(index) for index in range(count)]
        stored = entries(redis_server, channel)
        assert [ack["streamId"] for ack in acks] == [stream_id for stream_id, _ in stored]
        assert [fields["messageData"] for _, fields in stored] == [str(index) for index in range(count)]


@async_test
async def test_a_publish_that_names_its_producer_is_stored_once(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client, connect(server) as another:
        publish = {"action": "publish", "channel": channel, "messageId": "m", "producer": "p"}
        await client.send(**publish, data={"n": 1})
        stream_id = (await client.next())["streamId"]
        for each in (client, another):
            await each.send(**publish, data={"n": 1})
            await each.expect(f'{{"status":"ack","messageId":"m","streamId":"{stream_id}","duplicate":true}}')
        await another.send(**publish, data={"n": 2})
        await another.expect_error_ack("m", "conflict")
        for other in ({"messageId": "m2"}, {"producer": "p2"}):
            await client.send(**publish | other, data={"n": 1})
            ack = await client.next()
            assert list(ack) == ["status", "messageId", "streamId"]
            assert ack["streamId"] > stream_id
    assert [fields for _, fields in entries(redis_server, channel)] == [{"messageData": '{"n":1}'}] * 3


@async_test
async def test_refused_publishes(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.send(action="publish", channel=channel, messageId="m1")
        assert (await client.expect_error_ack("m1", "bad_request"))["error"] == FORMAT_TEXT
        await client.send(action="publish", data=1, messageId="m2")
        assert (await client.expect_error_ack("m2", "bad_request"))["error"] == FORMAT_TEXT
        await client.send(action="publish", channel=channel, data=1)
        assert (await client.expect_error("bad_request", channel))["error"] == FORMAT_TEXT
        await client.send(action="publish", channel="", data=1, messageId="m3")
        await client.expect_error_ack("m3", "bad_channel")
        await client.send(action="publish", channel="a\nb", data=1, messageId="m4")
        await client.expect_error_ack("m4", "bad_channel")
        await client.send(action="publish", channel=5, data=1, messageId="m5")
        await client.expect_error_ack("m5", "bad_request")
        await client.send(action="publish", channel=channel, data=1, messageId=7)
        await client.expect_error("bad_request", channel)
        await client.send(action="publish", channel="rsws:once:{x}:y", data=1, messageId="m8")
        await client.expect_error_ack("m8", "bad_channel")
        redis_server.call("SET", channel, "no stream")
        await client.send(action="publish", channel=channel, data=1, messageId="m6")
        await client.expect_error_ack("m6", "channel_unreadable")
        await client.nothing_more()


@async_test
async def test_redis_says_no(own_redis: RedisServer, channel: str) -> None:
    async with gateway(own_redis.url) as server, connect(server) as client:
        await client.publish(channel, 1)
        own_redis.call("CONFIG", "SET", "maxmemory", "1")
        await client.send(action="publish", channel=channel, data=2, messageId="m2")
        assert "OOM" in (await client.expect_error_ack("m2", "redis_refused"))["error"]
        await client.subscribe(channel)
        assert (await client.message(channel))[1] == 1
        own_redis.call("CONFIG", "SET", "maxmemory", "0")
        own_redis.call("REPLICAOF", "127.0.0.1", free_port())
        await client.send(action="publish", channel=channel, data=3, messageId="m3")
        assert "READONLY" in (await client.expect_error_ack("m3", "redis_refused"))["error"]
        own_redis.call("REPLICAOF", "NO", "ONE")
        await client.send(action="publish", channel=channel, data=4, messageId="m4")
        replies = [await client.next(), await client.next()]
        assert {reply.get("status", reply.get("data")) for reply in replies} == {"ack", 4}
    assert [fields["messageData"] for _, fields in entries(own_redis, channel)] == ["1", "4"]


@pytest.mark.parametrize("limit", [1024, 5000, 100_000])
@async_test
async def test_what_could_not_be_handed_on_in_a_frame_of_the_usual_size_is_refused(
    redis_server: RedisServer, channel: str, limit: int
) -> None:
    event = {
        "event": "message",
        "channel": channel,
        "streamId": "18446744073709551615-18446744073709551615",
        "data": "",
    }
    fits = limit - len(json.dumps(event, separators=(",", ":")))
    async with gateway(redis_server.url, max_message_bytes=limit) as server, connect(server) as client:
        await client.subscribe(channel)
        await client.send(action="publish", channel=channel, data="x" * (fits + 1), messageId="m")
        assert str(limit) in (await client.expect_error_ack("m", "bad_request"))["error"]
        await client.send(action="publish", channel=channel, data="x" * fits, messageId="m")
        for reply in (await client.text(), await client.text()):
            assert len(reply) <= limit
            assert json.loads(reply).get("status", "ack") == "ack"
        await client.nothing_more()


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


# --- errors ---


@async_test
async def test_bad_input_gets_its_error_and_nothing_is_lost(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel)
        for text in ("", "hello", "{", '{"action":"ping","x":NaN}', "[" * 50_000):
            await client.send_text(text)
            await client.expect_error("bad_json")
        for text in ("[]", "5", '"x"', "null", "{}", '{"action":5}'):
            await client.send_text(text)
            await client.expect_error("bad_request")
        await client.send(action="subscribe")
        await client.expect_error("bad_request")
        await client.send(action="subscribe", channel=channel, last=1, lastMessageId="0")
        await client.expect_error("bad_request", channel)
        await client.send(action="subscribe", channel=channel, last=-1)
        await client.expect_error("bad_request", channel)
        await client.send(action="subscribe", channel=channel, lastMessageId=0)
        await client.expect_error("bad_request", channel)
        await client.send(action="jump")
        assert (await client.expect_error("unknown_action"))["error"] == "Aksi tidak dikenal: jump"
        for name in ("", "a\nb", "x" * 513):
            for action in ("subscribe", "unsubscribe"):
                await client.send(action=action, channel=name)
                await client.expect_error("bad_channel", name)
        for start in ("+", "-", "*", ">", "", "1-", "-1", "1-2-3", "１-0", "0" * 21, str(2**64), " 1", "1 "):
            await client.send(action="subscribe", channel=channel, lastMessageId=start)
            await client.expect_error("bad_cursor", channel)
        ids = add(redis_server, channel, "1")
        assert await client.message(channel) == (ids[0], 1)


@pytest.mark.parametrize("name", ["é" * 256, "😀" * 128, " ", "*", "$", "{a}:b", "\xa0"])
@async_test
async def test_odd_channel_names_work(redis_server: RedisServer, name: str) -> None:
    redis_server.call("DEL", name)
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(name)
        await client.send(action="publish", channel=name, data=1, messageId="m")
        assert {(await client.next()).get("status"), (await client.next()).get("event")} & {"ack", "message"}
        assert [fields for _, fields in entries(redis_server, name)] == [{"messageData": "1"}]
    redis_server.call("DEL", name)


@async_test
async def test_however_much_bad_input_comes_each_gets_one_reply_in_order(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        bad = [("nonsense", "bad_json"), ("[]", "bad_request"), ('{"action":"subscribe","channel":""}', "bad_channel")]

        async def send() -> None:
            for index in range(2000):
                await client.send(action=f"no {index}") if index % 4 == 0 else await client.send_text(
                    bad[index % 4 - 1][0]
                )

        sending = asyncio.create_task(send())
        for index in range(2000):
            reply = await client.next()
            if index % 4 == 0:
                assert reply["error"] == f"Aksi tidak dikenal: no {index}"
            else:
                assert reply["code"] == bad[index % 4 - 1][1]
        await sending
        await client.nothing_more()


@async_test
async def test_a_flood_from_a_client_that_does_not_read(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server, Wire(server, 4096) as wire:
        await wire.handshake()
        [connection] = server.clients.sessions
        flood = frame(b"no") * 5000
        sent = most = stuck = 0
        while stuck < 20:  # until the gateway stops reading, too, and the kernel's buffers are full
            try:
                sent += wire.socket.send(flood[sent % 8 :])
                stuck = 0
            except BlockingIOError:
                stuck += 1
            await asyncio.sleep(0.01)
            most = max(most, connection.buffered_bytes)
            assert sent < 100 * MIB
        assert most < 8 * MIB
        async with connect(server) as client:
            await client.nothing_more()


async def send_until_stuck(wire: Wire, data: bytes, most: int) -> int:
    """Send ``data`` over and over until the gateway has taken nothing for 0.2 s; how many bytes it took."""
    loop = asyncio.get_running_loop()
    sent, moved_at = 0, loop.time()
    while loop.time() - moved_at < 0.2:
        try:
            sent += wire.socket.send(memoryview(data)[sent % len(data) :])
            moved_at = loop.time()
        except BlockingIOError:
            await asyncio.sleep(0.005)
        assert sent < most
    return sent


@pytest.mark.parametrize("what", ["messageId", "data", "publishes behind a subscribe", "requests behind a subscribe"])
@async_test
async def test_a_flood_while_redis_does_not_answer(own_redis: RedisServer, channel: str, what: str) -> None:
    async with gateway(own_redis.url, redis_timeout_s=10) as server, Wire(server) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        await wire.handshake()
        assert await wire.text() == WELCOME
        [connection] = server.clients.sessions
        publish = {"action": "publish", "channel": channel, "data": 1, "messageId": "m"}
        if what == "requests behind a subscribe":
            flood = request(action="unsubscribe", channel=channel, padding="x" * 10_000)
        elif what == "publishes behind a subscribe":
            flood = request(action="unsubscribe", channel=channel) + request(**publish | {"data": "x" * 900_000})
        else:
            flood = request(**publish | {what: "x" * 900_000})
        own_redis.pause()
        try:
            if what.endswith("behind a subscribe"):
                await wire.send(request(action="subscribe", channel=channel))
            sent = await send_until_stuck(wire, flood, 40 * MIB)
            assert connection._reading_paused
            assert connection._in_flight_bytes < 6 * MIB
        finally:
            own_redis.resume()
        ending = asyncio.create_task(wire.send(flood[sent % len(flood) :] + request(action="ping")))
        while await wire.text() != '{"status":"pong"}':
            pass
        await ending
        await until(lambda: (connection._in_flight, connection._in_flight_bytes) == (0, 0))
        if b"publish" in flood:
            assert own_redis.call("XLEN", channel) == sent // len(flood) + 1


@async_test
async def test_too_many_subscriptions(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, max_subscriptions=3) as server, connect(server) as client:
        for index in range(3):
            await client.subscribe(f"{channel}-{index}")
        await client.send(action="subscribe", channel=f"{channel}-3")
        await client.expect_error("too_many", f"{channel}-3")
        await client.subscribe(f"{channel}-2")
        await client.send(action="unsubscribe", channel=f"{channel}-0")
        await client.expect(f'{{"status":"unsubscribed","channel":"{channel}-0"}}')
        await client.subscribe(f"{channel}-3")
        await client.send(action="subscribe", channel=f"{channel}-0")
        await client.expect_error("too_many", f"{channel}-0")
        async with connect(server) as another:
            await another.subscribe(f"{channel}-0")


@async_test
async def test_a_subscription_that_was_refused_takes_no_room(redis_server: RedisServer, channel: str) -> None:
    redis_server.call("SET", f"{channel}-no-stream", "1")
    async with gateway(redis_server.url, max_subscriptions=1) as server, connect(server) as client:
        for _ in range(2):
            await client.send(action="subscribe", channel=f"{channel}-no-stream")
            await client.expect_error("channel_unreadable", f"{channel}-no-stream")
        await client.subscribe(channel)
        await client.subscribe(channel)
        await client.send(action="subscribe", channel=f"{channel}-2")
        await client.expect_error("too_many", f"{channel}-2")


@async_test
async def test_too_many_subscriptions_in_one_burst(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, max_subscriptions=3) as server, Wire(server) as wire:
        await wire.handshake()
        assert await wire.text() == WELCOME
        await wire.send(b"".join([request(action="subscribe", channel=f"{channel}-{index}") for index in range(5)]))
        replies = [json.loads(await wire.text()) for _ in range(5)]
        assert sorted(reply.get("code", reply["status"]) for reply in replies) == ["subscribed"] * 3 + ["too_many"] * 2


# --- keys that are no stream, entries that are no message ---


@async_test
async def test_subscribe_to_a_key_that_is_no_stream(redis_server: RedisServer, channel: str) -> None:
    redis_server.call("SET", channel, "x")
    async with gateway(redis_server.url) as server, connect(server) as client:
        for start in ("0", "$"):
            await client.send(action="subscribe", channel=channel, lastMessageId=start)
            assert channel in (await client.expect_error("channel_unreadable", channel))["error"]
        await client.send(action="subscribe", channel=channel, last=5)
        await client.expect_error("channel_unreadable", channel)
        redis_server.call("DEL", channel)
        add(redis_server, channel, "1")
        await client.nothing_more()
        await client.subscribe(channel)
        assert (await client.message(channel))[1] == 1


@async_test
async def test_a_key_that_redis_forbids(own_redis: RedisServer) -> None:
    own_redis.call("ACL", "SETUSER", "gateway", "on", ">secret", "~open*", "+@all")
    url = f"redis://gateway:secret@127.0.0.1:{own_redis.port}"
    async with gateway(url) as server, connect(server) as client:
        await client.subscribe("open")
        await client.send(action="subscribe", channel="closed")
        assert "NOPERM" in (await client.expect_error("channel_unreadable", "closed"))["error"]
        await client.send(action="publish", channel="closed", data=1, messageId="m")
        await client.expect_error_ack("m", "channel_unreadable")
        add(own_redis, "open", "1")
        assert (await client.message("open"))[1] == 1


@pytest.fixture
def short_quarantine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "UNREADABLE_RETRY_S", 0.3)


@pytest.mark.usefixtures("short_quarantine")
@async_test
async def test_a_key_that_turns_bad_disturbs_no_other_channel_and_resumes(
    redis_server: RedisServer, channel: str
) -> None:
    good = f"{channel}-good"
    async with gateway(redis_server.url) as server, connect(server) as client, connect(server) as another:
        for each in (client, another):
            await each.subscribe(channel)
        await client.subscribe(good)
        ids = add(redis_server, channel, "1")
        await client.message(channel)
        await another.message(channel)
        redis_server.call("SET", channel, "x")
        await client.expect_error("channel_unreadable", channel)
        await another.expect_error("channel_unreadable", channel)
        async with asyncio.timeout(5):
            for index in range(10):
                add(redis_server, good, str(index))
                assert (await client.message(good))[1] == index
                await asyncio.sleep(0.1)  # long enough for several vain attempts at the bad one
        await another.nothing_more()
        redis_server.call("DEL", channel)
        first, (second,) = ids[0], add(redis_server, channel, "2")
        for each in (client, another):  # the stream is another one: that nothing was missed can't be proven
            assert await each.gap(channel) == (first, second, "trimmed")
            assert await each.message(channel) == (second, 2)
        ids = add(redis_server, channel, "3")
        assert await client.message(channel) == (ids[0], 3)


@pytest.mark.usefixtures("short_quarantine")
@async_test
async def test_a_key_that_turns_bad_twice_is_said_twice(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel)
        for index in range(2):
            redis_server.call("SET", channel, "x")
            await client.expect_error("channel_unreadable", channel)
            redis_server.call("DEL", channel)
            add(redis_server, channel, str(index))
            if index:
                assert (await client.gap(channel))[2] == "trimmed"
            assert (await client.message(channel))[1] == index
            redis_server.call("DEL", channel)


@async_test
async def test_a_new_subscriber_does_not_wait_for_the_end_of_a_quarantine(
    redis_server: RedisServer, channel: str
) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel)
        redis_server.call("SET", channel, "x")
        await client.expect_error("channel_unreadable", channel)
        redis_server.call("DEL", channel)
        async with connect(server) as another:
            await another.subscribe(channel)
            add(redis_server, channel, "1")
            assert (await another.message(channel))[1] == 1


POISON: list[list[bytes]] = [
    [b"other", b"1"],
    [b"messagedata", b"1"],
    [b"messageData", b""],
    [b"messageData", b"hello"],
    [b"messageData", b"NaN"],
    [b"messageData", b'{"a":Infinity}'],
    [b"messageData", b'"\xff"'],
    [b"messageData", b'"\\ud800"'],
    [b"messageData", b'"\xed\xa0\x80"'],
    [b"messageData", b"[1,]"],
    [b"messageData", b"1 2"],
    [b"messageData", b"[" * 100_000 + b"]" * 100_000],
    [b"messageData", b"[" * 257 + b"]" * 257],
    [b"messageData", b'{"a":' * 972 + b"1" + b"}" * 972],
    [b"messageData", b"1", b"messageData", b"no"],
    [b"\xff\xfe", b"\xff"],
]


@async_test
async def test_entries_that_are_no_messages_never_stop_a_channel(
    redis_server: RedisServer, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    def poison() -> None:
        for fields in POISON:
            redis_server.call("XADD", channel, "*", *fields)

    poison()
    add(redis_server, channel, "1")
    poison()
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel, marker=True)
        assert (await client.message(channel))[1] == 1
        latest = redis_server.call("XREVRANGE", channel, "+", "-", "COUNT", 1)[0][0].decode()
        await client.expect(f'{{"event":"caught_up","channel":"{channel}","lastMessageId":"{latest}"}}')
        poison()
        add(redis_server, channel, "2")
        assert (await client.message(channel))[1] == 2
        redis_server.call("XADD", channel, "*", "x", "y", "messageData", "no", "messageData", "3", "z", "")
        assert (await client.message(channel))[1] == 3
        await client.nothing_more()
    assert channel in caplog.text


@async_test
async def test_a_history_of_nothing_but_poison(redis_server: RedisServer, channel: str) -> None:
    pipeline = redis_server.client.pipeline(transaction=False)
    for _ in range(3000):
        pipeline.xadd(channel, {"other": "1"})
    pipeline.execute()
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel)
        add(redis_server, channel, "1")
        assert (await client.message(channel))[1] == 1


@async_test
async def test_what_was_read_of_a_channel_is_let_go_of(redis_server: RedisServer, channel: str) -> None:
    pipeline = redis_server.client.pipeline(transaction=False)
    for _ in range(2000):
        pipeline.xadd(channel, {"other": "1"})
    pipeline.execute()
    async with gateway(redis_server.url) as server, connect(server) as client:
        for _ in range(50):
            await client.subscribe(channel, marker=True)
            assert (await client.next())["event"] == "caught_up"
            await client.send(action="unsubscribe", channel=channel)
            await client.next()
        gc.collect()
        assert sum(isinstance(each, Channel) for each in gc.get_objects()) < 10


@async_test
async def test_data_of_other_programs_is_carried_byte_for_byte_too(redis_server: RedisServer, channel: str) -> None:
    texts = [*ODD_DATA, ' \n{"a": 1}\r\n ', "-0.0"]
    ids = add(redis_server, channel, *texts)
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel)
        ids += add(redis_server, channel, *texts)
        for stream_id, text in zip(ids, texts * 2, strict=True):
            await client.expect(f'{{"event":"message","channel":"{channel}","streamId":"{stream_id}","data":{text}}}')


@async_test
async def test_a_stream_that_is_deleted_and_grows_anew(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel)
        for index in range(3):
            ids = add(redis_server, channel, str(index))
            assert await client.message(channel) == (ids[0], index)
            redis_server.call("DEL", channel)
            assert await client.gap(channel) == (ids[0], None, "reset")


@async_test
async def test_a_reset_that_many_see_is_one_reset(redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "0")
    async with gateway(redis_server.url) as server, AsyncExitStack() as stack, connect(server) as live:
        await live.subscribe(channel, lastMessageId="$")
        others = [await stack.enter_async_context(connect(server)) for _ in range(20)]
        redis_server.call("DEL", channel)
        for number in range(1, 301):
            redis_server.call("XADD", channel, f"{number}-0", "messageData", number)
        for index, other in enumerate(others):
            start = {"last": 250} if index % 2 else {"lastMessageId": "$"}
            await other.send(action="subscribe", channel=channel, **start)
        assert (await live.gap(channel))[1:] == ("1-0", "reset")
        assert [data for _, data in await live.messages(channel, 300)] == [*range(1, 301)]
        await live.nothing_more()
        for index, other in enumerate(others):
            assert (await other.next())["latestId"] == "300-0"
            if index % 2:
                assert [data for _, data in await other.messages(channel, 250)] == [*range(51, 301)]
            await other.nothing_more()


# --- frames ---


@async_test
async def test_a_message_of_the_greatest_size(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        head = f'{{"action":"publish","channel":"{channel}","messageId":"m","data":"'
        data = "x" * (MIB - 1000)
        await client.send_text(head + data + '"' + " " * (1000 - len(head) - 2) + "}")
        assert (await client.next())["status"] == "ack"
        await client.subscribe(channel)
        assert (await client.message(channel))[1] == data


@pytest.mark.parametrize("pieces", [1, 3])
@async_test
async def test_a_message_that_is_too_big(redis_server: RedisServer, channel: str, pieces: int) -> None:
    payload = b"x" * (MIB + 1)
    step = len(payload) // pieces + 1
    parts = [payload[start : start + step] for start in range(0, len(payload), step)]
    async with gateway(redis_server.url) as server, connect(server) as other, Wire(server) as wire:
        await other.subscribe(channel)
        await wire.handshake()
        assert await wire.text() == WELCOME
        for index, part in enumerate(parts):
            await wire.send(frame(part, 0 if index else 1, fin=index == len(parts) - 1))
        assert await wire.close_code() == 1009
        add(redis_server, channel, "1")
        await other.message(channel)


@async_test
async def test_two_megabytes_through_a_client_library(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.send_text("x" * 2 * MIB)
        assert (await client.closed())[0] == 1009


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(b"x", 2)], 1003),
        ([frame(b'{"action":"ping"}', 2)], 1003),
        ([frame(b"", 2)], 1003),
        ([frame(b"x", 2, fin=False), frame(b"y", 0)], 1003),
        ([frame(b'"\xff"')], 1007),
        ([frame(b'"\xed\xa0\x80"')], 1007),
        ([frame(b'{"x":"\xc3', fin=False), frame(b'\xc3"}', 0)], 1007),
        ([frame(b'{"x":"\xc3', fin=False), frame(b"", 0)], 1007),
        ([frame(b"x", 0)], 1002),
        ([frame(b"x", fin=False), frame(b"y")], 1002),
        ([frame(b"x", masked=False)], 1002),
        ([frame(b"x", reserved=4)], 1002),
        ([frame(b"x", reserved=1)], 1002),
        ([frame(b"x", 3)], 1002),
        ([frame(b"x", 3)[:2]], 1002),
        ([frame(b"x" * 200, 3)[:2]], 1002),
        ([frame(b"x" * 70_000, masked=False)[:2]], 1002),
        ([frame(b"", 1)[:1], frame(b"x", masked=False)[1:2]], 1002),
        ([frame(b"x", fin=False), frame(b"x" * 500, 11)[:2]], 1002),
        ([frame(b"x", fin=False), frame(struct.pack("!H", 4000), 8)], 4000),
        ([frame(b"x", 11)], 1002),
        ([frame(b"x" * 126, 9)], 1002),
        ([frame(b"x", 9, fin=False)], 1002),
        ([frame(b"x", 8)], 1002),
        ([frame(struct.pack("!H", 1005), 8)], 1002),
        ([frame(b"\x03\xe8\xff", 8)], 1007),
        ([b"\x81\xff" + b"\x7f" + b"\xff" * 11], 1009),
    ],
)
@async_test
async def test_frames_that_end_a_connection(
    redis_server: RedisServer, channel: str, frames: list[bytes], code: int
) -> None:
    async with gateway(redis_server.url) as server, connect(server) as other:
        for together in (True, False):
            async with Wire(server) as wire:
                await wire.handshake()
                assert await wire.text() == WELCOME
                for data in [b"".join(frames)] if together else frames:
                    await wire.send(data)
                closed = await wire.close_code()
                assert closed == code or (code == 1002 and closed == 1007), closed
        await other.publish(channel, 1)


@async_test
async def test_what_comes_after_a_frame_that_ends_a_connection_is_not_looked_at(
    redis_server: RedisServer, channel: str
) -> None:
    publish = request(action="publish", channel=channel, data=1, messageId="m")
    async with gateway(redis_server.url) as server:
        for bad, code in ((frame(b"x", 2), 1003), (frame(b"\xff"), 1007)):
            async with Wire(server) as wire:
                await wire.handshake()
                assert await wire.text() == WELCOME
                await wire.send(bad + publish)
                assert await wire.close_code() == code
        async with connect(server) as client:
            await client.publish(channel, 2)
    assert [fields["messageData"] for _, fields in entries(redis_server, channel)] == ["2"]


@async_test
async def test_fragmented_messages_with_pings_in_between(redis_server: RedisServer) -> None:
    text = '{"action":"é"}'.encode()
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.handshake()
        assert await wire.text() == WELCOME
        await wire.send(frame(text[:12], fin=False) + frame(b"are you there", 9) + frame(b"", 0, fin=False))
        assert await wire.frame() == (10, b"are you there")
        await wire.send(frame(text[12:], 0))
        assert json.loads(await wire.text())["error"] == "Aksi tidak dikenal: é"
        await wire.send(frame(b"", fin=False) + frame(b'{"action":"ping"}', 0))
        assert await wire.text() == '{"status":"pong"}'
        for byte in frame(b'{"action":"ping"}'):
            await wire.send(bytes([byte]))
        assert await wire.text() == '{"status":"pong"}'
        await wire.send(frame(b"unasked", 10) + frame(struct.pack("!H", 1000) + b"bye", 8))
        assert await wire.frame() == (8, struct.pack("!H", 1000) + b"bye")
        assert not await wire.read_some()


@async_test
async def test_fragments_of_nothing_take_no_memory(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.handshake()
        assert await wire.text() == WELCOME
        await wire.send(frame(b'{"action"', fin=False) + frame(b"", 0, fin=False) * 10_000 + frame(b"", 9))
        assert await wire.frame() == (10, b"")
        [connection] = server.clients.sessions
        assert connection._frames is not None
        assert connection._frames._partial is not None
        assert len(connection._frames._partial) < 10
        await wire.send(frame(b':"ping"}', 0))
        assert await wire.text() == '{"status":"pong"}'


@async_test
async def test_connections_that_break_off_anywhere(redis_server: RedisServer, channel: str) -> None:
    whole = handshake(f"/?token={KEY}") + request(action="subscribe", channel=channel) + frame(b"x" * 300)
    async with gateway(redis_server.url) as server:
        for size in (0, 1, 20, len(whole) - 350, len(whole) - 200, len(whole)):
            for reset in (False, True):
                async with Wire(server) as wire:
                    await wire.send(whole[:size])
                    if size == len(whole):
                        await wire.read_some()
                    if reset:
                        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        async with connect(server) as client:
            await client.subscribe(channel)
            add(redis_server, channel, "1")
            await client.message(channel)
            await until(lambda: len(server.clients.sessions) == 1)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"PING\r\n\r\n",
        b"GET /?token=k HTTP/1.1\r\nHost gateway\r\n\r\n",
        b"GET /?token=k HTTP/1.1\r\nHost: g\r\nUpgrade: websocket\r\n\r\n",
        b"GET /?token=k HTTP/1.1\r\nHost: g\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=range(10),
)
@async_test
async def test_what_is_no_handshake(redis_server: RedisServer, data: bytes) -> None:
    async with gateway(redis_server.url) as server:
        async with Wire(server) as wire:
            await wire.send(data)
            received = await wire.read_to_end()
            assert received.startswith(b"HTTP/1.1 4"), received
        async with connect(server) as client:
            await client.nothing_more()


# --- signs of life ---


@async_test
async def test_a_silent_client_is_pinged_and_a_dead_one_cut_off(redis_server: RedisServer) -> None:
    async with (
        gateway(redis_server.url, ping_interval_s=0.1, idle_timeout_s=0.4) as server,
        connect(server) as client,
        Wire(server) as wire,
    ):
        await wire.handshake()
        assert await wire.text() == WELCOME
        assert (await wire.frame())[0] == 9
        await wire.read_to_end()
        await client.nothing_more()  # it answers pings, and so lives on
        assert len(server.clients.sessions) == 1


@async_test
async def test_a_client_that_reads_slowly_is_not_dead(redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, *[json.dumps("x" * 10_000)] * 30)
    async with gateway(redis_server.url, ping_interval_s=0.1, idle_timeout_s=0.3) as server, Wire(server, 4096) as wire:
        await wire.handshake()
        await wire.send(request(action="subscribe", channel=channel))
        for _ in range(20):  # it sends nothing, not even pongs
            await asyncio.sleep(0.05)
            assert await wire.read_some(4096)
        assert len(server.clients.sessions) == 1


@async_test
async def test_a_client_that_only_takes_is_pinged_and_stays(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, ping_interval_s=0.1, idle_timeout_s=0.3) as server, Wire(server) as wire:
        await wire.handshake()
        await wire.send(request(action="subscribe", channel=channel, lastMessageId="$"))
        opcodes = []
        for _ in range(40):
            opcodes.append((await wire.frame())[0])
            await asyncio.sleep(0.02)
            add(redis_server, channel, "1")
        assert opcodes.count(9) >= 3
        assert len(server.clients.sessions) == 1


def lose_power(peer: socket.socket) -> None:
    """From now on nothing that is sent to ``peer`` arrives, and nothing of it is acknowledged."""
    code = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # BPF: return 0 bytes of the packet
    program = struct.pack("@HP", 1, ctypes.addressof(code))
    peer.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' socket filters")
@async_test
async def test_a_client_that_lost_its_power_is_found_on_an_active_channel(
    redis_server: RedisServer, channel: str
) -> None:
    async with gateway(redis_server.url, ping_interval_s=0.1, idle_timeout_s=0.4) as server, Wire(server) as wire:
        await wire.handshake()
        await wire.send(request(action="subscribe", channel=channel, lastMessageId="$"))
        assert await wire.text() == WELCOME
        assert json.loads(await wire.text())["status"] == "subscribed"
        lose_power(wire.socket)
        for _ in range(60):
            add(redis_server, channel, "1")
            await asyncio.sleep(0.02)
            if not server.clients.sessions:
                return
        raise AssertionError("it still counts as alive")


@async_test
async def test_a_client_that_sends_and_never_reads_is_not_dead(redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, *[json.dumps("x" * 100_000)] * 100)
    async with gateway(redis_server.url, ping_interval_s=0.1, idle_timeout_s=0.3) as server, Wire(server, 4096) as wire:
        await wire.handshake()
        await wire.send(request(action="subscribe", channel=channel))
        [connection] = server.clients.sessions
        await until(lambda: connection.buffered_bytes > 1000)
        for _ in range(20):
            await asyncio.sleep(0.05)
            await wire.send(frame(b"", 10))
        assert list(server.clients.sessions) == [connection]


# --- crowds ---


@async_test
async def test_a_client_too_many_is_told_to_come_back_later(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(redis_server.url, max_clients=2) as server, connect(server) as first:
        async with connect(server) as second:
            for _ in range(5):
                async with connect(server, welcome=False) as third:
                    assert await third.closed() == (1013, "too many clients")
            async with connect(server, "/?token=wrong", welcome=False) as refused:
                await refused.expect(UNAUTHORIZED)
            await first.nothing_more()
            await second.nothing_more()
        await until(lambda: len(server.clients.sessions) == 1)
        async with connect(server) as third:
            await third.nothing_more()
    said = [record.getMessage() for record in caplog.records if "no room" in record.getMessage()]
    assert said == ["no room for another client clients=2 connections=3 turned_away=1"]


FEW_FILES = """
import resource, sys
if sys.argv[2] == "asyncio":
    sys.modules["uvloop"] = None
sys.stderr = sys.stdout
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
from rsws.gateway.process.lifecycle import run
from rsws.gateway.server import Server
from rsws.settings import Settings
run(Server(Settings(port=0, redis_url=sys.argv[1], secret_key="k")), lambda server: print(server.url, flush=True))
"""


def test_a_crowd_does_not_take_the_last_open_file(redis_server: RedisServer, event_loop_kind: str) -> None:
    with run_python(FEW_FILES, redis_server.url, event_loop_kind) as process, ExitStack() as crowd:
        assert process.stdout is not None
        url = urlsplit(next(line for line in process.stdout if line.startswith("ws://")))
        silent = [crowd.enter_context(socket.socket()) for _ in range(500)]
        for each in silent:
            each.setblocking(False)
            each.connect_ex((url.hostname, url.port))
        eventually(lambda: len(select.select(silent, [], [], 0)[0]) >= 500 - 52, what="cutting off")
        assert len(select.select(silent, [], [], 0.1)[0]) == 500 - 52  # 100 files, 48 of them for the gateway itself
        crowd.close()
        process.terminate()
        log = process.stdout.read()
    assert process.returncode == 0
    assert "no room for another client clients=0 connections=52" in log
    assert "Traceback" not in log


# --- HTTP ---


@async_test
async def test_health_over_plain_http(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server:
        assert (await http(server, "/healthz"))[0] == 200
        assert (await http(server, "/healthz?x=1"))[0] == 200
        await until_status(server, "/readyz", 200)
        for path in ("/", "/ws", f"/?token={KEY}", "/healthz/", "/metrics/", "/favicon.ico", "//x", "//[", "*"):
            status, body = await http(server, path)
            assert status == 426, path
            assert "ws://" in body


# --- tokens and logs ---


@async_test
async def test_a_token_is_never_in_a_log_line(
    redis_server: RedisServer, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("websockets", "websockets.server", "rsws"):
        caplog.set_level(logging.DEBUG, logger=name)
    secret = "S3cretOfTheGateway"
    async with gateway(redis_server.url, secret_key=secret) as server:
        async with Wire(server) as wire:
            await wire.handshake(f"/?token={secret}")
            assert await wire.text() == WELCOME
            await wire.send(request(action="subscribe", channel=channel) + frame(b"nonsense") + frame(b"x", 2))
            await wire.read_some()
        for wrong in (f"/?token={secret}x", f"/?Token={secret}"):
            async with Wire(server) as wire:
                await wire.handshake(wrong)
                assert await wire.text() == UNAUTHORIZED
        await http(server, f"/?token={secret}")
        for data in (
            f"GET /?token={secret}\r\n\r\n".encode(),
            f"GET /?token={secret} HTTP/1.1\r\nUpgrade: websocket\r\n\r\n".encode(),
            f"POST /?token={secret} HTTP/1.1\r\n\r\n".encode(),
            f"GET /?token={secret}{'x' * 20_000} HTTP/1.1\r\n\r\n".encode(),
        ):
            async with Wire(server) as wire:
                await wire.send(data)
                await wire.read_to_end()
    assert "client connected" in caplog.text
    assert "token refused" in caplog.text
    assert secret not in caplog.text


@async_test
async def test_a_password_of_redis_is_never_in_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with RedisServer(requirepass="S3cretOfRedis") as redis:
        async with gateway(redis.url) as server, connect(server) as client:
            await client.publish("c", 1)
            redis.kill()
            await client.send(action="publish", channel="c", data=1, messageId="m")
            await client.next()
            assert "S3cretOfRedis" not in server.redis_description
        redis.start()
        with pytest.raises(SetupError) as caught:
            async with gateway(redis.url.replace("OfRedis", "OfNobody")):
                pass
    assert "S3cret" not in str(caught.value)
    assert "S3cret" not in caplog.text


# --- Redis out of reach ---

NOT_READY = "Server Redis tidak siap"


async def publish_until_it_works(client: Client, channel: str) -> str:
    """Publish again and again; the id once it is stored."""
    while True:
        await client.send(action="publish", channel=channel, data=1, messageId="again")
        reply = await client.next()
        if reply["status"] == "ack":
            return str(reply["streamId"])
        assert (reply["status"], reply["error"], reply["code"]) == ("error_ack", NOT_READY, "redis_unavailable")
        await asyncio.sleep(0.02)


@async_test
async def test_redis_out_of_reach_at_the_start_and_there_later(channel: str) -> None:
    port = free_port()
    async with gateway(f"redis://127.0.0.1:{port}") as server, connect(server) as client:
        assert (await http(server, "/healthz"))[0] == 200
        assert (await http(server, "/readyz"))[0] == 503
        for _ in range(3):
            await client.send(action="publish", channel=channel, data=1, messageId="client-uuid-1")
            await client.expect(
                '{"status":"error_ack","messageId":"client-uuid-1","error":"Server Redis tidak siap",'
                '"code":"redis_unavailable","outcome":"not_stored"}'
            )
            await client.send(action="subscribe", channel=channel)
            await client.expect(
                '{"status":"error","error":"Server Redis tidak siap","code":"redis_unavailable",'
                f'"channel":"{channel}"}}'
            )
        await client.nothing_more()
        with RedisServer(port) as redis:
            async with asyncio.timeout(10):
                stream_id = await publish_until_it_works(client, channel)
            assert (await http(server, "/readyz"))[0] == 200
            await client.subscribe(channel)
            assert await client.message(channel) == (stream_id, 1)
            add(redis, channel, "2")
            assert (await client.message(channel))[1] == 2


@async_test
async def test_a_redis_that_does_not_answer_any_more(own_redis: RedisServer, channel: str) -> None:
    async with gateway(own_redis.url, redis_timeout_s=0.3) as server, connect(server) as client:
        await client.publish(channel, 1)
        own_redis.pause()
        try:
            await client.send(action="publish", channel=channel, data=2, messageId="sent")
            await until(lambda: server._store.commands._batch_bytes)
            await client.send(action="publish", channel=channel, data=3, messageId="waiting")
            sent = await client.expect_error_ack("sent", "redis_unavailable", "unknown")
            waiting = await client.expect_error_ack("waiting", "redis_unavailable", "not_stored")
            assert sent["error"] == waiting["error"] == NOT_READY
            await client.send(action="subscribe", channel=channel)
            await client.expect_error("redis_unavailable", channel)
            assert (await http(server, "/readyz"))[0] == 503
            assert (await http(server, "/healthz"))[0] == 200
        finally:
            own_redis.resume()
        async with asyncio.timeout(5):
            await publish_until_it_works(client, channel)
        stored = [fields["messageData"] for _, fields in entries(own_redis, channel)]
        assert stored[0] == "1"
        assert "3" not in stored


@async_test
async def test_a_redis_that_is_killed_under_publishes(own_redis: RedisServer, channel: str) -> None:
    async with gateway(own_redis.url) as server, connect(server) as client:
        await client.publish(channel, 0)
        own_redis.pause()
        for index in range(10):
            await client.send(action="publish", channel=channel, data=index, messageId=str(index))
        await client.nothing_more()
        own_redis.process.kill()  # type: ignore[union-attr]
        outcomes = []
        for index in range(10):
            reply = await client.next()
            assert (reply["messageId"], reply["error"]) == (str(index), NOT_READY)
            outcomes.append(reply["outcome"])
        assert outcomes[0] == "unknown"
        await client.send(action="publish", channel=channel, data=1, messageId="late")
        await client.expect_error_ack("late", "redis_unavailable", "not_stored")


@async_test
async def test_a_redis_that_still_loads(own_redis: RedisServer, channel: str) -> None:
    own_redis.options |= {"appendonly": "yes", "appendfsync": "always"}
    own_redis.stop()
    own_redis.start()
    async with gateway(own_redis.url) as server, connect(server) as client:
        await client.subscribe(channel)
        ids = add(own_redis, channel, *map(str, range(3)))
        await client.messages(channel, 3)
        pipeline = own_redis.client.pipeline(transaction=False)
        for index in range(2000):
            pipeline.set(f"{channel}-{index}", "x")
        pipeline.execute()
        own_redis.kill()
        own_redis.options["key-load-delay"] = "500"
        own_redis.start(wait=False)
        acked = received = reply = None
        async with asyncio.timeout(10):
            while acked is None or received is None:
                if acked is None and (reply is None or "event" not in reply):  # the message may come before its ack
                    await client.send(action="publish", channel=channel, data=3, messageId="m")
                reply = await client.next()
                if reply.get("event") == "message":
                    received = reply["streamId"]
                elif reply["status"] == "ack":
                    acked = reply["streamId"]
                else:
                    assert reply["code"] in ("redis_unavailable", "redis_refused"), reply
                    await asyncio.sleep(0.01)
        assert acked == received
        assert [stream_id for stream_id, _ in entries(own_redis, channel)] == [*ids, acked]


@async_test
async def test_a_redis_that_was_restarted_while_nothing_was_written(own_redis: RedisServer, channel: str) -> None:
    async with gateway(own_redis.url) as server, connect(server) as client:
        await client.publish(channel, 1)
        own_redis.stop()
        own_redis.start()
        while True:
            await client.send(action="publish", channel=channel, data=2, messageId="m")
            reply = await client.next()
            if reply["status"] == "ack":
                break
            # The link was gone before this was asked for: nothing of it can be stored.
            assert reply["outcome"] == "not_stored"
            await asyncio.sleep(0.01)


@async_test
async def test_readyz_knows_soon_that_redis_is_gone(own_redis: RedisServer) -> None:
    async with gateway(own_redis.url) as server:
        await until_status(server, "/readyz", 200)
        own_redis.kill()
        await until_status(server, "/readyz", 503, within_s=2)


@pytest.mark.parametrize("password", ["", ":wrong@", "nobody:wrong@"])
@async_test
async def test_a_password_that_redis_refuses(password: str) -> None:
    with RedisServer(requirepass="right") as redis:
        with pytest.raises(SetupError) as caught:
            async with gateway(f"redis://{password}127.0.0.1:{redis.port}"):
                pass
        assert "wrong" not in str(caught.value)
        assert str(redis.port) in str(caught.value)


@async_test
async def test_a_database_that_redis_does_not_have(redis_server: RedisServer) -> None:
    with pytest.raises(SetupError, match="DB index"):
        async with gateway(f"{redis_server.url}/9999"):
            pass


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        "localhost",
        "localhost:6379",
        "http://localhost",
        "redis",
        "redis:",
        "redis://",
        "redis:///0",
        "redis://localhost:port",
        "redis://localhost:99999",
        "redis://localhost:-1",
        "redis://[::1",
        "redis://local host:6379",
        "redis://localhost:6379/abc",
        "redis://localhost?db=x",
        "redis://localhost?nonsense=1",
        "redis://:secret@:6379",
        "unix://",
    ],
)
@async_test
async def test_a_redis_url_that_can_not_be_used(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        async with gateway(url):
            pass
    assert "REDIS_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


@async_test
async def test_a_port_in_use(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(SetupError, match=f"port {port} is in use"):
            async with gateway(redis_server.url, port=port):
                pass
        async with connect(server) as client:
            await client.nothing_more()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.1"])
@async_test
async def test_an_address_that_is_not_this_machine_s(redis_server: RedisServer, host: str) -> None:
    with pytest.raises(SetupError, match=host):
        async with gateway(redis_server.url, host=host):
            pass


@async_test
async def test_an_open_address_needs_a_key(redis_server: RedisServer) -> None:
    with pytest.raises(SetupError, match="WEBSOCKET_SECRET_KEY"):
        async with gateway(redis_server.url, host="0.0.0.0", secret_key=None):
            pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0.0.0.0"])
@async_test
async def test_the_url_is_one_to_connect_to(redis_server: RedisServer, host: str) -> None:
    try:
        key = "long-enough"
        async with (
            gateway(redis_server.url, host=host, secret_key=key) as server,
            connect(server, f"/?token={key}") as client,
        ):
            await client.nothing_more()
    except SetupError as error:  # no IPv6 here
        if host != "::1":
            raise
        pytest.skip(str(error))


@async_test
async def test_nothing_is_read_or_made_before_it_starts(redis_server: RedisServer, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    server = new_server(redis_server.url, secret_key=None, data_dir=data_dir)
    assert not data_dir.exists()
    async with server:
        assert server.key_file == data_dir / "key"
        async with connect(server, quoted(server.key_file.read_text().strip())) as client:
            await client.nothing_more()


@async_test
async def test_a_part_that_fails_at_the_start_ends_the_start(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("rsws.gateway.server.Hub", broken)
    async with asyncio.timeout(2):
        with pytest.raises(ExceptionGroup) as failure:
            await new_server(redis_server.url).__aenter__()
    assert failure.group_contains(ZeroDivisionError)


# --- shutdown ---


@async_test
async def test_clients_are_told_when_the_gateway_stops(redis_server: RedisServer, channel: str) -> None:
    async with AsyncExitStack() as stack:
        async with gateway(redis_server.url) as server:
            clients = [await stack.enter_async_context(connect(server)) for _ in range(20)]
            await clients[0].subscribe(channel)
            ended = [asyncio.create_task(client.closed()) for client in clients]
        assert {(await task)[0] for task in ended} == {1001}
    with pytest.raises(ConnectionRefusedError):
        async with Wire(server):
            pass


@async_test
async def test_clients_that_have_time_to_leave_are_told_to_come_back(redis_server: RedisServer) -> None:
    server = await new_server(redis_server.url, drain_s=0.2).__aenter__()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(server)) for _ in range(5)]
        ended = [asyncio.create_task(client.closed()) for client in clients]
        assert 0.1 < await seconds_to_stop(server) < 1
        assert {(await task)[0] for task in ended} == {1012}


@async_test
async def test_publishes_under_way_are_acked_or_not_stored(redis_server: RedisServer, channel: str) -> None:
    acked: list[int] = []

    async def publish(client: Client) -> None:
        for index in range(1_000_000):
            await client.send(action="publish", channel=channel, data=index, messageId=str(index))
            while index > len(acked) + 1000 and client.websocket.close_code is None:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def read(client: Client) -> None:
        while True:
            reply = await client.next()
            assert reply["status"] == "ack"
            acked.append(int(reply["messageId"]))

    server = await new_server(redis_server.url).__aenter__()
    async with connect(server) as client:
        tasks = [asyncio.create_task(publish(client)), asyncio.create_task(read(client))]
        await until(lambda: len(acked) >= 500)
        await server.__aexit__(None, None, None)
        await asyncio.wait(tasks)
        assert all(isinstance(task.exception(), ConnectionClosed) for task in tasks)
        assert client.websocket.close_code == 1001
    stored = [int(fields["messageData"]) for _, fields in entries(redis_server, channel)]
    assert stored == acked == list(range(len(acked)))


async def seconds_to_stop(server: Server) -> float:
    loop = asyncio.get_running_loop()
    started = loop.time()
    await server.__aexit__(None, None, None)
    return loop.time() - started


@async_test
async def test_a_client_that_does_not_read_does_not_hold_the_gateway(redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, *[json.dumps("x" * 10_000)] * 100)
    server = await new_server(redis_server.url, shutdown_timeout_s=1.0).__aenter__()
    async with Wire(server, 4096) as wire, Wire(server) as deaf:
        for each in (wire, deaf):
            await each.handshake()
            await each.send(request(action="subscribe", channel=channel))
        await until(
            lambda: [connection.buffered_bytes > 1000 for connection in server.clients.sessions] == [True, True]
        )
        assert await seconds_to_stop(server) < 1.3


@async_test
async def test_a_client_that_never_answers_a_close_does_not_hold_the_gateway(redis_server: RedisServer) -> None:
    server = await new_server(redis_server.url, shutdown_timeout_s=1.0).__aenter__()
    async with Wire(server) as silent, Wire(server) as refused:
        await silent.handshake()
        await refused.handshake("/?token=wrong")
        assert await silent.text() == WELCOME
        assert await refused.text() == UNAUTHORIZED
        assert await seconds_to_stop(server) < 1.3
        assert await silent.close_code() == 1001


@pytest.mark.parametrize("sent", [0, 1, 20])
@async_test
async def test_connections_in_their_handshake_do_not_hold_the_gateway(redis_server: RedisServer, sent: int) -> None:
    server = await new_server(redis_server.url, shutdown_timeout_s=1.0).__aenter__()
    async with Wire(server) as wire:
        await wire.send(handshake("/")[:sent])
        async with connect(server) as client:
            await client.nothing_more()
        assert await seconds_to_stop(server) < 1.3
        assert not left_behind()
        assert not await wire.read_some()


@async_test
async def test_a_handshake_that_ends_while_the_gateway_stops(redis_server: RedisServer) -> None:
    server = await new_server(redis_server.url, shutdown_timeout_s=1.0).__aenter__()
    async with Wire(server) as late, Wire(server) as silent:
        await silent.handshake()
        whole = handshake(f"/?token={KEY}")
        await late.send(whole[:50])
        async with connect(server) as client:
            await client.nothing_more()
        stopping = asyncio.create_task(seconds_to_stop(server))
        await until(lambda: server.clients._stopping)
        await late.send(whole[50:])
        assert (await late.read_some()).startswith(b"HTTP/1.1 503")
        assert await stopping < 1.3
        assert not left_behind()


@async_test
async def test_a_redis_that_does_not_answer_does_not_hold_the_gateway(own_redis: RedisServer, channel: str) -> None:
    server = await new_server(own_redis.url, shutdown_timeout_s=1.0).__aenter__()
    async with connect(server) as client:
        await client.subscribe(channel)
        own_redis.pause()
        try:
            await client.send(action="publish", channel=channel, data=1, messageId="m")
            await client.nothing_more()
            assert await seconds_to_stop(server) < 1.3
        finally:
            own_redis.resume()
        assert (await client.closed())[0] == 1001


@async_test
async def test_stop_and_start_leave_nothing_behind(own_redis: RedisServer, channel: str) -> None:
    before = connected_to(own_redis)
    for _ in range(3):
        async with gateway(own_redis.url) as server, connect(server) as client:
            for index in range(70):
                await client.subscribe(f"{channel}-{index}")
        assert not left_behind()
    await until(lambda: connected_to(own_redis) == before)


@async_test
async def test_clients_that_come_and_go_leave_nothing_behind(own_redis: RedisServer, channel: str) -> None:
    async with gateway(own_redis.url) as server:
        for _ in range(30):
            async with connect(server) as client:
                await client.subscribe(channel)
                await client.subscribe(f"{channel}-2", lastMessageId="$")
        await until(lambda: not server.clients.sessions)
        assert len(left_behind()) < 20


def connected_to(redis: RedisServer) -> int:
    return len(redis.call("CLIENT", "LIST").splitlines())

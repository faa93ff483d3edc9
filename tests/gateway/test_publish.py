"""Publishes over the wire: what is stored, what is answered, and when."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from kit.faults import Proxy, Way, command_calls, paused
from kit.gateway import (
    FORMAT_TEXT,
    NOTHING_ELSE_ASKED,
    Wire,
    add,
    async_test,
    connect,
    entries,
    frame,
    gateway,
    request,
    until,
)
from kit.odd_data import ODD_DATA
from kit.support import RedisServer, free_port

both_loops = pytest.mark.usefixtures("event_loop_kind")


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


@both_loops
@async_test
async def test_it_is_read_without_waiting_for_redis_to_tell(own_redis: RedisServer, channel: str) -> None:
    limits = replace(NOTHING_ELSE_ASKED, streams=replace(NOTHING_ELSE_ASKED.streams, gather_s=0))
    async with (
        Proxy(own_redis.port) as link,
        gateway(link.redis_url, limits) as server,
        connect(server) as client,
        connect(server) as other,
    ):
        await client.subscribe(channel)
        first = await other.publish(channel, 1)
        assert await client.message(channel) == (first, 1)
        await until(lambda: server.server.redis.is_told_of(channel))
        reads = command_calls(own_redis, "xrange")
        with link.black_hole(Way.DOWN):
            await other.send(action="publish", channel=channel, data=2, messageId="m")
            await until(lambda: command_calls(own_redis, "xrange") > reads)
        ack, message = await other.next(), await client.message(channel)
        assert (ack["status"], message) == ("ack", (ack["streamId"], 2))


@both_loops
@async_test
async def test_several_are_read_without_waiting_for_redis_to_tell(own_redis: RedisServer, channel: str) -> None:
    limits = replace(NOTHING_ELSE_ASKED, streams=replace(NOTHING_ELSE_ASKED.streams, gather_s=0))
    burst = [request(action="publish", channel=channel, data=number, messageId="m") for number in (2, 3)]
    async with (
        Proxy(own_redis.port) as link,
        gateway(link.redis_url, limits) as server,
        connect(server) as client,
        Wire(server) as other,
    ):
        await client.subscribe(channel)
        await other.handshake(and_send=request(action="publish", channel=channel, data=1, messageId="m"))
        assert (await client.message(channel))[1] == 1
        await until(lambda: server.server.redis.is_told_of(channel))
        reads = command_calls(own_redis, "xrange")
        with link.black_hole(Way.DOWN):
            await other.send(b"".join(burst))
            await until(lambda: command_calls(own_redis, "xrange") > reads)
        assert [(await client.message(channel))[1] for _ in burst] == [2, 3]


@both_loops
@async_test
async def test_who_subscribes_to_all_that_it_publishes_has_the_acks_first(
    redis_server: RedisServer, channel: str
) -> None:
    subscribe = request(action="subscribe", channel=channel)
    async with gateway(redis_server.url) as server, Wire(server) as client:
        await client.handshake(and_send=subscribe)
        assert "connected" in await client.text()
        assert json.loads(await client.text())["status"] == "subscribed"
        for number in range(20):
            burst = [request(action="publish", channel=channel, data=number, messageId=str(each)) for each in range(3)]
            await client.send(b"".join(burst))
            acks = [json.loads(await client.text()) for _ in burst]
            assert [ack.get("messageId") for ack in acks] == ["0", "1", "2"]
            messages = [json.loads(await client.text()) for _ in burst]
            assert [message["streamId"] for message in messages] == [ack["streamId"] for ack in acks]


@async_test
async def test_what_is_published_together_counts_until_it_is_acked(own_redis: RedisServer, channel: str) -> None:
    sent = [request(action="publish", channel=channel, data="x" * each, messageId=str(each)) for each in (1, 10, 9)]
    async with gateway(own_redis.url) as server, Wire(server) as wire:
        await wire.handshake()
        await wire.text()
        (connection,) = server.server.clients.sessions
        with paused(own_redis):
            await wire.send(b"".join(sent))
            header = len(frame(b""))
            await until(lambda: connection.under_way == (3, sum(len(each) - header for each in sent)))
        assert [json.loads(await wire.text())["status"] for _ in sent] == ["ack"] * 3
        assert connection.under_way == (0, 0)
        assert server.server.clients.turns.busy_clients == 0
        assert server.server.board.metrics.published == 3


@async_test
async def test_nothing_is_published_where_messages_are_all_fields(redis_server: RedisServer, channel: str) -> None:
    sent = [request(action="publish", channel=channel, data=each, messageId=str(each)) for each in range(3)]
    async with gateway(redis_server.url, field=(f"{channel}=*",)) as server, Wire(server) as wire:
        await wire.handshake(and_send=b"".join(sent))
        await wire.text()
        refusals = [json.loads(await wire.text()) for _ in sent]
        assert [(each["messageId"], each["outcome"]) for each in refusals] == [(str(n), "not_stored") for n in range(3)]


@both_loops
@async_test
async def test_who_subscribes_to_what_it_publishes_has_the_ack_first(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel)
        for number in range(20):
            stream_id = await client.publish(channel, number)
            assert await client.message(channel) == (stream_id, number)


@both_loops
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
async def test_what_comes_in_one_read_takes_effect_in_its_order(redis_server: RedisServer, channel: str) -> None:
    other = f"{channel}:other"

    def publish(data: int, where: str = channel, **keys: Any) -> bytes:
        return request(action="publish", channel=where, data=data, messageId=str(data), **keys)

    sent = [publish(1), publish(2), publish(3, producer="p"), publish(4), publish(5, other), publish(6, other)]
    sent += [publish(7, "\n"), publish(8), request(action="subscribe", channel=channel, lastMessageId="$"), publish(9)]
    async with gateway(redis_server.url) as server, connect(server) as client, Wire(server) as wire:
        await wire.handshake(and_send=b"".join(sent))
        replies = [json.loads(await wire.text()) for _ in range(12)]
        acks = [reply for reply in replies if reply.get("status") == "ack"]
        assert [ack["messageId"] for ack in acks] == list("12345689")
        assert [reply["messageId"] for reply in replies if "error" in reply] == ["7"]
        assert [reply["data"] for reply in replies if "data" in reply] == [9]
        stored = entries(redis_server, channel)
        assert [fields["messageData"] for _, fields in stored] == list("123489")
        assert [fields["messageData"] for _, fields in entries(redis_server, other)] == list("56")
        assert next(reply for reply in replies if "lastMessageId" in reply)["latestId"] == stored[-2][0]
        await wire.send(publish(10) + publish(11) + frame(b"\xff") + publish(12))
        await wire.read_to_end()
        await client.publish(channel, 13)
        assert [fields["messageData"] for _, fields in entries(redis_server, channel)][6:] == ["10", "11", "13"]


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

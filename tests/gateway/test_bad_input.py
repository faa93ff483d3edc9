"""Requests that can't be met: each gets its error, nothing is lost, and nobody takes more than there is."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from kit.gateway import (
    WELCOME,
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
from kit.support import MIB, RedisServer

both_loops = pytest.mark.usefixtures("event_loop_kind")


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
        said = [await client.next(), await client.next()]
        assert {each.get("status") or each.get("event") for each in said} == {"ack", "message"}
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


@both_loops
@async_test
async def test_a_flood_from_a_client_that_does_not_read(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server, Wire(server, 4096) as wire:
        await wire.handshake()
        [connection] = server.server.clients.sessions
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
    """Send ``data`` over and over until the gateway has long taken nothing; how many bytes it took."""
    sent = stuck = 0
    while stuck < 40:  # turns of the event loop, in which the gateway has its own
        try:
            sent += wire.socket.send(memoryview(data)[sent % len(data) :])
            stuck = 0
        except BlockingIOError:
            stuck += 1
            await asyncio.sleep(0.005)
        assert sent < most
    return sent


@pytest.mark.parametrize("what", ["messageId", "data", "publishes behind a subscribe", "requests behind a subscribe"])
@both_loops
@async_test
async def test_a_flood_while_redis_does_not_answer(own_redis: RedisServer, channel: str, what: str) -> None:
    async with gateway(own_redis.url, redis_timeout_s=10) as server, Wire(server) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        await wire.handshake()
        assert await wire.text() == WELCOME
        [connection] = server.server.clients.sessions
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
            assert not connection.transport.is_reading()
            assert connection.under_way[1] < 6 * MIB
        finally:
            own_redis.resume()
        ending = asyncio.create_task(wire.send(flood[sent % len(flood) :] + request(action="ping")))
        while await wire.text() != '{"status":"pong"}':
            pass
        await ending
        await until(lambda: connection.under_way == (0, 0))
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

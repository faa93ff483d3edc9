"""A Redis that is out of reach, stands still, dies, loads or comes back."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kit.gateway import (
    NOTHING_ELSE_ASKED,
    Client,
    add,
    async_test,
    connect,
    entries,
    gateway,
    http,
    until,
    until_status,
)
from kit.support import RedisServer, free_port
from rsws.gateway.limits import DEFAULTS

pytestmark = pytest.mark.usefixtures("event_loop_kind")


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
            await until_status(server, "/readyz", 200)
            await client.subscribe(channel)
            assert await client.message(channel) == (stream_id, 1)
            add(redis, channel, "2")
            assert (await client.message(channel))[1] == 2


@async_test
async def test_a_redis_that_does_not_answer_any_more(own_redis: RedisServer, channel: str) -> None:
    async with gateway(own_redis.url, NOTHING_ELSE_ASKED, redis_timeout_s=0.3) as server, connect(server) as client:
        await client.publish(channel, 1)
        own_redis.pause()
        try:
            await client.send(action="publish", channel=channel, data=2, messageId="sent")
            await until(lambda: server.server.redis.primaries[0].commands.is_busy)
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
    limits = replace(DEFAULTS, streams=replace(DEFAULTS.streams, idle_ping_s=600))
    async with gateway(own_redis.url, limits) as server:
        await until_status(server, "/readyz", 200)
        own_redis.kill()
        await until_status(server, "/readyz", 503)

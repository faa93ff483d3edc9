"""The client against the real gateway, over links that break too."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from kit.client import QUICK, SECRET, in_a_loop, take
from kit.faults import Proxy, command_calls, paused
from kit.support import RedisServer, free_port
from rsws.backoff import Backoff
from rsws.client import (
    Disconnected,
    Reconnected,
    connect,
)
from rsws.client.limits import DEFAULTS
from rsws.errors import (
    Outcome,
    PublishFailed,
    SubscribeRefused,
    Unauthorized,
)
from rsws.gateway.process.single import SingleProcess
from rsws.protocol import (
    StreamId,
)
from rsws.settings import Settings


def gateway(redis_server: RedisServer, port: int = 0, redis_timeout_s: float = 5) -> SingleProcess:
    settings = Settings(
        port=port,
        redis_url=redis_server.url,
        secret_key=SECRET,
        redis_timeout_s=redis_timeout_s,
        shutdown_timeout_s=1,  # half of it passes before a client whose message is too big is cut off
    )
    return SingleProcess(settings)


@in_a_loop
async def test_publish_and_subscribe_on_the_gateway(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server) as server, connect(server.url, token=SECRET) as client:
        first = await client.publish(channel, {"text": "hi"})
        second = await client.publish_json(channel, '{"n": 1.0, "big": 1e400}')
        async with client.subscribe(channel, after="0") as messages:
            one, two = await take(messages, 2)
            assert (one.id, one.data, two.id, two.json) == (
                first,
                {"text": "hi"},
                second,
                '{"n": 1.0, "big": 1e400}',
            )
            third = await client.publish(channel, 3)
            assert (await anext(messages)).id == third
        async with client.subscribe(channel, last=1) as messages:
            assert (await anext(messages)).id == third
        assert 0 < await client.ping() < 10
        with pytest.raises(PublishFailed, match="too big") as caught:
            await client.publish(channel, "x" * 2_000_000)
        assert caught.value.code == "too_big"
        assert await client.publish(channel, 4) > third


@in_a_loop
async def test_the_gateway_refuses(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server) as server:
        for token in ("wrong", None):
            with pytest.raises(Unauthorized):
                await connect(server.url, token=token).__aenter__()
        redis_server.call("LPUSH", channel, "x")
        async with connect(server.url, token=SECRET) as client:
            with pytest.raises(SubscribeRefused) as refused:
                await anext(client.subscribe(channel))
            assert refused.value.code == "channel_unreadable"
            with pytest.raises(PublishFailed) as failed:
                await client.publish(channel, 1)
            assert failed.value.outcome == Outcome.NOT_STORED


@in_a_loop
async def test_a_slow_loop_that_publishes_gets_everything(redis_server: RedisServer, channel: str) -> None:
    limits = replace(DEFAULTS, queue_entries=100)
    async with gateway(redis_server) as server, connect(server.url, token=SECRET, limits=limits) as client:
        pipeline = redis_server.client.pipeline()
        for number in range(500):
            pipeline.xadd(channel, {"messageData": number})
        pipeline.execute()
        async for each in client.subscribe(channel, after="0"):
            await client.publish(f"{channel}-copy", each.data)
            if each.data == 499:
                break
        copies = redis_server.call("XRANGE", f"{channel}-copy", "-", "+")
        assert [int(fields[1]) for _, fields in copies] == [*range(500)]


@in_a_loop
async def test_subscribers_go_on_when_the_gateway_comes_back(redis_server: RedisServer, channel: str) -> None:
    port = free_port()
    lost, back = asyncio.Event(), asyncio.Event()

    def note(event: Disconnected | Reconnected) -> None:
        (lost if isinstance(event, Disconnected) else back).set()

    def store(number: int) -> None:
        redis_server.call("XADD", channel, "*", "messageData", str(number))

    async with gateway(redis_server, port) as server:
        context = connect(server.url, token=SECRET, on_connection=note, limits=QUICK)
        client = await context.__aenter__()
        messages = client.subscribe(channel, after="0")
        for number in range(10):
            store(number)
        assert [each.data for each in await take(messages, 10)] == [*range(10)]
    await lost.wait()
    for number in range(10, 20):
        store(number)
    waiting = asyncio.create_task(client.publish(channel, 20))
    async with gateway(redis_server, port):
        await back.wait()
        await waiting
        store(21)
        assert [each.data for each in await take(messages, 12)] == [*range(10, 22)]
        await context.__aexit__(None, None, None)


async def cut_again_and_again(proxy: Proxy, chance: random.Random) -> None:
    """At first after 30 ms at most, and ever later: where a machine is slow something has to get through, too."""
    longest_s = 0.03
    while True:
        await asyncio.sleep(chance.uniform(0, longest_s))
        longest_s *= 1.01
        proxy.cut()


@in_a_loop
async def test_over_a_link_that_is_cut_again_and_again_each_message_is_stored_once_and_in_order(
    redis_server: RedisServer, channel: str
) -> None:
    limits = replace(DEFAULTS, retry=Backoff(0.01, 0.01, least=0.0))
    seed = random.randrange(10**9)
    ids: list[StreamId] = []
    calls_before = command_calls(redis_server, "evalsha")
    port = free_port()
    async with (
        gateway(redis_server, port),
        Proxy(port) as proxy,
        connect(f"ws://127.0.0.1:{proxy.port}", token=SECRET, limits=limits) as client,
    ):
        cutting = asyncio.create_task(cut_again_and_again(proxy, random.Random(seed)))
        with proxy.delayed(0.002):  # so that there is an ack to lose when a publish is stored
            for first in range(0, 300, 5):
                ids += await asyncio.gather(*[client.publish(channel, first + number) for number in range(5)])
        cutting.cancel()
    stored = redis_server.call("XRANGE", channel, "-", "+")
    assert [int(fields[1]) for _, fields in stored] == [*range(300)], f"seed {seed}"
    assert [id_.decode() for id_, _ in stored] == [*map(str, ids)], f"seed {seed}"
    assert command_calls(redis_server, "evalsha") - calls_before > 300, f"nothing was sent again, seed {seed}"


@in_a_loop
async def test_a_message_is_stored_once_by_a_redis_that_answers_too_late(own_redis: RedisServer, channel: str) -> None:
    async with (
        gateway(own_redis, redis_timeout_s=0.3) as server,
        connect(server.url, token=SECRET, limits=QUICK) as client,
    ):
        first = await client.publish(channel, 1)
        with paused(own_redis):
            publishing = [asyncio.create_task(client.publish(channel, number)) for number in (2, 3)]
            _, undone = await asyncio.wait(publishing, timeout=1)
            assert len(undone) == 2
        ids = [first, *await asyncio.gather(*publishing)]
        assert {id_.decode() for id_, _ in own_redis.call("XRANGE", channel, "-", "+")} == {*map(str, ids)}

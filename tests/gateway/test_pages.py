"""Pages of history: shared, kept for a while, and void once the stream is another one."""

from __future__ import annotations

import asyncio

from kit.gateway import add, async_test, until
from kit.interleavings import Client, Connection, make_channel
from kit.support import RedisServer
from rsws.gateway.delivery.channel import Channel
from rsws.gateway.delivery.pages import Pages
from rsws.gateway.delivery.subscription import Subscription
from rsws.protocol import ZERO, StreamId
from rsws.redis.target import RedisTarget
from rsws.streams.primary import Primary
from rsws.streams.replies import StreamBounds


@async_test
async def test_a_kept_page_of_a_stream_that_was_is_not_handed_over(redis_server: RedisServer, channel: str) -> None:
    for number in range(1, 41):
        redis_server.call("XADD", channel, f"{number}-0", "messageData", "1")
    primary = Primary(RedisTarget(redis_server.url, 5.0), lambda cause: None)
    store = primary.store
    running = asyncio.create_task(primary.run())

    async def no_check(channel: Channel) -> None:
        raise AssertionError("nobody stands beyond the end")

    async with asyncio.TaskGroup() as tasks:
        pages = Pages(store, tasks, no_check)
        room = make_channel(channel, StreamId(40, 0))

        def join(start: int) -> Client:
            client = Client(start, Connection(room=1000))
            client.subscription = Subscription(room, StreamId(start, 0), client, pages)
            client.subscription.advance()
            return client

        first = join(5)
        await until(lambda: first.subscription in room.live)
        second = join(5)  # whose page is there, and comes in the next turn of the loop
        redis_server.call("DEL", channel)
        redis_server.call("XADD", channel, "1-0", "messageData", "2")
        room.reset(StreamBounds(StreamId(1, 0), StreamId(1, 0), 1))
        await until(lambda: second.subscription in room.live)
        assert second.seen == [("reset", 5), ("message", 1)]
    running.cancel()
    await asyncio.wait([running])


@async_test
async def test_looking_back_sends_no_bodies(own_redis: RedisServer, channel: str) -> None:
    add(own_redis, channel, *['"' + "x" * 100_000 + '"'] * 100)
    primary = Primary(RedisTarget(own_redis.url, 5.0), lambda cause: None)
    store = primary.store
    running = asyncio.create_task(primary.run())
    bounds = await store.bounds(channel)
    before = own_redis.client.info("stats")["total_net_output_bytes"]
    assert await store.before_last(channel, 90, bounds) > ZERO
    assert own_redis.client.info("stats")["total_net_output_bytes"] - before < 100_000
    running.cancel()
    await asyncio.wait([running])


@async_test
async def test_a_read_that_nobody_waits_for_any_more_ends(own_redis: RedisServer, channel: str) -> None:
    add(own_redis, channel, *["1"] * 50)
    primary = Primary(RedisTarget(own_redis.url, 5.0), lambda cause: None)
    store = primary.store
    running = asyncio.create_task(primary.run())
    await store.bounds(channel)

    async def no_check(channel: Channel) -> None:
        raise AssertionError("nobody stands beyond the end")

    own_redis.kill()
    await until(lambda: not primary.ready)
    async with asyncio.TaskGroup() as tasks:
        pages = Pages(store, tasks, no_check)
        room = make_channel(channel, StreamId(1 << 60, 0))
        clients = [Client(0, Connection(room=1000)) for _ in range(2)]
        others = asyncio.all_tasks()
        for client in clients:
            client.subscription = Subscription(room, ZERO, client, pages)
            client.subscription.advance()
        first, second = [client.subscription for client in clients if client.subscription is not None]
        [read] = asyncio.all_tasks() - others
        for subscription in (first, second):
            assert not read.cancelling()
            subscription.close()
            pages.leave(subscription)
        assert read.cancelling()
        late = Subscription(room, ZERO, Client(0, Connection(room=1000)), pages)
        late.advance()
        [another] = asyncio.all_tasks() - others - {read}  # it does not wait for what has ended
        late.close()
        pages.leave(late)
        assert another.cancelling()
    running.cancel()
    await asyncio.wait([running])

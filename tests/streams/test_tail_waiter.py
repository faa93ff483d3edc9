"""Waiting at the ends of streams, on a real Redis."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from redis.crc import key_slot

from kit.faults import command_calls
from kit.gateway import PATIENCE_S, add, async_test, until
from kit.streams import target_of
from kit.support import RedisServer, free_port
from rsws.redis.limits import DEFAULTS, Limits
from rsws.redis.link import RedisLink
from rsws.redis.target import RedisTarget
from rsws.streams.tail_waiter import PAUSE_S, SLOT_SHARDS, TailWaiter


class Waiting:
    """TailWaiter, and what came at each: entries' ids, or none where nothing is proven."""

    def __init__(self, target: RedisTarget, limits: Limits, slot_of: Callable[[bytes], int] | None = None) -> None:
        self.link = RedisLink(target, "test-commands", limits=limits)
        self.ends = TailWaiter(target, self.link, slot_of=slot_of, limits=limits)
        self.news: dict[str, list[str]] = {}

    def wait(self, name: str, after: str = "0-0") -> bool:
        return self.ends.wait(name.encode(), after.encode(), partial(self._came, name))

    def _came(self, name: str, raw: list[Any]) -> None:
        assert name not in self.news
        self.news[name] = [id_.decode() for id_, _ in raw]

    def forget(self, *names: str) -> None:
        for name in names:
            self.ends.forget(name.encode())
            self.news.pop(name, None)


@asynccontextmanager
async def waiting(
    redis: RedisServer,
    url: str | None = None,
    timeout_s: float = 5.0,
    limits: Limits = DEFAULTS,
    slot_of: Callable[[bytes], int] | None = None,
) -> AsyncIterator[Waiting]:
    target = RedisTarget(url, timeout_s) if url else target_of(redis, timeout_s)
    room = Waiting(target, limits, slot_of)
    tasks = [asyncio.create_task(room.link.run()), asyncio.create_task(room.ends.run())]
    await asyncio.sleep(0)
    try:
        yield room
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)


def connections(redis: RedisServer) -> list[bool]:
    """One for each connection there is: whether Redis waits for something to come."""
    clients = redis.client.client_list(_type="normal")
    return ["b" in client["flags"] for client in clients if client["name"] == "rsws-ends"]


@async_test
async def test_what_comes_while_redis_waits_is_handed_over(redis_server: RedisServer, channel: str) -> None:
    async with waiting(redis_server) as room:
        position = "0-0"
        for _ in range(3):
            room.wait(channel, position)
            await until(lambda: connections(redis_server) == [True])
            (position,) = add(redis_server, channel, "1")
            await until(lambda: room.news.pop(channel, None) == [position])  # noqa: B023


@async_test
async def test_what_was_there_before_proves_nothing(redis_server: RedisServer, channel: str) -> None:
    names = [channel, f"{channel}-other"]
    async with waiting(redis_server) as room:
        for name in names:
            room.wait(name)
        await until(lambda: connections(redis_server) == [True])
        room.forget(channel)
        add(redis_server, channel, "1")
        await until(lambda: connections(redis_server) == [True])
        room.wait(channel)
        await until(lambda: room.news == {channel: []})


@async_test
async def test_changes_in_quick_succession_never_wait_for_the_end_of_a_read(
    redis_server: RedisServer, channel: str
) -> None:
    chance = random.Random(5)
    async with waiting(redis_server, limits=replace(DEFAULTS, block_s=4 * PATIENCE_S)) as room:
        for turn in range(150):
            names = [f"{channel}-{turn}-{index}" for index in range(chance.randrange(1, 4))]
            for name in names:
                room.wait(name)
                if chance.random() < 0.7:  # while the last change is still being made
                    await asyncio.sleep(chance.choice([0, 0, 0.0003, 0.0006]))
            add(redis_server, names[-1], "1")
            await until(lambda: names[-1] in room.news)  # noqa: B023
            room.forget(*names)
        room.wait(channel)
        await until(lambda: connections(redis_server) == [True])
        await room.link.call(b"PING")  # the last of them may be on its way
        woken = command_calls(redis_server, "client|unblock")
        for _ in range(20):
            await asyncio.sleep(PAUSE_S)
            await room.link.call(b"PING")
        assert command_calls(redis_server, "client|unblock") == woken


@async_test
async def test_more_streams_than_one_connection_takes(redis_server: RedisServer, channel: str) -> None:
    names = [f"{channel}-{index}" for index in range(200)]
    async with waiting(redis_server) as room:
        for name in names:
            room.wait(name)
        await until(lambda: connections(redis_server) == [True] * 4)
        expected = {name: add(redis_server, name, "1") for name in names[::10]}
        await until(lambda: room.news.keys() == expected.keys())
        for name in names[::10]:  # what came at once with another may have been there before Redis waited again
            assert room.news[name] in (expected[name], [])
        room.forget(*names)
        await until(lambda: not any(connections(redis_server)))


@async_test
async def test_what_is_forgotten_is_told_nothing(redis_server: RedisServer, channel: str) -> None:
    async with waiting(redis_server) as room:
        room.wait(channel)
        room.wait(f"{channel}-other")
        await until(lambda: connections(redis_server) == [True])
        add(redis_server, channel, "1")
        room.forget(channel)  # Redis has answered the read that is under way
        add(redis_server, f"{channel}-other", "1")
        await until(lambda: f"{channel}-other" in room.news)
        assert channel not in room.news
        room.forget(f"{channel}-other")
        room.wait(channel, *add(redis_server, channel, "2"))
        await until(lambda: connections(redis_server) == [True])
        (last,) = add(redis_server, channel, "3")
        room.forget(channel)
        room.wait(channel, last)  # the answer to the read that is under way is no news after this position
        await until(lambda: connections(redis_server) == [True])
        assert channel not in room.news


@pytest.mark.parametrize("trouble", ["killed", "no stream", "silent"])
@async_test
async def test_a_read_that_fails_proves_nothing(own_redis: RedisServer, trouble: str) -> None:
    async with waiting(own_redis, timeout_s=0.3, limits=replace(DEFAULTS, block_s=0.3)) as room:
        room.wait("a")
        room.wait("b")
        await until(lambda: connections(own_redis) == [True])
        match trouble:
            case "killed":
                own_redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            case "no stream":
                own_redis.call("SET", "a", "x")
            case _:
                own_redis.pause()
        await until(lambda: room.news == {"a": [], "b": []})
        own_redis.resume()
        del room.news["b"]
        room.wait("b")
        await until(lambda: connections(own_redis) == [True])
        ids = add(own_redis, "b", "1")
        await until(lambda: room.news.get("b") in (ids, []))  # none between two reads, which are short here


@async_test
async def test_a_server_without_client_unblock_waits_a_little_later(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.call("ACL", "SETUSER", "gateway", "on", ">secret", "~*", "+@all", "-client|unblock")
    caplog.set_level(logging.WARNING)
    async with waiting(own_redis, f"redis://gateway:secret@127.0.0.1:{own_redis.port}") as room:
        room.wait("first")
        await until(lambda: connections(own_redis) == [True])
        room.wait("second")
        add(own_redis, "first", "1")  # ends the read that is under way
        await until(lambda: "first" in room.news)
        add(own_redis, "second", "1")
        await until(lambda: "second" in room.news)
        room.wait("third")  # while the next read is under way
        await until(lambda: connections(own_redis) == [True])
        room.wait("fourth")
        add(own_redis, "fourth", "1")
        async with asyncio.timeout(DEFAULTS.block_s / 2):
            await until(lambda: "fourth" in room.news)
    assert "UNBLOCK" in caplog.text


@async_test
async def test_in_a_cluster_a_connection_waits_for_one_slot(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with RedisServer(cluster_enabled="yes", cluster_node_timeout="1000", cluster_port=str(free_port())) as own_redis:
        own_redis.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: b"cluster_state:ok" in own_redis.call("CLUSTER", "INFO"))
        async with waiting(own_redis, slot_of=key_slot) as room:
            names = [f"{{{slot}}}-{index}" for index in range(5) for slot in range(SLOT_SHARDS)]
            assert all(room.wait(name) for name in names)
            assert not room.wait("{another slot}")
            await until(lambda: connections(own_redis) == [True] * SLOT_SHARDS)
            for name in names:
                id_ = own_redis.call("XADD", name, "*", "messageData", "1").decode()
                await until(lambda: name in room.news)  # noqa: B023
                assert room.news[name] in ([id_], [])
            room.forget(*names)
            assert room.wait("{another slot}")  # as there is a connection that waits for nothing
            await until(lambda: sum(connections(own_redis)) == 1)
            id_ = own_redis.call("XADD", "{another slot}", "*", "messageData", "1").decode()
            await until(lambda: room.news == {"{another slot}": [id_]})
    assert "interrupted" not in caplog.text

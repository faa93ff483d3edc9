"""What the tests of the rooms that talk to Redis share: to run them, and to see what they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from kit.support import RedisServer
from rsws.errors import (
    StoreError,
)
from rsws.protocol import StreamId
from rsws.redis.link import RedisLink
from rsws.redis.target import RedisTarget
from rsws.streams.primary import Primary
from rsws.streams.reader import Reader
from rsws.streams.store import IdempotencyKey, Store, Stored, Streams

TOP = 2**64 - 1
PAGE_BYTES = 64 * 1024

PRIMARY_SAYS = b"+OK\r\n*2\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
"""What a primary answers to the first commands on a connection: CLIENT SETNAME, HELLO, ROLE."""


def target_of(redis: RedisServer, timeout_s: float = 5.0) -> RedisTarget:
    target = RedisTarget(redis.url, timeout_s)
    return target.at(("127.0.0.1", redis.port)) if "cluster-enabled" in redis.options else target


@asynccontextmanager
async def running(*rooms: RedisLink | Primary | Reader) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(room.run()) for room in rooms]
    try:
        await asyncio.sleep(0)  # each has run up to its first wait
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)


@asynccontextmanager
async def running_store(redis: RedisServer, timeout_s: float = 5.0) -> AsyncIterator[Store]:
    primary = Primary(target_of(redis, timeout_s), lambda cause: None)
    async with running(primary):
        yield primary.store


def appended(
    store: Store, channel: str, data: bytes, once: IdempotencyKey | None = None
) -> asyncio.Future[Stored | StoreError]:
    """What becomes of an append; a second result would raise."""
    future: asyncio.Future[Stored | StoreError] = asyncio.get_running_loop().create_future()
    store.append(channel, data, future.set_result, once)
    return future


def appended_all(store: Streams, channel: str, data: Sequence[bytes]) -> asyncio.Future[Sequence[bytes | StoreError]]:
    """What becomes of several appends together; a second result would raise."""
    future: asyncio.Future[Sequence[bytes | StoreError]] = asyncio.get_running_loop().create_future()
    store.append_all(channel, data, future.set_result)
    return future


async def stored(store: Store, channel: str, data: bytes = b"1") -> StreamId:
    result = await appended(store, channel, data)
    assert isinstance(result, Stored)
    assert not result.duplicate
    return result.id


def parsed(ids: list[str]) -> list[StreamId]:
    return [StreamId.parse(text) for text in ids]


def waiting_at_ends(redis: RedisServer) -> int:
    """How many connections wait at the ends of streams."""
    clients = redis.client.client_list(_type="normal")
    return sum(client["name"] == "rsws-ends" and "b" in client["flags"] for client in clients)

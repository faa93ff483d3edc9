"""The promise of delivery under load: everything after a position, in order, once; nobody waits for anybody else."""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from functools import partial

import pytest

from kit.faults import command_calls
from kit.gateway import (
    PATIENCE_S,
    WELCOME,
    Client,
    Wire,
    add,
    async_test,
    connect,
    entries,
    gateway,
    request,
    until,
)
from kit.support import MIB, RedisServer, free_port, sent_by
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.process.single import SingleProcess

KIB = 1024
THE_END = b'"the end"'


# --- joining while messages come in ---


class Load:
    """Programs that add entries to a stream, some of which are no messages, from a thread of their own."""

    def __init__(self, redis: RedisServer, channel: str, messages_per_s: int) -> None:
        self.ids: list[str] = []
        self._redis, self._channel, self._per_turn = redis, channel, messages_per_s // 100
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self.ids += add(self._redis, self._channel, *[f'{{"n":{len(self.ids)}}}'] * self._per_turn)
            if len(self.ids) % 100 == 0:
                self._redis.call("XADD", self._channel, "*", "other", "1")


async def read_to_the_end(wire: Wire) -> None:
    """Read until the last message is there, as fast as it comes."""
    tail = b""
    while THE_END not in tail:
        data = await wire.read_some()
        assert data, "the gateway closed"
        tail = tail[-len(THE_END) :] + data


def received_ids(wire: Wire) -> list[str]:
    return [id_.decode() for id_ in re.findall(rb'"streamId":"([0-9]+-[0-9]+)","data":', bytes(wire.received))]


def ids_of_messages_in(redis: RedisServer, channel: str) -> list[str]:
    """The ids of all entries that are messages."""
    return [stream_id for stream_id, fields in entries(redis, channel) if "messageData" in fields]


def after(ids: list[str], start: str) -> list[str]:
    def key(stream_id: str) -> tuple[int, int]:
        ms, _, seq = stream_id.partition("-")
        return int(ms), int(seq)

    return [stream_id for stream_id in ids if key(stream_id) > key(start)]


@async_test
async def test_100_subscribers_join_at_random_positions_while_3000_messages_a_second_come_in(
    redis_server: RedisServer, channel: str
) -> None:
    chance = random.Random(7)
    for stream_id in add(redis_server, channel, *['{"before":1}'] * 500)[::7]:
        redis_server.call("XDEL", channel, stream_id)

    async def publish(client: Client, until_: asyncio.Event) -> int:
        count = 0
        while not until_.is_set():
            for index in range(10):
                await client.send(action="publish", channel=channel, data={"p": count}, messageId=str(count + index))
            for index in range(10):
                assert (await client.next())["messageId"] == str(count + index)
            count += 10
            await asyncio.sleep(0.01)
        return count

    async def subscribe(wire: Wire, ids: list[str]) -> None:
        await asyncio.sleep(chance.random() * 2)
        starts: list[dict[str, str | int]] = [
            {},
            {"lastMessageId": "0"},
            {"lastMessageId": "$"},
            {"last": chance.randrange(3000)},
            {"lastMessageId": chance.choice(ids)},
            {"lastMessageId": chance.choice(ids)},
        ]
        await wire.handshake()
        await wire.send(request(action="subscribe", channel=channel, **chance.choice(starts)))
        await read_to_the_end(wire)

    async with gateway(redis_server.url) as server, AsyncExitStack() as stack, connect(server) as publisher:
        wires = [await stack.enter_async_context(Wire(server)) for _ in range(100)]
        over = asyncio.Event()
        with Load(redis_server, channel, 2000) as load:
            await until(lambda: load.ids)
            subscribers = [asyncio.create_task(subscribe(wire, load.ids)) for wire in wires]
            publishing = asyncio.create_task(publish(publisher, over))
            await until(lambda: len(load.ids) >= 4000, "the load", 15)
            over.set()
            published = await publishing
        add(redis_server, channel, THE_END.decode())
        await asyncio.gather(*subscribers)

    everything = ids_of_messages_in(redis_server, channel)
    assert published >= 100
    assert len(everything) > 2000
    for index, wire in enumerate(wires):
        start = re.search(rb'"status":"subscribed","channel":"[^"]+","lastMessageId":"([0-9-]+)"', bytes(wire.received))
        assert start is not None
        assert received_ids(wire) == after(everything, start[1].decode())
        if index % 10 == 0:
            stored = {
                stream_id: fields["messageData"]
                for stream_id, fields in entries(redis_server, channel)
                if "messageData" in fields
            }
            assert await wire.text() == WELCOME
            assert json.loads(await wire.text())["status"] == "subscribed"
            while wire.received:
                opcode, payload = await wire.frame()
                stream_id = json.loads(payload)["streamId"]
                assert (opcode, payload.decode()) == (
                    1,
                    (
                        f'{{"event":"message","channel":"{channel}","streamId":"{stream_id}","data":{stored[stream_id]}}}'
                    ),
                )


@async_test
async def test_a_long_history_while_messages_come_in_ends_live(redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, *[f'{{"n":{index}}}' for index in range(20_000)])
    async with gateway(redis_server.url) as server, Wire(server) as first, Wire(server) as second:
        with Load(redis_server, channel, 3000):
            for wire in (first, second):
                await wire.handshake()
                await wire.send(request(action="subscribe", channel=channel, marker=True))
                while b'"caught_up"' not in wire.received[-20_000:]:
                    assert await wire.read_some()
        add(redis_server, channel, THE_END.decode())
        for wire in (first, second):
            if THE_END not in wire.received:
                await read_to_the_end(wire)
            assert received_ids(wire) == ids_of_messages_in(redis_server, channel)
            assert wire.received.count(b'"caught_up"') == 1


# --- slow readers ---


@contextmanager
def sampled(*measures: Callable[[], int]) -> Iterator[list[int]]:
    """The most that each measure came to, looked at in every turn of the loop."""
    loop = asyncio.get_running_loop()
    most = [0] * len(measures)
    handle: asyncio.Handle

    def look() -> None:
        nonlocal handle
        for index, measure in enumerate(measures):
            most[index] = max(most[index], measure())
        handle = loop.call_later(0.001, look)

    handle = loop.call_soon(look)
    try:
        yield most
    finally:
        handle.cancel()


def buffered(server: SingleProcess) -> int:
    """What the gateway holds for its clients, in all."""
    return sum(connection.buffered_bytes for connection in server.server.clients.sessions)


async def stalled(server: SingleProcess, wire: Wire, *subscribe: bytes) -> None:
    """Subscribe, and read the first replies but not one byte more."""
    await wire.handshake()
    await wire.send(b"".join(subscribe))
    assert await wire.text() == WELCOME


@pytest.mark.usefixtures("event_loop_kind")
@async_test
async def test_a_client_that_stops_reading_lags_and_comes_live_again(redis_server: RedisServer, channel: str) -> None:
    count = 2000
    async with (
        gateway(redis_server.url) as server,
        Wire(server, 4096) as slow,
        connect(server) as quick,
    ):
        await stalled(server, slow, request(action="subscribe", channel=channel))
        assert json.loads(await slow.text())["status"] == "subscribed"
        await quick.subscribe(channel)
        ids: list[str] = []
        with sampled(lambda: buffered(server)) as most:
            for start in range(0, count, 50):
                ids += add(
                    redis_server, channel, *[json.dumps({"n": n, "x": "x" * 10_000}) for n in range(start, start + 50)]
                )
                assert [data["n"] for _, data in await quick.messages(channel, 50)] == list(range(start, start + 50))
        assert most[0] < 2 * MIB, "buffered for a client that does not read"
        ids += add(redis_server, channel, THE_END.decode())
        await quick.message(channel)
        await read_to_the_end(slow)
        assert received_ids(slow) == ids
        slow.received.clear()
        for _ in range(3):  # live again: at once, and from memory
            [stream_id] = add(redis_server, channel, "1")
            assert json.loads(await slow.text())["streamId"] == stream_id
            await quick.message(channel)


@async_test
async def test_a_slow_connection_with_many_channels_gets_all_of_each(redis_server: RedisServer, channel: str) -> None:
    names = [f"{channel}-{index}" for index in range(20)]
    async with gateway(redis_server.url) as server, Wire(server, 4096) as slow:
        await stalled(server, slow, *[request(action="subscribe", channel=name) for name in names])
        with sampled(lambda: buffered(server)) as most:
            for _ in range(10):
                for name in names:
                    add(redis_server, name, *[json.dumps("x" * 1000)] * 20)
                await asyncio.sleep(0.01)
        assert most[0] < 2 * MIB
        for name in names:
            add(redis_server, name, THE_END.decode())
        seen: dict[str, list[str]] = {name: [] for name in names}
        ended = 0
        while ended < len(names):
            event = json.loads(await slow.text())
            if event.get("event") == "message":
                seen[event["channel"]].append(event["streamId"])
                ended += event["data"] == "the end"
        for name in names:
            assert seen[name] == ids_of_messages_in(redis_server, name)


@async_test
async def test_many_clients_that_do_not_read_cost_little_memory(redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, *[json.dumps("x" * 1000)] * 3000)
    async with gateway(redis_server.url) as server, AsyncExitStack() as stack, connect(server) as quick:
        for _ in range(50):
            wire = await stack.enter_async_context(Wire(server, 4096))
            await stalled(server, wire, request(action="subscribe", channel=channel))
        await quick.subscribe(channel, lastMessageId="$")
        for _ in range(20):
            add(redis_server, channel, *[json.dumps("x" * 1000)] * 50)
            await quick.messages(channel, 50)
        assert buffered(server) < 50 * 256 * KIB


# --- big messages ---

BIG = json.dumps("x" * 900_000)


@async_test
async def test_a_history_of_big_messages(redis_server: RedisServer, channel: str) -> None:
    ids = [add(redis_server, channel, BIG)[0] for _ in range(50)]
    try:
        async with gateway(redis_server.url) as server, connect(server) as client:
            await client.subscribe(channel, marker=True)
            for stream_id in ids:
                received, data = await client.message(channel)
                assert (received, len(data)) == (stream_id, 900_000)
            assert (await client.next())["event"] == "caught_up"
            for _ in range(3):
                ids += add(redis_server, channel, BIG)
                assert (await client.message(channel))[0] == ids[-1]
    finally:
        redis_server.call("DEL", channel)


@pytest.mark.parametrize("first", ["big ones", "small ones"])
@async_test
async def test_a_slow_reader_of_big_messages_is_bounded_too(
    redis_server: RedisServer, channel: str, first: str
) -> None:
    small = f"{channel}-small"
    add(redis_server, small, *["1"] * 3000)
    for _ in range(50):
        add(redis_server, channel, BIG)
    try:
        async with gateway(redis_server.url) as server, Wire(server, 4096) as slow, connect(server) as client:
            if first == "small ones":
                await client.subscribe(small)
                await client.messages(small, 3000)
            with sampled(lambda: buffered(server)) as most:
                await stalled(server, slow, request(action="subscribe", channel=channel))
                await until(lambda: buffered(server) > 100_000)
                await client.nothing_more()
            assert most[0] < 4 * MIB
    finally:
        redis_server.call("DEL", channel)


@async_test
async def test_many_who_come_back_to_big_messages_leave_redis_to_others(
    redis_server: RedisServer, channel: str
) -> None:
    add(redis_server, channel, BIG)
    last = add(redis_server, channel, BIG)[0]
    other = f"{channel}-other"
    try:
        async with gateway(redis_server.url) as server, AsyncExitStack() as stack, connect(server) as client:
            wires = [await stack.enter_async_context(Wire(server)) for _ in range(200)]
            for wire in wires:
                await wire.handshake()
            before = sent_by(redis_server)
            for wire in wires:
                await wire.send(request(action="subscribe", channel=channel, lastMessageId=last))
            await client.publish(other, 1)
            for wire in wires:
                assert await wire.text() == WELCOME
                assert json.loads(await wire.text())["status"] == "subscribed"
            assert sent_by(redis_server) - before < 60 * MIB, "all that was asked is where the stream ends"
    finally:
        redis_server.call("DEL", channel)


@async_test
async def test_many_who_come_at_once_share_a_look_at_the_stream(own_redis: RedisServer, channel: str) -> None:
    # With big entries each look keeps Redis from everybody else for milliseconds.
    for _ in range(2):
        add(own_redis, channel, BIG)
    async with gateway(own_redis.url) as server, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(server)) for _ in range(200)]
        for wire in wires:
            await wire.handshake()
        for wire in wires:
            await wire.send(request(action="subscribe", channel=channel, lastMessageId="$"))
        for wire in wires:
            assert await wire.text() == WELCOME
            assert json.loads(await wire.text())["status"] == "subscribed"
    looks = re.search(rb"cmdstat_xinfo\|stream:calls=([0-9]+)", own_redis.call("INFO", "commandstats"))
    assert looks is None or int(looks[1]) < 100


@async_test
async def test_who_asks_for_much_and_goes_leaves_nothing_under_way(own_redis: RedisServer, channel: str) -> None:
    for _ in range(20):
        add(own_redis, channel, *["1"] * 1000)
    async with gateway(own_redis.url) as server:
        async with connect(server) as client:
            await client.subscribe(channel, last=3000)
            alone = command_calls(own_redis, "xrevrange")
        async with AsyncExitStack() as stack:
            for number in range(5):
                client = await stack.enter_async_context(connect(server))
                await client.send(action="subscribe", channel=channel, last=19_000 - number)
            before = command_calls(own_redis, "xrevrange")
            await until(lambda: command_calls(own_redis, "xrevrange") > before + alone)
        await until(lambda: not server.server.clients.sessions)
        stopped = command_calls(own_redis, "xrevrange")
        async with connect(server) as client:  # others would take their turns with this one
            await client.subscribe(channel, last=3000)
            assert command_calls(own_redis, "xrevrange") - stopped < 2 * alone
            await client.messages(channel, 3000)


# --- many channels ---


BLOCKS_LONG = replace(DEFAULTS, streams=replace(DEFAULTS.streams, block_s=4 * PATIENCE_S))
"""Whoever has to wait for the end of a read of Redis waits too long."""


@pytest.mark.parametrize("connections", [1, 100])
@async_test
async def test_100_channels_do_not_wait_for_each_other(
    redis_server: RedisServer, channel: str, connections: int
) -> None:
    names = [f"{channel}-{index}" for index in range(100)]
    async with gateway(redis_server.url, BLOCKS_LONG) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(server)) for _ in range(connections)]
        readers = [clients[index % connections] for index in range(100)]
        for name, client in zip(names, readers, strict=True):
            await client.subscribe(name)
        for name, client in random.Random(3).sample(list(zip(names, readers, strict=True)), 100):
            [stream_id] = add(redis_server, name, "1")
            assert await client.message(name) == (stream_id, 1)


@async_test
async def test_a_new_channel_is_read_at_once_while_others_are_quiet(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, BLOCKS_LONG) as server, connect(server) as client:
        for index in range(150):
            name = f"{channel}-{index}"
            await client.subscribe(name)
            add(redis_server, name, "1")
            await client.message(name)
            if index % 3 == 0:
                await client.send(action="unsubscribe", channel=name)
                await client.next()


@async_test
async def test_1000_subscriptions_on_one_connection(redis_server: RedisServer, channel: str) -> None:
    names = [f"{channel}-{index}" for index in range(1000)]
    async with gateway(redis_server.url) as server, connect(server) as client:
        for name in names:
            await client.send(action="subscribe", channel=name)
        answers = [await client.next() for _ in names]
        assert sorted(answer["channel"] for answer in answers) == sorted(names)
        assert {answer["status"] for answer in answers} == {"subscribed"}
        await client.send(action="subscribe", channel=f"{channel}-1000")
        await client.expect_error("too_many", f"{channel}-1000")
        for name in names:
            add(redis_server, name, "1")
        received = [await client.next() for _ in range(1000)]
        assert sorted(frame["channel"] for frame in received) == sorted(names)
        await client.nothing_more()


@async_test
async def test_a_busy_channel_does_not_hold_a_quiet_one(redis_server: RedisServer, channel: str) -> None:
    quiet = f"{channel}-quiet"
    async with gateway(redis_server.url) as server, connect(server) as client, Wire(server) as busy:
        await stalled(server, busy, request(action="subscribe", channel=channel))
        reading = asyncio.create_task(read_to_the_end(busy))
        await client.subscribe(quiet)
        with Load(redis_server, channel, 5000):
            for index in range(50):
                add(redis_server, quiet, str(index))
                assert (await client.message(quiet))[1] == index
        add(redis_server, channel, THE_END.decode())
        await reading
        assert received_ids(busy) == ids_of_messages_in(redis_server, channel)


@async_test
async def test_subscribing_anew_all_the_time_while_messages_come_in(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        with Load(redis_server, channel, 2000) as load:
            for turn in range(40):
                await until(lambda: load.ids)
                start = load.ids[-len(load.ids) // 2]
                await client.send(action="subscribe", channel=channel, lastMessageId=start)
                while (frame := await client.next()).get("status") != "subscribed":
                    assert frame["event"] == "message"
                received = [stream_id for stream_id, _ in await client.messages(channel, 20 + turn)]
                everything = ids_of_messages_in(redis_server, channel)
                assert received == after(everything, start)[: len(received)]
                if turn % 4 == 0:
                    await client.send(action="unsubscribe", channel=channel)
                    while (frame := await client.next()).get("status") != "unsubscribed":
                        assert frame["event"] == "message"
                    await client.nothing_more()


# --- outages ---


@async_test
async def test_redis_is_killed_and_comes_back(own_redis: RedisServer, channel: str) -> None:
    own_redis.options |= {"appendonly": "yes", "appendfsync": "always"}
    own_redis.stop()
    own_redis.start()
    acked: list[str] = []

    async def publish(client: Client, over: asyncio.Event) -> None:
        count = 0
        while not over.is_set():
            await client.send(action="publish", channel=channel, data=count, messageId=str(count))
            reply = await client.next()
            assert reply["messageId"] == str(count)
            if reply["status"] == "ack":
                acked.append(reply["streamId"])
            else:
                assert reply["error"] == "Server Redis tidak siap" or reply["code"] == "redis_refused"
                await asyncio.sleep(0.01)
            count += 1

    def reached(count: int) -> bool:
        return len(acked) >= count

    async with gateway(own_redis.url) as server, connect(server) as publisher, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(server)) for _ in range(5)]
        for wire in wires:
            await stalled(server, wire, request(action="subscribe", channel=channel))
        reading = [asyncio.create_task(read_to_the_end(wire)) for wire in wires]
        over = asyncio.Event()
        publishing = asyncio.create_task(publish(publisher, over))
        for _ in range(3):
            enough = len(acked) + 100
            await until(partial(reached, enough))
            own_redis.kill()
            await asyncio.sleep(0.05)
            own_redis.start()
        enough = len(acked) + 100
        await until(partial(reached, enough))
        over.set()
        await publishing
        add(own_redis, channel, THE_END.decode())
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*reading)
    stored = ids_of_messages_in(own_redis, channel)
    assert set(acked) <= set(stored)
    for wire in wires:
        assert received_ids(wire) == stored


@async_test
async def test_redis_refuses_for_a_moment(
    own_redis: RedisServer, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    def is_refused() -> bool:
        """A read was, or the gateway has noticed before that it is at a replica."""
        return b"errorstat_MASTERDOWN" in own_redis.call("INFO", "errorstats") or "takes no writes" in caplog.text

    add(own_redis, channel, *[json.dumps("x" * 1000)] * 3000)
    async with gateway(own_redis.url) as server, Wire(server, 4096) as lagging, Wire(server) as live:
        for wire in (lagging, live):
            await stalled(server, wire, request(action="subscribe", channel=channel, marker=True))
        while b"caught_up" not in live.received:
            assert await live.read_some()
        own_redis.call("CONFIG", "SET", "replica-serve-stale-data", "no")
        own_redis.call("REPLICAOF", "127.0.0.1", free_port())  # MASTERDOWN to every read, as LOADING would be
        reading = [asyncio.create_task(read_to_the_end(wire)) for wire in (lagging, live)]
        await until(is_refused)
        own_redis.call("REPLICAOF", "NO", "ONE")
        add(own_redis, channel, THE_END.decode())
        await asyncio.gather(*reading)
    for wire in (lagging, live):
        assert received_ids(wire) == ids_of_messages_in(own_redis, channel)

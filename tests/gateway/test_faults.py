"""The promise of delivery under every fault: of the link, of Redis, of the stream, of the client.

What takes minutes is in ``prove.py``.
A failure of a test with chance in it prints its seed; ``FAULT_SEED=N`` takes it again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from kit.checker import History, Publisher, Subscriber, open_anywhere, stream_of
from kit.faults import (
    Proxy,
    Way,
    command_calls,
    filled_up,
    forbidden,
    killed,
    paused,
    stopped,
    unable_to_save,
    without_replicas,
)
from kit.gateway import (
    KEY,
    NOTHING_ELSE_ASKED,
    PATIENCE_S,
    Client,
    add,
    async_test,
    connect,
    entries,
    gateway,
    handshake,
    http,
    request,
    until,
    until_status,
)
from kit.support import RedisServer, RswsProcess
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.process.single import SingleProcess


@pytest.fixture(params=[False, True], ids=["plain", "once"])
def once(request: pytest.FixtureRequest) -> bool:
    """Whether a publish names its producer."""
    return bool(request.param)


def publish(channel: str, message_id: str, data: Any = 1, *, once: bool = False) -> dict[str, Any]:
    producer = {"producer": "p"} if once else {}
    return {"action": "publish", "channel": channel, "data": data, "messageId": message_id, **producer}


def command_of(once: bool) -> bytes:
    return b"EVALSHA" if once else b"XADD"


@asynccontextmanager
async def behind_a_proxy(redis: RedisServer, **settings: Any) -> AsyncIterator[tuple[Proxy, SingleProcess, Client]]:
    """A gateway that reaches Redis through a proxy, and a client of it."""
    async with (
        Proxy(redis.port) as link,
        gateway(link.redis_url, NOTHING_ELSE_ASKED, **{"redis_timeout_s": 0.5} | settings) as server,
        connect(server) as client,
    ):
        await until_status(server, "/readyz", 200)
        yield link, server, client


async def publish_until_acked(client: Client, channel: str, message_id: str, data: Any = 1) -> dict[str, Any]:
    """Send the same message of the same producer until it is stored; the ack."""
    while True:
        await client.send(**publish(channel, message_id, data, once=True))
        reply = await client.next()
        assert reply["messageId"] == message_id
        if reply["status"] == "ack":
            return reply
        await asyncio.sleep(0.02)


# --- publishing: exactly one answer, and the truth ---


@async_test
async def test_a_reply_that_is_lost_leaves_the_outcome_unknown_and_one_entry(
    redis_server: RedisServer, channel: str, once: bool
) -> None:
    async with behind_a_proxy(redis_server) as (link, server, client):
        for number in range(5):
            with link.cut_reply(command_of(once)) as cut:
                await client.send(**publish(channel, f"m{number}", number, once=once))
                await client.expect_error_ack(f"m{number}", "redis_unavailable", "unknown")
            assert cut.done == 1
            await until_status(server, "/readyz", 200)
        await client.nothing_more()
    assert [fields["messageData"] for _, fields in entries(redis_server, channel)] == list("01234")


@async_test
async def test_a_request_that_is_lost_leaves_the_outcome_unknown_and_no_entry(
    redis_server: RedisServer, channel: str, once: bool
) -> None:
    async with behind_a_proxy(redis_server) as (link, _, client):
        with link.cut_request(command_of(once)) as cut:
            await client.send(**publish(channel, "m", once=once))
            await client.expect_error_ack("m", "redis_unavailable", "unknown")
        assert cut.done == 1
        assert entries(redis_server, channel) == []
        assert "duplicate" not in await publish_until_acked(client, channel, "m")
        assert len(entries(redis_server, channel)) == 1


@async_test
async def test_a_producer_that_asks_again_learns_what_became_of_its_message(
    redis_server: RedisServer, channel: str
) -> None:
    async with behind_a_proxy(redis_server) as (link, _, client):
        with link.cut_reply(b"EVALSHA"):
            await client.send(**publish(channel, "m", once=True))
            await client.expect_error_ack("m", "redis_unavailable", "unknown")
        ack = await publish_until_acked(client, channel, "m")
        assert ack == {
            "status": "ack",
            "messageId": "m",
            "streamId": entries(redis_server, channel)[0][0],
            "duplicate": True,
        }
        await client.send(**publish(channel, "m", "something else", once=True))
        await client.expect_error_ack("m", "conflict", "not_stored")
        assert len(entries(redis_server, channel)) == 1


@pytest.mark.parametrize("ways", [(Way.UP,), (Way.DOWN,), (Way.UP, Way.DOWN)], ids=["up", "down", "both"])
@async_test
async def test_a_link_that_swallows_everything(redis_server: RedisServer, channel: str, ways: tuple[Way, ...]) -> None:
    async with behind_a_proxy(redis_server) as (link, server, client):
        await client.subscribe(channel)
        with link.black_hole(*ways):
            await client.send(**publish(channel, "sent", "sent", once=True))
            await client.nothing_more()  # it is on its way
            await client.send(**publish(channel, "waiting", "waiting", once=True))
            await client.expect_error_ack("sent", "redis_unavailable", "unknown")
            await client.expect_error_ack("waiting", "redis_unavailable", "not_stored")
            assert (await http(server, "/readyz"))[0] == 503
            assert (await http(server, "/healthz"))[0] == 200
        await until_status(server, "/readyz", 200)
        # What the link held back may be done now, or never: the name decides that it is done once.
        acks: list[str] = []
        delivered: list[str] = []
        for message_id in ("sent", "waiting"):
            await client.send(**publish(channel, message_id, message_id, once=True))
        while len(acks) < 2 or len(delivered) < 2:
            frame = await client.next()
            (acks if "status" in frame else delivered).append(frame["streamId"])
    stored = entries(redis_server, channel)
    assert sorted(acks) == sorted(delivered) == [stream_id for stream_id, _ in stored]
    assert sorted(fields["messageData"] for _, fields in stored) == ['"sent"', '"waiting"']


@async_test
async def test_a_slow_link_loses_nothing(redis_server: RedisServer, channel: str) -> None:
    async with behind_a_proxy(redis_server) as (link, _, client):
        with link.delayed(0.1):
            await client.subscribe(channel)
            for number in range(50):
                await client.send(**publish(channel, str(number), number, once=number % 2 == 1))
            frames = [await client.next() for _ in range(100)]
    acks = [frame for frame in frames if "status" in frame]
    assert [(ack["status"], ack["messageId"]) for ack in acks] == [("ack", str(number)) for number in range(50)]
    delivered = [frame for frame in frames if "event" in frame]
    assert [frame["data"] for frame in delivered] == list(range(50))


@async_test
async def test_scripts_that_redis_forgot(redis_server: RedisServer, channel: str) -> None:
    async with behind_a_proxy(redis_server) as (link, _, client):
        history = History()
        with link.delayed(0.02):  # several batches are under way before the first is answered
            for number in range(100):
                if number % 10 == 0:
                    redis_server.call("SCRIPT", "FLUSH")
                data = str(number).encode()
                history.sent("p", channel, str(number), data, once=True)
                await client.send(**publish(channel, str(number), number, once=True))
                await asyncio.sleep(0.002)
            for _ in range(100):
                frame = await client.next()
                assert frame["status"] == "ack", frame
                history.sends["p", channel, frame["messageId"]].acks.append(frame["streamId"])
    history.check({channel: stream_of(redis_server, channel)})


REFUSALS: dict[str, Callable[[RedisServer], AbstractContextManager[None]]] = {
    "OOM": filled_up,
    "NOREPLICAS": without_replicas,
    "MISCONF": unable_to_save,
}


@pytest.mark.parametrize("word", REFUSALS)
@async_test
async def test_what_redis_refuses_is_not_stored_and_the_text_names_the_cause(
    own_redis: RedisServer, channel: str, word: str, once: bool
) -> None:
    async with gateway(own_redis.url) as server, connect(server) as client:
        with REFUSALS[word](own_redis):
            await client.send(**publish(channel, "m", once=once))
            assert word in (await client.expect_error_ack("m", "redis_refused"))["error"]
            assert entries(own_redis, channel) == []
        await client.send(**publish(channel, "m", once=once))
        assert (await client.next())["status"] == "ack"
        await client.send(**publish(channel, "m", once=once))
        assert (await client.next()).get("duplicate", False) is once
    assert len(entries(own_redis, channel)) == 2 - once


@async_test
async def test_a_stream_whose_ids_are_used_up(redis_server: RedisServer, channel: str, once: bool) -> None:
    greatest = f"{2**64 - 1}-{2**64 - 1}"
    redis_server.call("XADD", channel, greatest, "messageData", "0")
    async with gateway(redis_server.url) as server, connect(server) as client:
        for _ in range(2):
            await client.send(**publish(channel, "m", once=once))
            assert "exhausted" in (await client.expect_error_ack("m", "redis_refused"))["error"]
    assert [stream_id for stream_id, _ in entries(redis_server, channel)] == [greatest]


@async_test
async def test_a_key_that_is_no_stream(redis_server: RedisServer, channel: str, once: bool) -> None:
    redis_server.call("SET", channel, "a string")
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.send(**publish(channel, "m", once=once))
        assert "WRONGTYPE" in (await client.expect_error_ack("m", "channel_unreadable"))["error"]
        redis_server.call("DEL", channel)
        await client.send(**publish(channel, "m", once=once))
        assert (await client.next())["status"] == "ack"
    assert len(entries(redis_server, channel)) == 1


@pytest.mark.parametrize("rules", [("-xadd",), ("resetkeys", "~other*", "~rsws:*")], ids=["command", "key"])
@async_test
async def test_a_user_without_the_right(
    own_redis: RedisServer, channel: str, rules: tuple[str, ...], once: bool
) -> None:
    async with gateway(own_redis.url) as server, connect(server) as client:
        await until_status(server, "/readyz", 200)
        with forbidden(own_redis, *rules):
            await client.send(**publish(channel, "m", once=once))
            assert "NOPERM" in (await client.expect_error_ack("m", "channel_unreadable"))["error"]
        await client.send(**publish(channel, "m", once=once))
        assert (await client.next())["status"] == "ack"
    assert len(entries(own_redis, channel)) == 1


@async_test
async def test_a_redis_that_loads(own_redis: RedisServer, channel: str) -> None:
    own_redis.options |= {"appendonly": "yes", "appendfsync": "always", "key-load-delay": "250"}
    own_redis.stop()
    own_redis.start()
    pipeline = own_redis.client.pipeline(transaction=False)
    for number in range(6000):
        pipeline.set(f"{channel}-{number}", "x")
    pipeline.execute()
    async with gateway(own_redis.url) as server, connect(server) as client:
        own_redis.stop()
        await until_status(server, "/readyz", 503)  # else the first one may be sent to it still
        own_redis.start(wait=False)
        refused: dict[bool, set[str]] = {False: set(), True: set()}
        waiting = [False, True]
        while waiting:
            for once in list(waiting):
                await client.send(**publish(channel, str(once), once, once=once))
                reply = await client.next()
                if reply["status"] == "ack":
                    waiting.remove(once)
                else:
                    assert reply["outcome"] == "not_stored", reply
                    refused[once].add(reply["error"])
                    if "LOADING" in reply["error"]:
                        assert reply["code"] == "redis_refused"
                        assert (await http(server, "/readyz"))[0] == 503
            await asyncio.sleep(0.02)
        for texts in refused.values():
            assert any("LOADING" in text for text in texts), texts
    assert len(entries(own_redis, channel)) == 2


# --- outages ---


@pytest.mark.parametrize("outage", [stopped, killed, paused], ids=["stopped", "killed", "paused"])
@async_test
async def test_an_outage_is_said_once_and_sockets_stay_open(
    own_redis: RedisServer,
    channel: str,
    outage: Callable[[RedisServer], AbstractContextManager[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    own_redis.options |= {"appendonly": "yes", "appendfsync": "always"}
    own_redis.stop()
    own_redis.start()
    async with gateway(own_redis.url, redis_timeout_s=0.3) as server, connect(server) as client:
        await client.subscribe(channel)
        add(own_redis, channel, "1")
        await client.message(channel)
        with caplog.at_level(logging.WARNING), outage(own_redis):
            await client.send(**publish(channel, "m", once=True))
            await client.next()
            await until_status(server, "/readyz", 503)
            for _ in range(10):
                await asyncio.sleep(0.1)
                assert (await http(server, "/readyz"))[0] == 503
                assert (await http(server, "/healthz"))[0] == 200
            assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
                "redis unreachable, trying again until it answers"
            ]
        await until_status(server, "/readyz", 200)
        new_id = add(own_redis, channel, "2")[0]
        while (await client.next()).get("streamId") != new_id:
            pass


# --- the end of the gateway ---


def test_shutdown_drains(own_redis: RedisServer, channel: str) -> None:
    @async_test
    async def clients(url: str) -> None:
        history = History()
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        async def closed(websocket: ClientConnection) -> tuple[float, int | None]:
            with suppress(WebSocketException):
                while True:
                    await websocket.recv()
            return loop.time(), websocket.close_code

        idle = [await open_anywhere([url], history.chance) for _ in range(40)]
        ended = [asyncio.create_task(closed(websocket)) for websocket in idle]
        publisher = Publisher(history, "p", [url], channel, once=False)
        publishing = asyncio.create_task(publisher.run(over))
        await until(lambda: publisher.acked > 200)
        started = loop.time()
        process.process.terminate()
        times = []
        for task in ended:
            at, code = await task
            times.append(at - started)
            assert code == 1012
        # One at a time: with the publisher and those that are deaf they are 46, and have a second.
        assert all(at >= number / 46 for number, at in enumerate(sorted(times))), times
        publishing.cancel()
        await asyncio.wait([publishing])
        for sent in history.sends.values():
            sent.excused = sent.sends - sent.answers
        history.check({channel: stream_of(own_redis, channel)})

    add(own_redis, "big", *[f'"{"x" * 10_000}"'] * 100)
    arguments = ("serve", "--port", "0", "--redis-url", own_redis.url, "--drain", "1", "--shutdown-timeout", "2")
    with RswsProcess(*arguments, env={"WEBSOCKET_SECRET_KEY": KEY}) as process:
        url = process.wait_for(r"ws://\S+")[0].rstrip("/")
        with deaf_clients(url, 5):
            clients(url)
            assert process.wait(PATIENCE_S) == 0, process.output()
            assert "cutting off clients" not in process.output(), "each is cut off before the end of all patience"


@contextmanager
def deaf_clients(url: str, count: int) -> Iterator[None]:
    """Clients that subscribe to a long history and never read it."""
    address = urlsplit(url)
    with ExitStack() as stack:
        for _ in range(count):
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((address.hostname, address.port))
            deaf.sendall(handshake(f"/?token={KEY}") + request(action="subscribe", channel="big"))
        yield


# --- retention ---

TRIMS_OFTEN = replace(DEFAULTS, streams=replace(DEFAULTS.streams, trim_every_s=0.05))


@async_test
async def test_retention_trims_what_it_names_and_nothing_else(own_redis: RedisServer) -> None:
    node = 100  # entries of one node, which approximate trimming drops as a whole
    own_redis.call("CONFIG", "SET", "stream-node-max-entries", node)
    now_ms = int(time.time() * 1000)
    for key in ("news.a", "news.b", "newspaper", "other", "aged.a"):
        pipeline = own_redis.client.pipeline(transaction=False)
        for number in range(1000):
            age_ms = 3_600_000 if number < 500 else 0
            pipeline.xadd(key, {"messageData": "1"}, id=f"{now_ms - age_ms + number}-0")
        pipeline.execute()
    own_redis.call("SET", "news.string", "x")
    rules = ("news.*=300", "aged.*=100000,30m")
    async with gateway(own_redis.url, TRIMS_OFTEN, retain=rules):
        await until(lambda: own_redis.call("XLEN", "aged.a") < 1000 and own_redis.call("XLEN", "news.b") < 1000)
        lengths = {key: own_redis.call("XLEN", key) for key in ("news.a", "news.b", "newspaper", "other", "aged.a")}
        assert lengths == {"news.a": 300, "news.b": 300, "newspaper": 1000, "other": 1000, "aged.a": 500}
        pipeline = own_redis.client.pipeline(transaction=False)
        for _ in range(250):
            pipeline.xadd("news.a", {"messageData": "1"})
        pipeline.execute()
        await until(lambda: own_redis.call("XLEN", "news.a") < 550)
        assert 300 <= own_redis.call("XLEN", "news.a") < 300 + node
        assert own_redis.call("GET", "news.string") == b"x"


@async_test
async def test_channels_with_nothing_new_are_deleted_where_a_rule_says_so(own_redis: RedisServer) -> None:
    now_ms = int(time.time() * 1000)
    hour_ms = 3_600_000
    for key, ids in {
        "quiet": [now_ms - 3 * hour_ms, now_ms - 2 * hour_ms],
        "busy": [now_ms - 3 * hour_ms, now_ms],
        "emptied": [now_ms],
        "kept.quiet": [now_ms - 2 * hour_ms],
    }.items():
        for each in ids:
            own_redis.call("XADD", key, f"{each}-0", "messageData", "1")
    own_redis.call("XTRIM", "emptied", "MAXLEN", 0)
    own_redis.call("SET", "string", "x")
    async with gateway(own_redis.url, TRIMS_OFTEN, retain=("[^k]*=1000,1h,expire", "kept.*=1000,1h")):
        await until(lambda: not own_redis.call("EXISTS", "quiet"))
        rounds = command_calls(own_redis, "scan") + 4
        await until(lambda: command_calls(own_redis, "scan") > rounds)
        assert set(own_redis.call("KEYS", "*")) == {b"busy", b"emptied", b"kept.quiet", b"string"}


@async_test
async def test_retention_goes_on_behind_a_key_that_redis_forbids(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.call("CONFIG", "SET", "stream-node-max-entries", 1)
    names = [f"news.{number}" for number in range(20)]
    for name in names:
        add(own_redis, name, "1", "2")
    with forbidden(own_redis, "resetkeys", "~news.1*", "~rsws:*"):
        async with gateway(own_redis.url, TRIMS_OFTEN, retain=("news.*=1",)):
            # It may not look at what it may not trim: ask for the allowed ones only.
            allowed = [name for name in names if name.startswith("news.1")]
            await until(lambda: all(own_redis.call("XLEN", name) == 1 for name in allowed))
            scans = command_calls(own_redis, "scan")
            await until(lambda: command_calls(own_redis, "scan") > scans + 5)
    assert len([record for record in caplog.records if "trimming failed" in record.getMessage()]) == 1


# --- everything at once ---


@pytest.mark.parametrize("name_producer", [False, True], ids=["plain", "once"])
@async_test
async def test_faults_of_every_kind_under_load(own_redis: RedisServer, channel: str, name_producer: bool) -> None:
    own_redis.options |= {"appendonly": "yes", "appendfsync": "always"}
    own_redis.stop()
    own_redis.start()
    history = History()
    chance = history.chance
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        to_redis = [await enter(Proxy(own_redis.port)) for _ in range(2)]
        servers = [await enter(gateway(link.redis_url, redis_timeout_s=0.3)) for link in to_redis]
        to_gateway = [await enter(Proxy(int(server.url.rpartition(":")[2]))) for server in servers]
        urls = [f"ws://127.0.0.1:{link.port}" for link in to_gateway]
        command = command_of(name_producer)

        async def kill() -> None:
            with killed(own_redis):
                pass

        async def for_a_while(fault: AbstractContextManager[object]) -> None:
            with fault:
                await asyncio.sleep(chance.uniform(0.05, 0.6))

        def faults() -> list[Any]:
            link, front = chance.choice(to_redis), chance.choice(to_gateway)
            return [
                kill(),
                for_a_while(paused(own_redis)),
                for_a_while(link.cut_reply(command, 3)),
                for_a_while(link.cut_request(command, 3)),
                for_a_while(link.black_hole()),
                for_a_while(link.black_hole(Way.DOWN)),
                for_a_while(link.refusing()),
                for_a_while(link.delayed(0.05)),
                for_a_while(link.limited(100_000)),
                for_a_while(front.black_hole()),
                for_a_while(front.refusing()),
            ]

        over = asyncio.Event()
        publishers = [
            Publisher(history, f"p{number}", urls, channel, once=name_producer, pause_s=0.005) for number in range(4)
        ]
        subscribers = [Subscriber(history, f"s{number}", urls, channel) for number in range(6)]

        def acked() -> int:
            return sum(publisher.acked for publisher in publishers)

        async def recovery() -> None:
            before = acked()
            await until(lambda: acked() > before + 10, "acks after a fault")

        async with asyncio.TaskGroup() as tasks:
            publishing = [tasks.create_task(publisher.run(over)) for publisher in publishers]
            reading = [tasks.create_task(subscriber.run()) for subscriber in subscribers]
            for _ in range(8):
                candidates = faults()
                chosen = candidates.pop(chance.randrange(len(candidates)))
                for unused in candidates:
                    unused.close()
                await chosen
                await recovery()
            over.set()
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*publishing)
                last = add(own_redis, channel, '"the end"')[0]
                history.written([(last, b'"the end"')])
                await asyncio.gather(*[subscriber.reached(last) for subscriber in subscribers])
            for task in reading:
                task.cancel()
    history.check({channel: stream_of(own_redis, channel)})

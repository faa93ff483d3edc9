"""How a gateway stops: what clients are told, how long it takes, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest
from websockets.exceptions import ConnectionClosed

from kit.gateway import (
    KEY,
    UNAUTHORIZED,
    WELCOME,
    Client,
    Wire,
    add,
    async_test,
    connect,
    entries,
    gateway,
    handshake,
    left_behind,
    new_server,
    request,
    until,
)
from kit.support import RedisServer
from rsws.gateway.process.single import SingleProcess

TICK_S = 0.05

pytestmark = pytest.mark.usefixtures("event_loop_kind")


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
        loop = asyncio.get_running_loop()
        started = loop.time()
        await server.stop()
        assert loop.time() - started > 0.1
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


async def seconds_to_stop(server: SingleProcess) -> float:
    """How long it takes; less than twice the time it has for that, it has waited for no more than one thing.

    By a clock that counts turns of the event loop: it stands still with the gateway while the machine has no time for
    the two.
    """
    stopping = asyncio.create_task(server.stop())
    ticks = 0
    while not stopping.done():
        await asyncio.wait([stopping], timeout=TICK_S)
        ticks += 1
    await stopping
    return ticks * TICK_S


@async_test
async def test_a_client_that_does_not_read_does_not_hold_the_gateway(redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, *[json.dumps("x" * 10_000)] * 100)
    server = await new_server(redis_server.url, shutdown_timeout_s=1.0).__aenter__()
    async with Wire(server, 4096) as wire, Wire(server) as deaf:
        for each in (wire, deaf):
            await each.handshake()
            await each.send(request(action="subscribe", channel=channel))
        await until(
            lambda: [connection.buffered_bytes > 1000 for connection in server.server.clients.sessions] == [True, True]
        )
        assert await seconds_to_stop(server) < 1.9


@async_test
async def test_a_client_that_never_answers_a_close_does_not_hold_the_gateway(redis_server: RedisServer) -> None:
    server = await new_server(redis_server.url, shutdown_timeout_s=1.0).__aenter__()
    async with Wire(server) as silent, Wire(server) as refused:
        await silent.handshake()
        await refused.handshake("/?token=wrong")
        assert await silent.text() == WELCOME
        assert await refused.text() == UNAUTHORIZED
        assert await seconds_to_stop(server) < 1.9
        assert await silent.close_code() == 1001


@pytest.mark.parametrize("sent", [0, 1, 20])
@async_test
async def test_connections_in_their_handshake_do_not_hold_the_gateway(redis_server: RedisServer, sent: int) -> None:
    server = await new_server(redis_server.url, shutdown_timeout_s=1.0).__aenter__()
    async with Wire(server) as wire:
        await wire.send(handshake("/")[:sent])
        async with connect(server) as client:
            await client.nothing_more()
        assert await seconds_to_stop(server) < 1.9
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
        assert await silent.text() == WELCOME
        assert await silent.close_code() == 1001
        await late.send(whole[50:])
        assert (await late.read_some()).startswith(b"HTTP/1.1 503")
        assert await stopping < 1.9
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
            assert await seconds_to_stop(server) < 1.9
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
        await until(lambda: not server.server.clients.sessions)
        assert len(left_behind()) < 20


def connected_to(redis: RedisServer) -> int:
    return len(redis.call("CLIENT", "LIST").splitlines())

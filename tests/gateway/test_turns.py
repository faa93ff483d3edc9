"""One client may not take what is there for all: turns of the event loop, room for requests, memory."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.protocol import Protocol

from kit.faults import paused
from kit.gateway import (
    KEY,
    WELCOME,
    Wire,
    add,
    async_test,
    connect,
    frame,
    gateway,
    handshake,
    request,
    until,
)
from kit.support import RedisServer
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.portions import Portions
from rsws.gateway.websocket.connection import ClientConnection
from rsws.gateway.websocket.turns import (
    BYTES_UNDER_WAY,
    CROWDED_RETRY_S,
    FRAMES_A_TURN,
    HANDSHAKES_A_TURN,
    HEAVY_BYTES,
    REQUESTS_UNDER_WAY,
    Turns,
)
from rsws.options import KIB, MIB

PING_FRAME = frame(b"", 9)
FLOOD = PING_FRAME * (MIB // len(PING_FRAME))
PING = request(action="ping")
PONG = '{"status":"pong"}'


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many pieces of frames the gateway had websockets read, by client."""
    count: Counter[str] = Counter()
    frame_parsed = ClientConnection.frame_parsed

    def counted(self: ClientConnection, websocket: Protocol) -> None:
        count[self.peer] += 1
        frame_parsed(self, websocket)

    monkeypatch.setattr(ClientConnection, "frame_parsed", counted)
    return count


def publish(channel: str, number: int, size: int) -> bytes:
    return request(action="publish", channel=channel, data="x" * size, messageId=str(number))


# --- turns of the event loop ---


@async_test
async def test_a_flood_of_pings_is_read_in_turn_with_others(redis_server: RedisServer, parsed: Counter[str]) -> None:
    async with gateway(redis_server.url) as server, Wire(server) as flooder, Wire(server) as other:
        for wire in (flooder, other):
            await wire.handshake()
            assert await wire.text() == WELCOME
        flooding = asyncio.create_task(flooder.send(FLOOD))
        await until(lambda: parsed)
        other.socket.send(PING)
        assert await other.text() == PONG
        assert parsed.total() < 50 * FRAMES_A_TURN
        flooding.cancel()


@async_test
async def test_floods_take_turns_and_each_is_answered_in_the_end(
    redis_server: RedisServer, parsed: Counter[str]
) -> None:
    frames = 20 * FRAMES_A_TURN
    async with gateway(redis_server.url, ping_interval_s=600, idle_timeout_s=1200) as server, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(server)) for _ in range(3)]
        for wire in wires:
            await wire.handshake()
            assert await wire.text() == WELCOME
        for wire in wires:
            wire.socket.send(PING_FRAME * frames + PING)
        await until(lambda: parsed.total() > 15 * FRAMES_A_TURN)
        assert min(parsed.values()) >= max(parsed.values()) - 2 * FRAMES_A_TURN
        for wire in wires:
            for _ in range(frames):
                assert await wire.frame() == (10, b"")
            assert await wire.text() == PONG


@pytest.mark.parametrize("sent_with", ["the handshake", "the refusal"])
@async_test
async def test_nothing_of_a_refused_client_is_looked_at(
    redis_server: RedisServer, parsed: Counter[str], sent_with: str
) -> None:
    early = FLOOD[: 64 * KIB] if sent_with == "the handshake" else b""
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.handshake("/?token=wrong", early)
        assert await wire.text() == '{"error":"Unauthorized","status":401}'
        assert await wire.close_code() == 1008
        [refused] = server.server.clients
        flooding = asyncio.create_task(wire.send(FLOOD))  # much more than IGNORED_BYTES
        await until(lambda: not refused.transport.is_reading())
        assert not refused.transport.is_closing()
        flooding.cancel()
        await asyncio.wait([flooding])
        assert parsed.total() == 0


@async_test
async def test_a_client_that_is_refused_is_gone_as_soon_as_it_has_read_why(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server:
        async with connect(server, "/?token=wrong", welcome=False) as client:
            assert await client.text() == '{"error":"Unauthorized","status":401}'
            assert await client.closed() == (1008, "Unauthorized")
        await until(lambda: not server.server.clients)


@async_test
async def test_long_messages_are_read_one_in_a_turn(redis_server: RedisServer, channel: str) -> None:
    seen: list[int] = []
    async with gateway(redis_server.url) as server, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(server)) for _ in range(4)]
        for wire in wires:
            await wire.handshake()
        clients = server.server.clients

        def note(connection: ClientConnection) -> None:
            seen.append(clients.turn or clients.begin_turn())

        for connection, session in server.server.clients.sessions.items():
            heard = session.texts_received

            class Handler:
                is_busy = False

                def __init__(self, connection: ClientConnection, heard: Any) -> None:
                    self.connection, self.heard = connection, heard

                def texts_received(self, texts: Iterable[str]) -> None:
                    note(self.connection)
                    self.heard(texts)

            connection.start(Handler(connection, heard))
        for wire in wires:
            wire.socket.send(publish(channel, 1, 2 * HEAVY_BYTES))
        await until(lambda: len(seen) == 4)
        assert len(set(seen)) >= 3


# --- room for requests ---


def test_what_may_be_under_way_is_divided_among_the_busy() -> None:
    turns = Turns(lambda: False)
    least, most, together = REQUESTS_UNDER_WAY
    for clients, share in ((0, most), (1, most), (8, together // 8), (together, least)):
        turns.busy_clients = clients
        assert not turns.is_over_share(share - 1, 0)
        assert turns.is_over_share(share, 0)
    least, most, together = BYTES_UNDER_WAY
    for clients, share in ((1, most), (4, together // 4), (together, least)):
        turns.busy_clients = clients
        assert not turns.is_over_share(1, share - 1)
        assert turns.is_over_share(1, share)


@async_test
async def test_those_who_flood_wait_while_much_is_waiting_and_others_do_not(
    own_redis: RedisServer, channel: str
) -> None:
    flooders, messages, size = 16, 5, 1_000_000
    async with gateway(own_redis.url) as server, connect(server) as honest, AsyncExitStack() as stack:
        flood = [await stack.enter_async_context(connect(server)) for _ in range(flooders)]
        most = 0
        with paused(own_redis):
            sending = [
                asyncio.create_task(each.send_text(publish(channel, number, size)[14:].decode()))
                for number in range(messages)
                for each in flood
            ]
            commands = server.server.redis.primaries[0].commands
            await until(lambda: commands.is_crowded)
            for number in range(20):
                await honest.send(action="publish", channel=channel, data=number, messageId=str(number))
            for _ in range(100):
                most = max(most, commands.held_bytes)
                await asyncio.sleep(CROWDED_RETRY_S)
        assert most < DEFAULTS.streams.crowded_bytes + 2 * MIB
        for number in range(20):
            ack = await honest.next()
            assert (ack["status"], ack["messageId"]) == ("ack", str(number)), ack
        await asyncio.gather(*sending)
        for number in range(messages):
            for each in flood:
                assert (await each.next())["messageId"] == str(number)
        assert server.server.clients.turns.busy_clients == 0


@async_test
async def test_one_who_leaves_with_requests_under_way_is_busy_no_more(own_redis: RedisServer, channel: str) -> None:
    async with gateway(own_redis.url) as server:
        async with connect(server) as client:
            with paused(own_redis):
                await client.send(action="publish", channel=channel, data=1, messageId="1")
                await until(lambda: server.server.clients.turns.busy_clients == 1)
                await client.websocket.close()
                await until(lambda: not server.server.clients.sessions)
                assert server.server.clients.turns.busy_clients == 0
        await until(lambda: own_redis.call("XLEN", channel) == 1)
        assert server.server.clients.turns.busy_clients == 0


# --- memory ---


@async_test
async def test_however_many_subscriptions_a_client_has_it_is_written_one_page_at_most(
    redis_server: RedisServer, channel: str
) -> None:
    channels, size = [f"{channel}{number}" for number in range(40)], 100_000
    for each in channels:
        add(redis_server, each, json.dumps("x" * size))
    async with gateway(redis_server.url) as server, Wire(server, receive_buffer_bytes=4096) as wire:
        await wire.handshake()
        await wire.send(b"".join(request(action="subscribe", channel=each) for each in channels))
        await until(lambda: server.server.clients.sessions)
        (connection,) = server.server.clients.sessions
        most = 0
        await until(lambda: len(server.server.hub.channels) == len(channels) and connection.buffered_bytes)
        await until(lambda: not connection.is_reading_page)
        async with connect(server) as other:
            for number in range(20):  # whatever was asked of Redis before is answered before this
                await other.publish(f"{channel}-other", number)
                most = max(most, connection.buffered_bytes)
        assert not connection.is_reading_page
        assert most < server.settings.high_water_bytes + DEFAULTS.chunk_bytes + size + 100 * len(channels)
        seen: list[str] = []
        while len(seen) < len(channels):
            event = json.loads((await wire.frame())[1])
            if event.get("event") == "message":
                seen.append(event["channel"])
        assert sorted(seen) == sorted(channels)


@async_test
async def test_a_channel_that_can_not_be_read_keeps_no_other_of_the_client_waiting(
    redis_server: RedisServer, channel: str
) -> None:
    """A page for which Redis has to be asked again for half a minute is read beside those of the others."""
    add(redis_server, channel, "1")
    add(redis_server, f"{channel}2", "2")
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel, lastMessageId="$")
        redis_server.call("DEL", channel)
        redis_server.call("SET", channel, "no stream")
        (room,) = server.server.hub.channels
        (listener,) = room.listeners
        room.live.discard(listener)
        room.reopen(type(room.cursor)(room.cursor.ms + 1, 0))  # it has to read a page, which fails
        assert (await client.next())["code"] == "channel_unreadable"
        await client.subscribe(f"{channel}2")
        assert (await client.message(f"{channel}2"))[1] == 2


# --- many who come at the same moment ---


@async_test
async def test_so_many_calls_in_a_turn_of_the_loop() -> None:
    portions, turn, done = Portions(3), 0, list[tuple[int, int]]()
    for number in range(10):
        if portions.has_room():
            done.append((turn, number))
        else:
            portions.wait(lambda number=number: done.append((turn, number)))  # type: ignore[misc]
    for turn in range(1, 6):  # noqa: B007
        await asyncio.sleep(0)
    assert [number for _, number in done] == [*range(10)]
    assert max(Counter(turn for turn, _ in done).values()) == 3
    assert portions.has_room()


@async_test
async def test_a_crowd_waits_for_its_handshakes_and_nothing_is_lost(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server, AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(Wire(server)) for _ in range(40)]
        sent = [
            handshake(f"/?token={KEY}") + request(action="publish", channel="", data=1, messageId=str(number))
            for number in range(len(crowd))
        ]
        for wire, data in zip(crowd, sent, strict=True):  # all of them before the gateway sees any
            wire.socket.send(data[:-5])
        waiting = server.server.clients.turns.handshakes._waiting
        await until(lambda: len(waiting) > HANDSHAKES_A_TURN, "a crowd that waits", every_s=0)
        for wire, data in zip(crowd, sent, strict=True):
            wire.socket.send(data[-5:] + PING)
        crowd[-1].socket.close()
        for number, wire in enumerate(crowd[:-1]):
            while b"pong" not in wire.received:
                assert await wire.read_some()
            assert wire.received.count(f'"messageId":"{number}"'.encode()) == 1
        assert not waiting

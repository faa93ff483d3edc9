"""WebSocket frames of every kind, right and wrong, and the signs of life of a connection."""

from __future__ import annotations

import asyncio
import ctypes
import json
import socket
import struct
import sys
import tracemalloc
from typing import Any

import pytest

from kit.gateway import (
    KEY,
    PATIENCE_S,
    WELCOME,
    Wire,
    add,
    async_test,
    connect,
    entries,
    frame,
    gateway,
    handshake,
    request,
    until,
)
from kit.support import MIB, RedisServer
from rsws.gateway.websocket.keepalive import unacknowledged_bytes

pytestmark = pytest.mark.usefixtures("event_loop_kind")


# --- frames ---


@async_test
async def test_a_message_of_the_greatest_size(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        head = f'{{"action":"publish","channel":"{channel}","messageId":"m","data":"'
        data = "x" * (MIB - 1000)
        await client.send_text(head + data + '"' + " " * (1000 - len(head) - 2) + "}")
        assert (await client.next())["status"] == "ack"
        await client.subscribe(channel)
        assert (await client.message(channel))[1] == data


SOON: dict[str, Any] = {"shutdown_timeout_s": 0.4}
"""Half of it passes before a client that has sent too much, of which no more is read, is cut off."""


@pytest.mark.parametrize("pieces", [1, 3])
@async_test
async def test_a_message_that_is_too_big(redis_server: RedisServer, channel: str, pieces: int) -> None:
    payload = b"x" * (MIB + 1)
    step = len(payload) // pieces + 1
    parts = [payload[start : start + step] for start in range(0, len(payload), step)]
    async with gateway(redis_server.url, **SOON) as server, connect(server) as other, Wire(server) as wire:
        await other.subscribe(channel)
        await wire.handshake()
        assert await wire.text() == WELCOME
        for index, part in enumerate(parts):
            await wire.send(frame(part, 0 if index else 1, fin=index == len(parts) - 1))
        assert await wire.close_code() == 1009
        add(redis_server, channel, "1")
        await other.message(channel)


@async_test
async def test_two_megabytes_through_a_client_library(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, **SOON) as server, connect(server) as client:
        await client.send_text("x" * 2 * MIB)
        assert (await client.closed())[0] == 1009


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(b"x", 2)], 1003),
        ([frame(b'{"action":"ping"}', 2)], 1003),
        ([frame(b"", 2)], 1003),
        ([frame(b"x", 2, fin=False), frame(b"y", 0)], 1003),
        ([frame(b'"\xff"')], 1007),
        ([frame(b'"\xed\xa0\x80"')], 1007),
        ([frame(b'{"x":"\xc3', fin=False), frame(b'\xc3"}', 0)], 1007),
        ([frame(b'{"x":"\xc3', fin=False), frame(b"", 0)], 1007),
        ([frame(b"x", 0)], 1002),
        ([frame(b"x", fin=False), frame(b"y")], 1002),
        ([frame(b"x", masked=False)], 1002),
        ([frame(b"x", reserved=4)], 1002),
        ([frame(b"x", reserved=1)], 1002),
        ([frame(b"x", 3)], 1002),
        ([frame(b"x", 3)[:2]], 1002),
        ([frame(b"x" * 200, 3)[:2]], 1002),
        ([frame(b"x" * 70_000, masked=False)[:2]], 1002),
        ([frame(b"", 1)[:1], frame(b"x", masked=False)[1:2]], 1002),
        ([frame(b"x", fin=False), frame(b"x" * 500, 11)[:2]], 1002),
        ([frame(b"x", fin=False), frame(struct.pack("!H", 4000), 8)], 4000),
        ([frame(b"x", 11)], 1002),
        ([frame(b"x" * 126, 9)], 1002),
        ([frame(b"x", 9, fin=False)], 1002),
        ([frame(b"x", 8)], 1002),
        ([frame(struct.pack("!H", 1005), 8)], 1002),
        ([frame(b"\x03\xe8\xff", 8)], 1007),
        ([b"\x81\xff" + b"\x7f" + b"\xff" * 11], 1009),
    ],
)
@async_test
async def test_frames_that_end_a_connection(
    redis_server: RedisServer, channel: str, frames: list[bytes], code: int
) -> None:
    async with gateway(redis_server.url) as server, connect(server) as other:
        for together in (True, False):
            async with Wire(server) as wire:
                await wire.handshake()
                assert await wire.text() == WELCOME
                for data in [b"".join(frames)] if together else frames:
                    await wire.send(data)
                closed = await wire.close_code()
                assert closed == code or (code == 1002 and closed == 1007), closed
        await other.publish(channel, 1)


@async_test
async def test_what_comes_after_a_frame_that_ends_a_connection_is_not_looked_at(
    redis_server: RedisServer, channel: str
) -> None:
    publish = request(action="publish", channel=channel, data=1, messageId="m")
    async with gateway(redis_server.url) as server:
        for bad, code in ((frame(b"x", 2), 1003), (frame(b"\xff"), 1007)):
            async with Wire(server) as wire:
                await wire.handshake()
                assert await wire.text() == WELCOME
                await wire.send(bad + publish)
                assert await wire.close_code() == code
        async with connect(server) as client:
            await client.publish(channel, 2)
    assert [fields["messageData"] for _, fields in entries(redis_server, channel)] == ["2"]


@async_test
async def test_fragmented_messages_with_pings_in_between(redis_server: RedisServer) -> None:
    text = '{"action":"é"}'.encode()
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.handshake()
        assert await wire.text() == WELCOME
        await wire.send(frame(text[:12], fin=False) + frame(b"are you there", 9) + frame(b"", 0, fin=False))
        assert await wire.frame() == (10, b"are you there")
        await wire.send(frame(text[12:], 0))
        assert json.loads(await wire.text())["error"] == "Aksi tidak dikenal: é"
        await wire.send(frame(b"", fin=False) + frame(b'{"action":"ping"}', 0))
        assert await wire.text() == '{"status":"pong"}'
        for byte in frame(b'{"action":"ping"}'):
            await wire.send(bytes([byte]))
        assert await wire.text() == '{"status":"pong"}'
        await wire.send(frame(b"unasked", 10) + frame(struct.pack("!H", 1000) + b"bye", 8))
        assert await wire.frame() == (8, struct.pack("!H", 1000) + b"bye")
        assert not await wire.read_some()


@async_test
async def test_fragments_of_nothing_take_no_memory(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.handshake()
        assert await wire.text() == WELCOME
        nothing, fragments = frame(b"", 0, fin=False), 6000
        many = nothing * fragments + frame(b"", 9)
        await wire.send(frame(b'{"action"', fin=False) + nothing * 100 + frame(b"", 9))
        assert await wire.frame() == (10, b"")
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        await wire.send(many)
        assert await wire.frame() == (10, b"")
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert after - before < 8 * fragments  # less than a pointer for each
        await wire.send(frame(b':"ping"}', 0))
        assert await wire.text() == '{"status":"pong"}'


@async_test
async def test_connections_that_break_off_anywhere(redis_server: RedisServer, channel: str) -> None:
    whole = handshake(f"/?token={KEY}") + request(action="subscribe", channel=channel) + frame(b"x" * 300)
    async with gateway(redis_server.url) as server:
        for size in (0, 1, 20, len(whole) - 350, len(whole) - 200, len(whole)):
            for reset in (False, True):
                async with Wire(server) as wire:
                    await wire.send(whole[:size])
                    if size == len(whole):
                        await wire.read_some()
                    if reset:
                        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        async with connect(server) as client:
            await client.subscribe(channel)
            add(redis_server, channel, "1")
            await client.message(channel)
            await until(lambda: len(server.server.clients.sessions) == 1)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"PING\r\n\r\n",
        b"GET /?token=k HTTP/1.1\r\nHost gateway\r\n\r\n",
        b"GET /?token=k HTTP/1.1\r\nHost: g\r\nUpgrade: websocket\r\n\r\n",
        b"GET /?token=k HTTP/1.1\r\nHost: g\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=range(10),
)
@async_test
async def test_what_is_no_handshake(redis_server: RedisServer, data: bytes) -> None:
    async with gateway(redis_server.url) as server:
        async with Wire(server) as wire:
            await wire.send(data)
            received = await wire.read_to_end()
            assert received.startswith(b"HTTP/1.1 4"), received
        async with connect(server) as client:
            await client.nothing_more()


# --- signs of life ---


@async_test
async def test_a_silent_client_is_pinged_and_a_dead_one_cut_off(redis_server: RedisServer) -> None:
    async with (
        gateway(redis_server.url, ping_interval_s=0.1, idle_timeout_s=2) as server,
        connect(server) as client,
        Wire(server) as wire,
    ):
        await wire.handshake()
        assert await wire.text() == WELCOME
        assert (await wire.frame())[0] == 9
        await wire.read_to_end()
        await client.nothing_more()  # it answers pings, and so lives on
        assert len(server.server.clients.sessions) == 1


@async_test
async def test_a_client_that_reads_slowly_is_not_dead(redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, *[json.dumps("x" * 100_000)] * 30)
    async with gateway(redis_server.url) as server, Wire(server, 4096) as wire:
        await wire.handshake()
        await wire.send(request(action="subscribe", channel=channel))
        [connection] = server.server.clients.sessions
        await until(lambda: not connection.has_room)
        now = asyncio.get_running_loop().time()
        for _ in range(20):  # it sends nothing, not even pongs
            wire.received.clear()
            while len(wire.received) < 64 * 1024:  # more than the kernel had of it
                assert await wire.read_some(4096)
            connection.check_alive(now := now + 50, 20, 60)
        assert list(server.server.clients.sessions) == [connection]
        connection.check_alive(now + 60, 20, 60)
        await until(lambda: not server.server.clients.sessions)


@async_test
async def test_a_client_that_only_takes_is_pinged_and_stays(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.handshake()
        await wire.send(request(action="subscribe", channel=channel, lastMessageId="$"))
        [connection] = server.server.clients.sessions
        assert [(await wire.frame())[0] for _ in ("welcome", "subscribed")] == [1, 1]
        now = asyncio.get_running_loop().time()
        for _ in range(20):
            add(redis_server, channel, "1")
            assert (await wire.frame())[0] == 1
            await until(lambda: not unacknowledged_bytes(connection.transport))
            connection.check_alive(now := now + 50, 20, 60)
            assert (await wire.frame())[0] == 9
        assert list(server.server.clients.sessions) == [connection]


def lose_power(peer: socket.socket) -> None:
    """From now on nothing that is sent to ``peer`` arrives, and nothing of it is acknowledged."""
    code = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # BPF: return 0 bytes of the packet
    program = struct.pack("@HP", 1, ctypes.addressof(code))
    peer.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' socket filters")
@async_test
async def test_a_client_that_lost_its_power_is_found_on_an_active_channel(
    redis_server: RedisServer, channel: str
) -> None:
    async with gateway(redis_server.url, ping_interval_s=0.1, idle_timeout_s=0.4) as server, Wire(server) as wire:
        await wire.handshake()
        await wire.send(request(action="subscribe", channel=channel, lastMessageId="$"))
        assert await wire.text() == WELCOME
        assert json.loads(await wire.text())["status"] == "subscribed"
        lose_power(wire.socket)
        async with asyncio.timeout(PATIENCE_S):
            while server.server.clients.sessions:
                add(redis_server, channel, "1")
                await asyncio.sleep(0.02)


@async_test
async def test_a_client_that_sends_and_never_reads_is_not_dead(
    redis_server: RedisServer, channel: str, received: list[bytes]
) -> None:
    add(redis_server, channel, *[json.dumps("x" * 100_000)] * 100)
    async with gateway(redis_server.url) as server, Wire(server, 4096) as wire:
        await wire.handshake()
        await wire.send(request(action="subscribe", channel=channel))
        [connection] = server.server.clients.sessions
        await until(lambda: connection.buffered_bytes > 1000)
        loop = asyncio.get_running_loop()
        for _ in range(20):
            await asyncio.sleep(0.02)
            received.clear()
            sent_at = loop.time()
            await wire.send(frame(b"", 10))
            await until(lambda: received)
            now = loop.time()
            connection.check_alive(now, 20, now - sent_at + 0.05)  # who is silent since before this is dead
        assert list(server.server.clients.sessions) == [connection]

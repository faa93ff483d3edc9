"""What one client does to its connection, and what that may not do to the gateway and to everyone else."""

from __future__ import annotations

import asyncio
import gc
import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from websockets.protocol import Protocol

from kit.gateway import (
    KEY,
    PATIENCE_S,
    UNAUTHORIZED,
    WELCOME,
    Wire,
    add,
    async_test,
    connect,
    frame,
    gateway,
    handshake,
    new_server,
    request,
    until,
)
from kit.support import RedisServer
from rsws.gateway.process.single import SingleProcess
from rsws.gateway.websocket.connection import REPLIES_ROOM, ClientConnection
from rsws.gateway.websocket.frames import text_frame

pytestmark = pytest.mark.usefixtures("event_loop_kind")

PING = request(action="ping")
PONG = '{"status":"pong"}'
CLOSE = frame(struct.pack("!H", 1000), 8)
GET = b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n"
COMPRESSION = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
READ_BYTES = 256 * 1024
"""What a loop hands over at once, at most."""


@pytest.fixture
def no_collection() -> Iterator[None]:
    """What is in a cycle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive(*kinds: type) -> list[str]:
    """The objects of these types that are there."""
    return [repr(each) for each in gc.get_objects() if isinstance(each, kinds)]


async def welcomed(stack: AsyncExitStack, server: SingleProcess, **options: Any) -> Wire:
    """A client that has read its first frame."""
    wire = await stack.enter_async_context(Wire(server, **options))
    await wire.handshake()
    assert await wire.text() == WELCOME
    return wire


# --- behind the handshake ---


@pytest.mark.parametrize(
    ("behind", "code"),
    [
        (PING, None),
        (b"\x00\x00", 1002),
        (frame(b"x", masked=False), 1002),
        (b"\xff" * 100, 1002),
        (handshake(f"/?token={KEY}"), 1002),
        (PING + b"\n" * 20, 1002),
    ],
    ids=["request", "no frame", "not masked", "all ones", "handshake", "line ends"],
)
@pytest.mark.parametrize("token", [KEY, "wrong"])
@async_test
async def test_bytes_right_behind_the_handshake(
    redis_server: RedisServer, token: str, behind: bytes, code: int | None
) -> None:
    async with gateway(redis_server.url) as server, AsyncExitStack() as stack:
        others = [await welcomed(stack, server) for _ in range(3)]
        wire = await stack.enter_async_context(Wire(server))
        await until(lambda: len(server.server.clients) == 4)
        for other in others[:2]:
            other.socket.send(PING)
        hello = asyncio.create_task(wire.handshake(f"/?token={token}", and_send=behind))
        await asyncio.sleep(0)  # it has sent it, and all of this is answered in one turn
        others[2].socket.send(PING)
        await hello
        if token != KEY:
            assert await wire.text() == UNAUTHORIZED
            code = 1008
        else:
            assert await wire.text() == WELCOME
            if behind.startswith(PING):
                assert await wire.text() == PONG
        for each in list(server.server.clients):
            each.check_alive(asyncio.get_running_loop().time() + 30, 20, 60)
        if code is not None:
            assert await wire.close_code() == code
        for other in others:
            assert await other.text() == PONG
            assert await other.frame() == (9, b"")
        async with connect(server) as client:
            await client.nothing_more()
        with pytest.raises(TimeoutError):  # nothing of it has failed
            async with asyncio.timeout(0):
                await server.failed()


@async_test
async def test_a_request_that_came_with_the_handshake_in_part(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server:
        for size in range(1, 2 * len(PING)):
            async with Wire(server) as wire:
                await wire.handshake(and_send=(PING + PING)[:size])
                assert await wire.text() == WELCOME
                await wire.send((PING + PING)[size:])
                assert await wire.text() == PONG
                assert await wire.text() == PONG


@async_test
async def test_a_handshake_in_two_parts_and_a_request_behind_it(
    redis_server: RedisServer, received: list[bytes]
) -> None:
    async with gateway(redis_server.url) as server:
        whole = handshake(f"/?token={KEY}")
        for size in (1, 30, len(whole) - 3, len(whole) - 2, len(whole) - 1):
            async with Wire(server) as wire:
                received.clear()
                await wire.send(whole[:size])
                await until(lambda: b"".join(received) == whole[:size])  # noqa: B023
                await wire.send(whole[size:] + PING[:7])
                while WELCOME.encode() not in wire.received:
                    assert await wire.read_some()
                await wire.send(PING[7:])
                while PONG.encode() not in wire.received:
                    assert await wire.read_some()
            await until(lambda: not server.server.clients)


# --- what is left of it ---

BIG = json.dumps({"action": "ping", "x": "x" * 70_000}).encode()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("headers", ["", COMPRESSION], ids=["plain", "compressed"])
@async_test
async def test_messages_leave_no_parser_behind(redis_server: RedisServer, headers: str) -> None:
    zipper = zlib.compressobj(wbits=-12)
    zipped = (zipper.compress(BIG) + zipper.flush(zlib.Z_SYNC_FLUSH))[:-4]
    messages = [
        frame(BIG),
        frame(BIG[:9], fin=False) + frame(b"", 9) + frame(BIG[9:], 0),
        frame(b"are you there", 9) + frame(b"unasked", 10) + PING,
    ]
    if headers:
        messages += [frame(zipped, reserved=4), frame(zipped[:9], reserved=4, fin=False) + frame(zipped[9:], 0)]
    async with gateway(redis_server.url, compress=True) as server, Wire(server) as wire:
        await wire.handshake(headers=headers)
        assert await wire.text() == WELCOME
        for message in messages * 3:
            for part in (message[:5000], message[5000:]):
                await wire.send(part)
            while (await wire.frame())[0] != 1:  # a pong
                pass
        assert alive(Protocol) == []


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    "sent",
    [
        CLOSE,
        PING + CLOSE,
        frame(b"x" * 1000, 9),
        frame(b"x", 2),
        frame(b"\xff"),
        frame(b"\xff" * 5, reserved=4),
        frame(b"x" * 10, fin=False),
        frame(BIG)[:5000],
        b"\x81\xff" + b"\x7f" + b"\xff" * 11,
    ],
    ids=["close", "ping", "big ping", "binary", "no text", "no deflate", "fragment", "half of one", "too big"],
)
@async_test
async def test_a_connection_that_ends_leaves_no_parser_behind(redis_server: RedisServer, sent: bytes) -> None:
    async with gateway(redis_server.url, compress=True) as server:
        for token in (KEY, "wrong"):
            for headers in ("", COMPRESSION):
                async with Wire(server) as wire:
                    await wire.handshake(f"/?token={token}", headers=headers)
                    await wire.send(sent)
                    await wire.frame()
        await until(lambda: not server.server.clients)
        assert alive(Protocol) == []


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        GET,
        GET.replace(b"healthz", b"metrics"),
        b"\x16\x03\x01\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        handshake("/").replace(b"Key: ", b"Key: too long"),
        handshake("/").replace(b"Connection: Upgrade\r\n", b""),
        handshake("/").replace(b"Version: 13", b"Version: 12"),
        handshake("/").replace(b"GET", b"POST"),
    ],
    ids=["nothing", "part", "healthz", "metrics", "TLS", "long", "many", "key", "connection", "version", "POST"],
)
@async_test
async def test_what_is_no_handshake_leaves_no_parser_behind(redis_server: RedisServer, sent: bytes) -> None:
    async with gateway(redis_server.url) as server:
        for _ in range(3):
            async with Wire(server) as wire:
                await wire.send(sent)
                await until(lambda: server.server.clients)
                if b"\r\n\r\n" in sent:
                    await wire.read_to_end()
            await until(lambda: not server.server.clients)
        assert alive(Protocol) == []


@async_test
async def test_no_timer_keeps_what_has_gone(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, shutdown_timeout_s=600) as server:

        async def visit(token: str) -> type:
            async with Wire(server) as wire:
                await wire.handshake(f"/?token={token}")
                [visitor] = server.server.clients
                await wire.send(CLOSE)
                await wire.frame()
            await until(lambda: not server.server.clients)
            return type(visitor.transport)

        kind = await visit(KEY)
        for token in (KEY, "wrong") * 5:
            await visit(token)
        gc.collect()
        assert alive(ClientConnection) == []
        assert len(alive(kind)) <= 4, "those to Redis"


# --- deadlines ---


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nX: ", b"", GET], ids=["header", "nothing", "answered"])
@pytest.mark.parametrize("more", [b"x", b""], ids=["drips", "silent"])
@async_test
async def test_who_does_not_come_to_a_handshake_is_cut_off(
    redis_server: RedisServer, start: bytes, more: bytes
) -> None:
    async with (
        gateway(redis_server.url, handshake_timeout_s=0.3) as server,
        connect(server) as client,
        Wire(server) as wire,
    ):
        await wire.send(start)
        reading = asyncio.create_task(wire.read_to_end())
        async with asyncio.timeout(PATIENCE_S):
            with suppress(ConnectionError):
                while not (reading.done() and len(server.server.clients) == 1):
                    await wire.send(more)
                    await asyncio.sleep(0.01)
            await reading
        await until(lambda: len(server.server.clients) == 1)
        await client.nothing_more()


@async_test
async def test_a_silent_subscriber_gets_all_that_was_written_when_it_is_closed(
    redis_server: RedisServer, channel: str
) -> None:
    ids = add(redis_server, channel, *[json.dumps("x" * 1000)] * 500)
    server = await new_server(redis_server.url).__aenter__()
    async with Wire(server, 4096) as wire:
        await wire.handshake()
        await wire.send(request(action="subscribe", channel=channel))
        await until(lambda: [each.buffered_bytes > 10_000 for each in server.server.clients.sessions] == [True])
        [subscriber] = server.server.clients.sessions
        stopping = asyncio.create_task(server.stop())
        await until(lambda: not subscriber.is_open)
        buffered = subscriber.buffered_bytes
        subscriber.check_alive(asyncio.get_running_loop().time() + 3600, 20, 60)
        assert await wire.text() == WELCOME
        assert json.loads(await wire.text())["status"] == "subscribed"
        got = []
        while (found := await wire.frame())[0] == 1:
            got.append(json.loads(found[1])["streamId"])
        assert found == (8, struct.pack("!H", 1001) + b"the gateway stops")
        assert got == ids[: len(got)]
        assert len(got) * 1000 > buffered - 10_000
        await wire.send(frame(found[1], 8))
    await stopping


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET], ids=["nothing", "part", "answered"])
@async_test
async def test_who_never_asked_for_anything_does_not_delay_the_end(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    server = await new_server(redis_server.url, shutdown_timeout_s=600).__aenter__()
    async with Wire(server) as wire:
        await wire.send(sent)
        await until(lambda: server.server.clients)
        async with connect(server) as client, asyncio.timeout(PATIENCE_S):
            stopping = asyncio.create_task(server.stop())
            assert (await client.closed())[0] == 1001
            await stopping
    assert "don't read" not in caplog.text


# --- room ---


@async_test
async def test_who_pings_and_does_not_read_is_not_read(redis_server: RedisServer) -> None:
    pings = 4000
    async with gateway(redis_server.url) as server, Wire(server, 4096) as wire:
        await wire.handshake()
        assert await wire.text() == WELCOME
        [flooding] = server.server.clients.sessions
        loop = asyncio.get_running_loop()
        flood = asyncio.create_task(loop.sock_sendall(wire.socket, frame(b"x" * 125, 9) * pings))
        await until(lambda: not flooding.transport.is_reading())
        assert flooding.buffered_bytes <= REPLIES_ROOM * server.settings.high_water_bytes + READ_BYTES
        for _ in range(pings):
            assert (await wire.frame())[0] == 10
        await flood
        await wire.send(PING)
        assert await wire.text() == PONG


@async_test
async def test_what_is_offered_in_one_turn_leaves_in_two_writes(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, writes = ClientConnection.send, 0

    def counting(self: ClientConnection, data: bytes) -> None:
        nonlocal writes
        writes += 1
        send(self, data)

    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.handshake()
        assert await wire.text() == WELCOME
        [subscriber] = server.server.clients.sessions
        monkeypatch.setattr(ClientConnection, "send", counting)
        for turn in range(1, 4):
            assert subscriber.try_send(text_frame(b"0"))
            assert writes == 2 * turn - 1, "the first leaves at once"
            for number in range(1, 50):
                assert subscriber.try_send(text_frame(b"%d" % number))
            assert [await wire.text() for _ in range(50)] == [str(number) for number in range(50)]
            assert writes == 2 * turn


@async_test
async def test_one_that_can_not_be_written_to_does_not_stop_the_others(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flush = ClientConnection.flush

    async with gateway(redis_server.url) as server, AsyncExitStack() as stack:
        wires = [await welcomed(stack, server) for _ in range(3)]
        connections = list(server.server.clients.sessions)

        def flush_or_not(self: ClientConnection) -> None:
            if self is connections[1]:
                raise ZeroDivisionError("a bug")
            flush(self)

        monkeypatch.setattr(ClientConnection, "flush", flush_or_not)
        for each in connections:
            each.reply(b"1")
        for wire in (wires[0], wires[2]):
            assert await wire.text() == "1"
            await wire.send(PING)
            assert await wire.text() == PONG
        assert await wires[1].read_to_end() == b""
        await until(lambda: len(server.server.clients.sessions) == 2)
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [ZeroDivisionError]


# --- plain HTTP ---


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (GET.replace(b"\r\n\r\n", b"\r\nUpgrade: websocket\r\n\r\n"), 200),
        (GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"), 200),
        (handshake("/").replace(b"\r\n\r\n", b"\r\nUpgrade: websocket\r\n\r\n"), 400),
        (GET + GET, 200),
        (GET + GET[:20], 200),
        (GET + b"\x00\x00", 200),
        (GET + handshake("/"), 200),
        (GET.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc"), 405),
    ],
    ids=["Upgrade alone", "HTTP/2", "Upgrade twice", "pipelined", "in part", "garbage", "handshake", "body"],
)
@async_test
async def test_odd_http_is_answered_once(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, sent: bytes, status: int
) -> None:
    async with gateway(redis_server.url) as server:
        async with Wire(server) as wire:
            await wire.send(sent)
            received = await wire.read_to_end()
        assert received.startswith(b"HTTP/1.1 %d " % status)
        assert received.count(b"HTTP/1.1") == 1
    assert caplog.text == ""


async def ask(server: SingleProcess, method: str, path: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of a plain HTTP request."""
    async with Wire(server) as wire:
        await wire.send(f"{method} {path} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
        head, _, body = (await wire.read_to_end()).decode().partition("\r\n\r\n")
    first, *headers = head.split("\r\n")
    return int(first.split()[1]), dict(header.split(": ", 1) for header in headers), body


@pytest.mark.parametrize("method", ["DELETE", "POST", "OPTIONS"])
@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/"])
@async_test
async def test_a_method_that_changes_something(redis_server: RedisServer, method: str, path: str) -> None:
    async with gateway(redis_server.url) as server:
        status, headers, _ = await ask(server, method, path)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/healthz", "/"])
@async_test
async def test_head_is_get_without_its_body(redis_server: RedisServer, path: str) -> None:
    async with gateway(redis_server.url) as server:
        got, headers, body = await ask(server, "GET", path)
        status, same_headers, nothing = await ask(server, "HEAD", path)
        assert (status, nothing) == (got, "")
        assert int(headers["Content-Length"]) == len(body) > 0
        assert same_headers | {"Date": ""} == headers | {"Date": ""}

"""A gateway in the test's own event loop, and clients that hide nothing of what it says.

@async_test
async def test_ping(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.send(action="ping")
        await client.expect('{"status":"pong"}')
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self
from urllib.parse import quote, urlsplit

import uvloop
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import ConnectionClosed

from kit.support import RedisServer
from rsws.gateway.limits import DEFAULTS, Limits
from rsws.gateway.process.single import SingleProcess
from rsws.settings import Settings

P = ParamSpec("P")

KEY = "k"
WELCOME = '{"status":"connected","message":"Welcome!"}'
UNAUTHORIZED = '{"error":"Unauthorized","status":401}'
FORMAT_TEXT = "Format publish salah. Wajib ada: channel, data, messageId"
PATIENCE_S = 15.0
"""How long anything that has to come may take."""

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
new_loop = uvloop.new_event_loop
"""What tests run on; the gateway takes uvloop where there is one."""

FEW_FILES = """
import resource, sys
if sys.argv[2] == "asyncio":
    sys.modules["uvloop"] = None
sys.stderr = sys.stdout
files = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
from rsws.gateway.process.lifecycle import run
from rsws.gateway.process.single import SingleProcess
from rsws.settings import Settings
run(SingleProcess(Settings(port=0, redis_url=sys.argv[1], secret_key="k")), lambda it: print(it.url, flush=True))
"""
"""A gateway for ``run_python`` that may open few files; its arguments are Redis' URL, the loop and how many."""


def async_test(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in an event loop of its own, within 100 s; it may leave no task and no open socket behind."""

    async def supervised(main: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(100):
            await main
        for _ in range(20):  # what has been closed may need some turns of the loop to notice
            await asyncio.sleep(0)
        assert not left_behind()

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(supervised(test(*args, **kwargs)))
        gc.collect()  # an unclosed socket says so now, not in some later test

    return run


NOTHING_ELSE_ASKED = replace(DEFAULTS, streams=replace(DEFAULTS.streams, role_check_s=600, idle_ping_s=600))
"""For tests that need to know what is under way to Redis: nothing asks now and then if it is there, and a primary."""


@asynccontextmanager
async def gateway(redis_url: str, limits: Limits = DEFAULTS, **settings: Any) -> AsyncIterator[SingleProcess]:
    """A gateway on a free port."""
    async with new_server(redis_url, limits, **settings) as server:
        yield server


def new_server(redis_url: str, limits: Limits = DEFAULTS, **settings: Any) -> SingleProcess:
    defaults: dict[str, Any] = {"port": 0, "redis_url": redis_url, "secret_key": KEY}
    return SingleProcess(Settings(**defaults | settings), limits=limits)


async def until(
    condition: Callable[[], object], what: str = "the condition", within_s: float = PATIENCE_S, every_s: float = 0.005
) -> None:
    """Wait until ``condition()`` is true, looking every ``every_s``: for what can only be observed from outside."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(every_s)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {within_s} s") from None


class Reachable(Protocol):
    """A gateway, wherever it runs."""

    @property
    def url(self) -> str: ...


class Client:
    """A client that takes frame after frame and waits for none longer than ``PATIENCE_S``."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket

    async def send(self, **request: Any) -> None:
        """Send a request as JSON.stringify would write it."""
        await self.send_text(json.dumps(request, separators=(",", ":"), ensure_ascii=False))

    async def send_text(self, text: str) -> None:
        await self.websocket.send(text)

    async def text(self) -> str:
        """The next frame."""
        async with asyncio.timeout(PATIENCE_S):
            frame = await self.websocket.recv()
        assert isinstance(frame, str)
        return frame

    async def next(self) -> dict[str, Any]:
        """The next frame, parsed."""
        frame: dict[str, Any] = json.loads(await self.text())
        return frame

    async def expect(self, text: str) -> None:
        """The next frame is ``text``, to the letter."""
        assert await self.text() == text

    async def expect_error(self, code: str, channel: str | None = None) -> dict[str, Any]:
        """The next frame is an error reply with this code."""
        frame = await self.next()
        assert list(frame) == ["status", "error", "code"] + ["channel"] * (channel is not None), frame
        assert (frame["status"], frame["code"], frame.get("channel")) == ("error", code, channel)
        return frame

    async def expect_error_ack(self, message_id: str, code: str, outcome: str = "not_stored") -> dict[str, Any]:
        """The next frame is an error_ack with this code."""
        frame = await self.next()
        assert list(frame) == ["status", "messageId", "error", "code", "outcome"], frame
        assert (frame["status"], frame["messageId"]) == ("error_ack", message_id)
        assert (frame["code"], frame["outcome"]) == (code, outcome), frame
        return frame

    async def subscribe(self, channel: str, **request: Any) -> dict[str, Any]:
        """Subscribe; the ``subscribed`` reply, which has to be the next frame."""
        await self.send(action="subscribe", channel=channel, **request)
        frame = await self.next()
        assert list(frame) == ["status", "channel", "lastMessageId", "latestId"], frame
        assert (frame["status"], frame["channel"]) == ("subscribed", channel)
        return frame

    async def publish(self, channel: str, data: Any, message_id: str = "m") -> str:
        """Publish; the streamId of the ack, which has to be the next frame."""
        await self.send(action="publish", channel=channel, data=data, messageId=message_id)
        frame = await self.next()
        assert list(frame) == ["status", "messageId", "streamId"], frame
        assert (frame["status"], frame["messageId"]) == ("ack", message_id)
        stream_id: str = frame["streamId"]
        return stream_id

    async def message(self, channel: str) -> tuple[str, Any]:
        """The next frame, a message of ``channel``: its id and its data."""
        frame = await self.next()
        assert list(frame) == ["event", "channel", "streamId", "data"], frame
        assert (frame["event"], frame["channel"]) == ("message", channel), frame
        return frame["streamId"], frame["data"]

    async def gap(self, channel: str) -> tuple[str, str | None, str]:
        """The next frame, a gap in ``channel``: after which id, where it goes on, and why."""
        frame = await self.next()
        assert list(frame) == ["event", "channel", "lastMessageId", "resumesAt", "reason"], frame
        assert (frame["event"], frame["channel"]) == ("gap", channel), frame
        return frame["lastMessageId"], frame["resumesAt"], frame["reason"]

    async def messages(self, channel: str, count: int) -> list[tuple[str, Any]]:
        return [await self.message(channel) for _ in range(count)]

    async def nothing_more(self) -> None:
        """Everything the gateway had to say so far has been taken."""
        await self.send(action="ping")
        await self.expect('{"status":"pong"}')

    async def closed(self) -> tuple[int | None, str | None]:
        """The gateway closes now, without another frame: its code and reason."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                frame = await self.websocket.recv()
        except ConnectionClosed:
            return self.websocket.close_code, self.websocket.close_reason
        raise AssertionError(f"not closed, but {frame!r}")


@asynccontextmanager
async def connect(
    server: Reachable, path: str = f"/?token={KEY}", *, welcome: bool = True, **options: Any
) -> AsyncIterator[Client]:
    """A client that has read its first frame, unless ``welcome`` is false; ``options`` are those of websockets."""
    async with websocket_connect(
        server.url + path, compression=None, max_size=None, ping_interval=None, proxy=None, close_timeout=2, **options
    ) as websocket:
        client = Client(websocket)
        if welcome:
            await client.expect(WELCOME)
        yield client


class Wire:
    """A client made of bytes: it sends any of them, and reads when it is told to.

    Args:
        server: Where to connect.
        receive_buffer_bytes: The kernel's buffer for what was not read yet; None leaves it large.
    """

    def __init__(self, server: Reachable, receive_buffer_bytes: int | None = None) -> None:
        url = urlsplit(server.url)
        self._address = url.hostname, url.port
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if receive_buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.received = bytearray()

    async def __aenter__(self) -> Self:
        try:
            await asyncio.get_running_loop().sock_connect(self.socket, self._address)
        except OSError:
            self.socket.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def read_some(self, size: int = 1 << 20) -> bytes:
        """What is there, b"" at the end; it is added to ``received`` too."""
        async with asyncio.timeout(PATIENCE_S):
            data = await asyncio.get_running_loop().sock_recv(self.socket, size)
        self.received += data
        return data

    async def read_to_end(self) -> bytes:
        """Everything until the gateway ends the connection."""
        with suppress(ConnectionResetError):
            while await self.read_some():
                pass
        return bytes(self.received)

    async def handshake(self, path: str = f"/?token={KEY}", and_send: bytes = b"", *, headers: str = "") -> str:
        """Open the WebSocket; ``and_send`` leaves with the request. Returns the head of the answer."""
        await self.send(handshake(path, headers) + and_send)
        while b"\r\n\r\n" not in self.received:
            assert await self.read_some(), "the gateway closed"
        head, _, rest = bytes(self.received).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        self.received = bytearray(rest)
        return head.decode()

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        while True:
            found = first_frame(self.received)
            if found is not None:
                opcode, payload, size = found
                del self.received[:size]
                return opcode, payload
            assert await self.read_some(65536), "the gateway closed without a close frame"

    async def text(self) -> str:
        opcode, payload = await self.frame()
        assert opcode == 1, (opcode, payload)
        return payload.decode()

    async def close_code(self) -> int:
        """The code of the close frame, which has to be the next one."""
        opcode, payload = await self.frame()
        assert opcode == 8, (opcode, payload)
        return int(struct.unpack("!H", payload[:2])[0])


def handshake(path: str, headers: str = "") -> bytes:
    """The request that opens a WebSocket; each of ``headers`` ends with a line break."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{headers}\r\n"
    ).encode()


def frame(payload: bytes, opcode: int = 1, *, fin: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """A client's frame, right or wrong (RFC 6455, section 5.2)."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    size = len(payload)
    mask_bit = 0x80 if masked else 0
    if size < 126:
        header = struct.pack("!BB", first, mask_bit | size)
    elif size < 65536:
        header = struct.pack("!BBH", first, mask_bit | 126, size)
    else:
        header = struct.pack("!BBQ", first, mask_bit | 127, size)
    return header + (b"\0\0\0\0" if masked else b"") + payload


def request(**keys: Any) -> bytes:
    """A request as a frame."""
    return frame(json.dumps(keys).encode())


def first_frame(data: bytes | bytearray, start: int = 0) -> tuple[int, bytes, int] | None:
    """Opcode and payload of the frame at ``start``, and where it ends; None while it is not whole.

    The one decoder of the tests, on purpose not the gateway's own.
    """
    there = len(data) - start
    if there < 2:
        return None
    size, body = data[start + 1] & 0x7F, start + 2
    if size == 126:
        if there < 4:
            return None
        size, body = struct.unpack_from("!H", data, body)[0], start + 4
    elif size == 127:
        if there < 10:
            return None
        size, body = struct.unpack_from("!Q", data, body)[0], start + 10
    mask = b""
    if data[start + 1] & 0x80:
        mask, body = bytes(data[body : body + 4]), body + 4
    if len(data) < body + size:
        return None
    payload = bytes(data[body : body + size])
    if any(mask):
        payload = bytes([byte ^ mask[index % 4] for index, byte in enumerate(payload)])
    return data[start] & 0x0F, payload, body + size


async def http(server: Reachable, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Status and body of a plain HTTP request."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    async with Wire(server) as wire:
        await wire.send(f"{method} {path} HTTP/1.1\r\nHost: gateway\r\n{lines}\r\n".encode())
        head, _, body = (await wire.read_to_end()).partition(b"\r\n\r\n")
    match = re.match(rb"HTTP/1.1 (\d+) ", head)
    assert match is not None, head
    return int(match[1]), body.decode()


async def until_status(server: Reachable, path: str, status: int, within_s: float = PATIENCE_S) -> None:
    """Wait until a plain HTTP request is answered with this status."""
    async with asyncio.timeout(within_s):
        while (await http(server, path))[0] != status:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def left_behind() -> list[str]:
    """The tasks there are, but for the one that asks."""
    return [repr(task) for task in asyncio.all_tasks() - {asyncio.current_task()} if not task.done()]


def quoted(token: str) -> str:
    """A path with ``token`` as a careful client writes it."""
    return f"/?token={quote(token, safe='')}"


def add(redis: RedisServer, channel: str, *data: str, id: str = "*") -> list[str]:
    """Entries of another program; their ids."""
    pipeline = redis.client.pipeline(transaction=False)
    for text in data:
        pipeline.xadd(channel, {"messageData": text}, id=id)
    return [id_.decode() for id_ in pipeline.execute()]


def entries(redis: RedisServer, channel: str) -> list[tuple[str, dict[str, str]]]:
    """The whole stream, as ids and fields."""
    return [
        (id_.decode(), {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)})
        for id_, flat in redis.call("XRANGE", channel, "-", "+")
    ]

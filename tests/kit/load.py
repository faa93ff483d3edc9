"""Load for the long proofs: a process that writes entries at a steady rate, clients cheap enough to be thousands."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlsplit

from kit.gateway import KEY, first_frame, frame, handshake, request
from kit.support import RedisServer, RswsProcess, free_port, run_python

CONNECT_S = 30.0

_WRITER = """\
import select, socket, sys, time
port, per_s, size, *channels = sys.argv[1:]
sock = socket.create_connection(("127.0.0.1", int(port)))
per_s, padding, turn = int(per_s), "x" * int(size), 0.01
started, number = time.monotonic(), 0
while not select.select([sys.stdin], [], [], max(0.0, started + number / per_s - time.monotonic()))[0]:
    batch = []
    for _ in range(max(1, int(per_s * turn))):
        channel = channels[number % len(channels)].encode()
        data = b'{"n":%d,"at":%.6f,"padding":"%b"}' % (number, time.monotonic(), padding.encode())
        batch.append(b"*5\\r\\n$4\\r\\nXADD\\r\\n$%d\\r\\n%b\\r\\n$1\\r\\n*\\r\\n$11\\r\\nmessageData\\r\\n$%d\\r\\n%b\\r\\n"
                     % (len(channel), channel, len(data), data))
        number += 1
    sock.sendall(b"".join(batch))
    left = 2 * len(batch)
    while left:
        left -= sock.recv(65536).count(b"\\r\\n")
print(number)
"""


_PINGER = """\
import select, socket, sys, time
port, handshake, ping = int(sys.argv[1]), bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])
sock = socket.create_connection(("127.0.0.1", port))
sock.sendall(handshake)
seen = b""
while b"Welcome!" not in seen:
    seen += sock.recv(4096)
slowest = 0.0
while not select.select([sys.stdin], [], [], 0.005)[0]:
    started = time.monotonic()
    sock.sendall(ping)
    assert b"pong" in sock.recv(4096)
    slowest = max(slowest, time.monotonic() - started)
print(slowest)
"""


@contextmanager
def pinger(port: int) -> Iterator[Callable[[], float]]:
    """A process that asks a gateway again and again whether it is there.

    What is yielded ends it, and returns the seconds the slowest answer took: so long its event loop was busy at most.
    """
    ping = request(action="ping")
    with run_python(_PINGER, str(port), handshake(f"/?token={KEY}").hex(), ping.hex()) as process:
        yield lambda: float(process.communicate("", timeout=10)[0])


@contextmanager
def load(redis: RedisServer, per_s: int, *channels: str, padding_bytes: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that adds entries to the channels in turn, each with the moment (monotonic) it was written."""
    with run_python(_WRITER, str(redis.port), str(per_s), str(padding_bytes), *channels) as process:
        yield process
        process.communicate("", timeout=10)
        assert process.returncode == 0, "the load has failed"


class GatewayProcess:
    """``rsws serve`` on a port that stays the same over a kill; a context manager.

    Attributes:
        url: Where to connect.
    """

    def __init__(self, redis: RedisServer | str, *arguments: str, files: int | None = None) -> None:
        """
        Args:
            redis: The Redis, or its URL.
            files: How many it may open; None for as many as the system allows.
        """
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self._files = files
        url = redis if isinstance(redis, str) else redis.url
        self._arguments = ("serve", "--port", str(self.port), "--redis-url", url, *arguments)
        self.process = self._start()

    def _start(self) -> RswsProcess:
        process = RswsProcess(*self._arguments, env={"WEBSOCKET_SECRET_KEY": KEY, "RSWS_LOG_LEVEL": "warning"})
        if self._files is not None:  # long before it looks
            resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, (self._files, self._files))
        return process

    def __enter__(self) -> Self:
        self.wait_until_up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.__exit__()

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, self.process.output()
                time.sleep(0.01)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.__exit__()

    def start(self) -> None:
        """Again, on the same port; returns at once."""
        self.process = self._start()

    @property
    def memory_bytes(self) -> int:
        """What it has in memory (resident)."""
        pid = self.process.process.pid
        try:
            return resource.getpagesize() * int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except FileNotFoundError:  # a system without /proc
            return 1024 * int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(pid)]))

    @property
    def tracebacks(self) -> int:
        """How many it has logged."""
        return sum(line.startswith("Traceback") for line in self.process.stderr)


class Tap(asyncio.Protocol):
    """A client that takes whole frames as they come, some 500,000 a second; it can stop reading and go on.

    Args:
        on_frame: Called with the payload of each text frame after the welcome.
    """

    def __init__(self, on_frame: Callable[[bytes], None]) -> None:
        self._on_frame = on_frame
        self._buffer = b""
        self._opened = False
        self.welcome = asyncio.get_running_loop().create_future()
        self.closed = asyncio.get_running_loop().create_future()
        self.code: int | None = None
        """The close code, once it is here; None where there is none."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.transport.write(handshake(f"/?token={KEY}"))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        start = 0
        if not self._opened:
            head = buffer.find(b"\r\n\r\n")
            if head < 0:
                self._buffer = buffer
                return
            assert buffer.startswith(b"HTTP/1.1 101"), buffer[:100]
            self._opened, start = True, head + 4
        while (found := first_frame(buffer, start)) is not None:
            opcode, payload, start = found
            match opcode:
                case 1 if self.welcome.done():
                    self._on_frame(payload)
                case 1:
                    self.welcome.set_result(None)
                case 8:
                    self.code = int.from_bytes(payload[:2], "big")
        self._buffer = buffer[start:]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.welcome.done():
            self.welcome.set_exception(exc or ConnectionResetError())
        if not self.closed.done():
            self.closed.set_result(self.code)

    def send(self, **keys: Any) -> None:
        """A request."""
        self.transport.write(request(**keys))

    def send_raw(self, text: bytes) -> None:
        """A request that is written already."""
        self.transport.write(frame(text))


@asynccontextmanager
async def tap(
    url: str, on_frame: Callable[[bytes], None], receive_buffer_bytes: int | None = None
) -> AsyncIterator[Tap]:
    """A tap that was let in."""
    address = urlsplit(url)
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_S):
        await loop.sock_connect(sock, (address.hostname, address.port))
        _, client = await loop.create_connection(lambda: Tap(on_frame), sock=sock)
        await client.welcome
    try:
        yield client
    finally:
        client.transport.abort()
        await client.closed


def message(payload: bytes) -> tuple[str, bytes] | None:
    """Id and data of a frame that is a message of a channel whose name has no quotes; None for another frame."""
    if not payload.startswith(b'{"event":"message"'):
        return None
    start = payload.index(b'"streamId":"') + 12
    end = payload.index(b'"', start)
    return payload[start:end].decode(), payload[end + 9 : -1]  # ","data": is between them


class Latency:
    """How long messages of :func:`kit.load` take from the writer to a tap, in seconds."""

    def __init__(self) -> None:
        self.samples: list[float] = []

    def __call__(self, payload: bytes) -> None:
        found = message(payload)
        if found is not None:
            self.samples.append(time.monotonic() - float(json.loads(found[1])["at"]))

    def take(self) -> list[float]:
        """What was measured since the last call, sorted."""
        samples, self.samples = sorted(self.samples), []
        return samples

    def take_p99(self) -> float:
        """Of what was measured since the last call."""
        samples = self.take()
        return samples[int(len(samples) * 0.99)]


def allow_open_files(count: int) -> None:
    """Raise this process' limit, and that of those it starts from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))

"""The proof that one address can't slow down the others, however often it connects."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import cast

import uvloop

from kit.gateway import KEY, handshake
from kit.load import GatewayProcess, Latency, allow_open_files, load, tap
from kit.proofs.proof import CHANNEL, Proof
from kit.support import RedisServer

ADDRESS = "127.0.0.2"
"""Where the crowd comes from. The defaults apply to it as to any other machine."""
CONNECTIONS, ATTEMPTS = 10_000, 100_000
AT_ONCE = 100
IP_BIND_ADDRESS_NO_PORT = 24
"""Of Linux, which Python does not name."""
OTHERS, PER_S = 100, 100
WARM_S, ALONE_S = 3.0, 10.0
WITHIN = 1.2
NOTICEABLE_S = 0.010
"""A p99 that grows by less than that is no harm: all parties share the machine, and it may have two cores."""


class _Attempt(asyncio.Protocol):
    """A connection that says who it is, and ends with the first word of the gateway unless it is to stay."""

    def __init__(self, token: str, *, stays: bool) -> None:
        self._token, self._stays = token, stays
        self.answered = asyncio.get_running_loop().create_future()
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(handshake(f"/?token={self._token}"))

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self._stays:
            self.transport.abort()
        elif b"Welcome!" in self.received and not self.answered.done():
            self.answered.set_result("let in")

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answered.done():
            is_1013 = b"\x03\xf5" in self.received
            self.answered.set_result("1013" if is_1013 else "answered" if self.received else "cut off")


def _socket() -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    # A port is chosen when it connects, and is free again when it ends: there are fewer of them than attempts.
    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.bind((ADDRESS, 0))
    return sock


async def _crowd(port: int, count: int, token: str, *, stays: bool) -> Counter[str]:
    """Connect so often; return what came of it."""
    loop, seen, left = asyncio.get_running_loop(), Counter[str](), iter(range(count))
    held = []

    async def one() -> None:
        for _ in left:
            try:
                sock = _socket()
                await loop.sock_connect(sock, ("127.0.0.1", port))
                _, attempt = await loop.create_connection(lambda: _Attempt(token, stays=stays), sock=sock)
            except OSError:
                seen["not connected"] += 1
                continue
            seen[await attempt.answered] += 1
            if stays:
                held.append(attempt)

    await asyncio.gather(*[one() for _ in range(AT_ONCE)])
    if stays:
        print(json.dumps(seen), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    for attempt in held:
        attempt.transport.abort()
    return seen


@contextmanager
def _process(front: GatewayProcess, what: str, count: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "kit.proofs.crowd", what, str(front.port), str(count)]
    tests = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=tests, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def _line(process: subprocess.Popen[str]) -> Counter[str]:
    assert process.stdout is not None
    return Counter(json.loads(await asyncio.to_thread(process.stdout.readline)))


async def crowd(proof: Proof) -> None:
    """One address opens 10,000 connections, then tries 100,000 times, beside 100 subscribers from another one."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    connections = CONNECTIONS if files == resource.RLIM_INFINITY else min(CONNECTIONS, files * 4 // 5 - 2 * OTHERS)
    allow_open_files(connections + 2 * OTHERS)
    proof.total(WARM_S + 2 * ALONE_S + 2)
    latency = Latency()
    with RedisServer() as redis, GatewayProcess(redis) as front, load(redis, PER_S, CHANNEL):
        async with AsyncExitStack() as stack:
            for _ in range(OTHERS):
                client = await stack.enter_async_context(tap(front.url, latency))
                client.send(action="subscribe", channel=CHANNEL, lastMessageId="$")
            await proof.sleep(WARM_S)
            latency.take()
            await proof.sleep(ALONE_S)
            alone = latency.take_p99()
            proof.figure("p99 of the others, alone", alone * 1000, "", True, " ms")
            with _process(front, "connections", connections) as process:
                seen = await _line(process)
                _judge(proof, f"while {connections:,} connections are opened", alone, latency.take_p99())
                await proof.sleep(ALONE_S)
                _judge(proof, "while they are there", alone, latency.take_p99())
                for what, count in seen.items():
                    proof.figure(f"of these connections {what}", count, "", True)
            await proof.sleep(1)
            latency.take()
            began = time.monotonic()
            with _process(front, "attempts", ATTEMPTS) as process:
                seen = await _line(process)
            _judge(proof, f"during {ATTEMPTS:,} attempts", alone, latency.take_p99())
            proof.figure("attempts in a second", ATTEMPTS / (time.monotonic() - began), "", True)
            for what, count in seen.items():
                proof.figure(f"of these attempts {what}", count, "", True)
        proof.none("tracebacks", front.tracebacks)


def _judge(proof: Proof, when: str, alone: float, meanwhile: float) -> None:
    bound = max(WITHIN * alone, alone + NOTICEABLE_S)
    reached = meanwhile < bound
    proof.figure(f"p99 of the others, {when}", meanwhile * 1000, f"< {bound * 1000:.3g} ms", reached, " ms")


def main() -> None:
    what, port, count = sys.argv[1:]
    stays = what == "connections"
    allow_open_files(int(count) + 1000 if stays else 4000)
    os.nice(19)
    with suppress(BrokenPipeError):
        seen = uvloop.run(_crowd(int(port), int(count), KEY if stays else "wrong", stays=stays))
        if not stays:
            print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()

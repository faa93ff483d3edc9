"""What ``--compress`` costs and saves: a gateway, clients that take compressed messages and clients that do not.

    .venv/bin/python benchmarks/deflate.py [--clients 200] [--messages 2000] [--bytes 1000]

It runs a Redis or Valkey of this machine and one gateway with ``--compress``, and appends the same messages at a steady
pace, twice: once for clients that offer what browsers offer, once for clients that offer nothing. The messages are JSON
of words and numbers, as applications send it; CPU is the gateway's alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from channels import redis_server

from rsws.redis.link import RedisLink
from rsws.redis.target import RedisTarget

PAUSE_S = 0.005
KEY = "benchmark"
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
HANDSHAKE = (
    f"GET /?token={KEY} HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n"
)
WORDS = (
    "order",
    "user",
    "price",
    "total",
    "status",
    "created",
    "shipped",
    "pending",
    "alice",
    "bob",
    "jakarta",
    "surabaya",
)


def message(number: int, size: int) -> bytes:
    """JSON of at least so many bytes, different each time."""
    chance = random.Random(number)
    fields: dict[str, object] = {"id": number}
    while len(json.dumps(fields)) < size:
        fields[f"{chance.choice(WORDS)}{len(fields)}"] = chance.choice(
            [chance.choice(WORDS), chance.randrange(100_000)]
        )
    return json.dumps(fields).encode()


class Client(asyncio.Protocol):
    """Subscribes to a channel and counts the bytes it gets."""

    def __init__(self, channel: str, headers: str) -> None:
        self.channel, self.headers, self.received = channel, headers, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        request = json.dumps({"action": "subscribe", "channel": self.channel, "lastMessageId": "$"}).encode()
        frame = b"\x81%c\0\0\0\0%b" % (0x80 | len(request), request)  # masked with zeros
        transport.write((HANDSHAKE % self.headers).encode())
        transport.write(frame)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def settled(clients: Sequence[Client]) -> int:
    """The bytes all have received, once nothing more comes."""
    total = -1
    while total != (total := sum([client.received for client in clients])):  # noqa: ASYNC110
        await asyncio.sleep(0.3)
    return total


async def measure(gateway: Gateway, arguments: argparse.Namespace, headers: str) -> tuple[float, float]:
    """CPU microseconds and bytes for one delivery."""
    channel = f"benchmark:{'compressed' if headers else 'plain'}"
    loop = asyncio.get_running_loop()
    pairs = [
        await loop.create_connection(lambda: Client(channel, headers), "127.0.0.1", gateway.port)
        for _ in range(arguments.clients)
    ]
    clients = [client for _, client in pairs]
    bytes_before, cpu_before_s = await settled(clients), cpu_s(gateway.pid)
    for number in range(arguments.messages):
        await gateway.link.call(b"XADD", channel.encode(), b"*", b"messageData", message(number, arguments.bytes))
        await asyncio.sleep(PAUSE_S)
    total_bytes, spent_s = await settled(clients) - bytes_before, cpu_s(gateway.pid) - cpu_before_s
    for transport, _ in pairs:
        transport.abort()
    deliveries = arguments.messages * arguments.clients
    return spent_s / deliveries * 1e6, total_bytes / deliveries


class Gateway(NamedTuple):
    """A gateway that runs, and a link to its Redis."""

    pid: int
    port: int
    link: RedisLink


@asynccontextmanager
async def serving(redis_port: int, *options: str) -> AsyncIterator[Gateway]:
    """``rsws serve OPTIONS``, until the block is left."""
    environment = os.environ | {"REDIS_URL": f"redis://127.0.0.1:{redis_port}", "WEBSOCKET_SECRET_KEY": KEY}
    command = [sys.executable, "-m", "rsws", "serve", "--port", "0", *options]
    gateway = await asyncio.create_subprocess_exec(*command, env=environment, stderr=subprocess.PIPE)
    link = RedisLink(RedisTarget(f"redis://127.0.0.1:{redis_port}", 5), "benchmark")
    running = asyncio.create_task(link.run())
    try:
        assert gateway.stderr is not None
        while b"listening url=" not in (line := await gateway.stderr.readline()):
            assert line, "the gateway did not start"
        port = int(line.split(b"url=")[1].split()[0].rpartition(b":")[2])
        reading = asyncio.create_task(gateway.stderr.read())
        yield Gateway(gateway.pid, port, link)
    finally:
        running.cancel()
        gateway.terminate()
        await gateway.wait()
    await reading


async def run(arguments: argparse.Namespace, redis_port: int) -> None:
    async with serving(redis_port, "--compress") as gateway:
        print("clients that offer      CPU us/delivery   bytes/delivery")
        for name, headers in (("nothing", ""), ("permessage-deflate", OFFER)):
            spent_us, size = await measure(gateway, arguments, headers)
            print(f"{name:22} {spent_us:16.1f} {size:16.0f}")


def main() -> None:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--bytes", type=int, default=1000, help="of a message's data, about")
    arguments = parser.parse_args()
    with redis_server() as port:
        asyncio.run(run(arguments, port))


if __name__ == "__main__":
    main()

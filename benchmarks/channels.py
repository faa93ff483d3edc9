"""What a message costs, and how long it takes, when many channels are live: the gateway's reader on a real Redis.

    .venv/bin/python benchmarks/channels.py                      # 100, 1,000 and 10,000 channels, 1 message/s each
    .venv/bin/python benchmarks/channels.py 100 5000 --rate 2    # other numbers of channels, 2 messages/s each
    .venv/bin/python benchmarks/channels.py 1 --rate 20 --readers 32    # as many gateways follow the same channel
    .venv/bin/python benchmarks/channels.py --json               # for programs

It runs a Redis or Valkey of this machine without persistence, a process that appends messages at a steady pace, one
channel after the other in random order, and, in this process, the reader that follows them all. What a gateway does
with a message afterwards (encode, send) does not depend on the number of channels and is not in it.

Each message pays for waking both processes when there are few of them, and shares that with others when there are
many: ``10 --rate 1000`` shows the cost of as many messages in few channels. With ``--readers`` the figures are for
all readers together, and a latency is one for each of them. The latency runs from the moment just
before the message is sent to Redis; where fewer cores than the three processes are free it is the scheduler's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import re
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import uvloop

from rsws.embedded.valkey import choose_server
from rsws.errors import StoreError
from rsws.ownership import PrivateDir
from rsws.protocol import ZERO
from rsws.redis.connection import pack
from rsws.redis.link import RedisLink
from rsws.redis.target import RedisTarget
from rsws.streams.reader import Reader
from rsws.streams.replies import Entry

TICK_S = 0.001
"""The writer sends what is due, and waits at least so long for more."""
SETTLE_S = 2.0
"""How long the writer writes before anything is measured."""
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Result:
    """One run; CPU in microseconds per message."""

    channels: int
    messages_per_s: float
    redis_us: float
    append_us: float
    """The part of ``redis_us`` that the same appends cost when nobody reads."""
    reader_us: float
    p50_ms: float
    p99_ms: float
    max_ms: float


@contextmanager
def redis_server() -> Iterator[int]:
    """A server on a free port, which is yielded."""
    with tempfile.TemporaryDirectory() as directory:
        _, binary = choose_server(PrivateDir(Path(directory)))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        options = ("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", directory)
        with subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL) as server:
            try:
                wait_for(port)
                yield port
            finally:
                server.kill()


def wait_for(port: int) -> None:
    """Return when somebody listens."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), TIMEOUT_S).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def write(port: int, channels: list[str], rate: float) -> None:
    """Append ``rate`` messages per second for ever; each says when it was sent (monotonic, ns)."""
    random.shuffle(channels)
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as redis:
        start, sent = time.monotonic(), 0
        while True:
            time.sleep(max(TICK_S, start + (sent + 1) / rate - time.monotonic()))
            due = int((time.monotonic() - start) * rate)
            keys = [channels[number % len(channels)].encode() for number in range(sent, due)]
            now = b"%d" % time.monotonic_ns()
            redis.sendall(b"".join([pack(b"XADD", key, b"*", b"messageData", now) for key in keys]))
            while sent < due:
                sent += redis.recv(1 << 20).count(b"$")  # one in each reply


@asynccontextmanager
async def writing(port: int, channels: list[str], rate: float) -> AsyncIterator[None]:
    """A writer in a process of its own, up to its pace."""
    writer = multiprocessing.get_context("spawn").Process(target=write, args=(port, channels, rate), daemon=True)
    writer.start()
    try:
        await asyncio.sleep(SETTLE_S)
        assert writer.is_alive(), "the writer has failed"
        yield
    finally:
        writer.kill()
        writer.join()


async def redis_cpu_s(link: RedisLink) -> float:
    """What Redis has used since its start."""
    info = (await link.call(b"INFO", b"cpu")).decode()
    return sum(float(seconds) for seconds in re.findall(r"^used_cpu_(?:user|sys):([\d.]+)", info, flags=re.MULTILINE))


async def measure(port: int, count: int, rate: float, seconds: float, readers: int) -> Result:
    """One run with ``count`` channels, ``rate`` messages per second in each, and readers that follow all of them."""
    channels = [f"channel-{number}" for number in range(count)]
    target = RedisTarget(f"redis://127.0.0.1:{port}", TIMEOUT_S)
    link = RedisLink(target, "benchmark")
    following = [Reader(target) for _ in range(readers)]
    follower = Latencies()
    latencies_ns = follower.latencies_ns

    async def appended() -> int:
        stats = (await link.call(b"INFO", b"commandstats")).decode()
        calls = re.search(r"^cmdstat_xadd:calls=(\d+)", stats, flags=re.MULTILINE)
        return int(calls[1]) if calls is not None else 0

    rooms = [asyncio.create_task(link.run()), *[asyncio.create_task(reader.run()) for reader in following]]
    try:
        await link.call(b"FLUSHALL")
        async with writing(port, channels, count * rate):
            before, cpu_s = await appended(), await redis_cpu_s(link)
            await asyncio.sleep(seconds)
            append_us = (await redis_cpu_s(link) - cpu_s) / max(1, await appended() - before) * 1e6
        await link.call(b"FLUSHALL")
        for reader in following:
            for channel in channels:
                reader.follow(channel, ZERO, follower)
        async with writing(port, channels, count * rate):
            latencies_ns.clear()
            cpu_s, own_s, started = await redis_cpu_s(link), time.process_time(), time.monotonic()
            await asyncio.sleep(seconds)
            own_s, took_s = time.process_time() - own_s, time.monotonic() - started
            measured = list(latencies_ns)
            cpu_s = await redis_cpu_s(link) - cpu_s
    finally:
        for room in rooms:
            room.cancel()
        await asyncio.wait(rooms)
    messages = len(measured) / readers
    percentiles = [ns / 1e6 for ns in statistics.quantiles(measured, n=100)]
    return Result(
        channels=count,
        messages_per_s=messages / took_s,
        redis_us=cpu_s / messages * 1e6,
        append_us=append_us,
        reader_us=own_s / messages * 1e6,
        p50_ms=percentiles[49],
        p99_ms=percentiles[98],
        max_ms=max(measured) / 1e6,
    )


@dataclass
class Latencies:
    """Follows streams, and notes how long each message took."""

    latencies_ns: list[int] = field(default_factory=list)

    def deliver(self, entries: list[Entry]) -> None:
        """See :class:`rsws.streams.follower.Follower`."""
        now = time.monotonic_ns()
        self.latencies_ns.extend([now - int(entry.data or 0) for entry in entries])

    def unreadable(self, error: StoreError) -> None:
        """See :class:`rsws.streams.follower.Follower`."""
        raise AssertionError(f"a stream can't be read: {error}")

    def interrupted(self) -> None:
        """See :class:`rsws.streams.follower.Follower`."""
        raise AssertionError("reading was interrupted")

    def replaced(self) -> None:
        """See :class:`rsws.streams.follower.Follower`."""
        raise AssertionError("the stream is another one")


def main() -> None:
    """Measure and print."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("channels", nargs="*", type=int, default=[100, 1000, 10_000], help="how many, one run each")
    parser.add_argument("--rate", type=float, default=1.0, help="messages per second in each channel (1)")
    parser.add_argument("--readers", type=int, default=1, help="how many gateways follow them all (1)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each run is measured (10)")
    parser.add_argument("--json", action="store_true", help="one JSON object per run instead of the table")
    arguments = parser.parse_args()
    columns = " {:>9} {:>11} {:>9} {:>10} {:>10} {:>8} {:>8} {:>8}"
    if not arguments.json:
        print(
            columns.format("channels", "messages/s", "redis us", "append us", "reader us", "p50 ms", "p99 ms", "max ms")
        )
    with redis_server() as port, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for count in arguments.channels:
            result = asdict(runner.run(measure(port, count, arguments.rate, arguments.seconds, arguments.readers)))
            if arguments.json:
                print(json.dumps(result), flush=True)
            else:
                figures = [f"{figure:.1f}" if isinstance(figure, float) else figure for figure in result.values()]
                print(columns.format(*figures), flush=True)


if __name__ == "__main__":
    main()

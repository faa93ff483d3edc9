"""Hostile clients, each a way to harm others that once worked: a process of its own, for :mod:`kit.hostile`.

    python -m kit.attacks PORT REDIS_PORT SECONDS NAME...

It prepares what is needed in Redis, prints a line, waits for one, attacks for that many seconds, leaves, and prints
what the attackers saw as JSON. It is not urgent (``nice``): what the honest feel is to be the gateway's, not its CPU.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import uvloop

import redis
from kit.gateway import KEY, frame, handshake
from kit.load import Tap, allow_open_files, tap
from kit.support import MIB

BIG = json.dumps("x" * 1_000_000)
SMALL = json.dumps("y" * 50)
SILENT = 200
WRONG_TOKENS = 500
MANY_CHANNELS = 5000


@dataclass
class Scene:
    """Where it happens, and what is seen."""

    port: int
    redis: redis.Redis
    seconds: float
    ends: float = 0
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.ends

    async def rest(self) -> None:
        """Wait until it is over."""
        await asyncio.sleep(max(0.0, self.ends - time.monotonic()))

    def fill(self, channel: str, data: str, count: int) -> None:
        """A stream of that many entries."""
        self.redis.delete(channel)
        for start in range(0, count, 10_000 if len(data) < 1000 else 10):
            pipeline = self.redis.pipeline(transaction=False)
            for _ in range(min(count - start, 10_000 if len(data) < 1000 else 10)):
                pipeline.xadd(channel, {"messageData": data})
            pipeline.execute()

    @asynccontextmanager
    async def raw(self, token: str | None = KEY):  # type: ignore[no-untyped-def]
        """A connection made of bytes; a token of None leaves it before its handshake."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            if token is not None:
                writer.write(handshake(f"/?token={token}"))
            yield reader, writer
        finally:
            writer.transport.abort()


def ignore(payload: bytes) -> None:
    """What a client gets that does not care."""


async def let_in(scene: Scene, stack: AsyncExitStack) -> Tap:
    """A client that has been let in: one that came in the crowd of the silent may have been cut off with them first."""
    while True:
        try:
            return await stack.enter_async_context(tap(scene.url, ignore))
        except OSError:
            if scene.over:
                raise
            await asyncio.sleep(0.05)


async def names(scene: Scene) -> None:
    """Subscribes with names of 1 MiB, 40 a second."""
    async with tap(scene.url, ignore) as client:
        number = 0
        while not scene.over:
            client.send(action="subscribe", channel=f"{number}" + "n" * (MIB - 100))
            number += 1
            await asyncio.sleep(0.025)
        scene.seen["names"] += number


async def pings(scene: Scene) -> None:
    """1 MiB of empty pings from 25 clients, and from 25 without a token."""
    flood = frame(b"", 9) * (MIB // 6)

    async def one(token: str) -> None:
        with suppress(OSError):
            async with scene.raw(token) as (reader, writer):
                writer.write(flood)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, scene.ends - time.monotonic())):
                        while data := await reader.read(256 * 1024):
                            scene.seen["pong bytes"] += len(data)

    await asyncio.gather(*[one(KEY if number % 2 else "wrong") for number in range(50)])


def prepare_sleeper(scene: Scene) -> None:
    for number in range(150):
        scene.fill(f"big-{number}", BIG, 1)


async def sleeper(scene: Scene) -> None:
    """150 subscriptions to messages of 1 MB, and nothing is read."""
    async with tap(scene.url, ignore, 4096) as client:
        client.transport.pause_reading()
        for number in range(150):
            client.send(action="subscribe", channel=f"big-{number}")
        await scene.rest()


def prepare_pages(scene: Scene) -> None:
    scene.fill("grows", SMALL, 2000)
    pipeline = scene.redis.pipeline(transaction=False)
    for _ in range(257):
        pipeline.xadd("grows", {"messageData": BIG})
    pipeline.execute()


async def pages(scene: Scene) -> None:
    """One subscribe to small messages and then 257 of 1 MB, which are read slowly."""
    async with tap(scene.url, ignore, 4096) as client:
        client.send(action="subscribe", channel="grows")
        while not scene.over:
            await asyncio.sleep(0.05)
            client.transport.pause_reading()
            await asyncio.sleep(0.05)
            client.transport.resume_reading()


def prepare_last(scene: Scene) -> None:
    scene.fill("long", SMALL, 300_000)


async def last(scene: Scene) -> None:
    """50 clients ask for the last 300,000, give or take a few, and leave."""

    async def one(number: int) -> None:
        with suppress(OSError):
            async with tap(scene.url, lambda payload: scene.seen.update(["frames of the long stream"])) as client:
                client.send(action="subscribe", channel="long", last=300_000 - number)
                await asyncio.sleep(0.2)

    await asyncio.gather(*[one(number) for number in range(50)])


async def publishes(scene: Scene) -> None:
    """16 connections publish messages of 1 MB, eight at a time."""

    async def one(number: int) -> None:
        answers = 0
        done = asyncio.Event()

        def answered(payload: bytes) -> None:
            nonlocal answers
            answers += 1
            scene.seen["1 MB stored" if b'"ack"' in payload else "1 MB refused"] += 1
            if answers % 8 == 0:
                done.set()

        with suppress(OSError):
            async with tap(scene.url, answered) as client:
                while not scene.over:
                    done.clear()
                    for turn in range(8):
                        client.send(action="publish", channel=f"flood-{number}", data=BIG, messageId=str(turn))
                    with suppress(TimeoutError):
                        async with asyncio.timeout(max(0.1, scene.ends - time.monotonic())):
                            await done.wait()
                    scene.redis.xtrim(f"flood-{number}", maxlen=1, approximate=False)
                    await asyncio.sleep(0.5)

    await asyncio.gather(*[one(number) for number in range(16)])


async def rings(scene: Scene) -> None:
    """300 channels whose rings were filled and that are quiet since."""
    async with tap(scene.url, ignore) as client:
        for number in range(300):
            client.send(action="subscribe", channel=f"quiet-{number}", lastMessageId="$")
        await asyncio.sleep(0.5)
        data = json.dumps("q" * 10_000)
        for number in range(300):
            scene.fill(f"quiet-{number}", data, 30)
            await asyncio.sleep(0.002)
        await scene.rest()


async def deep(scene: Scene) -> None:
    """XADD of data nested as deep as JSON can just be read, or just not."""
    while not scene.over:
        for depth in range(970, 980):
            scene.redis.xadd("deep", {"messageData": "[" * depth + "]" * depth})
        await asyncio.sleep(0.5)


async def once(scene: Scene) -> None:
    """Publishes to where the gateway remembers producers."""

    def answered(payload: bytes) -> None:
        scene.seen["rsws: stored" if b'"ack"' in payload else "rsws: refused"] += 1

    async with tap(scene.url, answered) as client:
        for number in range(100):
            client.send(
                action="publish", channel=f"rsws:once:{{honest-{number % 20}}}:p:{number}", data=1, messageId="m"
            )
            await asyncio.sleep(0.01)
        await scene.rest()


async def silent(scene: Scene) -> None:
    """Sockets that say nothing, with those that were cut off replaced."""
    async with AsyncExitStack() as stack:
        for number in range(SILENT):
            with suppress(OSError):
                await stack.enter_async_context(scene.raw(None))
            if number % 20 == 0:
                await asyncio.sleep(0.05)
        await scene.rest()


async def metrics(scene: Scene) -> None:
    """GET /metrics, 100 times a second, of a gateway with many channels."""
    async with AsyncExitStack() as stack:
        for number in range(MANY_CHANNELS // 1000):
            client = await let_in(scene, stack)
            for channel in range(1000):
                client.send(action="subscribe", channel=f"empty-{number}-{channel}", lastMessageId="$")
        while not scene.over:
            with suppress(OSError):
                async with scene.raw(None) as (reader, writer):
                    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                    scene.seen["metrics bytes"] += len(await reader.read())
            await asyncio.sleep(0.01)


async def tokens(scene: Scene) -> None:
    """500 wrong tokens, as many a second as the span has room for."""

    async def one(number: int) -> None:
        await asyncio.sleep(number * scene.seconds * 0.8 / WRONG_TOKENS)
        with suppress(OSError):
            async with scene.raw(f"guess-{number}") as (reader, _):
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.1, scene.ends - time.monotonic())):
                        if b"401" in await reader.read():
                            scene.seen["guesses answered"] += 1

    await asyncio.gather(*[one(number) for number in range(WRONG_TOKENS)])


async def header(scene: Scene) -> None:
    """The header of a frame that breaks the rules, whose body never comes."""
    for head in (b"\x83\xfe\xff\xff", b"\x81\x7e\xff\xff", b"\x81\xff" + b"\xff" * 8):
        done = False
        while not (done or scene.over):
            with suppress(OSError, EOFError):  # cut off before it was let in: once more
                async with scene.raw() as (reader, writer):
                    await reader.readuntil(b'Welcome!"}')
                    done = True
                    writer.write(head)
                    answer = b""
                    with suppress(TimeoutError):
                        async with asyncio.timeout(3):
                            answer = await reader.read(100)  # not all up to the end: a timeout would lose it
                    scene.seen["bad headers answered" if answer else "bad headers not answered"] += 1
    await scene.rest()


ATTACKS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    attack.__name__: attack
    for attack in (
        names, pings, sleeper, pages, last, publishes, rings, deep, once, silent, metrics, tokens, header,
    )
}  # fmt: skip
PREPARATIONS: dict[str, Callable[[Scene], None]] = {
    "sleeper": prepare_sleeper,
    "pages": prepare_pages,
    "last": prepare_last,
}


async def attack(scene: Scene, chosen: list[str]) -> None:
    results = await asyncio.gather(*[ATTACKS[name](scene) for name in chosen], return_exceptions=True)
    for name, result in zip(chosen, results, strict=True):
        if isinstance(result, BaseException):
            print(f"{name}: {result!r}", file=sys.stderr)
            scene.seen[f"{name} broke off"] += 1


def main() -> None:
    port, redis_port, seconds, *chosen = sys.argv[1:]
    allow_open_files(4000)
    scene = Scene(int(port), redis.Redis(port=int(redis_port), socket_timeout=60), float(seconds))
    for name in chosen:
        if name in PREPARATIONS:
            PREPARATIONS[name](scene)
    os.nice(19)
    print("ready", flush=True)
    sys.stdin.readline()
    scene.ends = time.monotonic() + scene.seconds
    uvloop.run(attack(scene, chosen))
    print(json.dumps(scene.seen), flush=True)


if __name__ == "__main__":
    main()

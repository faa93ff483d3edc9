"""Proofs that plain HTTP gets and stores what a WebSocket does."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from kit import durable_streams
from kit.curl import Curl
from kit.faults import Proxy
from kit.gateway import entries
from kit.http import publish_twice
from kit.load import GatewayProcess, load, message, tap
from kit.proofs.proof import CHANNEL, Proof, reached
from kit.support import RedisServer


async def curl(proof: Proof) -> None:
    """curl -N with Last-Event-ID, cut off 20 times at 3,000 messages/s, beside a WebSocket."""
    cuts = 20
    proof.total(cuts)
    ids: list[str] = []

    def on_frame(payload: bytes) -> None:
        found = message(payload)
        if found is not None:
            ids.append(found[0])

    with RedisServer() as redis, GatewayProcess(redis) as front:
        async with Proxy(front.port) as link, tap(front.url, on_frame) as client:
            client.send(action="subscribe", channel=CHANNEL, lastMessageId="0")
            subscriber = Curl(link.port, CHANNEL)
            reading = asyncio.create_task(subscriber.run())
            started = time.monotonic()
            with load(redis, 3000, CHANNEL):
                for cut in range(cuts):
                    await reached(lambda: subscriber.started > cut)  # noqa: B023
                    await reached(partial(has_read, subscriber, len(subscriber.ids) + 1))
                    await asyncio.sleep(0.5)
                    link.cut()
                    proof.advance()
                seconds = time.monotonic() - started
            stream = [id for id, _ in entries(redis, CHANNEL)]
            await reached(lambda: stream[-1:] == ids[-1:] == subscriber.ids[-1:])
            reading.cancel()
            await asyncio.wait([reading])
    proof.figure("messages a second", len(stream) / seconds, "> 2,500", len(stream) > 2500 * seconds)
    proof.figure("times that curl began again", subscriber.started - 1, f"= {cuts}", subscriber.started - 1 == cuts)
    for who, read in (("curl", subscriber.ids), ("the WebSocket", ids)):
        proof.figure(
            f"ids that {who} has read", len(read), f"= {len(stream):,} in the stream, in order", read == stream
        )


def has_read(subscriber: Curl, count: int) -> bool:
    return len(subscriber.ids) >= count


async def published_twice(proof: Proof) -> None:
    """10,000 publishes with Idempotency-Key, each sent twice; every other first answer is cut off."""
    count = 10_000
    proof.total(count)
    with RedisServer() as redis, GatewayProcess(redis) as front:
        wrong = await publish_twice(front.port, CHANNEL, count, done=proof.advance)
        stored = [fields["messageData"] for _, fields in entries(redis, CHANNEL)]
    proof.none(f"wrong answers {wrong[:2] or ''}", len(wrong))
    proof.figure("entries", len(stored), f"= {count:,} keys", sorted(stored) == sorted(map(str, range(count))))


async def conformance(proof: Proof) -> None:
    """The conformance tests of Durable Streams that apply, through an adapter onto plain HTTP."""
    with RedisServer() as redis, TemporaryDirectory() as directory:
        found = await asyncio.to_thread(durable_streams.conformance, redis, Path(directory))
    for failed in found.failed:
        proof.none(failed, 1)
    proof.figure("tests that apply and pass", found.passed, f"= 148 of {found.total}", found.passed == 148)

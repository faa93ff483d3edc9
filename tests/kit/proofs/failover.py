"""Proofs that a failover of Redis loses nothing acked, where replicas are waited for, and is over soon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from kit.checker import History, Publisher, Subscriber, stream_of
from kit.faults import Proxy, link_is_up
from kit.gateway import http
from kit.load import GatewayProcess
from kit.proofs.proof import CHANNEL, Proof, end_of, have_acked, reached
from kit.sentinels import Sentinels
from kit.support import RedisServer

Fail = Callable[[History], Awaitable[None]]
"""Has a failover happen, and returns when the new primary can be reached."""
Settle = Callable[[], Awaitable[None]]
"""Waits until the next failover can happen."""


def last_words(history: History, old: RedisServer, channels: Sequence[str] = (CHANNEL,)) -> None:
    """Let nothing more be written to ``old``, and note what it has: the new primary may lack some of it."""
    old.call("CLIENT", "PAUSE", 60_000, "WRITE")
    for channel in channels:
        history.reset(channel, stream_of(old, channel))


async def demoted(proof: Proof) -> None:
    """20 demotions of the primary behind a moving address, with 20 publishers and 100 subscribers."""
    with RedisServer(repl_diskless_sync_delay="0") as one, RedisServer(repl_diskless_sync_delay="0") as other:
        other.call("REPLICAOF", "127.0.0.1", one.port)
        link_is_up(other)
        pair = [one, other]
        async with Proxy(one.port) as address:

            async def fail(history: History) -> None:
                old, new = pair
                new.call("REPLICAOF", "NO", "ONE")
                last_words(history, old)
                old.call("REPLICAOF", "127.0.0.1", new.port)
                old.call("CLIENT", "UNPAUSE")
                await asyncio.sleep(history.chance.uniform(0, 0.5))
                address.lead_to(new.port)
                pair.reverse()

            async def settle() -> None:
                await asyncio.to_thread(link_is_up, pair[1])

            with GatewayProcess(address.redis_url, "--wait-replicas", "1") as front:
                await _prove(proof, front, 20, fail, settle, lambda: pair[0])


async def sentinel(proof: Proof) -> None:
    """10 times kill -9 of the primary that sentinels name, with 20 publishers and 100 subscribers."""
    with Sentinels() as group:
        killed: list[RedisServer] = []

        async def fail(history: History) -> None:
            old = group.primary
            last_words(history, old)
            old.kill()
            killed.append(old)
            await asyncio.to_thread(group.until_primary_is_not, old)

        async def settle() -> None:
            old = killed.pop()
            old.options["replicaof"] = (
                f"127.0.0.1 {group.primary.port}"  # as the sentinels will have it in half a minute
            )
            old.start()
            await asyncio.to_thread(group.settle)

        with GatewayProcess(group.url, "--wait-replicas", "1") as front:
            await _prove(proof, front, 10, fail, settle, lambda: group.primary)


async def _prove(
    proof: Proof,
    front: GatewayProcess,
    rounds: int,
    fail: Fail,
    settle: Settle,
    primary: Callable[[], RedisServer],
) -> None:
    proof.total(rounds)
    history = History(proof.seed)
    over = asyncio.Event()
    publishers = [Publisher(history, f"p{n}", [front.url], CHANNEL, once=True, pause_s=0.2) for n in range(20)]
    subscribers = [Subscriber(history, f"s{n}", [front.url], CHANNEL) for n in range(100)]
    slowest_s = 0.0
    async with asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(subscriber.run()) for subscriber in subscribers]
        publishing = [tasks.create_task(publisher.run(over)) for publisher in publishers]
        for _ in range(rounds):
            await reached(partial(have_acked, publishers, sum(each.acked for each in publishers) + 40))
            await fail(history)
            reachable_at = time.monotonic()
            await asyncio.wait_for(alive(front, primary()), 30)
            slowest_s = max(slowest_s, time.monotonic() - reachable_at)
            await settle()  # without a replica nothing is acked
            proof.advance()
        over.set()
        async with asyncio.timeout(60):
            await asyncio.gather(*publishing)
        await end_of(history, primary(), subscribers)
        for task in reading:
            task.cancel()
    stream = stream_of(primary(), CHANNEL)
    proof.none("tracebacks", front.tracebacks)
    proof.figure("live again after, at the slowest", slowest_s, "< 1 s", slowest_s < 1, " s")
    proof.figure("acked", sum(each.acked for each in publishers), "> 500", len(stream) > 500)
    proof.judged(history, stream)


async def alive(front: GatewayProcess, primary: RedisServer) -> None:
    """Wait until the gateway has all its connections to this primary, and says that it is ready."""
    wanted = {"rsws-commands", "rsws-history", "rsws-reader"}
    while True:
        clients = await asyncio.to_thread(primary.client.client_list)
        if wanted <= {each["name"] for each in clients} and (await http(front, "/readyz"))[0] == 200:
            return
        await asyncio.sleep(0.005)

"""Proofs that every publish gets exactly one answer, and the truth."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from operator import gt, ne

from kit.checker import History, Publisher, Subscriber, stream_of
from kit.faults import Proxy, killed, paused
from kit.gateway import gateway
from kit.load import GatewayProcess
from kit.proofs.proof import CHANNEL, Proof, durable_redis, end_of, have_acked, reached
from kit.support import RedisServer


async def reply_cut(proof: Proof) -> None:
    """The reply is cut after XADD x 200, without and with a producer that sends again."""
    rounds = 200
    proof.total(2 * rounds)
    history = History(proof.seed)
    with RedisServer() as redis:
        async with Proxy(redis.port) as link, gateway(link.redis_url) as server:
            for once in (False, True):
                publisher = Publisher(history, f"once={once}", [server.url], CHANNEL, once=once, window=1)
                over = asyncio.Event()
                publishing = asyncio.create_task(publisher.run(over))
                for _ in range(rounds):
                    with link.cut_reply(b"EVALSHA\r\n" if once else b"XADD\r\n") as cut:
                        await reached(partial(getattr, cut, "done"))
                    acked = publisher.acked
                    await reached(partial(have_acked, [publisher], acked + 1))
                    proof.advance()
                over.set()
                await publishing
        stream = stream_of(redis, CHANNEL)
    unknown = sum(sent.unknown > 0 for sent in history.sends.values())
    proof.figure("messages whose reply was cut", unknown, f">= {2 * rounds}", unknown >= 2 * rounds)
    proof.figure("entries", len(stream), f"= {len(history.sends):,} messageIds", len(stream) == len(history.sends))
    proof.judged(history, stream)


async def redis_killed(proof: Proof) -> None:
    """kill -9 of a Redis with `appendfsync always` x 50 under 20 publishers."""
    rounds = 50
    proof.total(rounds)
    history = History(proof.seed)
    with durable_redis() as redis, GatewayProcess(redis) as front:
        over = asyncio.Event()
        publishers = [
            Publisher(history, f"p{number}", [front.url], CHANNEL, once=number % 2 == 0, pause_s=0.01)
            for number in range(20)
        ]
        subscribers = [Subscriber(history, f"s{number}", [front.url], CHANNEL) for number in range(5)]
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(subscriber.run()) for subscriber in subscribers]
            publishing = [tasks.create_task(publisher.run(over)) for publisher in publishers]
            for _ in range(rounds):
                goal = sum(publisher.acked for publisher in publishers) + 100
                await reached(partial(have_acked, publishers, goal))
                await asyncio.sleep(history.chance.uniform(0, 0.1))
                with killed(redis):
                    await asyncio.sleep(history.chance.uniform(0, 0.1))
                proof.advance()
            over.set()
            async with asyncio.timeout(30):
                await asyncio.gather(*publishing)
            await end_of(history, redis, subscribers)
            for task in reading:
                task.cancel()
        stream = stream_of(redis, CHANNEL)
        proof.none("tracebacks", front.tracebacks)
    unknown = sum(sent.unknown for sent in history.sends.values())
    proof.figure("acked", sum(publisher.acked for publisher in publishers), "> 5,000", len(stream) > 5000)
    proof.figure("of unknown outcome, sent again or left", unknown, "> 0", unknown > 0)
    proof.judged(history, stream)


async def redis_paused(proof: Proof) -> None:
    """Redis is stopped with SIGSTOP for 8 s under load."""
    proof.total(8 + 4)
    history = History(proof.seed)
    with durable_redis() as redis, GatewayProcess(redis) as front:
        over = asyncio.Event()
        publishers = [
            Publisher(history, f"p{number}", [front.url], CHANNEL, once=number % 2 == 0, pause_s=0.005)
            for number in range(40)
        ]
        subscribers = [Subscriber(history, f"s{number}", [front.url], CHANNEL) for number in range(8)]
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(subscriber.run()) for subscriber in subscribers]
            publishing = [tasks.create_task(publisher.run(over)) for publisher in publishers]
            await proof.sleep(2)
            with paused(redis):
                await proof.sleep(8)
                acked = [publisher.acked for publisher in publishers]
                positions = [subscriber.position for subscriber in subscribers]
            resumed = time.monotonic()
            await reached(lambda: all(map(ne, [subscriber.position for subscriber in subscribers], positions)))
            delivering_s = time.monotonic() - resumed
            await reached(lambda: all(map(gt, [publisher.acked for publisher in publishers], acked)))
            storing_s = time.monotonic() - resumed
            await proof.sleep(2)
            over.set()
            async with asyncio.timeout(30):
                await asyncio.gather(*publishing)
            await end_of(history, redis, subscribers)
            connections = sum(subscriber.connections for subscriber in subscribers)
            for task in reading:
                task.cancel()
        stream = stream_of(redis, CHANNEL)
    proof.figure(
        "every subscriber gets messages again after", delivering_s * 1000, "< 1,000 ms", delivering_s < 1, " ms"
    )
    proof.figure("every publisher gets acks again after", storing_s * 1000, "< 1,000 ms", storing_s < 1, " ms")
    unknown = sum(sent.unknown for sent in history.sends.values())
    proof.figure("of unknown outcome, sent again or left", unknown, "> 0", unknown > 0)
    proof.none("sockets lost", connections - len(subscribers))
    proof.judged(history, stream)

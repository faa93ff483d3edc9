"""Proofs that every message is delivered, once and in order, and that nobody waits for another."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial
from statistics import median

from kit.checker import History, Log, Publisher, Subscriber, decode, stream_of
from kit.faults import command_calls
from kit.gateway import add
from kit.load import GatewayProcess, Latency, Tap, allow_open_files, load, message, pinger, tap
from kit.proofs.proof import CHANNEL, Proof, durable_redis, end_of, reached
from kit.support import MIB, RedisServer


async def gateway_killed(proof: Proof) -> None:
    """kill -9 of one of two gateways x 20, with 200 clients that resume and 6 that publish."""
    rounds = 20
    proof.total(rounds)
    history = History(proof.seed)
    with durable_redis() as redis, GatewayProcess(redis) as one, GatewayProcess(redis) as other:
        urls = [one.url, other.url]
        over = asyncio.Event()
        publishers = [
            Publisher(history, f"p{number}", urls, CHANNEL, once=number < 4, pause_s=0.05) for number in range(6)
        ]
        subscribers = [Subscriber(history, f"s{number}", urls, CHANNEL) for number in range(200)]
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(subscriber.run()) for subscriber in subscribers]
            publishing = [tasks.create_task(publisher.run(over)) for publisher in publishers]
            await asyncio.sleep(1)
            for _ in range(rounds):
                victim = history.chance.choice([one, other])
                victim.kill()
                await asyncio.sleep(history.chance.uniform(0.1, 0.5))
                victim.start()
                await asyncio.to_thread(victim.wait_until_up)
                await asyncio.sleep(history.chance.uniform(0.2, 0.8))
                proof.advance()
            over.set()
            async with asyncio.timeout(30):
                await asyncio.gather(*publishing)
            await end_of(history, redis, subscribers)
            for task in reading:
                task.cancel()
        stream = stream_of(redis, CHANNEL)
        proof.none("tracebacks", one.tracebacks + other.tracebacks)
    resumed = sum(subscriber.connections for subscriber in subscribers) - len(subscribers)
    delivered = sum(len(log.events) for log in history.logs)
    proof.figure("times resumed", resumed, "> 1,000", resumed > 1000)
    proof.figure("delivered", delivered, f"= {len(stream)} x 200", delivered == len(stream) * 200)
    proof.judged(history, stream)


async def sleeper(proof: Proof) -> None:
    """A client sleeps for 45 s at 10,000 messages/s."""
    asleep_s, before_s, warm_s = 45, 15, 15
    proof.total(warm_s + before_s + asleep_s + 15)
    history = History(proof.seed)
    log = history.subscribed("sleeper", CHANNEL, "0-0")
    with RedisServer() as redis, GatewayProcess(redis) as front, load(redis, 10_000, CHANNEL) as writer:
        started = time.monotonic()
        async with AsyncExitStack() as stack:
            others = Latency()
            for _ in range(4):
                other = await stack.enter_async_context(tap(front.url, others))
                other.send(action="subscribe", channel=CHANNEL, lastMessageId="$")
            client = await stack.enter_async_context(tap(front.url, partial(write_down, log), 64 * 1024))
            client.send(action="subscribe", channel=CHANNEL)
            await proof.sleep(warm_s)
            others.take()
            before = [await p99_of_a_second(proof, others) for _ in range(before_s)]
            memory = most = front.memory_bytes
            client.transport.pause_reading()
            asleep = []
            for _ in range(asleep_s):
                asleep.append(await p99_of_a_second(proof, others))
                most = max(most, front.memory_bytes)
            most_asleep = most
            client.transport.resume_reading()
            woken = time.monotonic()
            seconds = woken - started
            await asyncio.to_thread(writer.communicate, "")
            last = redis.call("XREVRANGE", CHANNEL, "+", "-", "COUNT", 1)[0][0].decode()
            async with asyncio.timeout(120):
                while not log.events or log.events[-1][0] != last:
                    await proof.sleep(0.1)
                    most = max(most, front.memory_bytes)
            caught_up_s = time.monotonic() - woken
        stream = stream_of(redis, CHANNEL)
    history.written(stream)
    # Of the seconds the median: other programs on this machine have their moments, too.
    p99, p99_asleep = median(before), median(asleep)
    rate = len(stream) / seconds
    proof.figure("messages a second", round(rate), "> 9,500", rate > 9500)
    for what, bytes_ in (("meanwhile", most_asleep - memory), ("until it had caught up", most - memory)):
        proof.figure(f"memory of the gateway grew by, {what}", bytes_ / MIB, "< 10 MiB", bytes_ < 10 * MIB, " MiB")
    proof.figure("p99 of the others, nobody asleep", p99 * 1000, "", True, " ms")
    proof.figure("p99 of the others, one asleep", p99_asleep * 1000, "within 20 %", p99_asleep < p99 * 1.2, " ms")
    proof.figure("everything delivered, after waking", caught_up_s, "", True, " s")
    proof.figure("delivered to the sleeper", len(log.events), f"= {len(stream):,}", len(log.events) == len(stream))
    proof.judged(history, stream)


async def p99_of_a_second(proof: Proof, latency: Latency) -> float:
    await proof.sleep(1)
    return latency.take_p99()


def write_down(log: Log, payload: bytes) -> None:
    found = message(payload)
    if found is not None:
        log.message(*found)
    elif b'"gap"' in payload:
        gap = decode(payload)
        log.gap(gap.lastMessageId, gap.resumesAt, gap.reason)


async def joins(proof: Proof) -> None:
    """1,000 clients join at random positions while 5,000 messages a second come in."""
    count, wanted, live_for = 1000, 1000, 300
    proof.total(count)
    history = History(proof.seed)
    history_ids: list[str] = []

    async def join(number: int) -> None:
        log: Log | None = None
        over = asyncio.Event()
        live_at: int | None = None

        def on_frame(payload: bytes) -> None:
            nonlocal log, live_at
            found = message(payload)
            if over.is_set():
                return
            if found is not None:
                assert log is not None
                log.message(*found)
                if live_at is not None and len(log.events) >= max(wanted, live_at + live_for):
                    over.set()
                return
            told = decode(payload)
            if told.status == "subscribed":
                log = history.subscribed(f"joiner {number}", CHANNEL, told.lastMessageId)
                log.to_the_end = False
            elif told.event == "caught_up":
                assert log is not None
                live_at = len(log.events)
            else:
                assert log is not None
                log.gap(told.lastMessageId, told.resumesAt, told.reason)

        behind = history.chance.randrange(3000)
        start: dict[str, object] = history.chance.choice(
            [{"lastMessageId": history_ids[-1 - behind]}, {"last": behind}, {"lastMessageId": "$"}]
        )
        async with asyncio.timeout(60), tap(front.url, on_frame) as client:
            client.send(action="subscribe", channel=CHANNEL, marker=True, **start)
            await over.wait()
        proof.advance()

    def note(payload: bytes) -> None:
        found = message(payload)
        if found is not None:
            history_ids.append(found[0])

    with RedisServer() as redis, GatewayProcess(redis) as front:
        with load(redis, 5000, CHANNEL):
            async with tap(front.url, note) as reference:
                reference.send(action="subscribe", channel=CHANNEL)
                started = time.monotonic()
                await reached(lambda: len(history_ids) >= 4000)
                async with asyncio.TaskGroup() as tasks:
                    for number in range(count):
                        tasks.create_task(join(number))
                        await asyncio.sleep(0.025)
                rate = len(history_ids) / (time.monotonic() - started)
        stream = stream_of(redis, CHANNEL)
    history.written(stream)
    delivered = sum(len(log.events) for log in history.logs)
    proof.figure("messages a second", round(rate), "> 4,700", rate > 4700)
    proof.figure("delivered", delivered, ">= 1,000,000", delivered >= 1_000_000)
    proof.judged(history, stream)


async def bad_key(proof: Proof) -> None:
    """One of 100 channels turns into a key that is not a stream; then another one, five times."""
    rounds, clients = 5, 2
    proof.total(2 + 2 * rounds)
    names = [f"{CHANNEL}-{number}" for number in range(100)]
    victims, others = names[:rounds], names[rounds:]
    with RedisServer() as redis, GatewayProcess(redis) as front:
        for name in names:
            add(redis, name, '{"at":0}')
        with load(redis, 2000, *others):
            latency = Latency()
            told: list[bytes] = []

            def on_frame(payload: bytes) -> None:
                latency(payload)
                if b"channel_unreadable" in payload:
                    told.append(payload)

            async with AsyncExitStack() as stack:
                for _ in range(clients):
                    client = await stack.enter_async_context(tap(front.url, on_frame))
                    for name in names:
                        client.send(action="subscribe", channel=name, lastMessageId="$")
                await proof.sleep(2)
                before, after = [], []
                for victim in victims:
                    latency.take()
                    await proof.sleep(1)
                    before.append(latency.take()[-1])
                    redis.call("EVAL", "redis.call('DEL', KEYS[1]) redis.call('SET', KEYS[1], 'x')", 1, victim)
                    await proof.sleep(1)
                    after.append(latency.take()[-1])
    # The slowest of all messages of a second; of the rounds the median, for other programs have their moments, too.
    slowest, slowest_after = median(before), median(after)
    proof.figure("times told", len(told), f"= {rounds * clients}", len(told) == rounds * clients)
    proof.figure("slowest of the others in the second before", slowest * 1000, "", True, " ms")
    proof.figure(
        "slowest of the others in the second after", slowest_after * 1000, "< 100 ms more",
        slowest_after - slowest < 0.1, " ms",
    )  # fmt: skip


async def herd(proof: Proof) -> None:
    """10,000 clients come back to the same position at the same moment."""
    count, behind = 10_000, 200
    proof.total(2 * count)
    allow_open_files(count + 1000)
    with RedisServer(maxclients="1000") as redis:
        ids = add(redis, CHANNEL, *[f'{{"n":{number},"padding":"{"x" * 50}"}}' for number in range(1000)])
        expected = ids[-behind:]
        complete = 0
        wrong: list[str] = []

        class Back:
            """One that came back."""

            def __init__(self) -> None:
                self.got = 0

            def __call__(self, payload: bytes) -> None:
                nonlocal complete
                found = message(payload)
                if found is None:
                    return
                if found[0] != expected[self.got]:
                    wrong.append(found[0])
                self.got += 1
                if self.got == behind:
                    complete += 1
                    proof.advance()

        with GatewayProcess(redis) as front:
            async with AsyncExitStack() as stack:
                clients: list[Tap] = []
                gate = asyncio.Semaphore(200)

                async def come() -> None:
                    async with gate:
                        clients.append(await stack.enter_async_context(tap(front.url, Back())))
                        proof.advance()

                async with asyncio.TaskGroup() as tasks:
                    for _ in range(count):
                        tasks.create_task(come())
                slowest_answer = stack.enter_context(pinger(front.port))
                await asyncio.sleep(0.5)
                looks, scripts = command_calls(redis, "xinfo|stream"), command_calls(redis, "evalsha")
                memory = front.memory_bytes
                started = time.monotonic()
                for client in clients:
                    client.send(action="subscribe", channel=CHANNEL, lastMessageId=ids[-behind - 1])
                await reached(lambda: complete == count, within_s=120)
                took_s = time.monotonic() - started
                looks = command_calls(redis, "xinfo|stream") - looks
                reads = command_calls(redis, "evalsha") - scripts - looks
                grown = front.memory_bytes - memory
                lag_s = slowest_answer()
            proof.none("tracebacks", front.tracebacks)
    proof.figure("reads of history", reads, "< 200", reads < 200)
    proof.figure("looks at the stream's ends", looks, "", True)
    proof.figure("all have everything after", took_s, "", True, " s")
    proof.figure("slowest answer to a ping meanwhile", lag_s * 1000, "", True, " ms")
    proof.figure("memory of the gateway grew by", grown / MIB, "", True, " MiB")
    proof.none("delivered out of order, twice or not at all", len(wrong))

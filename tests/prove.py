"""The long proofs of the delivery promise: each figure of docs/guarantees.md, measured.

    .venv/bin/python tests/prove.py              # all of them
    .venv/bin/python tests/prove.py herd joins   # these
    .venv/bin/python tests/prove.py hostile:pings,names  # some rows of a proof that has some
    .venv/bin/python tests/prove.py --seed 7     # with the same random numbers again
    .venv/bin/python tests/prove.py --list

Needs nothing but the test dependencies: it starts its own servers, on ports of its own. Prints a table with the seed in
its title; the exit code is 1 when a figure was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from operator import gt, ne
from statistics import median

import uvloop
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from kit import fuzz_frames, fuzz_handshake
from kit.checker import History, Log, Publisher, Stream, Subscriber, decode, stream_of
from kit.faults import Proxy, command_calls, killed, paused
from kit.gateway import add, frame, gateway
from kit.hostile import hostile
from kit.load import GatewayProcess, Latency, Tap, allow_open_files, load, message, pinger, tap
from kit.support import RedisServer

CHANNEL = "proof"
MIB = 1024 * 1024


@dataclass
class Figure:
    """One line of the table."""

    proof: str
    what: str
    measured: str
    wanted: str
    reached: bool


class Proof:
    """What a proof is given: a seed, the progress bar, and where its figures go."""

    def __init__(self, name: str, seed: int, progress: Progress, figures: list[Figure]) -> None:
        self.name, _, parts = name.partition(":")
        self.parts = [part for part in parts.split(",") if part]
        """What of it is wanted, as in ``hostile:pings,names``; none is all."""
        self.seed = seed
        self._progress = progress
        self._figures = figures
        self._task = progress.add_task(name, total=None)

    def total(self, count: float) -> None:
        """How much there is to do."""
        self._progress.update(self._task, total=count)

    def advance(self, by: float = 1) -> None:
        """So much more is done."""
        self._progress.advance(self._task, by)

    def figure(self, what: str, measured: float, wanted: str, reached: bool, unit: str = "") -> None:
        """A figure, with what it has to be, and whether it is."""
        text = f"{measured:,}" if isinstance(measured, int) else f"{measured:,.3g}"
        self._figures.append(Figure(self.name, what, text + unit, wanted, reached))

    def none(self, what: str, count: int) -> None:
        """What must not happen."""
        self.figure(what, count, "0", count == 0)

    def judged(self, history: History, stream: Stream | Mapping[str, Stream]) -> None:
        """What the checker finds, each kind of breach a figure of its own; one stream is that of ``CHANNEL``."""
        streams = stream if isinstance(stream, Mapping) else {CHANNEL: stream}
        found = Counter(finding.kind for finding in history.judge(streams))
        for kind in ("lost", "duplicated", "reordered"):
            self.none(kind, found.pop(kind, 0))
        self.none("other breaches (phantom, wrong body, false answers, gaps)", found.total())

    async def sleep(self, seconds: float) -> None:
        """With the progress bar going on."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            await asyncio.sleep(min(1, left))
            self.advance(min(1, left))

    def finished(self) -> None:
        self._progress.update(self._task, total=1, completed=1)


async def reached(condition: Callable[[], object], within_s: float = 30) -> None:
    """Wait until ``condition()`` is true."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def have_acked(publishers: list[Publisher], count: int) -> bool:
    return sum(publisher.acked for publisher in publishers) >= count


def has_ended(client: Tap) -> bool:
    return client.code is not None or client.closed.done()


async def end_of(history: History, redis: RedisServer, subscribers: list[Subscriber], within_s: float = 60) -> None:
    """Wait until all have got the last entry there is."""
    last = add(redis, CHANNEL, '"the end"')[0]
    history.written([(last, b'"the end"')])
    async with asyncio.timeout(within_s):
        await asyncio.gather(*[subscriber.reached(last) for subscriber in subscribers])


@contextmanager
def durable_redis() -> Iterator[RedisServer]:
    with RedisServer(appendonly="yes", appendfsync="always") as redis:
        yield redis


# --- publishing ---


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


# --- delivery ---


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
    """One of 100 channels turns into a key that is no stream; then another one, five times."""
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


# --- bad input ---

Expected = tuple[str, str]
"""Status and code of the one reply."""


def malformed(chance: random.Random) -> tuple[bytes, Expected]:
    """A message that is wrong in some way, and the answer the protocol documents."""
    word = "".join(chance.choices("abcxyz 019_-.:é€", k=chance.randrange(1, 12)))
    error, error_ack = "error", "error_ack"
    good = {"action": "publish", "channel": "c", "messageId": word, "data": {"n": [1, word, None]}}
    text = json.dumps(good, ensure_ascii=chance.random() < 0.5)
    not_a_string: object = chance.choice([1, None, True, [], {}, 1.5, [word]])
    match chance.randrange(14):
        case 0:
            return text[: chance.randrange(1, len(text))].encode(), (error, "bad_json")
        case 1:
            return ("[" * chance.choice([2000, 60_000])).encode(), (error, "bad_json")
        case 2:
            return json.dumps(chance.choice([word, 1, None, True, [], [word], 1e300])).encode(), (error, "bad_request")
        case 3:
            return json.dumps({"action": "x" + word, "channel": "c"}).encode(), (error, "unknown_action")
        case 4:
            return json.dumps({"channel": "c", "action": not_a_string}).encode(), (error, "bad_request")
        case 5:
            action = chance.choice(["subscribe", "unsubscribe"])
            return json.dumps({"action": action, "channel": not_a_string}).encode(), (error, "bad_request")
        case 6:
            action = chance.choice(["subscribe", "unsubscribe"])
            bad = chance.choice(["", "x" * 513, "a\nb", "\0", "€" * 171, "\x7f"])
            return json.dumps({"action": action, "channel": bad}).encode(), (error, "bad_channel")
        case 7:
            cursor = chance.choice(
                ["", "+", "-", ">", "*", "1-", "-1", "1-1-1", "١", " 1", "0x1", f"{2**64}", "1.5", "x"]
            )
            return json.dumps({"action": "subscribe", "channel": "c", "lastMessageId": cursor}).encode(), (
                error,
                "bad_cursor",
            )
        case 8:
            key = chance.choice(["channel", "data"])
            return json.dumps({name: value for name, value in good.items() if name != key}).encode(), (
                error_ack,
                "bad_request",
            )
        case 9:
            return json.dumps({name: value for name, value in good.items() if name != "messageId"}).encode(), (
                error,
                "bad_request",
            )
        case 10:
            return json.dumps(good | {"channel": chance.choice(["", "x" * 600, "\n"])}).encode(), (
                error_ack,
                "bad_channel",
            )
        case 11:
            value = chance.choice(["NaN", "Infinity", "-Infinity", '"\\ud800"'])
            text = f'{{"action":"publish","channel":"c","messageId":"m","data":{value}}}'
            return text.encode(), (error_ack, "bad_json")
        case 12:
            last: object = chance.choice([-1, 1.5, "1", None, []])
            return json.dumps({"action": "subscribe", "channel": "c", "last": last}).encode(), (error, "bad_request")
        case _:
            return json.dumps(good | {"producer": chance.choice([1, [], {}])}).encode(), (error_ack, "bad_request")


def malformed_frame(chance: random.Random) -> tuple[bytes, int]:
    """Bytes that end a connection, and the close code."""
    body = chance.randbytes(chance.randrange(0, 100))
    match chance.randrange(8):
        case 0:
            return frame(body, 2), 1003
        case 1:
            return frame(b"\xff" + body), 1007
        case 2:
            return frame(b"{}", masked=False), 1002
        case 3:
            return frame(b"{}", reserved=chance.randrange(1, 8)), 1002
        case 4:
            return frame(b"{}", chance.choice([3, 4, 5, 6, 7, 11, 12, 13, 14, 15])), 1002
        case 5:
            return frame(b"x" * 126, chance.choice([8, 9, 10])), 1002
        case 6:
            return frame(b"x", 9, fin=False), 1002
        case _:
            return frame(b"x" * (MIB + 1))[:100], 1009


async def bad_input(proof: Proof) -> None:
    """1,000,000 malformed messages and frames."""
    messages, frames, at_once = 990_000, 10_000, 20
    proof.total(messages + frames)
    wrong: list[str] = []

    async def send_messages(number: int, count: int) -> None:
        chance = random.Random(f"{proof.seed} {number}")
        expected: list[tuple[bytes, Expected]] = []
        answered = 0
        all_answered = asyncio.Event()

        def on_frame(payload: bytes) -> None:
            nonlocal answered
            told = decode(payload)
            if answered >= len(expected) or (told.status, told.code) != expected[answered][1]:
                wrong.append(f"{expected[answered : answered + 1]}: {payload!r}")
            answered += 1
            if answered == len(expected):
                all_answered.set()

        async with tap(front.url, on_frame) as client:
            for _ in range(0, count, 250):
                expected[:] = [malformed(chance) for _ in range(250)]
                answered = 0
                all_answered.clear()
                client.transport.write(b"".join([frame(text) for text, _ in expected]))
                async with asyncio.timeout(30):
                    await all_answered.wait()
                proof.advance(250)
            client.send(action="ping")
            expected[:] = [(b"", ("pong", ""))]

    async def send_frames(number: int, count: int) -> None:
        chance = random.Random(f"{proof.seed} frames {number}")
        for _ in range(count):
            async with tap(front.url, lambda payload: wrong.append(repr(payload))) as client:
                data, code = malformed_frame(chance)
                client.transport.write(data)
                await reached(partial(has_ended, client))
                if client.code != code:
                    wrong.append(f"{data[:20]!r}: {client.code}, not {code}")
            proof.advance()

    with RedisServer() as redis, GatewayProcess(redis) as front:
        for part in (0.02, 0.98):  # what the first ones make it load is not growth
            memory = front.memory_bytes
            async with asyncio.TaskGroup() as tasks:
                for number in range(at_once):
                    tasks.create_task(send_messages(number, int(messages * part / at_once)))
                    tasks.create_task(send_frames(number, int(frames * part / at_once)))
            grown = front.memory_bytes - memory
        alive = front.process.process.poll() is None
        tracebacks = front.tracebacks
        keys = redis.call("DBSIZE")
    proof.none("crashes", int(not alive))
    proof.none("tracebacks", tracebacks)
    proof.figure("memory of the gateway grew by", grown / MIB, "< 20 MiB", grown < 20 * MIB, " MiB")
    proof.none(f"answered otherwise than documented {wrong[:2] or ''}", len(wrong))
    proof.none("keys left in Redis", keys)


async def fuzz(proof: Proof) -> None:
    """300,000 streams of frames and 100,000 opening requests, each read as websockets reads it, and answered."""
    streams, requests = 300_000, 100_000
    proof.total(streams + requests)

    def run() -> tuple[list[fuzz_frames.Failure], list[str]]:  # uvloop does not say when it is quiet
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            return (
                runner.run(fuzz_frames.search(proof.seed, streams, advance=proof.advance)),
                runner.run(fuzz_handshake.search(proof.seed, requests, advance=proof.advance)),
            )

    failures, faults = await asyncio.to_thread(run)
    proof.none("\n".join(["streams read otherwise than by websockets", *map(str, failures)]), len(failures))
    proof.none("\n".join(["opening requests without a right answer", *faults]), len(faults))


PROOFS: dict[str, Callable[[Proof], Awaitable[None]]] = {
    "reply-cut": reply_cut,
    "redis-killed": redis_killed,
    "redis-paused": redis_paused,
    "gateway-killed": gateway_killed,
    "sleeper": sleeper,
    "joins": joins,
    "bad-key": bad_key,
    "herd": herd,
    "bad-input": bad_input,
    "fuzz": fuzz,
    "hostile": hostile,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="The long proofs of the delivery promise.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones (default: all)")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().getrandbits(32), help="take these random numbers"
    )
    parser.add_argument("--list", action="store_true", help="say which there are")
    arguments = parser.parse_args()
    console = Console()
    if arguments.list:
        for name, prove in PROOFS.items():
            console.print(f"{name:15} {prove.__doc__}", highlight=False)
        return 0
    unknown = [name for name in arguments.names if name.partition(":")[0] not in PROOFS]
    if unknown:
        parser.error(f"no proof is called {', '.join(unknown)}; there are {', '.join(PROOFS)}")
    figures: list[Figure] = []
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:15}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress, ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        for name in arguments.names or PROOFS:
            proof = Proof(name, arguments.seed, progress, figures)
            try:
                runner.run(as_coroutine(PROOFS[proof.name], proof))
            except Exception as error:  # a proof that breaks off is one more figure missed, and the others go on
                console.print_exception()
                figures.append(Figure(name, f"broken off: {type(error).__name__}", "", "", False))
            proof.finished()
    table = Table("proof", "figure", "measured", "wanted", "", title=f"seed {arguments.seed}")
    for figure in figures:
        mark = "[green]ok[/]" if figure.reached else "[bold red]MISSED[/]"
        table.add_row(
            figure.proof,
            escape(figure.what),
            figure.measured,
            figure.wanted,
            mark if figure.wanted or not figure.reached else "",
        )
    console.print(table)
    return int(not all(figure.reached for figure in figures))


async def as_coroutine(prove: Callable[[Proof], Awaitable[None]], proof: Proof) -> None:
    await prove(proof)


if __name__ == "__main__":
    sys.exit(main())

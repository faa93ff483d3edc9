"""The proof that no client may harm another: hostile ones (:mod:`kit.attacks`) beside honest ones."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kit.attacks import ATTACKS
from kit.checker import History, Log, Sent, decode, stream_of
from kit.gateway import KEY, add
from kit.load import GatewayProcess, message, tap
from kit.proofs.proof import Proof
from kit.support import MIB, RedisServer, RswsProcess

SUBSCRIBERS, PUBLISHERS = 200, 20
CHANNELS = [f"honest-{number}" for number in range(PUBLISHERS)]
PAUSE_S = 0.1
"""Between two messages of a publisher, which ten subscribers get."""
WARM_S, ALONE_S, ATTACK_S, AFTER_S = 3.0, 6.0, 10.0, 15.0
PATIENCE_S = 60.0
"""For what is late: it is not lost then."""
FILES = 500
"""What the gateway may open: less than honest and hostile ones would take together."""
NOTICEABLE_S = 0.050
"""A p99 below it is no harm, whatever it was before: all parties share the machine, and it may have two cores."""
BUSY = 0.25
"""Of Redis' one thread: less is no harm. What it stores for those who publish a hundred megabytes a second is work."""


class Honest:
    """Publishers and subscribers who keep to the rules, and write down all that they see."""

    def __init__(self, history: History, url: str) -> None:
        self._history = history
        self._url = url
        self._logs: list[Log] = []
        self._waiting: dict[tuple[int, str], tuple[Sent, float]] = {}
        self.deliveries: list[tuple[float, float]] = []
        """When each was published, and the seconds it took to a subscriber."""
        self.acks: list[tuple[float, float]] = []
        self.refused = 0
        self.newcomers = self.newcomers_failed = 0

    @asynccontextmanager
    async def at_work(self, redis: RedisServer) -> AsyncIterator[None]:
        """All of them work until it is left, and have got everything then."""
        over = asyncio.Event()
        async with AsyncExitStack() as stack:
            for number in range(SUBSCRIBERS):
                await self._subscribe(stack, number)
            async with asyncio.TaskGroup() as tasks:
                for number in range(PUBLISHERS):
                    tasks.create_task(self._publish(number, over))
                tasks.create_task(self._come(over))
                yield
                over.set()
            last = {channel: add(redis, channel, '{"at":0}')[0] for channel in CHANNELS}
            self._history.written([("", b'{"at":0}')])
            with suppress(TimeoutError):  # the judge says what is missing
                async with asyncio.timeout(PATIENCE_S):
                    while any(log.events[-1:] != [(last[log.channel], b'{"at":0}')] for log in self._logs):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)

    async def _subscribe(self, stack: AsyncExitStack, number: int) -> None:
        channel = CHANNELS[number % PUBLISHERS]
        log = self._history.subscribed(f"subscriber {number}", channel, "0-0")
        self._logs.append(log)

        def on_frame(payload: bytes) -> None:
            found = message(payload)
            if found is not None:
                log.message(*found)
                sent_at = float(json.loads(found[1])["at"])
                if sent_at:
                    self.deliveries.append((sent_at, time.monotonic() - sent_at))

        client = await stack.enter_async_context(tap(self._url, on_frame))
        client.send(action="subscribe", channel=channel)

    async def _publish(self, number: int, over: asyncio.Event) -> None:
        channel, count = CHANNELS[number], 0
        async with tap(self._url, partial(self._answered, number)) as client:
            await asyncio.sleep(PAUSE_S * number / PUBLISHERS)  # each at another moment
            while not over.is_set():
                data = {"at": time.monotonic(), "n": count, "by": number}
                text = json.dumps(data).encode()
                sent = self._history.sent(f"publisher {number}", channel, str(count), text.replace(b" ", b""))
                self._waiting[number, str(count)] = sent, time.monotonic()
                raw = f'{{"action":"publish","channel":"{channel}","messageId":"{count}","data":'.encode()
                client.send_raw(raw + sent.data + b"}")
                count += 1
                await asyncio.sleep(PAUSE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    while any(key[0] == number for key in self._waiting):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)

    def _answered(self, number: int, payload: bytes) -> None:
        answer = decode(payload)
        sent, at = self._waiting.pop((number, answer.messageId))
        self.acks.append((at, time.monotonic() - at))
        if answer.status == "ack":
            sent.acks.append(answer.streamId)
            return
        self.refused += 1
        if answer.outcome == "not_stored":
            sent.not_stored += 1
        else:
            sent.unknown += 1

    async def _come(self, over: asyncio.Event) -> None:
        """Connect again and again."""
        while not over.is_set():
            self.newcomers += 1
            try:
                async with asyncio.timeout(2), tap(self._url, lambda payload: None):
                    pass
            except (OSError, TimeoutError, AssertionError):
                self.newcomers_failed += 1
            await asyncio.sleep(0.1)

    def p99(self, start: float, end: float) -> tuple[float, float]:
        """Of deliveries and acks of what was published in that time, however late they came."""
        found = []
        for samples in (self.deliveries, self.acks):
            took = sorted(seconds for at, seconds in samples if start <= at < end)
            found.append(took[int(len(took) * 0.99)])
        return found[0], found[1]


class Usage:
    """What the gateway holds at most and what Redis works, from now on."""

    def __init__(self, front: GatewayProcess, redis: RedisServer) -> None:
        self._front, self._redis = front, redis
        self.began, self._cpu_s = time.monotonic(), self._redis_cpu_s
        self.most_bytes = front.memory_bytes

    @property
    def _redis_cpu_s(self) -> float:
        info = dict(line.split(":") for line in self._redis.call("INFO", "cpu").decode().split() if ":" in line)
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    @property
    def redis_load(self) -> float:
        """The share of one core."""
        return (self._redis_cpu_s - self._cpu_s) / (time.monotonic() - self.began)

    async def watch(self, proof: Proof, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await proof.sleep(0.05)
            self.most_bytes = max(self.most_bytes, self._front.memory_bytes)


@contextmanager
def attackers(front: GatewayProcess, redis: RedisServer, rows: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The process of hostile clients, which has prepared everything and waits for a line."""
    command = [sys.executable, "-m", "kit.attacks", str(front.port), str(redis.port), str(ATTACK_S), *rows]
    tests = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=tests, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@dataclass
class Span:
    """What was seen of the gateway before, during and after an attack."""

    alone: Usage
    load_alone: float
    memory: int
    during: Usage
    over: float = 0
    load: float = 0
    failed: int = 0
    refused: int = 0
    after: int = 0
    seen: dict[str, int] = field(default_factory=dict)


async def hostile(proof: Proof) -> None:
    """Hostile clients of all kinds at once beside 200 honest subscribers and 20 publishers; hostile:NAME is one."""
    rows = proof.parts or list(ATTACKS)
    assert set(rows) <= set(ATTACKS), f"there are {', '.join(ATTACKS)}"
    proof.total(WARM_S + ALONE_S + ATTACK_S)
    history = History(proof.seed)
    with RedisServer() as redis, GatewayProcess(redis, files=FILES) as front:
        honest = Honest(history, front.url)
        environment = {"RSWS_URL": front.url, "RSWS_TOKEN": KEY}
        with attackers(front, redis, rows) as process, RswsProcess("sub", "deep", env=environment) as reader:
            async with honest.at_work(redis):
                span = await _attacked(proof, front, redis, honest, process)
            add(redis, "deep", '"still there"')
            with suppress(AssertionError):
                reader.wait_for("still there", timeout=5)
            alive = any("still there" in line for line in reader.stdout)
        lines = sum("token refused" in line for line in front.process.stderr)
        proof.none("tracebacks", front.tracebacks)
        streams = {channel: stream_of(redis, channel) for channel in CHANNELS}
    _judge_feeling(proof, honest, span)
    _judge_memory(proof, span)
    proof.none("honest publishes refused", span.refused)
    proof.none(f"honest newcomers, of {honest.newcomers}, not let in", span.failed)
    proof.figure("lines in the log about wrong tokens", lines, "< 20", lines < 20)
    proof.none("rsws sub that has given up", int(not alive))
    proof.none("stored under rsws:", span.seen.get("rsws: stored", 0))
    proof.none("bad headers without an answer", span.seen.get("bad headers not answered", 0))
    for what, count in span.seen.items():
        proof.figure(f"the hostile: {what}", count, "", True)
    proof.judged(history, streams)


async def _attacked(
    proof: Proof, front: GatewayProcess, redis: RedisServer, honest: Honest, process: subprocess.Popen[str]
) -> Span:
    await proof.sleep(WARM_S)
    alone = Usage(front, redis)
    await alone.watch(proof, ALONE_S)
    load_alone, memory, honest.newcomers = alone.redis_load, front.memory_bytes, 0
    failed, refused = honest.newcomers_failed, honest.refused
    span = Span(alone, load_alone, memory, Usage(front, redis))
    attack = asyncio.create_task(asyncio.to_thread(process.communicate, "\n"))
    await span.during.watch(proof, ATTACK_S)
    span.over, span.load = time.monotonic(), span.during.redis_load
    said, _ = await attack
    span.seen = json.loads(said or "{}")
    while front.memory_bytes > memory + 10 * MIB and time.monotonic() < span.over + AFTER_S:
        await span.during.watch(proof, 0.2)
    span.after = front.memory_bytes
    span.failed, span.refused = honest.newcomers_failed - failed, honest.refused - refused
    return span


def _judge_memory(proof: Proof, span: Span) -> None:
    most, after = span.during.most_bytes - span.memory, span.after - span.memory
    proof.figure("memory of the gateway, with them", most / MIB, "< +50 MiB", most < 50 * MIB, " MiB")
    proof.figure("memory of the gateway, after them", after / MIB, "< +10 MiB", after < 10 * MIB, " MiB")


def _judge_feeling(proof: Proof, honest: Honest, span: Span) -> None:
    alone = honest.p99(span.alone.began, span.during.began)
    attacked = honest.p99(span.during.began, span.over)
    for what, before, meanwhile in zip(("delivery", "ack"), alone, attacked, strict=True):
        bound = max(2 * before, NOTICEABLE_S)
        proof.figure(f"p99 of honest {what}, alone", before * 1000, "", True, " ms")
        proof.figure(
            f"p99 of honest {what}, with them", meanwhile * 1000, f"< {bound * 1000:.3g} ms", meanwhile < bound, " ms"
        )
    bound = max(2 * span.load_alone, BUSY)
    proof.figure("Redis, alone", span.load_alone * 100, "", True, " % of a core")
    proof.figure("Redis, with them", span.load * 100, f"< {bound * 100:.3g} %", span.load < bound, " % of a core")

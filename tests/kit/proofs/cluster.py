"""Proofs that a cluster keeps the promise: when its slots move, and when its primaries die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from functools import partial

from websockets.asyncio.client import ClientConnection

from kit.checker import History, Publisher, Subscriber, decode, open_anywhere, stream_of
from kit.cluster import Cluster
from kit.load import GatewayProcess
from kit.proofs.failover import alive, last_words
from kit.proofs.proof import Proof, have_acked, reached
from rsws.streams.slots import slot_of

MOVES = 1000
CHANNELS = 300
PER_S = 5000
SETTLING_S = 1.0


async def reshard(proof: Proof) -> None:
    """1,000 slots move to and fro under 5,000 messages/s on 300 channels, a third of them with a producer."""
    proof.total(MOVES)
    history = History(proof.seed)
    channels = [f"proof-{number}" for number in range(CHANNELS)]
    with Cluster(replicas=0) as cluster, GatewayProcess(cluster.url) as front:
        over = asyncio.Event()
        publishers = [
            Publisher(history, f"p{n}", [front.url], name, once=n % 3 == 0, pause_s=CHANNELS / PER_S)
            for n, name in enumerate(channels)
        ]
        subscribers = [Subscriber(history, f"s{n}", [front.url], name) for n, name in enumerate(channels)]
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(subscriber.run()) for subscriber in subscribers]
            publishing = [tasks.create_task(publisher.run(over)) for publisher in publishers]
            await reached(partial(have_acked, publishers, 5 * CHANNELS))
            started = time.monotonic()
            acked = sum(each.acked for each in publishers)
            await asyncio.to_thread(_move_slots, proof, history, cluster, channels)
            seconds = time.monotonic() - started
            acked = sum(each.acked for each in publishers) - acked
            over.set()
            async with asyncio.timeout(60):
                await asyncio.gather(*publishing)
                await _read_to_the_end(cluster, subscribers)
            for task in reading:
                task.cancel()
        proof.figure("messages a second while slots moved", acked / seconds, "", True)
        proof.figure("longest without an ack, of any publisher", _silence(publishers), "", True, " s")
        proof.none("publishes refused", sum(each.refused for each in publishers))
        proof.none("subscribers that had to connect again", sum(each.connections - 1 for each in subscribers))
        proof.none("tracebacks", front.tracebacks)
        proof.judged(history, {name: stream_of(cluster.owner(name), name) for name in channels})


def _silence(publishers: Iterable[Publisher]) -> float:
    return max(each.longest_silence_s for each in publishers)


def _move_slots(proof: Proof, history: History, cluster: Cluster, channels: list[str]) -> None:
    """Move slots of the channels, some of them slowly, so that their keys are in two places for a while."""
    for _ in range(MOVES):
        channel = history.chance.choice(channels)
        source = cluster.owner(channel)
        target = history.chance.choice([each for each in cluster.servers if each is not source])
        with cluster.migrating(slot_of(channel), target):
            if history.chance.random() < 0.2:
                cluster.move_keys(slot_of(channel), source, target, [channel.encode()])
                time.sleep(history.chance.uniform(0, 0.05))
        proof.advance()


async def _read_to_the_end(cluster: Cluster, subscribers: list[Subscriber]) -> None:
    for subscriber in subscribers:
        await subscriber.reached(stream_of(cluster.owner(subscriber.channel), subscriber.channel)[-1][0])


KILLS = 10
SHARDS = 3


async def failover(proof: Proof) -> None:
    """10 times kill -9 of a primary of a cluster, with 20 publishers and 100 subscribers on all shards."""
    proof.total(KILLS)
    history = History(proof.seed)
    with (
        Cluster(SHARDS, cluster_require_full_coverage="no") as cluster,
        GatewayProcess(cluster.url, "--wait-replicas", "1") as front,
    ):
        channels = [[cluster.name_at(cluster.servers[shard], f"{n}-") for n in "ab"] for shard in range(SHARDS)]
        names = [name for of_shard in channels for name in of_shard]
        over = asyncio.Event()
        publishers = [
            Publisher(history, f"p{n}", [front.url], names[n % len(names)], once=True, pause_s=0.1) for n in range(20)
        ]
        subscribers = [Subscriber(history, f"s{n}", [front.url], names[n % len(names)]) for n in range(100)]
        probes = [_Probe(history, front, cluster.name_at(cluster.servers[n], "probe-")) for n in range(SHARDS)]
        slowest_s, refused = 0.0, 0
        before: list[float] = []
        meanwhile: list[float] = []
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(subscriber.run()) for subscriber in subscribers]
            publishing = [tasks.create_task(publisher.run(over)) for publisher in publishers]
            probing = [tasks.create_task(probe.run()) for probe in probes]
            for _ in range(KILLS):
                await reached(partial(have_acked, publishers, sum(each.acked for each in publishers) + 40))
                dead = history.chance.randrange(SHARDS)
                others = [probe for n, probe in enumerate(probes) if n != dead]
                slot = slot_of(channels[dead][0])
                old = cluster.owner_of_slot(slot)
                for probe in others:
                    probe.latencies_s.clear()
                await asyncio.sleep(SETTLING_S)
                before += [latency for probe in others for latency in probe.latencies_s]
                for probe in others:
                    probe.latencies_s.clear()
                refused_before = sum(probe.refused for probe in others)
                last_words(history, old, [*channels[dead], probes[dead].channel])
                old.kill()
                new = await asyncio.to_thread(cluster.until_promoted, slot, old)
                promoted_at = time.monotonic()
                await asyncio.wait_for(alive(front, new), 30)
                slowest_s = max(slowest_s, time.monotonic() - promoted_at)
                refused += sum(probe.refused for probe in others) - refused_before
                meanwhile += [latency for probe in others for latency in probe.latencies_s]
                old.start()
                await asyncio.to_thread(cluster.settle)
                proof.advance()
            over.set()
            for task in probing:
                task.cancel()
            async with asyncio.timeout(60):
                await asyncio.gather(*publishing)
                await _read_to_the_end(cluster, subscribers)
            for task in reading:
                task.cancel()
        p99_before, p99_meanwhile = _p99(before), _p99(meanwhile)
        proof.none("tracebacks", front.tracebacks)
        proof.figure("live again after the promotion, at the slowest", slowest_s, "< 1 s", slowest_s < 1, " s")
        proof.figure("p99 of the other shards' acks before", 1000 * p99_before, "", True, " ms")
        calm = p99_meanwhile < max(1.2 * p99_before, p99_before + 0.002)
        proof.figure("p99 of theirs meanwhile", 1000 * p99_meanwhile, "within 20 % or 2 ms", calm, " ms")
        proof.none("refusals by the other shards", refused)
        proof.figure("acked", sum(each.acked for each in publishers), "> 500", have_acked(publishers, 500))
        proof.judged(history, {name: stream_of(cluster.owner(name), name) for name in names})


def _p99(latencies: list[float]) -> float:
    return sorted(latencies)[len(latencies) * 99 // 100]


class _Probe:
    """Publishes to one channel, one message after the other, and notes how long each ack took."""

    def __init__(self, history: History, front: GatewayProcess, channel: str) -> None:
        self.channel = channel
        self.latencies_s: list[float] = []
        self.refused = 0
        self._history = history
        self._front = front

    async def run(self) -> None:
        websocket: ClientConnection = await open_anywhere([self._front.url], self._history.chance)
        number = 0
        while True:
            number += 1
            since = time.monotonic()
            await websocket.send(
                f'{{"action":"publish","channel":"{self.channel}","messageId":"{number}","data":{number}}}'
            )
            if decode(await websocket.recv()).status == "ack":
                self.latencies_s.append(time.monotonic() - since)
            else:
                self.refused += 1
            await asyncio.sleep(0.005)

"""The checker over a cluster whose slots move, and over bugs that are planted there: each has to be seen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kit.checker import Finding, History, Publisher, Subscriber, stream_of
from kit.cluster import Cluster
from kit.faults import Proxy, link_is_up
from kit.gateway import async_test, gateway
from kit.proofs.proof import have_acked, reached
from kit.support import RedisServer
from rsws.redis.target import RedisTarget
from rsws.streams.cluster import Cluster as RedisCluster
from rsws.streams.cluster import _Followed
from rsws.streams.lanes import Lanes
from rsws.streams.primary import Primary
from rsws.streams.slots import slot_of

CHANNELS = 8
MOVES = 16


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(replicas=0) as running:
        yield running


async def move_slots(cluster: Cluster, prefix: str) -> list[Finding]:
    """What the checker finds after slots have moved under publishers and subscribers."""
    history = History()
    names = [f"{prefix}-{number}" for number in range(CHANNELS)]
    over = asyncio.Event()
    async with gateway(cluster.url) as server:
        publishers = [
            Publisher(history, f"p-{name}", [server.url], name, once=n % 3 == 0, pause_s=0.002, window=50)
            for n, name in enumerate(names)
        ]
        subscribers = [Subscriber(history, f"s-{name}", [server.url], name) for name in names]
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(subscriber.run()) for subscriber in subscribers]
            publishing = [tasks.create_task(publisher.run(over)) for publisher in publishers]
            await reached(lambda: have_acked(publishers, 5 * CHANNELS))
            for number in range(MOVES):
                name = names[number % CHANNELS]
                source = cluster.owner(name)
                target = history.chance.choice([each for each in cluster.servers if each is not source])
                await asyncio.to_thread(cluster.move_slot, slot_of(name), target)
            over.set()
            await asyncio.gather(*publishing)
            try:
                async with asyncio.timeout(3):
                    for subscriber in subscribers:
                        name = subscriber.channel
                        await subscriber.reached(stream_of(cluster.owner(name), name)[-1][0])
            except TimeoutError:
                pass  # the checker says what is missing
            for task in reading:
                task.cancel()
        assert not sum(publisher.refused for publisher in publishers)
        assert all(subscriber.connections == 1 for subscriber in subscribers)
    return history.judge({name: stream_of(cluster.owner(name), name) for name in names})


@async_test
async def test_nothing_is_lost_while_slots_move(cluster: Cluster, channel: str) -> None:
    assert await move_slots(cluster, channel) == []


@async_test
async def test_a_redirect_that_repeats_what_is_stored_is_caught(
    cluster: Cluster, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def repeat_first(self: Lanes, channel: str, lane: Any, redirect: Any) -> None:
        number, (send, _, *rest) = lane.redirected[0]
        lane.redirected.insert(0, (number, (send, lambda result: None, *rest)))
        turn(self, channel, lane, redirect)

    turn = Lanes._turn
    monkeypatch.setattr(Lanes, "_turn", repeat_first)
    assert "duplicated" in {finding.kind for finding in await move_slots(cluster, channel)}


@async_test
async def test_a_stream_that_is_not_followed_where_its_slot_goes_is_caught(
    cluster: Cluster, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = RedisCluster._move

    def stay(self: RedisCluster, name: str, followed: _Followed, primary: Primary, *, is_asking: bool) -> None:
        if followed.primary is None:
            move(self, name, followed, primary, is_asking=is_asking)

    monkeypatch.setattr(RedisCluster, "_move", stay)
    assert "lost" in {finding.kind for finding in await move_slots(cluster, channel)}


async def publish_to_a_replica(channel: str, is_over: Callable[[Publisher], bool]) -> list[Finding]:
    """What the checker finds where the address leads to a replica that takes writes, which are lost with it."""
    history = History()
    over = asyncio.Event()
    with RedisServer(repl_diskless_sync_delay="0") as primary, RedisServer(replica_read_only="no") as replica:
        replica.call("REPLICAOF", "127.0.0.1", primary.port)
        link_is_up(replica)
        async with Proxy(primary.port) as address, gateway(address.redis_url) as server:
            publisher = Publisher(history, "p", [server.url], channel, once=False, pause_s=0.01)
            publishing = asyncio.create_task(publisher.run(over))
            await reached(lambda: have_acked([publisher], 5))
            address.lead_to(replica.port)
            address.cut()
            await reached(lambda: is_over(publisher))  # what was under way at the cut may be refused in any case
            over.set()
            await publishing
        return history.judge({channel: stream_of(primary, channel)})


@async_test
async def test_nothing_is_acked_by_a_replica(channel: str, caplog: pytest.LogCaptureFixture) -> None:
    assert await publish_to_a_replica(channel, lambda _: "takes no writes" in caplog.text) == []


@async_test
async def test_a_replica_that_is_taken_for_a_primary_is_caught(channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RedisTarget, "role_trouble", lambda self, role: None)
    assert "lost" in {
        finding.kind for finding in await publish_to_a_replica(channel, lambda publisher: publisher.acked > 40)
    }

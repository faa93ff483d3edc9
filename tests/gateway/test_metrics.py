"""``/metrics``: its text, what is counted, and the sum over processes. What workers make of it: ``test_workers``."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version

import pytest

from kit.faults import Proxy
from kit.gateway import WELCOME, Reachable, Wire, add, async_test, connect, gateway, http, request, until, until_status
from kit.metrics import parse, scrape
from kit.support import RedisServer
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.metrics import METRICS, SharedMetrics


async def values(server: Reachable) -> dict[str, float]:
    return await asyncio.to_thread(scrape, server.url)


@async_test
async def test_it_has_every_metric(redis_server: RedisServer) -> None:
    before = time.time()
    async with gateway(redis_server.url) as server:
        _, text = await http(server, "/metrics?x=1")
    found = parse(text)
    others = ("rsws_build_info", "rsws_redis_primaries", "rsws_redis_primary_up")
    assert found.types == {metric.name: metric.kind for metric in METRICS.values()} | dict.fromkeys(others, "gauge")
    assert found.values[f'rsws_build_info{{version="{version("rsws")}"}}'] == 1
    assert found.values["rsws_workers"] == 1
    assert found.values["rsws_worker_restarts_total"] == 0
    assert before - 0.001 <= found.values["process_start_time_seconds"] <= time.time()
    assert 0 < found.values["process_cpu_seconds_total"] <= time.process_time() + 0.001


@async_test
async def test_it_counts_clients(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, max_clients=2) as server:
        async with connect(server), connect(server):
            async with connect(server, welcome=False) as third:
                await third.closed()
            async with connect(server, "/?token=wrong", welcome=False) as stranger:
                await stranger.next()
            assert (await values(server))["rsws_clients"] == 2
        await until(lambda: not server.client_count)
        after = await values(server)
    assert after["rsws_clients"] == 0
    assert after["rsws_clients_accepted_total"] == 2
    assert after["rsws_clients_turned_away_total"] == 1
    assert after["rsws_tokens_refused_total"] == 1


@async_test
async def test_it_counts_messages(redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "1", "no JSON", "2")
    redis_server.call("SET", f"{channel}-string", "x")
    async with gateway(redis_server.url) as server, connect(server) as one, connect(server) as two:
        await one.subscribe(channel, lastMessageId="0")
        await one.messages(channel, 2)
        await two.subscribe(channel, lastMessageId="$")
        await one.publish(f"{channel}-other", 1)
        add(redis_server, channel, "3")
        await two.message(channel)
        size = len(await one.text())
        await two.send(action="publish", channel=f"{channel}-string", data=1, messageId="m")
        await two.expect_error_ack("m", "channel_unreadable")
        await two.send(action="dance")
        await two.next()
        found = await values(server)
    assert found["rsws_publishes_acked_total"] == 1
    assert found["rsws_publishes_not_stored_total"] == 1
    assert found["rsws_requests_refused_total"] == 1
    assert found["rsws_history_entries_read_total"] == 3
    assert found["rsws_entries_read_total"] == 1
    assert found["rsws_entries_skipped_total"] == 1
    assert found["rsws_messages_delivered_total"] == 4
    assert found["rsws_delivered_bytes_total"] == 4 * (size + 2)  # they differ in a digit; 2 is the frame's header
    assert found["rsws_subscriptions"] == 2
    assert found["rsws_subscriptions_behind"] == 0
    assert found["rsws_channels"] == 1
    assert found["rsws_gaps_total"] == 0


@pytest.mark.parametrize(("publish_s", "counts"), [(600.0, (1, 2, 2)), (0.0, (1, 2, 3))])
@async_test
async def test_what_it_costs_does_not_grow_with_the_channels(
    redis_server: RedisServer, channel: str, publish_s: float, counts: tuple[int, ...]
) -> None:
    limits = replace(DEFAULTS, counted_at_once=2, publish_s=publish_s)
    async with gateway(redis_server.url, limits) as server, connect(server) as client:
        for number, counted in enumerate(counts, 1):
            await client.subscribe(f"{channel}-{number}", lastMessageId="$")
            found = await values(server)
            assert (found["rsws_channels"], found["rsws_subscriptions"]) == (number, counted)


@async_test
async def test_it_counts_gaps(redis_server: RedisServer, channel: str) -> None:
    ids = add(redis_server, channel, "1", "2", "3")
    redis_server.call("XTRIM", channel, "MINID", ids[2])
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel, lastMessageId=ids[0])
        await client.gap(channel)
        await client.message(channel)
        assert (await values(server))["rsws_gaps_total"] == 1
        await client.subscribe(channel, lastMessageId="99999999999999-0")  # of another stream than this
        await client.gap(channel)
        assert (await values(server))["rsws_gaps_total"] == 2


@async_test
async def test_it_tells_of_those_who_lag(redis_server: RedisServer, channel: str) -> None:
    async with (
        gateway(redis_server.url, high_water_bytes=4096) as server,
        connect(server) as publisher,
        Wire(server, receive_buffer_bytes=4096) as sleeper,
    ):
        await sleeper.handshake()
        await sleeper.send(request(action="subscribe", channel=channel, lastMessageId="$"))
        while b"subscribed" not in sleeper.received:
            await sleeper.read_some()
        assert WELCOME.encode() in sleeper.received
        for _ in range(30):
            await publisher.publish(channel, "x" * 100_000)
        found = await values(server)
        assert found["rsws_subscriptions_lagged_total"] == 1
        assert found["rsws_subscriptions_behind"] == 1
        assert found["rsws_subscriptions"] == 1


@async_test
async def test_it_tells_of_redis(own_redis: RedisServer) -> None:
    async with gateway(own_redis.url) as server, connect(server) as client:
        await until_status(server, "/readyz", 200)
        assert (await values(server))["rsws_redis_up"] == 1
        own_redis.kill()
        await until_status(server, "/readyz", 503)
        found = await values(server)
        assert found["rsws_redis_up"] == 0
        assert found["rsws_redis_outages_total"] == 1
        await client.send(action="publish", channel="c", data=1, messageId="m")
        await client.expect_error_ack("m", "redis_unavailable")
        assert (await values(server))["rsws_publishes_not_stored_total"] == 1


@async_test
async def test_it_counts_what_may_be_stored(redis_server: RedisServer, channel: str) -> None:
    async with Proxy(redis_server.port) as link, gateway(link.redis_url) as server, connect(server) as client:
        await until_status(server, "/readyz", 200)  # the scripts that are loaded at first name XADD, too
        with link.cut_reply(b"XADD"):
            await client.send(action="publish", channel=channel, data=1, messageId="m")
            await client.expect_error_ack("m", "redis_unavailable", "unknown")
        found = await values(server)
    assert found["rsws_publishes_unknown_total"] == 1
    assert found["rsws_publishes_not_stored_total"] == 0


# --- several processes ---


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = SharedMetrics.memory(3)
    yield descriptor
    os.close(descriptor)


def test_the_whole_is_the_sum(memory: int) -> None:
    boards = [SharedMetrics(3, number, memory) for number in range(3)]
    for board in boards[1:]:
        board.metrics.workers = board.metrics.redis_up = 1
        board.metrics.delivered = 2**40
        board.publish()
    boards[1].publish_clients(3)
    boards[2].publish_clients(4)
    boards[0].publish()
    for board in boards:
        assert board.clients == 7
        total = board.total()
        assert (total.workers, total.redis_up, total.delivered, total.clients) == (2, 1, 2**41, 7)
        assert total.started_ns == boards[0].metrics.started_ns
    boards[2].metrics.redis_up = 0
    boards[2].publish()
    assert boards[1].total().redis_up == 0


def test_what_a_dead_process_has_counted_remains(memory: int) -> None:
    supervisor, first = SharedMetrics(3, 0, memory), SharedMetrics(3, 1, memory)
    first.metrics.workers = first.metrics.redis_up = 1
    first.metrics.delivered = 5
    first.publish()
    first.publish_clients(3)
    spent_ns = supervisor.total().cpu_ns
    supervisor.retire(1)
    total = supervisor.total()
    assert (total.workers, total.clients, total.delivered, total.cpu_ns) == (0, 0, 5, spent_ns)
    second = SharedMetrics(3, 1, memory)
    second.metrics.delivered += 1
    second.publish()
    assert supervisor.total().delivered == 6
    assert supervisor.total().cpu_ns > spent_ns


def test_a_row_that_is_written_shows_that_its_process_lives(memory: int) -> None:
    supervisor, worker = SharedMetrics(3, 0, memory), SharedMetrics(3, 1, memory)
    assert supervisor.times_written(1) == 0
    worker.publish()
    assert supervisor.times_written(1) == 1
    assert supervisor.times_written(2) == 0

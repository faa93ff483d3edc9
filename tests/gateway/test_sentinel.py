"""A gateway whose Redis is named by sentinels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from kit.cli import run_main
from kit.gateway import add, async_test, connect, entries, gateway, http, until_status
from kit.sentinels import NAME, Sentinels
from kit.support import RedisServer
from rsws.cli.exits import ExitCode
from rsws.errors import SetupError


@pytest.fixture(scope="module")
def group() -> Iterator[Sentinels]:
    with Sentinels() as running:
        yield running


@async_test
async def test_a_primary_that_dies_is_replaced(channel: str) -> None:
    with Sentinels() as group:
        async with gateway(group.url) as server, connect(server) as client:
            await until_status(server, "/readyz", 200)
            await client.subscribe(channel)
            before = group.primary
            group.sentinels[0].kill()  # one may be missing, too
            before.kill()
            await until_status(server, "/readyz", 503)
            await asyncio.to_thread(group.until_primary_is_not, before)
            since = time.monotonic()
            await until_status(server, "/readyz", 200)
            assert time.monotonic() - since < 5
            add(group.primary, channel, "1")
            assert (await client.message(channel))[1] == 1


@async_test
async def test_sentinels_and_servers_with_a_password() -> None:
    with Sentinels(replicas=0, password="secret") as group:
        async with gateway(group.url) as server:
            await until_status(server, "/readyz", 200)
            assert "secret" not in server.redis_description
        wrong = group.url.replace(f"/{NAME}", f"/{NAME}?sentinel_password=wrong")
        async with gateway(wrong) as server:
            assert (await http(server, "/readyz"))[0] == 503
            assert "WRONGPASS" in server.redis_description or "invalid" in server.redis_description


@async_test
async def test_a_name_that_the_sentinels_do_not_know(group: Sentinels) -> None:
    async with gateway(group.url.replace(f"/{NAME}", "/other")) as server:
        assert (await http(server, "/readyz"))[0] == 503
        assert f"127.0.0.1:{group.sentinels[0].port} knows no 'other'" in server.redis_description


@async_test
async def test_the_address_of_a_sentinel_is_refused_with_what_to_write(group: Sentinels) -> None:
    with pytest.raises(SetupError, match=r"is a sentinel.*redis\+sentinel://"):
        async with gateway(group.sentinels[0].url):
            pass


def test_xadd_finds_the_primary(group: Sentinels, channel: str) -> None:
    done = run_main("xadd", channel, "1", "--redis-url", group.url)
    assert done.returncode == ExitCode.DONE, done.stderr
    assert [fields["messageData"] for _, fields in entries(group.primary, channel)] == ["1"]


def test_xadd_at_a_replica(group: Sentinels, channel: str) -> None:
    replica = next(each for each in group.servers if each is not group.primary)
    done = run_main("xadd", channel, "1", "--redis-url", replica.url)
    assert done.returncode == ExitCode.NOT_CONNECTED
    assert f"leads to a replica of 127.0.0.1:{group.primary.port}" in done.stderr


def test_a_server_of_sentinels_that_is_none(redis_server: RedisServer, channel: str) -> None:
    done = run_main("xadd", channel, "1", "--redis-url", f"redis+sentinel://127.0.0.1:{redis_server.port}/{NAME}")
    assert done.returncode == ExitCode.NOT_CONNECTED
    assert f"sentinel 127.0.0.1:{redis_server.port}: unknown command" in done.stderr


@async_test
async def test_what_is_published_during_a_planned_failover_is_not_lost() -> None:
    with Sentinels() as group:
        async with gateway(group.url) as server, connect(server) as client:
            await until_status(server, "/readyz", 200)
            acked = [await client.publish("c", 0)]
            failover = asyncio.create_task(asyncio.to_thread(group.fail_over))
            while not failover.done():
                acked.append(await client.publish("c", 0))
                await asyncio.sleep(0.001)
            await failover
            kept = {stream_id for stream_id, _ in entries(group.primary, "c")}
            lost = [stream_id for stream_id in acked if stream_id not in kept]
            assert len(lost) < 0.1 * len(acked), f"{len(lost)} of {len(acked)}"


@async_test
async def test_a_planned_failover(group: Sentinels, channel: str) -> None:
    """The last of those that share the group, which is not what it was afterwards."""
    async with gateway(group.url) as server, connect(server) as client, connect(server) as publisher:
        await until_status(server, "/readyz", 200)
        assert f"primary 127.0.0.1:{group.primary.port}" in server.redis_description
        await client.subscribe(channel)
        await publisher.publish(channel, 0)
        assert (await client.message(channel))[1] == 0
        await asyncio.to_thread(group.fail_over)
        since = time.monotonic()
        add(group.primary, channel, "1")
        assert (await client.message(channel))[1] == 1
        assert time.monotonic() - since < 5
        await until_status(server, "/readyz", 200)
        assert [fields["messageData"] for _, fields in entries(group.primary, channel)] == ["0", "1"]

"""A gateway whose Redis is a cluster: channels are found, slots move, primaries die."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from kit.cluster import Cluster, replicated
from kit.gateway import Client, async_test, connect, gateway, http, until, until_status
from kit.http import everything, http_client
from kit.support import RedisServer, free_port
from kit.tls import Authority
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.process.single import SingleProcess
from rsws.redis.target import RedisTarget
from rsws.streams.slots import slot_of
from rsws.streams.survey import Survey


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(replicas=0, spare=1) as running:
        yield running


@pytest.fixture(scope="module")
def pairs() -> Iterator[Cluster]:
    """A cluster with replicas; who is the primary of a pair is another one after each test that lets one fail."""
    with Cluster(enable_debug_command="yes") as running:
        yield running


def primaries(cluster: Cluster) -> list[RedisServer]:
    return [cluster.owner_of_slot(slot) for slot in (0, 8000, 16000)]


def other(cluster: Cluster, channel: str) -> RedisServer:
    """A primary that does not have the channel, and has some slots."""
    owner = cluster.owner(channel)
    return next(each for each in cluster.servers[:3] if each is not owner)


def stored(cluster: Cluster, channel: str) -> list[int]:
    """The data of a channel's entries, which are numbers."""
    return [int(fields[1]) for _, fields in cluster.call(channel, "XRANGE", channel, "-", "+")]


def add(cluster: Cluster, channel: str, *data: int) -> None:
    for each in data:
        cluster.call(channel, "XADD", channel, "*", "messageData", each)


async def publish(client: Client, channel: str, data: int, **request: str) -> None:
    await client.send(action="publish", channel=channel, data=data, messageId=str(data), **request)


async def acks(client: Client, *message_ids: int) -> None:
    for expected in message_ids:
        frame = await client.next()
        assert (frame["status"], frame["messageId"]) == ("ack", str(expected)), frame


@async_test
async def test_channels_of_all_primaries(cluster: Cluster, channel: str) -> None:
    async with gateway(cluster.url) as server, connect(server) as client, connect(server) as reader:
        assert "cluster" in server.redis_description
        names = [f"{channel}-{number}" for number in range(30)]
        assert len({cluster.owner(name).port for name in names}) == 3
        for name in names:
            await reader.subscribe(name)
            await client.publish(name, 1)
            assert (await reader.message(name))[1] == 1
        for name in names:
            add(cluster, name, 2)
        got = {(frame := await reader.next())["channel"]: frame["data"] for _ in names}
        assert got == dict.fromkeys(names, 2)
        for name in names:
            await client.send(action="subscribe", channel=name, last=2)
            frames = [await client.next() for _ in range(3)]
            assert [frame["data"] for frame in frames[1:]] == [1, 2], frames


@async_test
async def test_a_survey_asks_all_primaries(cluster: Cluster, channel: str) -> None:
    names = [f"{channel}-{slot}" for slot in range(20)]
    for name in names:
        cluster.call(name, "XADD", name, "5-1", "messageData", "1")
    first = cluster.servers[0].url  # one of its nodes tells that it is a cluster
    for url in (cluster.url, first):
        async with Survey(RedisTarget(url, 5)) as survey:
            found = [
                each.name
                async for server, keys in survey.names(f"{channel}-*")
                async for each in survey.facts(server, keys)
            ]
            assert sorted(found) == sorted(names)
            looks = [await survey.look(name) for name in names]
            assert [each and each.entries for each in looks] == [1] * len(names)
            assert [str(each.id) for each in await survey.ends(names[0])] == ["5-1"]
            assert await survey.groups(names[0]) == []


@async_test
async def test_before_a_cluster_is_known_its_list_is_not_empty_but_unavailable() -> None:
    async with gateway(f"redis+cluster://127.0.0.1:{free_port()}") as server, http_client(server) as client:
        answer = await client.ask("GET", "/channels")
        assert (answer.status, answer.json["code"]) == (503, "redis_unavailable")


@async_test
async def test_the_list_has_the_channels_of_all_primaries(cluster: Cluster, channel: str) -> None:
    names = [f"{channel}-{number}" for number in range(500)]
    assert len({cluster.owner(name).port for name in names}) == 3
    last = {name: cluster.call(name, "XADD", name, "*", "messageData", "1").decode() for name in names}
    for name in names[:10]:
        cluster.call(name, "XDEL", name, last[name])
    async with gateway(cluster.url) as server, http_client(server) as client:
        await until_status(server, "/readyz", 200)
        found = await everything(client, f"{channel}-*")
        assert sorted(each["channel"] for each in found) == sorted(names)
        for each in found:
            id, is_empty = last[each["channel"]], each["channel"] in names[:10]
            shown = [each["entries"], each["firstId"], each["lastId"]]
            assert shown == ([0, None, id] if is_empty else [1, id, id])


@async_test
async def test_a_plain_url_that_leads_to_a_cluster(cluster: Cluster, channel: str) -> None:
    await publish_and_read(cluster.servers[0].url, channel)


@async_test
async def test_a_plain_url_that_leads_to_a_replica_of_a_cluster(pairs: Cluster, channel: str) -> None:
    replica = next(each for each in pairs.servers if each not in primaries(pairs))
    await publish_and_read(replica.url, channel)


@async_test
async def test_the_rights_that_the_documentation_asks_for_are_enough(cluster: Cluster, channel: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    lines = re.findall(r"^ACL SETUSER gateway (.+)$", text, flags=re.MULTILINE)
    rules = " ".join(lines).replace(">PASSWORD", ">secret").split()
    for each in cluster.servers:
        each.call("ACL", "SETUSER", "gateway", "reset", *rules)
    await publish_and_read(cluster.url.replace("://", "://gateway:secret@"), channel)
    assert [each.call("ACL", "LOG") for each in cluster.servers] == [[]] * len(cluster.servers)


@async_test
async def test_tls(cluster: Cluster, channel: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with AsyncExitStack() as stack:
        fronts = {each: await stack.enter_async_context(authority.in_front_of(each.port, "127.0.0.1"))
                  for each in cluster.servers}  # fmt: skip
        try:
            await announce(cluster, fronts)
            url = f"rediss+cluster://127.0.0.1:{fronts[cluster.servers[0]]}?ssl_ca_certs={authority.ca}"
            await publish_and_read(url, channel)
        finally:
            await announce(cluster, {each: each.port for each in cluster.servers})


async def announce(cluster: Cluster, ports: dict[RedisServer, int]) -> None:
    """Have the nodes called by other ports."""
    for each, port in ports.items():
        await asyncio.to_thread(each.call, "CONFIG", "SET", "cluster-announce-port", port if port != each.port else 0)
    wanted = {ports[each] for each in cluster.servers[:3]}
    for each in cluster.servers:
        await until(lambda each=each: {node[1] for *_, node in each.call("CLUSTER", "SLOTS")} == wanted)  # type: ignore[misc]


async def publish_and_read(url: str, channel: str) -> None:
    async with gateway(url) as server, connect(server) as client, connect(server) as reader:
        names = [f"{channel}-{number}" for number in range(10)]
        for name in names:
            await reader.subscribe(name, lastMessageId="0")
            await client.publish(name, 1)
            assert (await reader.message(name))[1] == 1
        await until_status(server, "/readyz", 200)


@async_test
async def test_a_plain_url_of_a_cluster_that_comes_later(channel: str) -> None:
    with RedisServer(cluster_enabled="yes", cluster_port=str(free_port())) as node:
        node.stop()
        async with gateway(node.url) as server, connect(server) as client, connect(server) as reader:
            assert (await http(server, "/readyz"))[0] == 503
            node.start()
            node.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await until_status(server, "/readyz", 200)
            await reader.subscribe(channel)
            await client.publish(channel, 1)
            assert (await reader.message(channel))[1] == 1


@async_test
async def test_a_first_node_that_hangs(cluster: Cluster, channel: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        first = f"127.0.0.1:{hanging.getsockname()[1]}"
        url = f"redis+cluster://{first},127.0.0.1:{cluster.servers[1].port}"
        async with gateway(url, redis_timeout_s=1.5) as server, connect(server) as client:
            await client.publish(channel, 1)


@async_test
async def test_a_slot_that_moves_while_people_publish_and_subscribe(cluster: Cluster, channel: str) -> None:
    async with gateway(cluster.url) as server, connect(server) as client, connect(server) as subscriber:
        for each in (channel, f"{{{channel}}}-2"):
            await subscriber.subscribe(each)
        target = other(cluster, channel)
        published = iter(range(1000))
        sent = []
        for _ in range(6):
            source = cluster.owner(channel)
            for step in range(3):
                for number in (next(published), next(published)):
                    await publish(client, channel, number)
                    sent.append(number)
                if step == 0:
                    moving = cluster.migrating(slot_of(channel), target)
                    await asyncio.to_thread(moving.__enter__)
                elif step == 1:
                    await asyncio.to_thread(moving.__exit__, None, None, None)
            target = source
        await acks(client, *sent)
        assert [data for _, data in await subscriber.messages(channel, len(sent))] == sent
        await subscriber.nothing_more()
        assert stored(cluster, channel) == sent


@async_test
async def test_a_quiet_channel_is_followed_where_its_slot_goes(cluster: Cluster, channel: str) -> None:
    """With no publish over this gateway, nothing but the reader meets the redirect."""
    add(cluster, channel, 1)
    async with gateway(cluster.url) as server, connect(server) as reader:
        await reader.subscribe(channel)
        assert (await reader.message(channel))[1] == 1
        for number in range(2, 6):
            await asyncio.to_thread(cluster.move_slot, slot_of(channel), other(cluster, channel))
            add(cluster, channel, number)
            assert (await reader.message(channel))[1] == number


@async_test
async def test_a_slot_that_is_on_its_way_for_long(cluster: Cluster, channel: str) -> None:
    """Keys that are gone are asked for with ASKING, those that are left as ever; what comes is delivered at once."""
    gone, new = cluster.names_for(slot_of(channel), channel, 2)
    add(cluster, channel, 1)
    add(cluster, gone, 1)
    async with gateway(cluster.url) as server, connect(server) as client, connect(server) as reader:
        for each in (channel, gone, new):
            await reader.subscribe(each, lastMessageId="0")
            if each != new:
                assert (await reader.message(each))[1] == 1
        target = other(cluster, channel)
        with cluster.migrating(slot_of(channel), target) as source:
            cluster.move_keys(slot_of(channel), source, target, [gone.encode()])
            for each in (channel, gone, new):
                for number in (2, 3):
                    await client.publish(each, number)
                    assert (await reader.message(each))[1] == number
            async with connect(server) as another:
                for each in (channel, gone, new):
                    await another.send(action="subscribe", channel=each, last=1)
                    frames = [await another.next(), await another.next()]
                    assert frames[1]["data"] == 3, frames
        for each in (channel, gone, new):
            await client.publish(each, 4)
            assert (await reader.message(each))[1] == 4


@async_test
async def test_a_producer_waits_until_its_slot_has_moved(cluster: Cluster, channel: str) -> None:
    """Two keys of a slot that is on its way may be in two places: TRYAGAIN."""
    async with gateway(cluster.url) as server, connect(server) as client:
        await publish(client, channel, 1, producer="p")
        await acks(client, 1)
        target = other(cluster, channel)
        with cluster.migrating(slot_of(channel), target):
            for number in (2, 3, 2):
                await publish(client, channel, number, producer="p")
            await publish(client, channel, 4)
            await asyncio.sleep(0.1)
        await acks(client, 2, 3)
        duplicate = await client.next()
        assert duplicate["duplicate"] is True, duplicate
        await acks(client, 4)
        assert stored(cluster, channel) == [1, 2, 3, 4]


@async_test
async def test_a_slot_that_goes_to_a_primary_that_had_none(cluster: Cluster, channel: str) -> None:
    spare = cluster.servers[3]
    owner = cluster.owner(channel)
    async with gateway(cluster.url) as server, connect(server) as client, connect(server) as reader:
        await reader.subscribe(channel)
        await asyncio.to_thread(cluster.move_slot, slot_of(channel), spare)
        await client.publish(channel, 1)
        assert (await reader.message(channel))[1] == 1
        await until(lambda: len(server.server.redis.primaries) == 4)
        await asyncio.to_thread(cluster.move_slot, slot_of(channel), owner)
        await client.publish(channel, 2)
        assert (await reader.message(channel))[1] == 2


@async_test
async def test_streams_without_an_entry_at_the_position(cluster: Cluster, channel: str) -> None:
    """Emptied streams of many slots, on one node: no command may name keys of two slots."""
    names = [f"{channel}-{number}" for number in range(40)]
    for name in names:
        add(cluster, name, 1)
        cluster.call(name, "XTRIM", name, "MAXLEN", 0)
    async with gateway(cluster.url) as server, connect(server) as reader:
        for name in names:
            await reader.subscribe(name)
        for name in names:
            add(cluster, name, 2)
        got: set[str] = set()
        while len(got) < len(names):
            frame = await reader.next()
            if frame["event"] == "message":
                assert frame["data"] == 2
                got.add(frame["channel"])


@async_test
async def test_a_primary_that_dies_leaves_the_others_alone(pairs: Cluster, channel: str) -> None:
    async with gateway(pairs.url) as server, connect(server) as client, connect(server) as subscriber:
        first, dead, last = primaries(pairs)
        mine = pairs.name_at(dead, channel)
        others = [pairs.name_at(each, channel) for each in (first, last)]
        await until_status(server, "/readyz", 200)
        for name in (mine, *others):
            await subscriber.subscribe(name)
        await client.publish(mine, 0)
        assert (await subscriber.message(mine))[1] == 0
        await asyncio.to_thread(replicated, dead)
        dead.kill()
        await until_status(server, "/readyz", 503)
        for number in range(1, 20):
            for name in others:
                await client.publish(name, number)
                assert (await subscriber.message(name))[1] == number
        new = await asyncio.to_thread(pairs.until_promoted, slot_of(mine), dead)
        since = time.monotonic()
        await until_status(server, "/readyz", 200)
        assert time.monotonic() - since < 5
        new.call("XADD", mine, "*", "messageData", 7)
        assert (await subscriber.message(mine))[1] == 7
        await client.publish(mine, 8)
        assert (await subscriber.message(mine))[1] == 8
        await subscriber.nothing_more()
        await asyncio.to_thread(restart, pairs, dead)


def restart(cluster: Cluster, dead: RedisServer) -> None:
    dead.start()
    cluster.settle()


@async_test
async def test_publishes_wait_while_all_nodes_refuse_everything(pairs: Cluster, channel: str) -> None:
    """So they do for a moment when a slot has no primary, if cluster-require-full-coverage is not "no"."""
    async with gateway(pairs.url) as server, connect(server) as client:
        first, dead, _ = primaries(pairs)
        name, slot = pairs.name_at(first, channel), slot_of(pairs.name_at(dead, channel))
        await client.publish(name, 0)
        dead.kill()
        promoted = asyncio.create_task(asyncio.to_thread(pairs.until_promoted, slot, dead))
        number = 0
        while not promoted.done():
            number += 1
            await client.publish(name, number)
        await client.publish(name, number + 1)
        assert stored(pairs, name) == list(range(number + 2))
        await asyncio.to_thread(restart, pairs, dead)


@async_test
async def test_a_primary_that_is_cut_off_and_one_that_hangs(pairs: Cluster, channel: str) -> None:
    """Both can still be connected to: what shows that another one has taken over is what the others say."""
    async with gateway(pairs.url) as server, connect(server) as client, connect(server) as subscriber:
        _, cut_off, hanging = primaries(pairs)
        await until_status(server, "/readyz", 200)
        for old in (cut_off, hanging):
            name = pairs.name_at(old, channel)
            await subscriber.subscribe(name)
            await client.publish(name, 0)
            assert (await subscriber.message(name))[1] == 0
            await asyncio.to_thread(replicated, old)
            if old is cut_off:
                old.call("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -2)
            else:
                old.pause()
            others = [each for each in pairs.servers if each is not old]
            await until(lambda old=old, others=others: has_taken_over(others, old))  # type: ignore[misc]
            since = time.monotonic()
            pairs.owner(name, others).call("XADD", name, "*", "messageData", 1)
            assert (await subscriber.message(name))[1] == 1
            await client.publish(name, 2)
            assert (await subscriber.message(name))[1] == 2
            assert time.monotonic() - since < 5
            if old is cut_off:
                old.call("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -1)
            else:
                old.resume()
            await asyncio.to_thread(pairs.settle)


def has_taken_over(others: list[RedisServer], old: RedisServer) -> bool:
    """Whether all others say that the slots of ``old`` are another one's, and that they take commands."""
    return all(
        old.port not in {node[1] for _, _, node, *_ in each.call("CLUSTER", "SLOTS")}
        and b"cluster_state:ok" in each.call("CLUSTER", "INFO")
        for each in others
    )


@async_test
async def test_planned_failovers_there_and_back(pairs: Cluster, channel: str) -> None:
    """A node that was left a moment ago is connected to at once when it is the primary again."""
    async with gateway(pairs.url) as server, connect(server) as client, connect(server) as subscriber:
        name = pairs.name_at(primaries(pairs)[0], channel)
        await subscriber.subscribe(name)
        number = 0
        for _ in range(2):
            old = pairs.owner(name)
            replica = next(each for each in pairs.servers if b"master_port:%d\r" % old.port in each.call("INFO"))
            replica.call("CLUSTER", "FAILOVER")
            until_s = time.monotonic() + 0.7
            while time.monotonic() < until_s or pairs.owner(name) is old:
                number += 1
                await client.publish(name, number)
                assert (await subscriber.message(name))[1] == number
            await asyncio.to_thread(pairs.settle)
        assert stored(pairs, name) == list(range(1, number + 1))


@async_test
async def test_a_connection_to_read_that_is_missing_is_told_to_its_channels_alone(
    cluster: Cluster, channel: str
) -> None:
    quick = replace(DEFAULTS, connections_check_s=0.1)
    async with gateway(cluster.url, quick) as server, connect(server) as client, connect(server) as publisher:
        await until_status(server, "/readyz", 200)
        ill, well, _ = cluster.servers[:3]
        mine, others = cluster.name_at(ill, channel), cluster.name_at(well, channel)
        for name in (mine, others):
            await client.subscribe(name)
        reader = next(each for each in ill.client.client_list() if each["name"] == "rsws-reader")
        ill.call("CONFIG", "SET", "maxclients", 1)
        ill.call("CLIENT", "KILL", "ID", reader["id"])
        try:
            await client.expect_error("redis_unavailable", mine)
            await asyncio.sleep(0.3)
        finally:
            ill.call("CONFIG", "SET", "maxclients", 10_000)
        await publisher.publish(others, 1)
        assert (await client.message(others))[1] == 1


@async_test
async def test_retention_is_applied_on_all_primaries(cluster: Cluster, channel: str) -> None:
    names = [cluster.name_at(server, f"{channel}-") for server in cluster.servers[:3]]
    for name in names:
        add(cluster, name, *range(400))
    async with gateway(cluster.url, retain=(f"{channel}-*=100",)):
        for name in names:
            await until(lambda name=name: cluster.call(name, "XLEN", name) < 250)  # type: ignore[misc]


@async_test
async def test_metrics_name_the_primaries(cluster: Cluster) -> None:
    async with gateway(cluster.url) as server:
        await until_status(server, "/readyz", 200)
        lines = (await metrics(server)).splitlines()
        assert "rsws_redis_primaries 3" in lines
        for each in cluster.servers[:3]:
            assert f'rsws_redis_primary_up{{primary="redis://127.0.0.1:{each.port}"}} 1' in lines


async def metrics(server: SingleProcess) -> str:
    status, body = await http(server, "/metrics")
    assert status == 200
    return body if isinstance(body, str) else json.dumps(body)

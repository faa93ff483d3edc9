"""Acks that wait for replicas."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from kit.faults import command_calls, link_is_up
from kit.gateway import Wire, async_test, connect, entries, gateway, request, until_status
from kit.support import RedisServer
from rsws.errors import NotReplicated
from rsws.gateway.limits import DEFAULTS
from rsws.redis.link import RedisLink
from rsws.streams.replication import ReplicaWait

SHORT = replace(DEFAULTS, streams=replace(DEFAULTS.streams, replica_wait_s=0.2))


@pytest.fixture
def primary() -> Iterator[RedisServer]:
    with RedisServer(repl_diskless_sync_delay="0") as running:
        yield running


@pytest.fixture
def replica(primary: RedisServer) -> Iterator[RedisServer]:
    with RedisServer(replicaof=f"127.0.0.1 {primary.port}") as running:
        link_is_up(running)
        yield running


@async_test
async def test_an_ack_says_that_a_replica_has_it(primary: RedisServer, replica: RedisServer) -> None:
    async with gateway(primary.url, SHORT, wait_replicas=1) as server, connect(server) as client:
        await until_status(server, "/readyz", 200)
        for number in range(20):
            stored = await client.publish("c", number)
            assert entries(replica, "c")[-1] == (stored, {"messageData": str(number)})


@async_test
async def test_one_wait_for_all_of_a_moment(primary: RedisServer, replica: RedisServer) -> None:
    async with gateway(primary.url, SHORT, wait_replicas=1) as server, connect(server) as client:
        await until_status(server, "/readyz", 200)
        await client.publish("c", 0)
        before = command_calls(primary, "wait")
        await asyncio.gather(
            *(client.send(action="publish", channel="c", data=1, messageId=str(number)) for number in range(200))
        )
        acks = [await client.next() for _ in range(200)]
        assert [ack["messageId"] for ack in acks] == [str(number) for number in range(200)]
        assert command_calls(primary, "wait") - before < 100


@pytest.mark.parametrize("named", [{}, {"producer": "p"}], ids=["plain", "once"])
@async_test
async def test_what_too_few_replicas_have_is_not_acked(
    primary: RedisServer, replica: RedisServer, named: dict[str, Any]
) -> None:
    async with gateway(primary.url, SHORT, wait_replicas=1) as server, connect(server) as client:
        await until_status(server, "/readyz", 200)
        publish: dict[str, Any] = {"action": "publish", "channel": "c", "data": 1, "messageId": "m", **named}
        replica.pause()
        await client.send(**publish)
        refused = await client.expect_error_ack("m", "not_replicated", "unknown")
        assert refused["error"] == "only 0 of 1 replicas have it"
        assert len(entries(primary, "c")) == 1
        if named:  # a repeat is no ack of what nobody else has
            await client.send(**publish)
            await client.expect_error_ack("m", "not_replicated", "unknown")
        replica.resume()
        await client.send(**publish)
        ack = await client.next()
        assert (ack["status"], ack.get("duplicate", False)) == ("ack", bool(named))
        assert len(entries(replica, "c")) == (1 if named else 2)


@async_test
async def test_of_several_together_none_is_acked_that_too_few_replicas_have(
    primary: RedisServer, replica: RedisServer
) -> None:
    sent = [request(action="publish", channel="c", data=each, messageId=str(each)) for each in range(3)]
    async with gateway(primary.url, SHORT, wait_replicas=1) as server, Wire(server) as wire:
        await until_status(server, "/readyz", 200)
        await wire.handshake()
        await wire.text()
        replica.pause()
        await wire.send(b"".join(sent))
        answers = [json.loads(await wire.text()) for _ in sent]
        assert [(each["messageId"], each.get("code")) for each in answers] == [
            (str(number), "not_replicated") for number in range(3)
        ]
        replica.resume()


@async_test
async def test_replicas_that_never_answer_do_not_break_the_link(primary: RedisServer, replica: RedisServer) -> None:
    async with gateway(primary.url, SHORT, wait_replicas=1, redis_timeout_s=0.6) as server, connect(server) as client:
        await until_status(server, "/readyz", 200)
        replica.pause()
        for number in range(100):
            await client.send(action="publish", channel="c", data=1, messageId=str(number))
            await asyncio.sleep(0.01)
        answers = [await client.next() for _ in range(100)]
        assert {(each["code"], each["outcome"]) for each in answers} == {("not_replicated", "unknown")}
        replica.resume()
        await client.publish("c", 1)


@async_test
async def test_a_wait_over_another_connection_says_nothing(primary: RedisServer, replica: RedisServer) -> None:
    link = FakeLink()
    wait = ReplicaWait(cast(RedisLink, link), 1, 1.0)
    results: list[Any] = []
    for name in ("before", "after"):
        wait.hold(results.append)(name)
        if name == "before":
            link.connections += 1
    await asyncio.sleep(0)
    link.on_replies.pop()(1)
    assert isinstance(results[0], NotReplicated)
    assert results[1] == "after"


class FakeLink:
    """A link that is told when to answer."""

    def __init__(self) -> None:
        self.connections = 1
        self.on_replies: list[Any] = []

    def submit(self, command: bytes, on_reply: Any) -> None:
        self.on_replies.append(on_reply)


@async_test
async def test_a_script_that_redis_forgot_is_waited_for_too(primary: RedisServer, replica: RedisServer) -> None:
    async with gateway(primary.url, SHORT, wait_replicas=1) as server, connect(server) as client:
        await until_status(server, "/readyz", 200)
        primary.call("SCRIPT", "FLUSH")
        await client.send(action="publish", channel="c", data=1, messageId="m", producer="p")
        assert (await client.next())["status"] == "ack"
        assert len(entries(replica, "c")) == 1


@async_test
async def test_a_redis_that_may_not_wait(own_redis: RedisServer) -> None:
    own_redis.call("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-wait")
    url = f"redis://limited:secret@127.0.0.1:{own_redis.port}"
    async with gateway(url, SHORT, wait_replicas=1) as server, connect(server) as client:
        await until_status(server, "/readyz", 200)
        await client.send(action="publish", channel="c", data=1, messageId="m")
        assert "NOPERM" in (await client.expect_error_ack("m", "not_replicated", "unknown"))["error"]

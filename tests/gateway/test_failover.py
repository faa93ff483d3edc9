"""A primary that is one no more, behind an address that moves to the new one."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import pytest

from kit.faults import Proxy, demoted, link_is_up
from kit.gateway import PATIENCE_S, Client, add, async_test, connect, entries, gateway, http, until, until_status
from kit.support import RedisServer, RenamedServer
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.process.single import SingleProcess


@contextmanager
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary, and a replica of it that has all it has."""
    with (
        RedisServer(repl_diskless_sync_delay="0") as primary,
        RedisServer(replicaof=f"127.0.0.1 {primary.port}") as replica,
    ):
        link_is_up(replica)
        yield primary, replica


@asynccontextmanager
async def moving(primary: RedisServer) -> AsyncIterator[tuple[Proxy, SingleProcess, Client, Client]]:
    """A gateway that knows an address that leads to the primary, one client to subscribe and one to publish."""
    async with (
        Proxy(primary.port) as address,
        gateway(address.redis_url) as server,
        connect(server) as client,
        connect(server) as publisher,
    ):
        await until_status(server, "/readyz", 200)
        yield address, server, client, publisher


def swap(old: RedisServer, new: RedisServer) -> None:
    """Let ``new`` have everything and be the primary, and ``old`` be its replica."""
    assert int(old.call("WAIT", 1, 5000)) >= 1
    new.call("REPLICAOF", "NO", "ONE")
    old.call("REPLICAOF", "127.0.0.1", new.port)


@pytest.mark.parametrize("once", [False, True])
@async_test
async def test_a_write_that_a_replica_refuses_is_not_stored_and_ends_the_links(once: bool) -> None:
    with RedisServer() as redis:
        async with moving(redis) as (_, server, client, publisher):
            await client.subscribe("c")
            named = {"producer": "p"} if once else {}
            with demoted(redis):
                await publisher.send(action="publish", channel="c", data=1, messageId="m", **named)
                refused = await publisher.next()
                assert refused["outcome"] == "not_stored"
                assert refused["code"] in ("redis_refused", "redis_unavailable")  # the latter if ROLE told it before
                await until_status(server, "/readyz", 503)
                assert entries(redis, "c") == []
            since = time.monotonic()
            await until_status(server, "/readyz", 200)
            assert time.monotonic() - since < 5
            await publisher.publish("c", 2)


@async_test
async def test_live_again_at_the_new_primary(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rsws")
    with pair() as (one, other):
        async with moving(one) as (address, server, client, publisher):
            await client.subscribe("c")
            first = await publisher.publish("c", 1)
            assert await client.message("c") == (first, 1)
            swap(one, other)
            await until_status(server, "/readyz", 503)  # nobody had to publish for that
            add(other, "c", "2")
            address.lead_to(other.port)
            since = time.monotonic()
            assert (await client.message("c"))[1] == 2
            assert time.monotonic() - since < 5
            await until_status(server, "/readyz", 200)
            await publisher.publish("c", 3)
            assert (await client.message("c"))[1] == 3
            assert [fields["messageData"] for _, fields in entries(other, "c")] == ["1", "2", "3"]
    said = [record.getMessage() for record in caplog.records]
    assert len([text for text in said if f":{address.port}" in text and f":{other.port}" in text]) == 1, said


@async_test
async def test_what_the_new_primary_lacks_is_told() -> None:
    with pair() as (one, other):
        async with moving(one) as (address, _, client, publisher):
            await client.subscribe("c")
            kept = await publisher.publish("c", 1)
            assert (await client.message("c"))[1] == 1
            assert int(one.call("WAIT", 1, 5000)) == 1
            other.call("REPLICAOF", "NO", "ONE")
            lost = await publisher.publish("c", 2)
            assert (await client.message("c"))[1] == 2
            one.call("REPLICAOF", "127.0.0.1", other.port)
            address.lead_to(other.port)
            assert await client.gap("c") == (lost, kept, "reset")
            assert await client.message("c") == (kept, 1)
            new = add(other, "c", "3")
            assert await client.message("c") == (new[0], 3)


@async_test
async def test_a_replica_is_no_redis_to_start_with() -> None:
    with pair() as (one, other):
        async with gateway(other.url) as server:
            status, _ = await http(server, "/readyz")
            assert status == 503
            assert f"leads to a replica of 127.0.0.1:{one.port}" in server.redis_description
            one.call("REPLICAOF", "127.0.0.1", other.port)
            other.call("REPLICAOF", "NO", "ONE")
            await until_status(server, "/readyz", 200, within_s=2)


@pytest.mark.parametrize(
    "commands", [["role"], ["hello"], ["client|setname"], ["role", "hello", "client|setname", "ping"]]
)
@async_test
async def test_a_redis_that_does_not_say_what_it_is_can_be_used(commands: list[str], own_redis: RedisServer) -> None:
    forbidden = [f"-{command}" for command in commands]
    own_redis.call("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", *forbidden)
    async with gateway(f"redis://limited:secret@127.0.0.1:{own_redis.port}") as server, connect(server) as client:
        await until_status(server, "/readyz", 200)
        await client.publish("c", 1)
        await until(lambda: len(entries(own_redis, "c")) == 1)


@async_test
async def test_a_replica_that_does_not_say_so_is_not_connected_to_all_the_time() -> None:
    with RenamedServer("ROLE", "HELLO") as redis:
        async with gateway(redis.url) as server, connect(server) as client:
            await until_status(server, "/readyz", 200)
            with demoted(redis):
                before = redis.client.info("stats")["total_connections_received"]
                for _ in range(100):
                    await client.send(action="publish", channel="c", data=1, messageId="m")
                    assert (await client.next())["outcome"] == "not_stored"
                    await asyncio.sleep(0.01)
                assert redis.client.info("stats")["total_connections_received"] - before < 40
            await until_status(server, "/readyz", 200)
            await client.publish("c", 2)


@pytest.mark.parametrize("name", ["rsws-reader", "rsws-ends"])
@async_test
async def test_a_connection_to_read_that_is_missing_is_told(
    own_redis: RedisServer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="rsws")
    quick = replace(DEFAULTS, connections_check_s=0.1)
    async with gateway(own_redis.url, quick) as server, connect(server) as client, connect(server) as publisher:
        await until_status(server, "/readyz", 200)
        own_redis.call("XADD", "c", "1-1", "messageData", "0")
        own_redis.call("XTRIM", "c", "MAXLEN", 0)  # so that its end is waited for
        await client.subscribe("c", lastMessageId="$")
        await until(lambda: b"rsws-ends" in own_redis.call("CLIENT", "LIST"))
        clients = own_redis.client.client_list(_type="normal")
        reader = next(each for each in clients if each["name"] == name)
        with socket.create_connection(("127.0.0.1", own_redis.port)):
            await until(lambda: len(own_redis.client.client_list(_type="normal")) == len(clients) + 1)
            own_redis.call("CONFIG", "SET", "maxclients", len(clients))  # so that the reader's is missing
            own_redis.call("CLIENT", "KILL", "ID", reader["id"])
            await client.expect_error("redis_unavailable", "c")
            assert (await http(server, "/readyz"))[0] == 503
            stored = await publisher.publish("c", 1)
            await asyncio.sleep(0.5)  # it is told once
        own_redis.call("CONFIG", "SET", "maxclients", 10_000)
        if name == "rsws-ends":
            assert await client.gap("c") == ("1-1", stored, "trimmed")  # that it is the next one is not proven
        assert await client.message("c") == (stored, 1)
        await until_status(server, "/readyz", 200)
    said = [record.getMessage() for record in caplog.records if "to read is missing" in record.getMessage()]
    assert len(said) == 1
    assert "max number of clients reached" in said[0]


@async_test
async def test_a_server_that_closes_idle_connections(own_redis: RedisServer) -> None:
    own_redis.call("CONFIG", "SET", "timeout", 1)
    async with gateway(own_redis.url) as server:
        await until_status(server, "/readyz", 200)

        def open_since() -> set[str]:
            clients = own_redis.client.client_list(_type="normal")
            return {each["id"] for each in clients if each["name"] == "rsws-history"}

        async with asyncio.timeout(PATIENCE_S):  # the link learns how patient the server is
            before: set[str] = set()
            while not before or before != open_since():
                before = open_since()
                await asyncio.sleep(1.5)


@pytest.mark.parametrize("once", [False, True])
@async_test
async def test_what_redis_refuses_is_said_without_lua(own_redis: RedisServer, once: bool) -> None:
    async with gateway(own_redis.url) as server, connect(server) as client:
        own_redis.call("CONFIG", "SET", "maxmemory", 1)
        await client.send(action="publish", channel="c", data=1, messageId="m", **({"producer": "p"} if once else {}))
        error = (await client.expect_error_ack("m", "redis_refused"))["error"]
        assert "OOM command not allowed" in error
        assert "script" not in error

"""A Redis that forbids commands, or refuses to read for long: what still works, who is told, what is logged."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from kit.faults import command_calls
from kit.gateway import Client, add, async_test, connect, gateway, http, until, until_status
from kit.support import RedisServer, RenamedServer, free_port
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.process.single import SingleProcess

QUICK = replace(
    DEFAULTS, streams=replace(DEFAULTS.streams, lasting_s=0.3, refused_retry_s=0.05, unreadable_retry_s=0.2)
)


@asynccontextmanager
async def limited(redis: RedisServer, *rules: str) -> AsyncIterator[tuple[SingleProcess, Client]]:
    """A gateway whose user is forbidden something, and a client of it."""
    redis.call("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~*", "&*", "+@all", *rules)
    async with (
        gateway(f"redis://limited:secret@127.0.0.1:{redis.port}", QUICK) as server,
        connect(server) as client,
    ):
        await until_status(server, "/readyz", 200)
        yield server, client


async def check_all(redis: RedisServer, client: Client) -> None:
    """History, the end of it, and what is new."""
    ids = add(redis, "c", "1", "2", "3")
    await client.subscribe("c")
    assert [await client.message("c") for _ in ids] == list(zip(ids, (1, 2, 3), strict=True))
    await client.subscribe("c", last=1)
    assert await client.message("c") == (ids[2], 3)
    for number in range(4, 8):
        (new,) = add(redis, "c", str(number))
        assert await client.message("c") == (new, number)
    await client.publish("other", 1)


COMMANDS = {
    "tracking": ("client|tracking",),
    "unblock": ("client|unblock",),
    "client": ("client",),
    "hello": ("hello",),
    "info": ("info",),
    "scripts": ("eval", "evalsha", "script"),
    "all": ("client", "hello", "role", "info", "eval", "evalsha", "script", "xinfo", "ping"),
}


def refused(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said to be refused."""
    texts = [record.getMessage() for record in caplog.records]
    return sorted(text.removeprefix("Redis refuses ").partition(",")[0] for text in texts if "Redis refuses" in text)


@pytest.mark.parametrize("commands", COMMANDS.values(), ids=COMMANDS.keys())
@async_test
async def test_what_works_without_commands(
    own_redis: RedisServer, commands: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    async with limited(own_redis, *(f"-{command}" for command in commands)) as (_, client):
        await check_all(own_redis, client)
    said = refused(caplog)
    assert len(said) == len(set(said))
    if "eval" in commands:
        assert "EVAL" in said


@pytest.mark.parametrize("others", [(), ("-client|tracking", "-xread")], ids=["", "xread"])
@async_test
async def test_a_stream_that_is_emptied_where_scripts_are_forbidden(
    own_redis: RedisServer, others: tuple[str, ...]
) -> None:
    async with limited(own_redis, "-eval", "-evalsha", "-script", *others) as (_, client):
        for number in range(3):
            (new,) = add(own_redis, "c", str(number))
            if number == 0:
                await client.subscribe("c")
            elif "-xread" in others:
                assert (await client.gap("c"))[2] == "trimmed"  # that it is the next one is not proven
            assert await client.message("c") == (new, number)
            own_redis.call("XTRIM", "c", "MAXLEN", 0)
            await asyncio.sleep(0.3)  # in which the reader looks at it
        await client.nothing_more()


@async_test
async def test_what_works_where_commands_are_renamed_away(caplog: pytest.LogCaptureFixture) -> None:
    with RenamedServer("CLIENT", "HELLO", "EVAL", "EVALSHA", "SCRIPT", "XINFO", "INFO", "ROLE") as redis:
        async with gateway(redis.url, QUICK) as server, connect(server) as client:
            await until_status(server, "/readyz", 200)
            await check_all(redis, client)
    said = refused(caplog)
    assert len(said) == len(set(said))
    assert {"CLIENT TRACKING", "EVAL", "XINFO"} <= set(said)


@async_test
async def test_a_producer_without_scripts_is_not_allowed(own_redis: RedisServer) -> None:
    async with limited(own_redis, "-eval", "-evalsha") as (_, client):
        await client.send(action="publish", channel="c", data=1, messageId="m", producer="p")
        error = await client.expect_error_ack("m", "not_allowed")
        assert "publish it without `producer`" in error["error"]
    assert own_redis.call("EXISTS", "c") == 0


@pytest.mark.parametrize("way", ["forbidden", "renamed"])
@async_test
async def test_xrange_forbidden_is_told_to_each_once(way: str, caplog: pytest.LogCaptureFixture) -> None:
    with RenamedServer(*(["XRANGE"] if way == "renamed" else [])) as redis:
        async with limited(redis, *(["-xrange"] if way == "forbidden" else [])) as (server, client):
            await client.subscribe("c", lastMessageId="$")
            assert "xrange" in (await client.expect_error("channel_unreadable", "c"))["error"].lower().replace(
                "command called from script", "xrange"
            )
            async with connect(server) as late:
                await late.subscribe("c", lastMessageId="$")
                await late.expect_error("channel_unreadable", "c")
                await asyncio.sleep(0.5)  # in which it is tried again twice
                await late.nothing_more()
            await client.nothing_more()
    assert refused(caplog) == ["XRANGE"]
    assert "channel unreadable" not in caplog.text


@async_test
async def test_xread_forbidden_costs_little(own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    own_redis.call("XADD", "c", "1-1", "messageData", "1")
    own_redis.call("XTRIM", "c", "MAXLEN", 0)
    async with limited(own_redis, "-xread") as (_, client):
        await client.subscribe("c", lastMessageId="$")
        await until(lambda: refused(caplog) == ["XREAD"])
        before = command_calls(own_redis, "client|unblock"), command_calls(own_redis, "xrange")
        await asyncio.sleep(0.6)
        assert command_calls(own_redis, "client|unblock") - before[0] < 5
        assert command_calls(own_redis, "xrange") - before[1] < 10
        (new,) = add(own_redis, "c", "2")
        assert await client.gap("c") == ("1-1", new, "trimmed")  # that it is the next one is not proven
        assert await client.message("c") == (new, 2)
        (new,) = add(own_redis, "c", "3")
        assert await client.message("c") == (new, 3)
    assert refused(caplog) == ["XREAD"]


@async_test
async def test_a_cluster_that_is_down_is_told_once_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rsws")
    with RedisServer(cluster_enabled="yes", cluster_node_timeout="1000", cluster_port=str(free_port())) as redis:
        redis.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: b"cluster_state:ok" in redis.call("CLUSTER", "INFO"))
        async with gateway(redis.url, QUICK) as server, connect(server) as client:
            await until_status(server, "/readyz", 200)
            for name in ("{c}1", "{c}2"):
                await client.subscribe(name, lastMessageId="$")
                add(redis, name, "1")
                await client.message(name)
            redis.call("CLUSTER", "DELSLOTSRANGE", 0, 16383)
            redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            told = [await client.next(), await client.next()]
            assert [each["code"] for each in told] == ["redis_unavailable"] * 2
            assert {each["channel"] for each in told} == {"{c}1", "{c}2"}
            await asyncio.sleep(0.3)
            await client.nothing_more()
            redis.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await until(lambda: b"cluster_state:ok" in redis.call("CLUSTER", "INFO"))
            (new,) = add(redis, "{c}1", "2")
            assert await client.message("{c}1") == (new, 2)
            await until(lambda: "channels can be read again" in caplog.text)
    [said] = [line for line in caplog.text.splitlines() if "channels can't be read" in line]
    assert "CLUSTERDOWN" in said


@async_test
async def test_a_refusal_that_lasts_is_told_once(own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rsws")
    own_redis.call("CONFIG", "SET", "lua-time-limit", 1)
    async with gateway(own_redis.url, QUICK) as server, connect(server) as client:
        await until_status(server, "/readyz", 200)
        await client.subscribe("c", lastMessageId="$")
        add(own_redis, "c", "1")
        await client.message("c")
        with socket.create_connection(("127.0.0.1", own_redis.port)) as other:
            other.sendall(b"XADD c * messageData 2\r\nEVAL 'while true do end' 0\r\n")  # BUSY to everyone else
            assert "BUSY" in (await client.expect_error("redis_refused", "c"))["error"]
            await asyncio.sleep(0.3)
            await client.nothing_more()
            own_redis.call("SCRIPT", "KILL")
            assert (await client.message("c"))[1] == 2
        await until(lambda: "channels can be read again" in caplog.text)
        add(own_redis, "c", "3")
        assert (await client.message("c"))[1] == 3
    assert caplog.text.count("channels can't be read") == 1


@async_test
async def test_a_connection_that_is_missing_is_told_to_late_subscribers_too(own_redis: RedisServer) -> None:
    quick = replace(DEFAULTS, connections_check_s=0.1)
    async with gateway(own_redis.url, quick) as server, connect(server) as client, connect(server) as late:
        await until_status(server, "/readyz", 200)
        await client.subscribe("c")
        names = own_redis.client.client_list(_type="normal")
        reader = next(each for each in names if each["name"] == "rsws-reader")
        own_redis.call("ACL", "SETUSER", "default", "-hello", "-role")
        own_redis.call("CONFIG", "SET", "maxclients", 1)
        own_redis.call("CLIENT", "KILL", "ID", reader["id"])
        await client.expect_error("redis_unavailable", "c")
        for name in ("c", "other"):
            await late.subscribe(name)
            await late.expect_error("redis_unavailable", name)
        assert (await http(server, "/readyz"))[0] == 503
        await asyncio.sleep(0.3)
        await late.nothing_more()
        await client.nothing_more()
        own_redis.call("CONFIG", "SET", "maxclients", 10_000)
        await until_status(server, "/readyz", 200)
        (new,) = add(own_redis, "other", "1")
        assert await late.message("other") == (new, 1)


@async_test
async def test_a_stream_made_anew_within_a_millisecond(own_redis: RedisServer) -> None:
    async with gateway(own_redis.url) as server, connect(server) as client:
        await client.subscribe("c")
        own_redis.call("XADD", "c", "5-0", "messageData", "1")
        assert await client.message("c") == ("5-0", 1)
        for number in range(2, 6):
            with own_redis.client.pipeline(transaction=True) as together:
                together.delete("c")
                together.xadd("c", {"messageData": str(number)}, id="5-0")
                together.execute()
            assert await client.gap("c") == ("5-0", "5-0", "reset")
            assert await client.message("c") == ("5-0", number)
        add(own_redis, "c", "6")
        assert (await client.message("c"))[1] == 6

"""``GET /channels``: which channels there are."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from kit.faults import paused, stopped
from kit.gateway import add, async_test, connect, gateway, until, until_status
from kit.http import BEARER, everything, http_client
from kit.support import RedisServer
from kit.tokens import SECRET, token
from rsws.gateway.limits import DEFAULTS


@async_test
async def test_what_is_said_of_each(own_redis: RedisServer, channel: str) -> None:
    ids = add(own_redis, channel, "1", "2", "3")
    own_redis.call("XDEL", channel, ids[0])
    own_redis.call("XGROUP", "CREATE", "empty", "g", "$", "MKSTREAM")
    own_redis.call("SET", "no stream", "1")
    own_redis.call("XADD", "rsws:own", "*", "messageData", "1")
    async with gateway(own_redis.url) as server, http_client(server) as client, connect(server) as other:
        await other.subscribe(channel)
        found = await everything(client, "*")
        of_it = {"channel": channel, "entries": 2, "firstId": ids[1], "lastId": ids[2], "subscribers": 1}
        empty = {"channel": "empty", "entries": 0, "firstId": None, "lastId": "0-0", "subscribers": 0}
        assert sorted(found, key=lambda each: each["entries"]) == [empty, of_it]
        assert list(found[0]) == list(empty)
        head = await client.ask("HEAD", "/channels", headers=BEARER)
        assert (head.status, head.body) == (200, b"")


@async_test
async def test_what_is_listed(own_redis: RedisServer) -> None:
    names = [f"news.{number}" for number in range(3000)]
    pipeline = own_redis.client.pipeline(transaction=False)
    for name in [*names, "a?c", "abc", "a[b]c", "a\\c", "chat"]:
        pipeline.xadd(name, {"messageData": "1"})
    pipeline.execute()
    async with gateway(own_redis.url, jwt_key=SECRET) as server, http_client(server) as client:
        assert {each["channel"] for each in await everything(client, "news.*")} == set(names)
        for match in ("a?c", "a[b]c", "a\\c", "chat", "news.17"):
            assert [each["channel"] for each in await everything(client, match)] == [match]
        assert len(await everything(client, "a*c")) == 4
        bearer = {"Authorization": "Bearer " + token(channels={"news.1": "r", "news.2": "rw", "news.3": "w"})}
        assert {each["channel"] for each in await everything(client, "*", bearer)} == {"news.1", "news.2"}
    async with gateway(own_redis.url, channels=("chat", "abc")) as server, http_client(server) as client:
        assert {each["channel"] for each in await everything(client, "*")} == {"chat", "abc"}


@async_test
async def test_refusals(own_redis: RedisServer) -> None:
    async with gateway(own_redis.url, subscribe_rate="1,4") as server, http_client(server) as client:
        assert (await client.ask("GET", "/channels", headers={})).status == 401
        assert (await client.ask("POST", "/channels", b"1")).status == 405
        answer = await client.ask("GET", "/channels?cursor=x")
        assert (answer.status, answer.json["code"]) == (400, "bad_cursor")
        assert (await client.ask("GET", "/channels?cursor=9.0")).json == {"channels": [], "cursor": None}
        with stopped(own_redis):
            await until_status(server, "/readyz", 503)
            answer = await client.ask("GET", "/channels")
            assert (answer.status, answer.json["code"], answer.json["outcome"]) == (503, "redis_unavailable", None)
        assert [(await client.ask("GET", "/channels")).status for _ in range(3)][-1] == 429


@async_test
async def test_a_token_that_ends_soon_is_no_matter_of_the_list(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    add(own_redis, "news", "1")
    strict = replace(DEFAULTS, clock_difference_s=0)
    async with gateway(own_redis.url, strict, jwt_key=SECRET) as server, http_client(server) as client:
        ends = time.time() + 1
        bearer = {"Authorization": "Bearer " + token(exp=ends, channels={"news": "r"})}
        with paused(own_redis):
            await client.begin("GET", "/channels", headers=bearer)
            await until(lambda: time.time() > ends - 0.2)  # it is told at half of its life
        answer = await client.answer()
        assert (answer.status, [each["channel"] for each in answer.json["channels"]]) == (200, ["news"])
    assert not [each for each in caplog.records if each.exc_info]

"""Keys that are no stream, entries that are no message, streams that are made anew."""

from __future__ import annotations

import gc
import re
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from kit.gateway import (
    add,
    async_test,
    connect,
    gateway,
    until,
)
from kit.odd_data import ODD_DATA
from kit.support import RedisServer
from rsws.gateway.delivery.channel import Channel
from rsws.gateway.limits import DEFAULTS


@async_test
async def test_subscribe_to_a_key_that_is_no_stream(redis_server: RedisServer, channel: str) -> None:
    redis_server.call("SET", channel, "x")
    async with gateway(redis_server.url) as server, connect(server) as client:
        for start in ("0", "$"):
            await client.send(action="subscribe", channel=channel, lastMessageId=start)
            assert channel in (await client.expect_error("channel_unreadable", channel))["error"]
        await client.send(action="subscribe", channel=channel, last=5)
        await client.expect_error("channel_unreadable", channel)
        redis_server.call("DEL", channel)
        add(redis_server, channel, "1")
        await client.nothing_more()
        await client.subscribe(channel)
        assert (await client.message(channel))[1] == 1


@async_test
async def test_a_key_that_redis_forbids(own_redis: RedisServer) -> None:
    own_redis.call("ACL", "SETUSER", "gateway", "on", ">secret", "~open*", "+@all")
    url = f"redis://gateway:secret@127.0.0.1:{own_redis.port}"
    async with gateway(url) as server, connect(server) as client:
        await client.subscribe("open")
        await client.send(action="subscribe", channel="closed")
        assert "NOPERM" in (await client.expect_error("channel_unreadable", "closed"))["error"]
        await client.send(action="publish", channel="closed", data=1, messageId="m")
        await client.expect_error_ack("m", "channel_unreadable")
        add(own_redis, "open", "1")
        assert (await client.message("open"))[1] == 1


SHORT_QUARANTINE = replace(DEFAULTS, streams=replace(DEFAULTS.streams, unreadable_retry_s=0.3))


@async_test
async def test_a_key_that_turns_bad_disturbs_no_other_channel_and_resumes(
    redis_server: RedisServer, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    def refusals() -> int:
        found = re.search(rb"errorstat_WRONGTYPE:count=([0-9]+)", redis_server.call("INFO", "errorstats"))
        return 0 if found is None else int(found[1])

    good = f"{channel}-good"
    async with (
        gateway(redis_server.url, SHORT_QUARANTINE) as server,
        connect(server) as client,
        connect(server) as another,
    ):
        for each in (client, another):
            await each.subscribe(channel)
        await client.subscribe(good)
        ids = add(redis_server, channel, "1")
        await client.message(channel)
        await another.message(channel)
        before = refusals()
        redis_server.call("SET", channel, "x")
        await client.expect_error("channel_unreadable", channel)
        await another.expect_error("channel_unreadable", channel)
        for index in range(10):
            add(redis_server, good, str(index))
            assert (await client.message(good))[1] == index
            await until(lambda: refusals() > before + index // 3)  # noqa: B023
        await another.nothing_more()
        assert caplog.text.count(f"channel unreadable channel={channel}") == 1
        redis_server.call("DEL", channel)
        first, (second,) = ids[0], add(redis_server, channel, "2")
        for each in (client, another):  # the stream is another one: that nothing was missed can't be proven
            assert await each.gap(channel) == (first, second, "trimmed")
            assert await each.message(channel) == (second, 2)
        ids = add(redis_server, channel, "3")
        assert await client.message(channel) == (ids[0], 3)


@async_test
async def test_a_key_that_turns_bad_twice_is_said_twice(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, SHORT_QUARANTINE) as server, connect(server) as client:
        await client.subscribe(channel)
        for index in range(2):
            redis_server.call("SET", channel, "x")
            await client.expect_error("channel_unreadable", channel)
            redis_server.call("DEL", channel)
            add(redis_server, channel, str(index))
            if index:
                assert (await client.gap(channel))[2] == "trimmed"
            assert (await client.message(channel))[1] == index
            redis_server.call("DEL", channel)


@async_test
async def test_a_new_subscriber_does_not_wait_for_the_end_of_a_quarantine(
    redis_server: RedisServer, channel: str
) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel)
        redis_server.call("SET", channel, "x")
        await client.expect_error("channel_unreadable", channel)
        redis_server.call("DEL", channel)
        async with connect(server) as another:
            await another.subscribe(channel)
            add(redis_server, channel, "1")
            assert (await another.message(channel))[1] == 1


POISON: list[list[bytes]] = [
    [b"other", b"1"],
    [b"messagedata", b"1"],
    [b"messageData", b""],
    [b"messageData", b"hello"],
    [b"messageData", b"NaN"],
    [b"messageData", b'{"a":Infinity}'],
    [b"messageData", b'"\xff"'],
    [b"messageData", b'"\\ud800"'],
    [b"messageData", b'"\xed\xa0\x80"'],
    [b"messageData", b"[1,]"],
    [b"messageData", b"1 2"],
    [b"messageData", b"[" * 100_000 + b"]" * 100_000],
    [b"messageData", b"[" * 257 + b"]" * 257],
    [b"messageData", b'{"a":' * 972 + b"1" + b"}" * 972],
    [b"messageData", b"1", b"messageData", b"no"],
    [b"\xff\xfe", b"\xff"],
]


@async_test
async def test_entries_that_are_no_messages_never_stop_a_channel(
    redis_server: RedisServer, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    def poison() -> None:
        for fields in POISON:
            redis_server.call("XADD", channel, "*", *fields)

    poison()
    add(redis_server, channel, "1")
    poison()
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel, marker=True)
        assert (await client.message(channel))[1] == 1
        latest = redis_server.call("XREVRANGE", channel, "+", "-", "COUNT", 1)[0][0].decode()
        await client.expect(f'{{"event":"caught_up","channel":"{channel}","lastMessageId":"{latest}"}}')
        poison()
        add(redis_server, channel, "2")
        assert (await client.message(channel))[1] == 2
        redis_server.call("XADD", channel, "*", "x", "y", "messageData", "no", "messageData", "3", "z", "")
        assert (await client.message(channel))[1] == 3
        await client.nothing_more()
    assert channel in caplog.text


@async_test
async def test_a_history_of_nothing_but_poison(redis_server: RedisServer, channel: str) -> None:
    pipeline = redis_server.client.pipeline(transaction=False)
    for _ in range(3000):
        pipeline.xadd(channel, {"other": "1"})
    pipeline.execute()
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel)
        add(redis_server, channel, "1")
        assert (await client.message(channel))[1] == 1


@async_test
async def test_what_was_read_of_a_channel_is_let_go_of(redis_server: RedisServer, channel: str) -> None:
    pipeline = redis_server.client.pipeline(transaction=False)
    for _ in range(2000):
        pipeline.xadd(channel, {"other": "1"})
    pipeline.execute()
    async with gateway(redis_server.url) as server, connect(server) as client:
        for _ in range(50):
            await client.subscribe(channel, marker=True)
            assert (await client.next())["event"] == "caught_up"
            await client.send(action="unsubscribe", channel=channel)
            await client.next()
        gc.collect()
        assert sum(isinstance(each, Channel) for each in gc.get_objects()) < 10


@async_test
async def test_data_of_other_programs_is_carried_byte_for_byte_too(redis_server: RedisServer, channel: str) -> None:
    texts = [*ODD_DATA, ' \n{"a": 1}\r\n ', "-0.0"]
    ids = add(redis_server, channel, *texts)
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel)
        ids += add(redis_server, channel, *texts)
        for stream_id, text in zip(ids, texts * 2, strict=True):
            await client.expect(f'{{"event":"message","channel":"{channel}","streamId":"{stream_id}","data":{text}}}')


@async_test
async def test_a_stream_that_is_deleted_and_grows_anew(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as client:
        await client.subscribe(channel)
        for index in range(3):
            ids = add(redis_server, channel, str(index))
            assert await client.message(channel) == (ids[0], index)
            redis_server.call("DEL", channel)
            assert await client.gap(channel) == (ids[0], None, "reset")


@async_test
async def test_a_reset_that_many_see_is_one_reset(redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "0")
    async with gateway(redis_server.url) as server, AsyncExitStack() as stack, connect(server) as live:
        await live.subscribe(channel, lastMessageId="$")
        others = [await stack.enter_async_context(connect(server)) for _ in range(20)]
        redis_server.call("DEL", channel)
        for number in range(1, 301):
            redis_server.call("XADD", channel, f"{number}-0", "messageData", number)
        for index, other in enumerate(others):
            start = {"last": 250} if index % 2 else {"lastMessageId": "$"}
            await other.send(action="subscribe", channel=channel, **start)
        assert (await live.gap(channel))[1:] == ("1-0", "reset")
        assert [data for _, data in await live.messages(channel, 300)] == [*range(1, 301)]
        await live.nothing_more()
        for index, other in enumerate(others):
            assert (await other.next())["latestId"] == "300-0"
            if index % 2:
                assert [data for _, data in await other.messages(channel, 250)] == [*range(51, 301)]
            await other.nothing_more()

"""Resuming, by clients and by the gateway itself: a gap is told exactly when continuity can't be proven."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import pytest

from kit.checker import Gap, History, stream_of
from kit.faults import command_calls
from kit.gateway import (
    Wire,
    add,
    async_test,
    connect,
    entries,
    gateway,
    request,
    until,
    until_status,
)
from kit.support import RedisServer
from rsws.gateway.limits import DEFAULTS

Change: TypeAlias = Callable[[RedisServer, str], object]


def put(redis: RedisServer, channel: str, *numbers: int) -> None:
    """Entries with these ids and data."""
    for number in numbers:
        redis.call("XADD", channel, f"{number}-0", "messageData", number)


def roll_back(redis: RedisServer, channel: str) -> None:
    """To an earlier state, as after a restart that has lost the last second."""
    redis.call("DEL", channel)
    put(redis, channel, 1, 2, 3)


def restart(redis: RedisServer, channel: str) -> None:
    redis.kill()
    redis.start()


CHANGES: dict[str, tuple[Change, str | None]] = {
    "nothing": (lambda redis, key: None, None),
    "a new entry": (lambda redis, key: redis.call("XADD", key, "7-0", "messageData", "7"), None),
    "another entry deleted": (lambda redis, key: redis.call("XDEL", key, "5-0"), None),
    "the one at the position deleted": (lambda redis, key: redis.call("XDEL", key, "4-0"), None),
    "trimmed to the position": (lambda redis, key: redis.call("XTRIM", key, "MINID", "4-0"), None),
    "trimmed past the position": (lambda redis, key: redis.call("XTRIM", key, "MINID", "6-0"), "trimmed"),
    # The entry at the position was the last one trimmed: nothing is lost, but nothing proves it.
    "trimmed right behind the position": (lambda redis, key: redis.call("XTRIM", key, "MINID", "5-0"), "trimmed"),
    "emptied": (lambda redis, key: redis.call("XTRIM", key, "MAXLEN", "0"), "trimmed"),
    "deleted": (lambda redis, key: redis.call("DEL", key), "reset"),
    "made anew with smaller ids": (
        lambda redis, key: (redis.call("DEL", key), redis.call("XADD", key, "2-0", "messageData", "22")),
        "reset",
    ),
    "made anew with greater ids": (
        lambda redis, key: (redis.call("DEL", key), redis.call("XADD", key, "9-0", "messageData", "9")),
        "trimmed",
    ),
    "another one renamed over it": (
        lambda redis, key: (
            redis.call("XADD", key + "-other", "3-0", "messageData", "33"),
            redis.call("RENAME", key + "-other", key),
        ),
        "reset",
    ),
    "rolled back": (roll_back, "reset"),
    "set forward": (lambda redis, key: redis.call("XSETID", key, "100-0"), None),
    "everything flushed": (lambda redis, key: redis.call("FLUSHALL"), "reset"),
    "restarted without persistence": (restart, "reset"),
}


@pytest.mark.parametrize("change", CHANGES)
@async_test
async def test_resuming_in_a_stream_that_was_changed(own_redis: RedisServer, channel: str, change: str) -> None:
    make, reason = CHANGES[change]
    put(own_redis, channel, *range(1, 7))
    make(own_redis, channel)
    stored = [(stream_id, int(fields["messageData"])) for stream_id, fields in entries(own_redis, channel)]
    async with gateway(own_redis.url) as server, connect(server) as client:
        await client.subscribe(channel, lastMessageId="4-0")
        if reason is not None:
            first = stored[0][0] if stored else None
            assert await client.gap(channel) == ("4-0", first, reason)
        expected = [entry for entry in stored if reason == "reset" or int(entry[0][:-2]) > 4]
        assert await client.messages(channel, len(expected)) == expected
        await client.nothing_more()
        if change == "emptied":  # what comes sooner might follow something that was added and trimmed
            await until(lambda: own_redis.client.info("clients")["blocked_clients"])
        new_id = add(own_redis, channel, "99")[0]
        assert await client.message(channel) == (new_id, 99)
        await client.nothing_more()


@pytest.mark.parametrize("change", CHANGES)
@async_test
async def test_a_live_subscriber_of_a_stream_that_is_changed(own_redis: RedisServer, channel: str, change: str) -> None:
    make, reason = CHANGES[change]
    put(own_redis, channel, *range(1, 7))
    async with gateway(own_redis.url, replace(DEFAULTS, check_s=0.1)) as server, connect(server) as client:
        await client.subscribe(channel, marker=True)
        await client.messages(channel, 6)
        assert (await client.next())["event"] == "caught_up"
        make(own_redis, channel)
        await until_status(server, "/readyz", 200)
        stored = [(stream_id, int(fields["messageData"])) for stream_id, fields in entries(own_redis, channel)]
        if reason == "reset":
            first = stored[0][0] if stored else None
            assert await client.gap(channel) == ("6-0", first, "reset")
            assert await client.messages(channel, len(stored)) == stored
        else:  # it had everything that is gone
            frames = [await client.next() for entry in stored if int(entry[0][:-2]) > 6]
            if frames and frames[0]["event"] == "gap":  # its last entry is gone: nothing proves that it had them all
                assert (reason, frames[0]["reason"]) == ("trimmed", "trimmed")
                frames = [*frames[1:], await client.next()]
            new = [entry for entry in stored if int(entry[0][:-2]) > 6]
            assert [(frame["streamId"], frame["data"]) for frame in frames] == new
        if change == "emptied":  # of which Redis does not tell everything
            looks = command_calls(own_redis, "xinfo|stream")
            await until(lambda: command_calls(own_redis, "xinfo|stream") >= looks + 3)  # which find nothing new
        await client.nothing_more()
        new_id = add(own_redis, channel, "99")[0]
        assert await client.message(channel) == (new_id, 99)
        await client.nothing_more()


@async_test
async def test_only_streams_that_redis_does_not_tell_of_are_looked_at(own_redis: RedisServer, channel: str) -> None:
    quick = replace(DEFAULTS, check_s=0.02, check_pause_s=0)
    async with gateway(own_redis.url, quick) as server, connect(server) as client:
        for number in range(50):
            put(own_redis, f"{channel}-{number}", 1)
            await client.subscribe(f"{channel}-{number}", lastMessageId="1-0")
            await client.subscribe(f"{channel}-that-never-was-{number}")
        put(own_redis, channel, 1)
        own_redis.call("XTRIM", channel, "MAXLEN", 0)
        await client.subscribe(channel, lastMessageId="1-0")
        await until(lambda: own_redis.client.info("clients")["blocked_clients"])
        before = command_calls(own_redis, "xinfo|stream")
        await until(lambda: command_calls(own_redis, "xinfo|stream") >= before + 10)
        scripts = command_calls(own_redis, "evalsha")
        before = command_calls(own_redis, "xinfo|stream")
        await until(lambda: command_calls(own_redis, "xinfo|stream") >= before + 10)
        assert command_calls(own_redis, "evalsha") - scripts <= 15, "one look at the emptied stream a round"


@async_test
async def test_a_gateway_that_stood_still_tells_what_was_trimmed_meanwhile(
    redis_server: RedisServer, channel: str
) -> None:
    history = History()
    untouched = channel + "-untouched"
    async with gateway(redis_server.url) as server, connect(server) as client:
        logs = {}
        for name in (channel, untouched):
            first = add(redis_server, name, '"first"')[0]
            await client.subscribe(name, lastMessageId=first)
            logs[name] = history.subscribed("s", name, first)
        await client.nothing_more()
        for name in logs:
            add(redis_server, name, *map(str, range(1, 10)))
        everything = stream_of(redis_server, channel)
        redis_server.call("XTRIM", channel, "MAXLEN", 2)
        time.sleep(0.5)  # noqa: ASYNC251 - this is how an event loop stands still
        last = {name: stream_of(redis_server, name)[-1][0] for name in logs}
        while last:
            frame = await client.next()
            log = logs[frame["channel"]]
            if frame["event"] == "gap":
                log.gap(frame["lastMessageId"], frame["resumesAt"], frame["reason"])
                continue
            log.message(frame["streamId"], json.dumps(frame["data"]).encode())
            if last[frame["channel"]] == frame["streamId"]:
                del last[frame["channel"]]
        await client.nothing_more()
    history.removed(channel, everything[:-2])
    history.written([*everything, (first, b'"first"')])
    history.check({name: stream_of(redis_server, name) for name in logs})
    assert [event[2] for event in logs[channel].events if isinstance(event, Gap)] == ["trimmed"]


@async_test
async def test_a_lagging_subscriber_is_told_what_was_trimmed(redis_server: RedisServer, channel: str) -> None:
    history = History()
    async with gateway(redis_server.url) as server, Wire(server, 4096) as asleep:
        await asleep.handshake()
        await asleep.send(request(action="subscribe", channel=channel))
        log = history.subscribed("asleep", channel, "0-0")
        for _ in range(20):
            add(redis_server, channel, *[f'"{"x" * 10_000}"'] * 20)
            await asyncio.sleep(0.005)
        everything = stream_of(redis_server, channel)
        redis_server.call("XTRIM", channel, "MAXLEN", 10)
        final = stream_of(redis_server, channel)
        history.removed(channel, everything[:-10])
        await asleep.text()
        await asleep.text()
        while True:
            frame = json.loads(await asleep.text())
            if frame["event"] == "gap":
                log.gap(frame["lastMessageId"], frame["resumesAt"], frame["reason"])
            else:
                log.message(frame["streamId"], json.dumps(frame["data"]).encode())
                if frame["streamId"] == final[-1][0]:
                    break
    history.written(everything)
    history.check({channel: final})
    assert sum(isinstance(event, Gap) for event in log.events) == 1


@pytest.mark.parametrize("new", [(), (1, 2)], ids=["deleted", "made anew with smaller ids"])
@async_test
async def test_a_lagging_subscriber_of_a_stream_that_is_reset(
    redis_server: RedisServer, channel: str, new: tuple[int, ...]
) -> None:
    add(redis_server, channel, *[f'"{"x" * 10_000}"'] * 400)
    async with gateway(redis_server.url) as server, Wire(server, 4096) as asleep:
        await asleep.handshake()
        await asleep.send(request(action="subscribe", channel=channel))
        (connection,) = server.server.clients.sessions
        await until(lambda: not connection.has_room)
        redis_server.call("DEL", channel)
        put(redis_server, channel, *new)
        seen = {"status": "", "streamId": ""}
        while (frame := json.loads(await asleep.text())).get("event") != "gap":
            seen = frame
        first = f"{new[0]}-0" if new else None
        assert (frame["lastMessageId"], frame["resumesAt"], frame["reason"]) == (seen["streamId"], first, "reset")
        if not new:
            put(redis_server, channel, 1, 2)
        for number in (1, 2):
            frame = json.loads(await asleep.text())
            assert (frame["streamId"], frame["data"]) == (f"{number}-0", number)

"""A Redis that forbids commands: what the store does without scripts and without XINFO."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from kit.faults import command_calls
from kit.gateway import add, async_test, until
from kit.streams import PAGE_BYTES, appended, parsed, running, stored
from kit.support import RedisServer, RenamedServer, sent_by
from rsws.errors import ErrorCode, NotPossible, Outcome, StoreError
from rsws.protocol import ZERO, StreamId
from rsws.redis.limits import DEFAULTS
from rsws.redis.target import RedisTarget
from rsws.streams.primary import Primary
from rsws.streams.replies import Entry, History, StreamBounds
from rsws.streams.retention import Rule
from rsws.streams.store import IdempotencyKey, Store, Stored

NO_SCRIPTS = ("-eval", "-evalsha", "-script")
NO_INFO = (*NO_SCRIPTS, "-xinfo")
WAYS = {
    "evalsha": ("-evalsha",),
    "eval": ("-eval",),
    "script": ("-script",),
    "all scripts": NO_SCRIPTS,
    "xinfo": ("-xinfo",),
    "all": NO_INFO,
}


def refused_calls(redis: RedisServer) -> int:
    """How many commands were refused by an ACL."""
    found = re.search(rb"errorstat_NOPERM:count=([0-9]+)", redis.call("INFO", "errorstats"))
    return 0 if found is None else int(found[1])


@asynccontextmanager
async def limited_store(redis: RedisServer, *rules: str) -> AsyncIterator[Store]:
    """A store of a user to whom the rules forbid something."""
    redis.call("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~*", "&*", "+@all", *rules)
    primary = Primary(RedisTarget(f"redis://limited:secret@127.0.0.1:{redis.port}", 5.0), lambda cause: None)
    async with running(primary):
        yield primary.store


@pytest.mark.parametrize("rules", WAYS.values(), ids=WAYS.keys())
@async_test
async def test_all_that_reads_works(redis_server: RedisServer, channel: str, rules: tuple[str, ...]) -> None:
    ids = parsed(add(redis_server, channel, *map(str, range(300))))
    async with limited_store(redis_server, *rules) as store:
        for _ in range(2):
            assert await store.bounds(f"{channel}-missing") == StreamBounds(None, ZERO)
            bounds = await store.bounds(channel)
            assert (bounds.first, bounds.last) == (ids[0], ids[-1])
            position, read = ids[9], []
            while position != ids[-1]:
                history = await store.page(channel, position, 100, PAGE_BYTES)
                assert history.broken is None
                read += [entry.id for entry in history.entries]
                position = read[-1]
            assert read == ids[10:]
            assert history.is_end
            for count in (1, 2, 63, 64, 65, 200, 299):
                assert await store.before_last(channel, count, bounds) == ids[-count - 1]
            for count in (300, 301, 10**18):
                assert await store.before_last(channel, count, bounds) == ZERO
        redis_server.call("SET", f"{channel}-text", "x")
        for asked in (store.bounds(f"{channel}-text"), store.page(f"{channel}-text", ZERO, 9, PAGE_BYTES)):
            with pytest.raises(StoreError, match="is not a stream"):
                await asked
        assert await stored(store, channel) > ids[-1]


@pytest.mark.parametrize("rules", [NO_SCRIPTS, NO_INFO], ids=["no scripts", "no XINFO either"])
@pytest.mark.parametrize("gone", ["trimmed", "deleted in between", "nothing left", "made anew", "rolled back"])
@async_test
async def test_a_page_says_whether_something_may_be_missing(
    redis_server: RedisServer, channel: str, gone: str, rules: tuple[str, ...]
) -> None:
    ids = parsed(add(redis_server, channel, *map(str, range(6))))
    async with limited_store(redis_server, *rules) as store:
        expected: tuple[str | None, list[StreamId]]
        bounds: tuple[StreamId | None, StreamId]
        match gone:
            case "trimmed":
                redis_server.call("XTRIM", channel, "MAXLEN", 3)
                expected, bounds = ("trimmed", ids[3:5]), (ids[3], ids[5])
            case "deleted in between":
                redis_server.call("XDEL", channel, str(ids[1]), str(ids[2]))
                expected, bounds = (None, ids[3:5]), (ids[0], ids[5])
            case "nothing left":
                redis_server.call("XTRIM", channel, "MAXLEN", 0)
                expected, bounds = ("trimmed", []), (None, ids[5])
                if rules is NO_INFO:  # which can't be told from a stream made anew
                    expected, bounds = ("reset", []), (None, ZERO)
            case "made anew":
                redis_server.call("DEL", channel)
                redis_server.call("XADD", channel, "1-0", "messageData", "9")
                expected, bounds = ("reset", []), (StreamId(1, 0), StreamId(1, 0))
            case _:
                redis_server.call("DEL", channel)
                expected, bounds = ("reset", []), (None, ZERO)
        history = await store.page(channel, ids[1], 10, PAGE_BYTES)
        assert (history.broken, [entry.id for entry in history.entries]) == expected
        assert history.bounds is not None
        assert (history.bounds.first, history.bounds.last) == bounds


@async_test
async def test_bounds_without_xinfo_where_the_last_entry_is_deleted(redis_server: RedisServer, channel: str) -> None:
    ids = parsed(add(redis_server, channel, "1", "2", "3"))
    redis_server.call("XDEL", channel, str(ids[2]))
    async with limited_store(redis_server, *NO_SCRIPTS) as store:
        assert await store.bounds(channel) == StreamBounds(ids[0], ids[2], 2)
    async with limited_store(redis_server, *NO_INFO) as store:
        bounds = await store.bounds(channel)
        assert (bounds.first, bounds.last) == (ids[0], ids[1])


@async_test
async def test_bounds_without_scripts_are_those_before_an_append(redis_server: RedisServer, channel: str) -> None:
    for rules in (NO_SCRIPTS, NO_INFO):
        async with limited_store(redis_server, *rules) as store:
            await store.bounds(channel)  # by which it is known what is refused
            before = await stored(store, channel)
            for _ in range(50):
                bounds = store.bounds(channel)
                following = await stored(store, channel)
                assert (await bounds).last == before
                before = following


@async_test
async def test_pages_without_scripts_are_bounded_in_bytes(own_redis: RedisServer, channel: str) -> None:
    ids = parsed(add(own_redis, channel, *["1"] * 100, *["x" * 200_000] * 30, "2"))
    async with limited_store(own_redis, *NO_SCRIPTS) as store:
        await store.bounds(channel)
        before, position, read, sizes = sent_by(own_redis), ids[49], [], []
        while position != ids[-1]:
            history = await store.page(channel, position, 256, PAGE_BYTES)
            position = history.entries[-1].id
            read += [entry.id for entry in history.entries]
            sizes.append(sum(len(entry.data or b"") for entry in history.entries))
        assert read == ids[50:]
        assert max(sizes) <= PAGE_BYTES + 200_000
        assert sent_by(own_redis) - before < (3 * 30 + 16) * 210_000
        before = sent_by(own_redis)
        end = await store.bounds(channel)
        assert await store.before_last(channel, 5, end) == ids[-6]
        assert sent_by(own_redis) - before < (6 + 3 + 16) * 210_000


@pytest.mark.parametrize("rules", [NO_SCRIPTS, ("-eval", "-evalsha")], ids=["all", "eval and evalsha"])
@async_test
async def test_a_publish_with_a_producer_is_refused_without_scripts(
    redis_server: RedisServer, channel: str, rules: tuple[str, ...]
) -> None:
    async with limited_store(redis_server, *rules) as store:
        for _ in range(2):
            refused = await appended(store, channel, b"1", IdempotencyKey("p", "m", 120))
            assert isinstance(refused, NotPossible)
            assert (refused.code, refused.outcome) == (ErrorCode.NOT_ALLOWED, Outcome.NOT_STORED)
            assert "publish it without `producer`" in str(refused)
            assert "NOPERM" in str(refused)
        assert await store.page(channel, ZERO, 9, PAGE_BYTES) == History([], is_end=True)
        await stored(store, channel)


@pytest.mark.parametrize("rule", ["-evalsha", "-script", "-eval"])
@async_test
async def test_a_producer_where_scripts_can_be_run_some_way(redis_server: RedisServer, channel: str, rule: str) -> None:
    async with limited_store(redis_server, rule) as store:
        once = IdempotencyKey("p", "m", 120)
        first = await appended(store, channel, b"1", once)
        assert isinstance(first, Stored)
        assert await appended(store, channel, b"1", once) == Stored(first.raw_id, duplicate=True)


@async_test
async def test_each_refusal_is_said_once(
    redis_server: RedisServer, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="rsws")
    add(redis_server, channel, *["1"] * 20)
    async with limited_store(redis_server, *NO_INFO) as store:
        for _ in range(3):
            await store.bounds(channel)
            await store.page(channel, ZERO, 9, PAGE_BYTES)
            await store.before_last(channel, 9, await store.bounds(channel))
            await appended(store, channel, b"1", IdempotencyKey("p", "m", 120))
    said = [record.getMessage() for record in caplog.records if "refuses" in record.getMessage()]
    assert [text.partition(",")[0] for text in said] == [
        f"Redis refuses {name}" for name in ("EVALSHA", "EVAL", "XINFO")
    ]


@pytest.mark.parametrize(
    ("rule", "said"), [("-eval", "Redis refuses EVAL"), ("-xtrim", "trimming failed"), ("-scan", "trimming failed")]
)
@async_test
async def test_what_retention_is_refused_is_said_once(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture, rule: str, said: str
) -> None:
    own_redis.call("ACL", "SETUSER", "limited", "on", ">secret", "~*", "+@all", rule, "-evalsha")
    for name in ("c.1", "c.2", "c.3"):
        own_redis.call("XADD", name, "1-0", "messageData", "1")
    target = RedisTarget(f"redis://limited:secret@127.0.0.1:{own_redis.port}", 5.0)
    rules = [Rule.parse("c.*=10,1s,expire")]
    limits = replace(DEFAULTS, trim_every_s=0.01)
    async with running(Primary(target, lambda cause: None, rules=rules, limits=limits)):
        await until(lambda: said in caplog.text)
        for number in range(5):  # another stream each time is no other news
            own_redis.call("XADD", f"c.{number + 4}", "1-0", "messageData", "1")
            before = refused_calls(own_redis)
            await until(lambda: refused_calls(own_redis) > before + 8)  # noqa: B023
    assert caplog.text.count(f"{said}:") + caplog.text.count(f"{said},") + caplog.text.count(f"{said} ") == 1
    assert own_redis.call("DBSIZE") == 8


@async_test
async def test_scripts_are_tried_again_on_a_new_connection(redis_server: RedisServer, channel: str) -> None:
    async with limited_store(redis_server, *NO_SCRIPTS) as store:
        await store.bounds(channel)
        redis_server.call("ACL", "SETUSER", "limited", "+@all")
        plain = command_calls(redis_server, "xinfo|stream")
        await store.bounds(channel)
        assert command_calls(redis_server, "xinfo|stream") == plain + 1
        redis_server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        scripts = command_calls(redis_server, "eval") + command_calls(redis_server, "evalsha")
        for _ in range(4):
            await stored_somehow(store, channel)
        assert command_calls(redis_server, "eval") + command_calls(redis_server, "evalsha") >= scripts + 3


async def stored_somehow(store: Store, channel: str) -> None:
    while True:
        try:
            await store.bounds(channel)
            return
        except StoreError:
            pass


@async_test
async def test_commands_that_are_renamed_away(channel: str) -> None:
    with RenamedServer("EVAL", "EVALSHA", "SCRIPT", "XINFO") as renamed:
        ids = parsed(add(renamed, channel, *map(str, range(9))))
        primary = Primary(RedisTarget(renamed.url, 5.0), lambda cause: None)
        async with running(primary):
            store = primary.store
            assert (await store.bounds(channel)).last == ids[-1]
            page = await store.page(channel, ids[6], 9, PAGE_BYTES)
            assert page.entries == [Entry(str(ids[7]).encode(), b"7"), Entry(str(ids[8]).encode(), b"8")]
            assert isinstance(await appended(store, channel, b"1", IdempotencyKey("p", "m", 120)), NotPossible)

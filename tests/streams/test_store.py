"""The store over its link, on a real Redis: appends, pages, tips."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from redis.crc import key_slot

from kit.gateway import add, async_test, until
from kit.streams import PAGE_BYTES, TOP, appended, appended_all, parsed, running, running_store, stored, target_of
from kit.support import RedisServer, sent_by
from rsws.errors import (
    ChannelUnreadable,
    Conflict,
    ErrorCode,
    Outcome,
    RedisRefused,
    RedisUnavailable,
)
from rsws.protocol import ZERO, StreamId
from rsws.redis.connection import OnReply, ReplyError
from rsws.redis.link import Submits
from rsws.redis.target import RedisTarget
from rsws.streams.primary import Primary
from rsws.streams.replies import Entry, History, StreamBounds, broken_continuity, parse_entries
from rsws.streams.store import PLAIN_READ_ENTRIES, IdempotencyKey, Store, Stored, idempotency_key_name


@async_test
async def test_append(redis_server: RedisServer, channel: str) -> None:
    async with running_store(redis_server) as store:
        results = [appended(store, channel, b'{"n": %d}' % index) for index in range(2000)]
        ids = [(await result).id for result in results]  # type: ignore[union-attr]
        reply = redis_server.call("XRANGE", channel, "-", "+")
        assert [id_ for id_, _ in reply] == [str(id_).encode() for id_ in ids]
        assert [fields for _, fields in reply] == [[b"messageData", b'{"n": %d}' % index] for index in range(2000)]


@async_test
async def test_append_all(redis_server: RedisServer, channel: str) -> None:
    data, channel = [b'{"n":%d}' % number for number in range(100)], f"{channel}:100%d"
    async with running_store(redis_server) as store:
        before = await stored(store, channel, b"0")
        results, after = appended_all(store, channel, data), appended(store, channel, b"1")
        ids = [str(before).encode(), *await results, (await after).raw_id]  # type: ignore[union-attr]
        reply = redis_server.call("XRANGE", channel, "-", "+")
        assert [id_ for id_, _ in reply] == ids
        assert [fields[1] for _, fields in reply] == [b"0", *data, b"1"]


class Answers(Submits):
    """A link that answers at once."""

    batches = connections = 1

    def __init__(self, *replies: Any) -> None:
        self._replies = iter(replies)

    def submit(self, command: bytes, on_reply: OnReply, weight: int = 0, *, again: bool = False) -> None:
        on_reply(next(self._replies))


def test_of_what_is_appended_together_each_has_its_own_result() -> None:
    link = Answers(b"2-1", ReplyError("OOM no memory"), RedisUnavailable("gone", Outcome.UNKNOWN))
    results: list[Any] = []
    Store(link, link).append_all("chat", [b"1", b"2", b"3"], results.extend)
    assert results[0] == b"2-1"
    assert [each.outcome for each in results[1:]] == [Outcome.NOT_STORED, Outcome.UNKNOWN]


@async_test
async def test_append_to_what_is_no_stream(own_redis: RedisServer) -> None:
    own_redis.call("SET", "text", "x")
    async with running_store(own_redis) as store:
        refused = await appended(store, "text", b"1")
        assert isinstance(refused, ChannelUnreadable)
        assert (refused.code, refused.outcome) == (ErrorCode.CHANNEL_UNREADABLE, Outcome.NOT_STORED)
        own_redis.call("CONFIG", "SET", "maxmemory", "1")
        refused = await appended(store, "stream", b"1")
        assert [type(each) for each in await appended_all(store, "stream", [b"1", b"2"])] == [RedisRefused] * 2
        assert isinstance(refused, RedisRefused)
        assert "OOM" in str(refused)
        assert (refused.code, refused.outcome) == (ErrorCode.REDIS_REFUSED, Outcome.NOT_STORED)


@async_test
async def test_append_once(redis_server: RedisServer, channel: str) -> None:
    async with running_store(redis_server) as store:
        once = IdempotencyKey("producer", "m1", 120)
        first = await appended(store, channel, b'{"n": 1}', once)
        assert isinstance(first, Stored)
        assert not first.duplicate
        for _ in range(3):
            redis_server.call("SCRIPT", "FLUSH")
            again = [appended(store, channel, b'{"n": 1}', once) for _ in range(3)]
            assert [await each for each in again] == [Stored(first.raw_id, duplicate=True)] * 3
        assert isinstance(await appended(store, channel, b'{"n":1}', once), Conflict)
        for other in (IdempotencyKey("producer", "m2", 120), IdempotencyKey("another", "m1", 120)):
            assert (await appended(store, channel, b'{"n": 1}', other)).duplicate is False  # type: ignore[union-attr]
        assert await stored(store, channel, b'{"n": 1}')
        assert (await appended(store, f"{channel}-other", b"1", once)).duplicate is False  # type: ignore[union-attr]
        reply = redis_server.call("XRANGE", channel, "-", "+")
        assert [fields for _, fields in reply] == [[b"messageData", b'{"n": 1}']] * 4


@async_test
async def test_append_once_forgets_after_its_window(redis_server: RedisServer, channel: str) -> None:
    async with running_store(redis_server) as store:
        once = IdempotencyKey("producer", "m1", 0.05)
        await appended(store, channel, b"1", once)
        await until(lambda: redis_server.call("EXISTS", idempotency_key_name(channel, once)) == 0)
        assert (await appended(store, channel, b"2", once)).duplicate is False  # type: ignore[union-attr]


@async_test
async def test_append_once_that_redis_refuses_stores_nothing(own_redis: RedisServer) -> None:
    once = IdempotencyKey("producer", "m1", 120)
    async with running_store(own_redis) as store:
        own_redis.call("SET", "channel", "x")
        assert isinstance(await appended(store, "channel", b"1", once), ChannelUnreadable)
        own_redis.call("DEL", "channel")
        own_redis.call("CONFIG", "SET", "maxmemory", "1")
        refused = await appended(store, "channel", b"1", once)
        assert isinstance(refused, RedisRefused)
        assert "OOM" in str(refused)
        own_redis.call("CONFIG", "SET", "maxmemory", "0")
        assert own_redis.call("DBSIZE") == 0
        assert (await appended(store, "channel", b"1", once)).duplicate is False  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name", ["c", "{tag}rest", "a{tag}", "{}", "{}x", "{", "}", "a}b", "{}}", "{{x}}", "x{}y{z}", "é{ü}"]
)
def test_the_memory_of_a_message_lies_beside_its_channel(name: str) -> None:
    key = idempotency_key_name(name, IdempotencyKey("producer", "m", 120))
    assert key_slot(key) == key_slot(name.encode())
    assert key != idempotency_key_name(name, IdempotencyKey("producerm", "", 120))
    assert key != idempotency_key_name(name + "x", IdempotencyKey("producer", "m", 120))


@async_test
async def test_tip(redis_server: RedisServer, channel: str) -> None:
    async with running_store(redis_server) as store:
        assert await store.bounds(channel) == StreamBounds(None, ZERO)
        ids = parsed(add(redis_server, channel, "1", "2", "3"))
        assert await store.bounds(channel) == StreamBounds(ids[0], ids[2], 3)
        redis_server.call("XDEL", channel, str(ids[2]))
        assert await store.bounds(channel) == StreamBounds(ids[0], ids[2], 2)
        redis_server.call("XTRIM", channel, "MAXLEN", 0)
        assert await store.bounds(channel) == StreamBounds(None, ids[2], 0)
        redis_server.call("DEL", channel)
        assert await store.bounds(channel) == StreamBounds(None, ZERO)
        redis_server.call("SET", channel, "x")
        with pytest.raises(ChannelUnreadable):
            await store.bounds(channel)


@async_test
async def test_looks_that_take_long_do_not_share_a_batch(redis_server: RedisServer, channel: str) -> None:
    names = [f"{channel}-{number}" for number in range(5)]
    primary = Primary(target_of(redis_server), lambda cause: None)
    store = primary.store
    async with running(primary):
        for name in names:
            await stored(store, name)

        async def batches() -> int:
            before = primary.commands.batches
            await asyncio.gather(*map(store.bounds, names))
            return primary.commands.batches - before

        assert await batches() == 1
        add(redis_server, channel, '"%s"' % ("x" * 1_000_000))
        await store.bounds(channel)
        assert await batches() >= 3
        for _ in range(4):  # and once they are quick again
            await batches()
        assert await batches() == 1


@async_test
async def test_a_tip_asked_for_before_an_append_is_the_one_before_it(redis_server: RedisServer, channel: str) -> None:
    async with running_store(redis_server) as store:
        before = await stored(store, channel)
        for _ in range(50):
            bounds = store.bounds(channel)
            following = await stored(store, channel)
            assert (await bounds).last == before
            before = following


@async_test
async def test_page(redis_server: RedisServer, channel: str) -> None:
    ids = parsed(add(redis_server, channel, *map(str, range(10))))
    async with running_store(redis_server) as store:

        async def page(after: StreamId, count: int) -> list[StreamId]:
            history = await store.page(channel, after, count, PAGE_BYTES)
            assert history.broken is None
            return [entry.id for entry in history.entries]

        assert await page(ZERO, 100) == ids
        assert await page(ZERO, 4) == ids[:4]
        assert await page(ids[3], 4) == ids[4:8]
        assert await page(ids[7], 4) == ids[8:]
        assert await page(ids[9], 4) == []
        assert await store.page(f"{channel}-missing", ZERO, 4, PAGE_BYTES) == History([], is_end=True)
        [entry] = (await store.page(channel, ids[8], 1, PAGE_BYTES)).entries
        assert entry == Entry(str(ids[9]).encode(), b"9")


@async_test
async def test_a_page_is_bounded_in_bytes_whatever_came_before(own_redis: RedisServer, channel: str) -> None:
    ids = parsed(add(own_redis, channel, *["1"] * 100, *["x" * 200_000] * 50, "2"))
    async with running_store(own_redis) as store:
        before, position, read = sent_by(own_redis), ids[49], []
        sizes = []
        while position != ids[-1]:
            history = await store.page(channel, position, 256, PAGE_BYTES)
            assert history.is_end == (history.entries[-1].id == ids[-1])
            position = history.entries[-1].id
            read += [entry.id for entry in history.entries]
            sizes.append(sum(len(entry.data or b"") for entry in history.entries))
        assert read == ids[50:]
        assert max(sizes) <= PAGE_BYTES + 200_000
        assert sent_by(own_redis) - before < 50 * 210_000  # each body once, the one at the position not at all


@pytest.mark.parametrize("count", [1, 7, 8, 9, 15, 16, 17, 40])
@async_test
async def test_a_page_that_ends_where_the_stream_does(redis_server: RedisServer, channel: str, count: int) -> None:
    ids = parsed(add(redis_server, channel, *["1"] * (count + 1)))
    async with running_store(redis_server) as store:
        for limit in (1, 4, 5, 8, 9, 16, 256):
            for after, left in ((ZERO, ids), (ids[0], ids[1:])):
                history = await store.page(channel, after, limit, PAGE_BYTES)
                assert [entry.id for entry in history.entries] == left[:limit]
                assert history.is_end == (limit > len(left))


@async_test
async def test_a_page_after_the_last_id_of_a_millisecond(redis_server: RedisServer, channel: str) -> None:
    for text in (f"5-{TOP}", "6-0", f"{TOP}-{TOP}"):
        redis_server.call("XADD", channel, text, "messageData", "1")
    async with running_store(redis_server) as store:
        history = await store.page(channel, StreamId(5, TOP), 5, PAGE_BYTES)
        assert [str(entry.id) for entry in history.entries] == ["6-0", f"{TOP}-{TOP}"]
        assert await store.page(channel, StreamId(TOP, TOP), 5, PAGE_BYTES) == History([], is_end=True)


@pytest.mark.parametrize("gone", ["trimmed", "deleted in between", "nothing left", "made anew", "rolled back"])
@async_test
async def test_a_page_says_whether_something_may_be_missing(redis_server: RedisServer, channel: str, gone: str) -> None:
    ids = parsed(add(redis_server, channel, *map(str, range(6))))
    async with running_store(redis_server) as store:
        match gone:
            case "trimmed":
                redis_server.call("XTRIM", channel, "MAXLEN", 3)
                expected = History(entries_of(ids[3:], 3), True, "trimmed", StreamBounds(ids[3], ids[5], 3))
            case "deleted in between":
                redis_server.call("XDEL", channel, str(ids[1]), str(ids[2]))
                expected = History(entries_of(ids[3:], 3), True, None, StreamBounds(ids[0], ids[5], 4))
            case "nothing left":
                redis_server.call("XTRIM", channel, "MAXLEN", 0)
                expected = History([], True, "trimmed", StreamBounds(None, ids[5]))
            case "made anew":
                redis_server.call("DEL", channel)
                redis_server.call("XADD", channel, "1-0", "messageData", "9")
                expected = History([], True, "reset", StreamBounds(StreamId(1, 0), StreamId(1, 0), 1))
            case _:
                redis_server.call("DEL", channel)
                expected = History([], True, "reset", StreamBounds(None, ZERO))
        assert await store.page(channel, ids[1], 10, PAGE_BYTES) == expected


def entries_of(ids: list[StreamId], first: int) -> list[Entry]:
    return [Entry(str(id_).encode(), b"%d" % (first + index)) for index, id_ in enumerate(ids)]


@pytest.mark.parametrize(
    ("after", "first", "last", "broken"),
    [
        (0, None, 0, None),
        (0, 5, 9, None),
        (5, 5, 9, None),
        (7, 5, 9, None),
        (9, 5, 9, None),
        (9, None, 9, None),
        (4, 5, 9, "trimmed"),
        (4, None, 9, "trimmed"),
        (10, 5, 9, "reset"),
        (10, None, 9, "reset"),
        (1, None, 0, "reset"),
    ],
)
def test_what_proves_continuity(after: int, first: int | None, last: int, broken: str | None) -> None:
    bounds = StreamBounds(None if first is None else StreamId(first, 0), StreamId(last, 0))
    assert broken_continuity(StreamId(after, 0), bounds) == broken


@async_test
async def test_pages_asked_for_at_once_do_not_mix(redis_server: RedisServer, channel: str) -> None:
    names = [f"{channel}-{index}" for index in range(50)]
    ids = [parsed(add(redis_server, name, *map(str, range(index + 2)))) for index, name in enumerate(names)]
    for name, (first, *_) in zip(names[::2], ids[::2], strict=True):
        redis_server.call("XDEL", name, str(first))  # these need a second look
    async with running_store(redis_server) as store:
        pages = await asyncio.gather(
            *[store.page(name, own[0], 100, PAGE_BYTES) for name, own in zip(names, ids, strict=True)]
        )
        for index, (page, own) in enumerate(zip(pages, ids, strict=True)):
            assert [entry.id for entry in page.entries] == own[1:]
            assert page.broken == ("trimmed" if index % 2 == 0 else None)


@async_test
async def test_of_a_repeated_field_the_last_counts(redis_server: RedisServer, channel: str) -> None:
    for fields in (["messageData", "1", "x", "y", "messageData", "2"], ["x", "messageData"], ["messageData", b"\xff"]):
        redis_server.call("XADD", channel, "*", *fields)
    async with running_store(redis_server) as store:
        assert [entry.data for entry in (await store.page(channel, ZERO, 5, PAGE_BYTES)).entries] == [
            b"2",
            None,
            b"\xff",
        ]


def test_an_entry_that_was_deleted_under_the_hands_of_an_old_server_has_no_data() -> None:
    assert parse_entries([[b"1-0", None], [b"2-0", []]]) == [Entry(b"1-0", None), Entry(b"2-0", None)]


@async_test
async def test_before_last(redis_server: RedisServer, channel: str) -> None:
    ids = parsed(add(redis_server, channel, *["1"] * 1200))
    for index in (700, 1199):
        redis_server.call("XDEL", channel, str(ids[index]))
    left = [id_ for index, id_ in enumerate(ids) if index not in (700, 1199)]
    async with running_store(redis_server) as store:
        end = await store.bounds(channel)
        assert end.last == ids[-1]
        assert await store.before_last(channel, 0, end) == end.last
        for count in (1, 2, 498, 499, 500, 501, 999, 1000, 1197):
            start = await store.before_last(channel, count, end)
            assert start == left[-count - 1]
        for count in (1198, 1199, 10**18):
            assert await store.before_last(channel, count, end) == ZERO
        assert await store.before_last(f"{channel}-missing", 5, StreamBounds(None, ZERO)) == ZERO
        # What came after the end as it was then does not count.
        add(redis_server, channel, "new")
        assert await store.before_last(channel, 3, end) == left[-4]


@async_test
async def test_errors_of_reads(own_redis: RedisServer) -> None:
    own_redis.call("SET", "text", "x")
    own_redis.call("ACL", "SETUSER", "gateway", "on", ">secret", "~open*", "+@all")
    async with running_store(own_redis) as store:
        for after in (ZERO, StreamId(5, 0)):
            with pytest.raises(ChannelUnreadable, match="text"):
                await store.page("text", after, 5, PAGE_BYTES)
        with pytest.raises(ChannelUnreadable, match="text"):
            await store.before_last("text", 5, StreamBounds(StreamId(1, 0), StreamId(9, 0), 9))
    primary = Primary(RedisTarget(f"redis://gateway:secret@127.0.0.1:{own_redis.port}", 5.0), lambda cause: None)
    restricted = primary.store
    async with running(primary):
        for after in (ZERO, StreamId(5, 0)):
            with pytest.raises(ChannelUnreadable, match="NOPERM"):
                await restricted.page("closed", after, 5, PAGE_BYTES)
        with pytest.raises(ChannelUnreadable, match="NOPERM"):
            await restricted.bounds("closed")
        assert await restricted.page("open", ZERO, 5, PAGE_BYTES) == History([], is_end=True)
        own_redis.kill()
        for after in (ZERO, StreamId(5, 0)):
            with pytest.raises(RedisUnavailable):
                await restricted.page("open", after, 5, PAGE_BYTES)
        with pytest.raises(RedisUnavailable):
            await restricted.bounds("open")


@async_test
async def test_a_link_that_was_cut_by_redis_is_made_anew(redis_server: RedisServer, channel: str) -> None:
    async with running_store(redis_server) as store:
        await stored(store, channel)
        for _ in range(3):
            redis_server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            async with asyncio.timeout(5):
                while not isinstance(await appended(store, channel, b"2"), Stored):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert (await store.bounds(channel)).first is not None


@async_test
async def test_pages_that_break_the_link_are_read_one_entry_at_a_time(channel: str) -> None:
    with RedisServer(client_output_buffer_limit="normal 2mb 2mb 1") as own_redis:
        names = [f"{channel}-{index}" for index in range(4)]
        expected = {name: parsed(add(own_redis, name, *["x" * 1_060_000] * 5, *["1"] * 200)) for name in names}
        breaks = 0

        async def read_all(store: Store, name: str, limit: int) -> list[StreamId]:
            nonlocal breaks
            found: list[StreamId] = []
            while len(found) < len(expected[name]):
                try:
                    page = await store.page(name, found[-1] if found else ZERO, limit, PAGE_BYTES)
                except RedisUnavailable:
                    breaks += 1
                    await asyncio.sleep(0.02)
                else:
                    found += [entry.id for entry in page.entries]
            return found

        async with running_store(own_redis) as store:
            for limit in (PLAIN_READ_ENTRIES, 16):
                async with asyncio.timeout(20):
                    found = await asyncio.gather(*[read_all(store, name, limit) for name in names])
                assert found == list(expected.values())
            assert 0 < breaks < 20


@async_test
async def test_an_entry_that_breaks_the_link_alone_can_not_be_read(channel: str) -> None:
    with RedisServer(client_output_buffer_limit="normal 1mb 1mb 1") as own_redis:
        add(own_redis, channel, "x" * 2_000_000)
        async with running_store(own_redis) as store:
            for _ in range(3):
                with suppress(RedisUnavailable, ChannelUnreadable):
                    await store.page(channel, ZERO, 16, PAGE_BYTES)
            with pytest.raises(ChannelUnreadable):
                await store.page(channel, ZERO, 16, PAGE_BYTES)

"""The reader on a real Redis: what is delivered, in which order, and what interrupts it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from redis.crc import key_slot

from kit.faults import Proxy, command_calls
from kit.gateway import add, async_test, until
from kit.streams import parsed, running, target_of, waiting_at_ends
from kit.support import RedisServer, free_port
from rsws.errors import (
    StoreError,
)
from rsws.protocol import ZERO, StreamId
from rsws.redis.limits import DEFAULTS, Limits
from rsws.redis.target import RedisTarget
from rsws.streams.reader import Reader
from rsws.streams.replies import Entry
from rsws.streams.tail_waiter import SLOT_SHARDS


@dataclass
class _Follower:
    """Hands what comes of one stream to :class:`Following`."""

    owner: Following
    name: str
    after: StreamId

    def deliver(self, entries: list[Entry]) -> None:
        assert entries
        self.owner.on_delivery(entries)
        self.owner.delivered[self.name].extend([entry.id for entry in entries])

    def unreadable(self, error: StoreError) -> None:
        self.owner.unreadable.append(self.name)

    def interrupted(self) -> None:
        self.owner.interruptions += 1
        if self.owner.goes_on:
            delivered = self.owner.delivered[self.name]
            self.owner.follow(self.name, delivered[-1] if delivered else self.after)

    def replaced(self) -> None:
        self.owner.replaced += 1


class Following:
    """A reader and what it has delivered, by channel."""

    def __init__(self, redis: RedisServer, timeout_s: float = 5.0, limits: Limits = DEFAULTS) -> None:
        self.reader = Reader(target_of(redis, timeout_s), limits=limits)
        self.on_delivery: Callable[[list[Entry]], object] = lambda entries: None
        self.delivered: dict[str, list[StreamId]] = {}
        self.unreadable: list[str] = []
        self.interruptions = 0
        self.replaced = 0
        self.goes_on = True
        """Whether what was interrupted is followed again at once."""

    def follow(self, name: str, after: StreamId = ZERO) -> None:
        self.delivered.setdefault(name, [])
        self.reader.follow(name, after, _Follower(self, name, after))

    def unfollow(self, name: str) -> None:
        self.reader.unfollow(name)
        del self.delivered[name]

    def is_at_rest(self, name: str) -> bool:
        """Whether it was read to its end, and Redis says when there is more."""
        return self.reader.is_at_tail(name)

    async def until(self, name: str, ids: list[StreamId]) -> None:
        await until(lambda: len(self.delivered[name]) >= len(ids), f"{len(ids)} entries of {name}")
        assert self.delivered[name] == ids


@asynccontextmanager
async def following(redis: RedisServer, timeout_s: float = 5.0, limits: Limits = DEFAULTS) -> AsyncIterator[Following]:
    room = Following(redis, timeout_s, limits)
    async with running(room.reader):
        yield room


@async_test
async def test_everything_after_a_position_is_delivered_in_order_once(redis_server: RedisServer, channel: str) -> None:
    ids = parsed(add(redis_server, channel, *["1"] * 1000))
    async with following(redis_server) as room:
        room.follow(channel, ids[99])
        await room.until(channel, ids[100:])
        for _ in range(20):
            ids += parsed(add(redis_server, channel, *["2"] * 100))
        await room.until(channel, ids[100:])
        ids += parsed(await asyncio.to_thread(add, redis_server, channel, *["3"] * 5000))  # while it reads
        await room.until(channel, ids[100:])
        assert room.interruptions == 0


@async_test
async def test_channels_are_added_and_removed_while_others_are_read(redis_server: RedisServer, channel: str) -> None:
    names = [f"{channel}-{index}" for index in range(200)]
    async with following(redis_server) as room:
        expected: dict[str, list[StreamId]] = {}
        for index, name in enumerate(names):
            room.follow(name)
            expected[name] = parsed(add(redis_server, name, "1"))
            await room.until(name, expected[name])
            if index % 5 == 4:
                room.unfollow(names[index - 2])
                del expected[names[index - 2]]
        for index in range(4, 200, 5):
            add(redis_server, names[index - 2], "2")
        for name in reversed(names):
            if name in expected:
                expected[name] += parsed(add(redis_server, name, "3"))
                await room.until(name, expected[name])
        assert room.delivered == expected


@async_test
async def test_nothing_is_delivered_after_unfollow(redis_server: RedisServer, channel: str) -> None:
    other = f"{channel}-other"
    async with following(redis_server) as room:
        room.follow(channel)
        room.follow(other)
        ids = parsed(add(redis_server, channel, "1"))
        await room.until(channel, ids)
        ids += parsed(add(redis_server, channel, *["2"] * 1000))
        room.reader.unfollow(channel)  # Redis has answered the read that is under way
        await room.until(other, parsed(add(redis_server, other, "1")))
        assert len(room.delivered.pop(channel)) == 1
        dropped = []
        for _ in range(5):  # what was read for an earlier position is dropped
            room.follow(channel)
            await asyncio.sleep(0)
            dropped.append((room.delivered[channel], len(room.delivered[channel])))
            room.unfollow(channel)
        room.follow(channel, ids[499])
        await room.until(channel, ids[500:])
        assert all(len(delivered) == size for delivered, size in dropped)


@async_test
async def test_nothing_is_delivered_after_unfollow_at_an_end(redis_server: RedisServer, channel: str) -> None:
    (last,) = add(redis_server, channel, "1")
    redis_server.call("XDEL", channel, last)
    async with following(redis_server) as room:
        room.follow(channel, StreamId.parse(last))
        room.unfollow(channel)  # before it has come to the end
        other = f"{channel}-other"
        room.follow(other)
        await room.until(other, parsed(add(redis_server, other, "1")))
        assert waiting_at_ends(redis_server) == 0
        room.follow(channel, StreamId.parse(last))
        delivered = room.delivered[channel]
        await until(lambda: waiting_at_ends(redis_server) == 1)
        add(redis_server, channel, "2")
        room.unfollow(channel)  # Redis has answered
        await until(lambda: waiting_at_ends(redis_server) == 0)
        await room.until(other, room.delivered[other] + parsed(add(redis_server, other, "1")))
        assert delivered == []


@async_test
async def test_what_follows_at_once_is_read_together(redis_server: RedisServer, channel: str) -> None:
    batches: list[int] = []
    async with following(redis_server, limits=replace(DEFAULTS, gather_s=1)) as room:
        room.follow(channel)
        ids = parsed(add(redis_server, channel, *["1"] * 3))
        await room.until(channel, ids)
        room.on_delivery = lambda entries: batches.append(len(entries))
        for _ in range(5):
            ids += parsed(add(redis_server, channel, "1"))
            await asyncio.sleep(0.01)
        await room.until(channel, ids)
        assert sum(batches) == 5
        assert len(batches) <= 2


@async_test
async def test_a_message_costs_the_same_however_many_channels_are_followed(
    redis_server: RedisServer, channel: str
) -> None:
    names = [f"{channel}-{index}" for index in range(3000)]
    async with following(redis_server) as room:
        for name in names:
            room.follow(name)
        await room.until(names[-1], parsed(add(redis_server, names[-1], "1")))
        before = [command_calls(redis_server, name) for name in ("xread", "xrange", "evalsha", "eval")]
        for name in names[:10]:
            await room.until(name, parsed(add(redis_server, name, "1")))
        after = [command_calls(redis_server, name) for name in ("xread", "xrange", "evalsha", "eval")]
        assert [now - then for now, then in zip(after, before, strict=True)] == [0, 10, 0, 0]


@async_test
async def test_a_read_that_is_behind_is_bounded_in_bytes_whatever_came_before(
    redis_server: RedisServer, channel: str
) -> None:
    sizes: list[int] = []
    async with following(redis_server, limits=replace(DEFAULTS, read_bytes=100_000)) as room:
        room.on_delivery = lambda entries: sizes.append(sum(len(entry.data or b"") for entry in entries))
        ids = parsed(add(redis_server, channel, *["1"] * 500, *["x" * 10_000] * 300, *["1"] * 500))
        room.follow(channel)
        await room.until(channel, ids)
    assert max(sizes) < 100_000 + 10_000
    assert room.interruptions == 0


@pytest.mark.parametrize("how", ["deleted", "made anew", "renamed over", "flushed"])
@async_test
async def test_a_stream_that_is_another_one_interrupts(own_redis: RedisServer, channel: str, how: str) -> None:
    own_redis.call("XADD", "other", "5-0", "messageData", "1")
    async with following(own_redis) as room:
        room.goes_on = False
        room.follow(channel, parsed(add(own_redis, channel, "1"))[0])
        await until(lambda: room.is_at_rest(channel))
        match how:
            case "deleted":
                own_redis.call("DEL", channel)
            case "made anew":
                with own_redis.client.pipeline(transaction=True) as together:
                    together.delete(channel)
                    together.xadd(channel, {"messageData": "2"}, id="5-0")
                    together.execute()
            case "renamed over":
                own_redis.call("RENAME", "other", channel)
            case _:
                own_redis.call("FLUSHALL")
        await until(lambda: room.interruptions == 1)


@pytest.mark.parametrize("empty", [("XTRIM", "MAXLEN", 0), ("XDEL",)], ids=["trimmed", "deleted"])
@async_test
async def test_the_first_entry_of_an_emptied_stream_is_the_next_one(
    redis_server: RedisServer, channel: str, empty: tuple[str, ...]
) -> None:
    async with following(redis_server) as room:
        room.follow(channel)
        ids: list[StreamId] = []
        for _ in range(5):
            ids += parsed(add(redis_server, channel, "1"))
            await room.until(channel, ids)
            what = [str(ids[-1])] if empty == ("XDEL",) else []
            redis_server.call(empty[0], channel, *empty[1:], *what)
            await until(lambda: waiting_at_ends(redis_server) == 1)
    assert room.interruptions == 0


@async_test
async def test_entries_that_came_and_went_before_they_were_read(redis_server: RedisServer, channel: str) -> None:
    """The stream looks as if nothing had come, or as if only the last had."""
    for left in (0, 1):
        name = f"{channel}-{left}"
        async with following(redis_server) as room:
            room.goes_on = False
            room.follow(name, parsed(add(redis_server, name, "1"))[0])
            await until(lambda: room.is_at_rest(name))  # noqa: B023
            add(redis_server, name, "2", "3")
            redis_server.call("XTRIM", name, "MAXLEN", left)  # all before the event loop has a turn
            await until(lambda: room.interruptions == 1)
            assert room.delivered[name] == []


@async_test
async def test_a_stream_of_one_entry_is_read_without_gaps_once_that_is_known(
    redis_server: RedisServer, channel: str
) -> None:
    async def renew() -> StreamId:
        await until(lambda: waiting_at_ends(redis_server) == 1)
        return StreamId.from_redis(redis_server.call("XADD", channel, "MAXLEN", 1, "*", "messageData", "1"))

    async with following(redis_server) as room:
        room.goes_on = False
        room.follow(channel, parsed(add(redis_server, channel, "1"))[0])
        await until(lambda: room.is_at_rest(channel))
        id_ = redis_server.call("XADD", channel, "MAXLEN", 1, "*", "messageData", "1")
        await until(lambda: room.interruptions == 1)
        room.follow(channel, StreamId.from_redis(id_))
        ids = []
        for _ in range(5):
            ids.append(await renew())
            await until(lambda: room.delivered[channel][-1:] == ids[-1:])
        assert room.interruptions == 1
        # Two at once, the first of which stays: from now on Redis says when there is more.
        ids += parsed(add(redis_server, channel, "2", "3"))
        await until(lambda: room.delivered[channel][-1:] == ids[-1:])
        await until(lambda: room.is_at_rest(channel))
        assert room.interruptions == 1


@async_test
async def test_a_redis_that_refuses_is_not_asked_all_the_time() -> None:
    with RedisServer(cluster_enabled="yes", cluster_node_timeout="1000", cluster_port=str(free_port())) as own_redis:
        own_redis.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: b"cluster_state:ok" in own_redis.call("CLUSTER", "INFO"))
        await refuse_for_a_while(own_redis)


async def refuse_for_a_while(own_redis: RedisServer) -> None:
    async with following(own_redis) as room:
        room.follow("a")
        await room.until("a", ids := parsed(add(own_redis, "a", "1")))
        own_redis.call("CLUSTER", "DELSLOTSRANGE", 0, 16383)  # CLUSTERDOWN to every read, as LOADING would be
        own_redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        def asked() -> tuple[int, int]:
            """How many were carried out, and how many rejected."""
            statistics = own_redis.call("INFO", "commandstats")
            found = re.search(rb"cmdstat_xrange:calls=([0-9]+),.*rejected_calls=([0-9]+)", statistics)
            return (int(found[1]), int(found[2])) if found is not None else (0, 0)

        await until(lambda: asked()[1] > 0)
        await asyncio.sleep(0.3)
        assert sum(asked()) < 20
        own_redis.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: b"cluster_state:ok" in own_redis.call("CLUSTER", "INFO"))
        await room.until("a", ids + parsed(add(own_redis, "a", "2")))


@async_test
async def test_the_reader_survives_its_connection(redis_server: RedisServer, channel: str) -> None:
    async with following(redis_server) as room:
        room.follow(channel)
        ids: list[StreamId] = []
        for _ in range(4):
            ids += parsed(add(redis_server, channel, "1", "2"))
            await room.until(channel, ids)
            redis_server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            ids += parsed(add(redis_server, channel, "3"))  # whoever was told was told before
        await room.until(channel, ids)
        assert room.interruptions == 0


@async_test
async def test_what_is_followed_while_redis_is_away(own_redis: RedisServer) -> None:
    async with following(own_redis) as room:
        own_redis.stop()
        await until(lambda: room.reader.is_down)
        room.follow("a")
        own_redis.start()
        await room.until("a", parsed(add(own_redis, "a", "1")))


@async_test
async def test_what_was_trimmed_while_the_connection_was_down(own_redis: RedisServer) -> None:
    async with Proxy(own_redis.port) as proxy:
        room = Following(own_redis)
        room.reader = Reader(RedisTarget(proxy.redis_url, 5.0))
        async with running(room.reader):
            room.goes_on = False
            room.follow("a")
            await room.until("a", parsed(add(own_redis, "a", "1")))
            with proxy.refusing():
                add(own_redis, "a", "2", "3")
                own_redis.call("XTRIM", "a", "MAXLEN", 1)
                await until(lambda: room.reader.is_down)
                assert room.interruptions == 0
            await until(lambda: room.interruptions == 1)


@async_test
async def test_the_reader_notices_a_redis_that_went_silent(own_redis: RedisServer) -> None:
    async with following(own_redis, timeout_s=0.2, limits=replace(DEFAULTS, idle_ping_s=0.2)) as room:
        room.follow("a")
        ids = parsed(add(own_redis, "a", "1"))
        await room.until("a", ids)
        own_redis.pause()
        await until(lambda: room.reader.is_down)
        own_redis.resume()
        ids += parsed(add(own_redis, "a", "2"))
        await room.until("a", ids)


@async_test
async def test_one_bad_key_is_set_aside_and_tried_again(redis_server: RedisServer, channel: str) -> None:
    good = f"{channel}-good"
    redis_server.call("SET", channel, "x")
    async with following(redis_server, limits=replace(DEFAULTS, unreadable_retry_s=0.1)) as room:
        room.follow(channel)
        room.follow(good)
        ids: list[StreamId] = []
        for _ in range(5):
            ids += parsed(add(redis_server, good, "1"))
            await room.until(good, ids)
        await until(lambda: len(room.unreadable) >= 3)
        for number in range(100):  # it is in use as what it is, and nobody is told each time
            redis_server.call("SET", channel, number)
        assert len(room.unreadable) < 10
        redis_server.call("DEL", channel)
        await room.until(channel, parsed(add(redis_server, channel, "1")))
        assert room.interruptions == 1
        said = len(room.unreadable)
        ids += parsed(add(redis_server, good, "1"))
        await room.until(good, ids)
        assert len(room.unreadable) == said
        assert set(room.unreadable) == {channel}


@async_test
async def test_a_good_channel_among_many_bad_ones(redis_server: RedisServer, channel: str) -> None:
    bad = [f"{channel}-{index}" for index in range(100)]
    for name in bad:
        redis_server.call("SET", name, "x")
    async with following(redis_server, limits=replace(DEFAULTS, refused_retry_s=0.001)) as room:
        for name in bad:
            room.follow(name)
        room.follow(channel)
        await room.until(channel, ids := parsed(add(redis_server, channel, "1")))
        await until(lambda: len(room.unreadable) >= len(bad))
        for _ in range(20):
            await room.until(channel, ids := ids + parsed(add(redis_server, channel, "1")))
        assert sorted(room.unreadable) == sorted(bad)  # each once


@async_test
async def test_an_entry_that_is_gone_before_it_is_read(redis_server: RedisServer, channel: str) -> None:
    async with following(redis_server) as room:
        room.follow(channel)
        with redis_server.client.pipeline(transaction=True) as together:
            together.xadd(channel, {"messageData": "1"}, id="5-0")
            together.xdel(channel, "5-0")
            together.execute()
        redis_server.call("XADD", channel, "6-0", "messageData", "2")
        await room.until(channel, [StreamId(6, 0)])


@async_test
async def test_a_server_that_does_not_tell_what_changed(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.call("ACL", "SETUSER", "gateway", "on", ">secret", "~*", "+@all", "-client|tracking")
    room = Following(own_redis)
    room.reader = Reader(RedisTarget(f"redis://gateway:secret@127.0.0.1:{own_redis.port}", 5.0))
    names = [f"channel-{number}" for number in range(100)]
    expected: dict[str, list[StreamId]] = {}
    async with running(room.reader):
        for name in names:
            room.follow(name)
        for _ in range(5):
            for name in names:
                expected[name] = expected.get(name, []) + parsed(add(own_redis, name, "1"))
            for name in names:
                await room.until(name, expected[name])
        assert room.interruptions == 0
    assert len([record for record in caplog.records if "does not tell" in record.getMessage()]) == 1


def listed(redis: RedisServer) -> tuple[int, int]:
    """How many keys are in the table of those that were read, and how many connections are noted there in all."""
    found = re.findall(rb"tracking_total_(?:keys|items):([0-9]+)", redis.call("INFO", "stats"))
    return int(found[0]), int(found[1])


async def all_at_rest(room: Following) -> None:
    await until(lambda: all(room.is_at_rest(name) for name in room.delivered), "rest")


def told_all(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "tells of every key" in record.getMessage()]


@async_test
async def test_names_that_were_left_stay_in_the_memory_of_redis_up_to_a_bound_only(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(own_redis, limits=replace(DEFAULTS, table_bytes=100_000)) as room:
        for turn in range(5):
            names = [f"{turn}-{index}-{'x' * 100}" for index in range(1000)]
            for name in names:
                room.follow(name)
            await all_at_rest(room)
            expected = {name: parsed(add(own_redis, name, "1")) for name in names[::100]}
            for name, ids in expected.items():
                await room.until(name, ids)
            for name in names:
                room.unfollow(name)
        assert listed(own_redis)[0] < 100_000 / 200
        assert len(told_all(caplog)) == 1
        assert room.interruptions == 0


@async_test
async def test_names_that_were_published_to_when_they_had_been_left_count_no_more(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(own_redis, limits=replace(DEFAULTS, table_bytes=10_000)) as room:
        room.follow("news")
        for turn in range(20):
            names = [f"name-{turn}-{index}" for index in range(10)]
            for name in names:
                room.follow(name)
            await all_at_rest(room)
            for name in names:
                room.unfollow(name)
                add(own_redis, name, "1")
            count = len(room.delivered["news"]) + 1
            add(own_redis, "news", "1")
            await until(lambda: len(room.delivered["news"]) == count)  # noqa: B023
        assert told_all(caplog) == []
        assert listed(own_redis)[0] < 10


@async_test
async def test_new_connections_stay_in_the_memory_of_redis_up_to_a_bound_only(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"channel-{index}" for index in range(500)]
    position = {name: parsed(add(own_redis, name, "1"))[0] for name in names[:100]}
    async with following(own_redis, limits=replace(DEFAULTS, table_bytes=200_000)) as room:
        for name in names:
            room.follow(name, position.get(name, ZERO))
        for _ in range(20):
            await all_at_rest(room)
            connection = reader_id(own_redis)
            own_redis.call("CLIENT", "KILL", "ID", connection)
            await until(lambda: reader_id(own_redis) not in ("", connection))  # noqa: B023
            await asyncio.sleep(0.02)
        await all_at_rest(room)
        assert listed(own_redis)[1] < 500 + 200_000 / 64
        assert len(told_all(caplog)) == 1
        for name in names:
            await room.until(name, parsed(add(own_redis, name, "2")))
        assert room.interruptions == 0


def reader_id(redis: RedisServer) -> str:
    return next((client["id"] for client in redis.client.client_list() if client["name"] == "rsws-reader"), "")


def commands_of(redis: RedisServer) -> int:
    return int(re.findall(rb"total_commands_processed:([0-9]+)", redis.call("INFO", "stats"))[0])


@async_test
async def test_a_table_that_is_too_small_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"channel-{index}" for index in range(50)]
    with RedisServer(tracking_table_max_keys="1") as own_redis:
        async with following(own_redis) as room:
            for name in names:
                room.follow(name)
            await until(lambda: len(told_all(caplog)) == 1)
            await all_at_rest(room)
            before = commands_of(own_redis)
            await asyncio.sleep(0.5)
            assert commands_of(own_redis) - before < 20
            expected = {name: parsed(add(own_redis, name, "1", "2")) for name in names}
            for name in names:
                await room.until(name, expected[name])
            assert room.interruptions == 0
        assert len(told_all(caplog)) == 1


@async_test
async def test_nothing_is_missed_while_redis_begins_to_tell_of_all(own_redis: RedisServer) -> None:
    """It is told nothing between the two commands, and what it reads before them is under way."""
    async with following(own_redis, limits=replace(DEFAULTS, table_bytes=20_000)) as room:
        expected: dict[str, list[StreamId]] = {}
        for index in range(400):
            name = f"channel-{index}"
            room.follow(name)
            expected[name] = []
            for other in list(expected)[-20:]:
                if index % 3 == 0:
                    await asyncio.sleep(0)
                expected[other] += parsed(add(own_redis, other, "1"))
        for name, ids in expected.items():
            await room.until(name, ids)
        assert room.interruptions == 0


@async_test
async def test_entries_that_break_the_connection_are_read_one_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    large = "x" * 1_060_000
    with RedisServer(client_output_buffer_limit="normal 2mb 2mb 1") as own_redis:
        names = [f"channel-{index}" for index in range(4)]
        expected = {name: parsed(add(own_redis, name, *[large] * 10)) for name in names}
        async with following(own_redis) as room:
            for name in names:
                room.follow(name)
            for _ in range(3):
                for name in names:
                    await room.until(name, expected[name])
                for name in names:
                    expected[name] += parsed(add(own_redis, name, large, large, large))
            for name in names:
                await room.until(name, expected[name])
            assert room.interruptions == 0
            broken = [record for record in caplog.records if "link broken" in record.getMessage()]
            assert 0 < len(broken) < 8


@async_test
async def test_an_entry_that_breaks_the_connection_alone_is_set_aside() -> None:
    with RedisServer(client_output_buffer_limit="normal 1mb 1mb 1") as own_redis:
        add(own_redis, "large", "x" * 2_000_000)
        async with following(own_redis, limits=replace(DEFAULTS, unreadable_retry_s=60)) as room:
            room.follow("large")
            room.follow("small")
            await until(lambda: room.unreadable == ["large"])
            for _ in range(5):
                await room.until("small", room.delivered["small"] + parsed(add(own_redis, "small", "1")))
            assert room.unreadable == ["large"]


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
@async_test
async def test_emptied_streams_of_more_slots_than_connections(told: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    names = [f"channel-{index}" for index in range(100)]
    with RedisServer(cluster_enabled="yes", cluster_node_timeout="1000", cluster_port=str(free_port())) as own_redis:
        own_redis.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: b"cluster_state:ok" in own_redis.call("CLUSTER", "INFO"))
        position = {name: parsed(add(own_redis, name, "1"))[0] for name in names}
        for name in names:
            own_redis.call("XTRIM", name, "MAXLEN", 0)
        own_redis.call(
            "ACL", "SETUSER", "gateway", "on", ">secret", "~*", "+@all", *[] if told else ["-client|tracking"]
        )
        room = Following(own_redis)
        target = RedisTarget(f"redis://gateway:secret@127.0.0.1:{own_redis.port}", 5.0)
        room.reader = Reader(target.at(("127.0.0.1", own_redis.port)), slot_of=key_slot)
        async with running(room.reader):
            room.goes_on = False
            for name in names:
                room.follow(name, position[name])
            await until(lambda: waiting_at_ends(own_redis) == SLOT_SHARDS)
            await asyncio.sleep(0.2)
            before = commands_of(own_redis)
            await asyncio.sleep(1)
            assert commands_of(own_redis) - before < (20 if told else 400)  # a script and what it calls
            assert room.interruptions == 0
            expected = {name: parsed(add(own_redis, name, "2")) for name in names}
            await until(lambda: sum(room.delivered[name] == expected[name] for name in names) >= SLOT_SHARDS)
            await until(lambda: room.interruptions == len(names) - SLOT_SHARDS)  # all others: nothing proves theirs
        assert "waiting interrupted" not in caplog.text

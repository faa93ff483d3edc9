"""Streams that are copied from one Redis to another, while they are written to, trimmed, deleted, and links break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from kit.cluster import Cluster
from kit.faults import Proxy
from kit.gateway import async_test, until
from kit.support import RedisServer
from rsws.redis.target import RedisTarget
from rsws.streams.copying import Copier, Progress, running
from rsws.streams.slots import slot_of

SCAN_EVERY_S = 0.02


@pytest.fixture(scope="module")
def new_server() -> Iterator[RedisServer]:
    """Where to copy to."""
    with RedisServer() as server:
        yield server


@dataclass
class Copying:
    """A copy that runs, and what it has said."""

    copier: Copier
    said: list[str] = field(default_factory=list)

    @property
    def progress(self) -> Progress:
        return self.copier.progress

    async def level(self) -> None:
        await until(lambda: self.progress.is_level)


@asynccontextmanager
async def copying(source: str, target: str, *patterns: str, **options: Any) -> AsyncIterator[Copying]:
    """A copy until the block is left."""
    said: list[str] = []
    async with (
        running(RedisTarget(source, 5), said.append) as from_,
        running(RedisTarget(target, 5), said.append) as to,
    ):
        copier = Copier(from_, to, patterns, said.append, **{"scan_every_s": SCAN_EVERY_S} | options)
        task = asyncio.create_task(copier.run(follow=True))
        try:
            yield Copying(copier, said)
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.wait([task])


async def copied(source: str, target: str, *patterns: str) -> Copying:
    """Copy once, and return how that went."""
    said: list[str] = []
    async with (
        running(RedisTarget(source, 5), said.append) as from_,
        running(RedisTarget(target, 5), said.append) as to,
    ):
        copier = Copier(from_, to, patterns, said.append)
        async with asyncio.timeout(20):
            await copier.run(follow=False)
        return Copying(copier, said)


def entries(server: RedisServer, name: str) -> Any:
    return server.call("XRANGE", name, "-", "+")


def add(server: RedisServer, name: str, *ids: str) -> None:
    for stream_id in ids:
        server.call("XADD", name, stream_id, "messageData", stream_id)


def last_id(server: RedisServer, name: str) -> bytes:
    found: bytes = server.client.xinfo_stream(name)["last-generated-id"]
    return found


@async_test
async def test_entries_are_copied_exactly(redis_server: RedisServer, new_server: RedisServer, channel: str) -> None:
    redis_server.call("XADD", channel, "1-1", "a", b"\xff\x00\r\n", "a", "", "end", "1", "", "x")
    redis_server.call("XADD", channel, "1-2", *[word for n in range(5000) for word in (f"f{n}", n)])  # no script's size
    for number in range(1200):
        redis_server.call("XADD", channel, "*", "messageData", number)
    done = await copied(redis_server.url, new_server.url, channel)
    assert entries(new_server, channel) == entries(redis_server, channel)
    assert done.progress == Progress(1, 1202, 0, 0, 0, 0, True)
    again = await copied(redis_server.url, new_server.url, channel)
    assert again.progress == Progress(1, 0, 0, 0, 0, 0, True)
    assert (done.said, again.said) == ([], [])


@async_test
async def test_last_ids_are_kept_where_the_last_entries_are_gone(
    redis_server: RedisServer, new_server: RedisServer, channel: str
) -> None:
    add(redis_server, channel, "1-0", "5-0")
    add(redis_server, f"{channel}-empty", "7-0")
    redis_server.call("XDEL", channel, "5-0")
    redis_server.call("XDEL", f"{channel}-empty", "7-0")
    for _ in range(2):
        done = await copied(redis_server.url, new_server.url, f"{channel}*")
        assert done.progress.refused == 0
    assert [last_id(new_server, name) for name in (channel, f"{channel}-empty")] == [b"5-0", b"7-0"]
    assert [new_server.call("XLEN", name) for name in (channel, f"{channel}-empty")] == [1, 0]


@async_test
async def test_which_streams(redis_server: RedisServer, new_server: RedisServer, channel: str) -> None:
    odd = f"{channel}-\n"
    for name in (channel, f"{channel}?1", f"{channel}x1", f"{channel}[x]1", odd, f"rsws:{channel}"):
        add(redis_server, name, "1-0")
    redis_server.call("SET", f"{channel}-string", "1")
    one = await copied(redis_server.url, new_server.url, f"{channel}?*")
    assert list(one.copier.streams) == [f"{channel}?1"]
    special = await copied(redis_server.url, new_server.url, f"{channel}[x]*")
    assert list(special.copier.streams) == [f"{channel}[x]1"]
    some = await copied(redis_server.url, new_server.url, f"{channel}*", f"rsws:{channel}")
    assert sorted(some.copier.streams) == [channel, f"{channel}?1", f"{channel}[x]1", f"{channel}x1"]
    left_out, missing = some.said
    assert "is not copied: " in left_out
    assert missing == f"rsws:{channel}: no such stream in the source"
    assert not new_server.call("EXISTS", odd, f"rsws:{channel}", f"{channel}-string")


@async_test
async def test_what_comes_is_copied(redis_server: RedisServer, new_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "1-0")
    async with copying(redis_server.url, new_server.url, f"{channel}*") as copy:
        await copy.level()
        add(redis_server, channel, "2-0", "3-0")
        redis_server.call("XADD", f"{channel}-new", "1-0", "messageData", "1")
        await until(lambda: copy.progress.copied == 4)
        await copy.level()
        add(redis_server, f"{channel}-new", "2-0")
        await until(lambda: copy.progress.copied == 5)
        await copy.level()
        assert copy.progress.behind == 0
    for name in (channel, f"{channel}-new"):
        assert entries(new_server, name) == entries(redis_server, name)
    assert copy.said == []


@async_test
async def test_what_there_is_no_room_for_is_read_again(
    redis_server: RedisServer, new_server: RedisServer, channel: str
) -> None:
    add(redis_server, channel, "1-0")
    async with copying(redis_server.url, new_server.url, channel, kept_bytes=100) as copy:
        await copy.level()
        for start in range(2, 1002, 100):
            pipe = redis_server.client.pipeline()
            for number in range(start, start + 100):
                pipe.xadd(channel, {"messageData": number}, id=f"{number}-0")
            pipe.execute()
            await asyncio.sleep(0)
        await until(lambda: copy.progress.copied == 1001)
        await copy.level()
    assert entries(new_server, channel) == entries(redis_server, channel)


@async_test
async def test_a_copy_that_was_stopped_goes_on(
    redis_server: RedisServer, new_server: RedisServer, channel: str
) -> None:
    add(redis_server, channel, *(f"{number}-0" for number in range(1, 301)))
    await copied(redis_server.url, new_server.url, channel)
    redis_server.call("XTRIM", channel, "MAXLEN", 50)
    redis_server.call("XDEL", channel, "300-0")
    add(redis_server, channel, "301-0")
    done = await copied(redis_server.url, new_server.url, channel)
    assert done.progress == Progress(1, 1, 0, 0, 0, 0, True)
    assert [stream_id for stream_id, _ in entries(new_server, channel)][-2:] == [b"300-0", b"301-0"]


@async_test
async def test_what_was_copied_by_something_else_is_compared(
    redis_server: RedisServer, new_server: RedisServer, channel: str
) -> None:
    add(redis_server, channel, *(f"{number}-0" for number in range(1, 11)))
    add(new_server, channel, "1-0", "2-0")
    done = await copied(redis_server.url, new_server.url, channel)
    assert done.progress == Progress(1, 8, 0, 0, 0, 0, True)
    assert entries(new_server, channel) == entries(redis_server, channel)


@pytest.mark.parametrize(
    ("there", "why"),
    [
        (("2-0",), "2-0 comes before 2-1"),
        (("1-0", "2-0"), "another entry 2-0"),
        (("9-0",), "1-0 comes before 9-0"),
    ],
)
@async_test
async def test_a_target_with_other_entries_is_refused(
    redis_server: RedisServer, new_server: RedisServer, channel: str, there: tuple[str, ...], why: str
) -> None:
    add(redis_server, channel, "1-0", "2-0", "3-0")
    add(redis_server, f"{channel}-good", "1-0")
    if why.startswith("2-0"):
        add(new_server, channel, "1-0", "2-1")
    else:
        for stream_id in there:
            new_server.call("XADD", channel, stream_id, "messageData", "1-0" if stream_id == "1-0" else "other")
    before = entries(new_server, channel)
    done = await copied(redis_server.url, new_server.url, f"{channel}*")
    assert (done.progress.refused, done.progress.is_level) == (1, True)
    [said] = done.said
    assert said.startswith(f"{channel}: refused, ")
    assert why in said
    assert entries(new_server, channel) == before
    assert entries(new_server, f"{channel}-good") == entries(redis_server, f"{channel}-good")


@async_test
async def test_an_old_publisher_is_refused_once_there_is_a_new_one(
    redis_server: RedisServer, new_server: RedisServer, channel: str
) -> None:
    add(redis_server, channel, "1-0")
    async with copying(redis_server.url, new_server.url, channel) as copy:
        await copy.level()
        add(new_server, channel, "3-0")
        add(redis_server, channel, "2-0")
        await until(lambda: copy.progress.refused == 1)
        await copy.level()
    assert copy.said == [
        f"{channel}: refused, the target has other entries: 2-0 comes before 3-0, the last id; "
        "of this stream nothing more is copied"
    ]
    assert [stream_id for stream_id, _ in entries(new_server, channel)] == [b"1-0", b"3-0"]


@async_test
async def test_a_gap_is_said(redis_server: RedisServer, new_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "1-0", "2-0")
    await copied(redis_server.url, new_server.url, channel)
    add(redis_server, channel, "3-0", "4-0")
    redis_server.call("XTRIM", channel, "MAXLEN", 1)
    done = await copied(redis_server.url, new_server.url, channel)
    assert (done.progress.copied, done.progress.gaps) == (1, 1)
    assert done.said == [
        f"{channel}: gap, entries after 2-0 may have been trimmed before they were copied; going on at 4-0"
    ]


@async_test
async def test_a_stream_that_is_deleted_and_made_anew(
    redis_server: RedisServer, new_server: RedisServer, channel: str
) -> None:
    add(redis_server, channel, "1-0", "2-0")
    async with copying(redis_server.url, new_server.url, channel) as copy:
        await copy.level()
        redis_server.call("DEL", channel)
        await until(lambda: not copy.copier.streams)
        add(redis_server, channel, "3-0")
        await until(lambda: copy.progress.copied == 3)
        await copy.level()
        redis_server.call("DEL", channel)
        await until(lambda: not copy.copier.streams)
        add(redis_server, channel, "2-5")
        await until(lambda: copy.progress.refused == 1)
    assert [stream_id for stream_id, _ in entries(new_server, channel)] == [b"1-0", b"2-0", b"3-0"]
    deleted = f"{channel}: the stream was deleted at the source; what was copied of it stays"
    assert copy.said[0] == deleted
    assert copy.said[1].endswith("may have been trimmed before they were copied; going on at 3-0")
    assert copy.said[2] == deleted
    assert copy.said[3].startswith(f"{channel}: refused, ")


@async_test
async def test_links_that_break_cost_nothing(redis_server: RedisServer, new_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, *(f"{number}-0" for number in range(1, 101)))
    async with (
        Proxy(redis_server.port) as source,
        Proxy(new_server.port) as target,
        copying(source.redis_url, target.redis_url, channel) as copy,
    ):
        await copy.level()
        with target.cut_reply(b"EVALSHA") as cut:  # it is stored, and nobody hears of it
            add(redis_server, channel, "101-0", "102-0")
            await until(lambda: cut.done)
        await copy.level()
        source.cut()
        add(redis_server, channel, "103-0")
        await until(lambda: copy.progress.copied == 103)
        with target.refusing():
            add(redis_server, channel, "104-0")
            await until(lambda: any("the target: " in said for said in copy.said))
        await until(lambda: copy.progress.copied == 104)
    assert entries(new_server, channel) == entries(redis_server, channel)
    assert copy.progress.there == 0
    assert "the target works again" in copy.said


@async_test
async def test_a_key_that_is_no_stream_any_more(
    redis_server: RedisServer, new_server: RedisServer, channel: str
) -> None:
    add(redis_server, channel, "1-0")
    new_server.call("SET", channel, "1")
    done = await copied(redis_server.url, new_server.url, channel)
    assert done.progress.refused == 1
    assert "is not a stream" in done.said[0]


def test_clusters_on_either_side_while_slots_move(redis_server: RedisServer, channel: str) -> None:
    names = [f"{channel}-{number}" for number in range(6)]

    @async_test
    async def main() -> None:
        for name in names:
            add(redis_server, name, *(f"{number}-0" for number in range(1, 51)))
        done = await copied(redis_server.url, cluster.url, f"{channel}-*")
        assert (done.progress.copied, done.progress.refused) == (300, 0)
        with RedisServer() as new:
            async with copying(f"redis://127.0.0.1:{cluster.servers[0].port}", new.url, f"{channel}-*") as copy:
                await copy.level()
                slot = slot_of(names[0])
                to = next(each for each in cluster.servers if each is not cluster.owner_of_slot(slot))
                await asyncio.to_thread(cluster.move_slot, slot, to)
                for name in names:
                    cluster.call(name, "XADD", name, "51-0", "messageData", "51-0")
                await until(lambda: copy.progress.copied == 306)
            for name in names:
                assert entries(new, name)[:-1] == entries(redis_server, name)
            assert copy.progress.gaps == 0

    with Cluster(2, replicas=0) as cluster:
        main()

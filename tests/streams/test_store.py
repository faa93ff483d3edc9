"""The rooms that talk to Redis, on a real one: the shared link, the store over it, the reader beside it."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop
from redis.crc import key_slot

from kit.faults import Proxy, command_calls
from kit.gateway import add, async_test, until
from kit.support import RedisServer, free_port
from rsws.errors import (
    ChannelUnreadable,
    Conflict,
    ErrorCode,
    Outcome,
    RedisRefused,
    RedisUnavailable,
    SetupError,
    StoreError,
    UsageError,
)
from rsws.protocol import ZERO, StreamId
from rsws.streams import link as link_module
from rsws.streams import reader as reader_module
from rsws.streams.link import Link, RedisTarget, probe
from rsws.streams.reader import Reader
from rsws.streams.redis_connection import ReplyError, pack
from rsws.streams.store import Entry, History, Once, Store, Stored, Tip, broken_continuity, once_key, parse_entries

TOP = 2**64 - 1
PAGE_BYTES = 64 * 1024


def target_of(redis: RedisServer, timeout_s: float = 5.0) -> RedisTarget:
    return RedisTarget(redis.url, timeout_s)


@asynccontextmanager
async def running(*rooms: Link | Store | Reader) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(room.run()) for room in rooms]
    try:
        await asyncio.sleep(0)  # each has run up to its first wait
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)


@asynccontextmanager
async def running_store(redis: RedisServer, timeout_s: float = 5.0) -> AsyncIterator[Store]:
    store = Store(target_of(redis, timeout_s), lambda cause: None)
    async with running(store):
        yield store


def appended(store: Store, channel: str, data: bytes, once: Once | None = None) -> asyncio.Future[Stored | StoreError]:
    """What becomes of an append; a second result would raise."""
    future: asyncio.Future[Stored | StoreError] = asyncio.get_running_loop().create_future()
    store.append(channel, data, future.set_result, once)
    return future


async def stored(store: Store, channel: str, data: bytes = b"1") -> StreamId:
    result = await appended(store, channel, data)
    assert isinstance(result, Stored)
    assert not result.duplicate
    return result.id


def parsed(ids: list[str]) -> list[StreamId]:
    return [StreamId.parse(text) for text in ids]


# --- the target ---


@pytest.mark.parametrize(
    "options", ["decode_responses=True", "protocol=3", "socket_timeout=0.001", "health_check_interval=1"]
)
@async_test
async def test_what_a_url_says_does_not_change_how_answers_are_read(redis_server: RedisServer, options: str) -> None:
    link = Link(RedisTarget(f"{redis_server.url}?{options}", 5.0), "test")
    async with running(link):
        assert await link.call(b"ECHO", b"\xff") == b"\xff"
        redis_server.call("CLIENT", "PAUSE", 50)
        assert await link.call(b"ECHO", b"x") == b"x"


def test_a_target_is_shown_without_its_password() -> None:
    assert RedisTarget("redis://user:secret@127.0.0.1:7000/1", 1.0).shown == "redis://***@127.0.0.1:7000/1"
    with pytest.raises(UsageError) as caught:
        RedisTarget("redis://user:secret@127.0.0.1:port", 1.0)
    assert "secret" not in str(caught.value)


@async_test
async def test_probe(own_redis: RedisServer) -> None:
    await probe(target_of(own_redis))
    own_redis.call("CONFIG", "SET", "requirepass", "right")
    with pytest.raises(SetupError, match="refused the login"):
        await probe(target_of(own_redis))
    own_redis.kill()
    with pytest.raises(RedisUnavailable) as caught:
        await probe(target_of(own_redis))
    assert str(own_redis.port) in caught.value.cause


@async_test
async def test_a_server_that_accepts_and_says_nothing_is_out_of_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(RedisUnavailable) as caught:
            await probe(RedisTarget(f"redis://:password@127.0.0.1:{silent.getsockname()[1]}", 0.2))
        assert "no answer within 0.2 s" in caught.value.cause


@async_test
async def test_a_server_that_does_not_speak_redis_is_out_of_reach() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    other = await asyncio.start_server(greet, "127.0.0.1", free_port())
    host, port = other.sockets[0].getsockname()
    try:
        with pytest.raises((RedisUnavailable, SetupError)):
            await probe(RedisTarget(f"redis://:password@{host}:{port}", 1.0))
    finally:
        other.close()


def test_a_connection_that_was_reset_is_an_error_of_the_connection() -> None:
    def reset_after_the_greeting(listening: socket.socket) -> None:
        client, _ = listening.accept()
        with client:
            client.recv(1000)
            client.sendall(b"+OK\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def send_after_the_reset(port: int) -> None:
        connection = await RedisTarget(f"redis://127.0.0.1:{port}", 5.0).connect("test")
        try:
            assert isinstance(await asyncio.wait_for(connection.ended, 5), OSError)
            await connection.ask(pack(b"PING"), timeout_s=5)
        finally:
            await connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=reset_after_the_greeting, args=(listening,))
        server.start()
        with pytest.raises(ConnectionError):  # uvloop's own word for it is RuntimeError
            uvloop.run(send_after_the_reset(listening.getsockname()[1]))
        server.join()


# --- the link ---


def test_pack() -> None:
    assert pack(b"SET", b"", b"a\r\nb") == b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\na\r\nb\r\n"


@async_test
async def test_commands_are_answered_in_order_each_with_its_own_reply(redis_server: RedisServer, channel: str) -> None:
    link = Link(target_of(redis_server), "test")
    answers: list[Any] = []
    async with running(link):
        for index in range(3000):
            link.submit(pack(b"ECHO", b"%d" % index), answers.append)
        with pytest.raises(ReplyError):
            await link.call(b"NO SUCH COMMAND")
        assert answers == [b"%d" % index for index in range(3000)]
        assert await link.call(b"GET", channel.encode()) is None
        assert await link.call(b"EXISTS", channel.encode()) == 0
        assert link.ready


@async_test
async def test_big_commands_and_big_replies(redis_server: RedisServer, channel: str) -> None:
    link = Link(target_of(redis_server), "test")
    value = b"x" * 3_000_000
    async with running(link):
        assert await link.call(b"SET", channel.encode(), value) == b"OK"
        replies = await asyncio.gather(*[link.call(b"GET", channel.encode()) for _ in range(10)])
        assert all(reply == value for reply in replies)
    redis_server.call("DEL", channel)


@async_test
async def test_a_link_waits_for_its_first_connection(own_redis: RedisServer) -> None:
    changes: list[str | None] = []
    link = Link(target_of(own_redis), "test", on_change=changes.append)
    async with running(link):
        assert not link.ready
        assert await link.call(b"PING") == b"PONG"
        assert link.ready
        assert changes == [None]


@async_test
async def test_a_link_out_of_reach_refuses_at_once_and_comes_back_by_itself() -> None:
    port = free_port()
    changes: list[str | None] = []
    link = Link(RedisTarget(f"redis://127.0.0.1:{port}", 5.0), "test", on_change=changes.append)
    async with running(link):
        with pytest.raises(RedisUnavailable):
            await link.call(b"PING")
        answers: list[Any] = []
        link.submit(pack(b"PING"), answers.append)
        assert [answer.outcome for answer in answers] == [Outcome.NOT_STORED]
        assert not link.ready
        with RedisServer(port):
            await until(lambda: link.ready)
            assert await link.call(b"PING") == b"PONG"
            assert [change is None for change in changes] == [False, True]


@async_test
async def test_what_was_sent_when_the_link_broke_is_unknown_and_what_was_not_is_not_stored(
    own_redis: RedisServer,
) -> None:
    link = Link(target_of(own_redis, 0.3), "test")
    answers: list[Any] = []
    async with running(link):
        await link.call(b"PING")
        own_redis.pause()
        try:
            link.submit(pack(b"INCR", b"sent"), answers.append)
            await asyncio.sleep(0.05)
            link.submit(pack(b"INCR", b"waiting"), answers.append)
            await until(lambda: len(answers) == 2)
        finally:
            own_redis.resume()
        assert [answer.outcome for answer in answers] == [Outcome.UNKNOWN, Outcome.NOT_STORED]
        await until(lambda: link.ready)
        assert own_redis.call("GET", "waiting") is None
        assert own_redis.call("GET", "sent") in (None, b"1")


@async_test
async def test_a_link_bounds_what_waits(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "PENDING_BYTES", 1_000_000)
    link = Link(target_of(own_redis), "test")
    answers: list[Any] = []
    async with running(link):
        await link.call(b"PING")
        own_redis.pause()
        try:
            for _ in range(30):
                link.submit(pack(b"ECHO", b"x" * 100_000), answers.append)
                await asyncio.sleep(0)
            refused = list(answers)
            assert 10 <= len(refused) <= 20
            assert {answer.outcome for answer in refused} == {Outcome.NOT_STORED}
        finally:
            own_redis.resume()
        await until(lambda: len(answers) == 30)
        assert await link.call(b"PING") == b"PONG"


@async_test
async def test_what_broken_links_have_held_counts_no_more(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "PENDING_BYTES", 1_000_000)
    async with Proxy(own_redis.port) as proxy:
        link = Link(RedisTarget(proxy.redis_url, 5.0), "test")
        async with running(link):
            for _ in range(5):
                with proxy.cut_reply(b"ECHO"), pytest.raises(RedisUnavailable) as caught:
                    await link.call(b"ECHO", b"x" * 300_000)
                assert caught.value.outcome is Outcome.UNKNOWN
            assert await link.call(b"PING") == b"PONG"


@async_test
async def test_repeats_go_in_order_and_before_what_came_later(redis_server: RedisServer, channel: str) -> None:
    link = Link(target_of(redis_server), "test")

    def push(word: bytes, *, again: bool) -> None:
        link.submit(pack(b"RPUSH", channel.encode(), word), lambda reply: None, again=again)

    def answered(word: bytes) -> None:
        push(b"later", again=False)
        push(word, again=True)

    async with running(link):
        for _ in range(3):
            link.submit(pack(b"ECHO", b"first"), answered)
            link.submit(pack(b"ECHO", b"second"), answered)
            await link.call(b"PING")
        assert (
            await link.call(b"LRANGE", channel.encode(), b"0", b"-1") == [b"first", b"second", b"later", b"later"] * 3
        )


@async_test
async def test_an_idle_link_notices_a_redis_that_went_silent(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "IDLE_PING_S", 0.05)
    link = Link(target_of(own_redis, 0.3), "test")
    async with running(link):
        await until(lambda: link.ready)
        own_redis.pause()
        try:
            await until(lambda: not link.ready)
        finally:
            own_redis.resume()
        await until(lambda: link.ready)


@async_test
async def test_a_link_that_is_stopped_answers_what_is_under_way(own_redis: RedisServer) -> None:
    link = Link(target_of(own_redis), "test")
    answers: list[Any] = []
    async with running(link):
        await link.call(b"PING")
        own_redis.pause()
        link.submit(pack(b"PING"), answers.append)
        await asyncio.sleep(0.02)
    own_redis.resume()
    assert [answer.outcome for answer in answers] == [Outcome.UNKNOWN]


@async_test
async def test_a_caller_that_gives_up_disturbs_no_other(redis_server: RedisServer) -> None:
    link = Link(target_of(redis_server), "test")
    async with running(link):
        calls = [link.call(b"ECHO", b"%d" % index) for index in range(100)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        assert [await call for call in calls[1::2]] == [b"%d" % index for index in range(1, 100, 2)]


# --- the store ---


@async_test
async def test_append(redis_server: RedisServer, channel: str) -> None:
    async with running_store(redis_server) as store:
        results = [appended(store, channel, b'{"n": %d}' % index) for index in range(2000)]
        ids = [(await result).id for result in results]  # type: ignore[union-attr]
        reply = redis_server.call("XRANGE", channel, "-", "+")
        assert [id_ for id_, _ in reply] == [str(id_).encode() for id_ in ids]
        assert [fields for _, fields in reply] == [[b"messageData", b'{"n": %d}' % index] for index in range(2000)]
        assert store.ready


@async_test
async def test_append_to_what_is_no_stream(own_redis: RedisServer) -> None:
    own_redis.call("SET", "text", "x")
    async with running_store(own_redis) as store:
        refused = await appended(store, "text", b"1")
        assert isinstance(refused, ChannelUnreadable)
        assert (refused.code, refused.outcome) == (ErrorCode.CHANNEL_UNREADABLE, Outcome.NOT_STORED)
        own_redis.call("CONFIG", "SET", "maxmemory", "1")
        refused = await appended(store, "stream", b"1")
        assert isinstance(refused, RedisRefused)
        assert "OOM" in str(refused)
        assert (refused.code, refused.outcome) == (ErrorCode.REDIS_REFUSED, Outcome.NOT_STORED)


@async_test
async def test_append_once(redis_server: RedisServer, channel: str) -> None:
    async with running_store(redis_server) as store:
        once = Once("producer", "m1", 120)
        first = await appended(store, channel, b'{"n": 1}', once)
        assert isinstance(first, Stored)
        assert not first.duplicate
        for _ in range(3):
            redis_server.call("SCRIPT", "FLUSH")
            again = [appended(store, channel, b'{"n": 1}', once) for _ in range(3)]
            assert [await each for each in again] == [Stored(first.raw_id, duplicate=True)] * 3
        assert isinstance(await appended(store, channel, b'{"n":1}', once), Conflict)
        for other in (Once("producer", "m2", 120), Once("another", "m1", 120)):
            assert (await appended(store, channel, b'{"n": 1}', other)).duplicate is False  # type: ignore[union-attr]
        assert await stored(store, channel, b'{"n": 1}')
        assert (await appended(store, f"{channel}-other", b"1", once)).duplicate is False  # type: ignore[union-attr]
        reply = redis_server.call("XRANGE", channel, "-", "+")
        assert [fields for _, fields in reply] == [[b"messageData", b'{"n": 1}']] * 4


@async_test
async def test_append_once_forgets_after_its_window(redis_server: RedisServer, channel: str) -> None:
    async with running_store(redis_server) as store:
        once = Once("producer", "m1", 0.05)
        await appended(store, channel, b"1", once)
        await until(lambda: redis_server.call("EXISTS", once_key(channel, once)) == 0)
        assert (await appended(store, channel, b"2", once)).duplicate is False  # type: ignore[union-attr]


@async_test
async def test_append_once_that_redis_refuses_stores_nothing(own_redis: RedisServer) -> None:
    once = Once("producer", "m1", 120)
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
    key = once_key(name, Once("producer", "m", 120))
    assert key_slot(key) == key_slot(name.encode())
    assert key != once_key(name, Once("producerm", "", 120))
    assert key != once_key(name + "x", Once("producer", "m", 120))


@async_test
async def test_tip(redis_server: RedisServer, channel: str) -> None:
    async with running_store(redis_server) as store:
        assert await store.tip(channel) == Tip(None, ZERO)
        ids = parsed(add(redis_server, channel, "1", "2", "3"))
        assert await store.tip(channel) == Tip(ids[0], ids[2], 3)
        redis_server.call("XDEL", channel, str(ids[2]))
        assert await store.tip(channel) == Tip(ids[0], ids[2], 2)
        redis_server.call("XTRIM", channel, "MAXLEN", 0)
        assert await store.tip(channel) == Tip(None, ids[2], 0)
        redis_server.call("DEL", channel)
        assert await store.tip(channel) == Tip(None, ZERO)
        redis_server.call("SET", channel, "x")
        with pytest.raises(ChannelUnreadable):
            await store.tip(channel)


@async_test
async def test_looks_that_take_long_do_not_share_a_batch(redis_server: RedisServer, channel: str) -> None:
    names = [f"{channel}-{number}" for number in range(5)]
    async with running_store(redis_server) as store:
        for name in names:
            await stored(store, name)

        async def batches() -> int:
            before = store.commands.turn
            await asyncio.gather(*map(store.tip, names))
            return store.commands.turn - before

        assert await batches() == 1
        add(redis_server, channel, '"%s"' % ("x" * 1_000_000))
        await store.tip(channel)
        assert await batches() >= 3
        for _ in range(4):  # and once they are quick again
            await batches()
        assert await batches() == 1


@async_test
async def test_a_tip_asked_for_before_an_append_is_the_one_before_it(redis_server: RedisServer, channel: str) -> None:
    async with running_store(redis_server) as store:
        before = await stored(store, channel)
        for _ in range(50):
            tip = store.tip(channel)
            following = await stored(store, channel)
            assert (await tip).last == before
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
                expected = History(entries_of(ids[3:], 3), True, "trimmed", Tip(ids[3], ids[5], 3))
            case "deleted in between":
                redis_server.call("XDEL", channel, str(ids[1]), str(ids[2]))
                expected = History(entries_of(ids[3:], 3), True, None, Tip(ids[0], ids[5], 4))
            case "nothing left":
                redis_server.call("XTRIM", channel, "MAXLEN", 0)
                expected = History([], True, "trimmed", Tip(None, ids[5]))
            case "made anew":
                redis_server.call("DEL", channel)
                redis_server.call("XADD", channel, "1-0", "messageData", "9")
                expected = History([], True, "reset", Tip(StreamId(1, 0), StreamId(1, 0), 1))
            case _:
                redis_server.call("DEL", channel)
                expected = History([], True, "reset", Tip(None, ZERO))
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
    tip = Tip(None if first is None else StreamId(first, 0), StreamId(last, 0))
    assert broken_continuity(StreamId(after, 0), tip) == broken


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
        end = await store.tip(channel)
        assert end.last == ids[-1]
        assert await store.before_last(channel, 0, end) == end.last
        for count in (1, 2, 498, 499, 500, 501, 999, 1000, 1197):
            start = await store.before_last(channel, count, end)
            assert start == left[-count - 1]
        for count in (1198, 1199, 10**18):
            assert await store.before_last(channel, count, end) == ZERO
        assert await store.before_last(f"{channel}-missing", 5, Tip(None, ZERO)) == ZERO
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
            await store.before_last("text", 5, Tip(StreamId(1, 0), StreamId(9, 0), 9))
    restricted = Store(RedisTarget(f"redis://gateway:secret@127.0.0.1:{own_redis.port}", 5.0), lambda cause: None)
    async with running(restricted):
        for after in (ZERO, StreamId(5, 0)):
            with pytest.raises(ChannelUnreadable, match="NOPERM"):
                await restricted.page("closed", after, 5, PAGE_BYTES)
        with pytest.raises(ChannelUnreadable, match="NOPERM"):
            await restricted.tip("closed")
        assert await restricted.page("open", ZERO, 5, PAGE_BYTES) == History([], is_end=True)
        own_redis.kill()
        for after in (ZERO, StreamId(5, 0)):
            with pytest.raises(RedisUnavailable):
                await restricted.page("open", after, 5, PAGE_BYTES)
        with pytest.raises(RedisUnavailable):
            await restricted.tip("open")


@async_test
async def test_a_link_that_was_cut_by_redis_is_made_anew(redis_server: RedisServer, channel: str) -> None:
    async with running_store(redis_server) as store:
        await stored(store, channel)
        for _ in range(3):
            redis_server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            async with asyncio.timeout(5):
                while not isinstance(await appended(store, channel, b"2"), Stored):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert (await store.tip(channel)).first is not None


# --- the reader ---


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


class Following:
    """A reader and what it has delivered, by channel."""

    def __init__(self, redis: RedisServer, timeout_s: float = 5.0) -> None:
        self.reader = Reader(target_of(redis, timeout_s))
        self.on_delivery: Callable[[list[Entry]], object] = lambda entries: None
        self.delivered: dict[str, list[StreamId]] = {}
        self.unreadable: list[str] = []
        self.interruptions = 0
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
        return self.reader._followed[name.encode()].at_rest

    async def until(self, name: str, ids: list[StreamId]) -> None:
        await until(lambda: len(self.delivered[name]) >= len(ids), f"{len(ids)} entries of {name}")
        assert self.delivered[name] == ids


def sent_by(redis: RedisServer) -> int:
    """Bytes that it has sent to anybody."""
    sent: int = redis.client.info("stats")["total_net_output_bytes"]
    return sent


def waiting_at_ends(redis: RedisServer) -> int:
    """How many connections wait at the ends of streams."""
    clients = redis.client.client_list(_type="normal")
    return sum(client["name"] == "rsws-ends" and "b" in client["flags"] for client in clients)


@asynccontextmanager
async def following(redis: RedisServer, timeout_s: float = 5.0) -> AsyncIterator[Following]:
    room = Following(redis, timeout_s)
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
async def test_what_follows_at_once_is_read_together(
    redis_server: RedisServer, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    async with following(redis_server) as room:
        room.follow(channel)
        ids = parsed(add(redis_server, channel, *["1"] * 3))
        await room.until(channel, ids)
        monkeypatch.setattr("rsws.streams.reader.GATHER_S", 0.3)
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
    redis_server: RedisServer, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "READ_BYTES", 100_000)
    sizes: list[int] = []
    async with following(redis_server) as room:
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
async def test_a_redis_that_refuses_is_not_asked_all_the_time(own_redis: RedisServer) -> None:
    async with following(own_redis) as room:
        room.follow("a")
        await room.until("a", ids := parsed(add(own_redis, "a", "1")))
        own_redis.call("CONFIG", "SET", "replica-serve-stale-data", "no")
        own_redis.call("REPLICAOF", "127.0.0.1", free_port())  # MASTERDOWN to every read, as LOADING would be
        own_redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(0.3)
        statistics = own_redis.call("INFO", "commandstats")
        own_redis.call("REPLICAOF", "NO", "ONE")
        asked = re.search(rb"cmdstat_xrange:calls=([0-9]+),.*rejected_calls=([0-9]+)", statistics)
        assert asked is not None
        assert int(asked[2]) > 0
        assert int(asked[1]) + int(asked[2]) < 20
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
        await until(lambda: room.reader._link._up is False)
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
                await until(lambda: room.reader._link._up is False)
                assert room.interruptions == 0
            await until(lambda: room.interruptions == 1)


@async_test
async def test_the_reader_notices_a_redis_that_went_silent(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "IDLE_PING_S", 0.2)
    async with following(own_redis, timeout_s=0.2) as room:
        room.follow("a")
        ids = parsed(add(own_redis, "a", "1"))
        await room.until("a", ids)
        own_redis.pause()
        await until(lambda: room.reader._link._up is not True)
        own_redis.resume()
        ids += parsed(add(own_redis, "a", "2"))
        await room.until("a", ids)


@async_test
async def test_one_bad_key_is_set_aside_and_tried_again(
    redis_server: RedisServer, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "UNREADABLE_RETRY_S", 0.1)
    good = f"{channel}-good"
    redis_server.call("SET", channel, "x")
    async with following(redis_server) as room:
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
async def test_a_good_channel_among_many_bad_ones(
    redis_server: RedisServer, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "REFUSED_S", 0.001)
    bad = [f"{channel}-{index}" for index in range(100)]
    for name in bad:
        redis_server.call("SET", name, "x")
    async with following(redis_server) as room:
        for name in bad:
            room.follow(name)
        room.follow(channel)
        await room.until(channel, parsed(add(redis_server, channel, "1")))
        await until(lambda: len(room.unreadable) >= len(bad))
        await asyncio.sleep(0.02)
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

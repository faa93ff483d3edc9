"""Which field of an entry holds the message: with a script and without, while read by pages and while followed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kit.gateway import async_test, until
from kit.streams import PAGE_BYTES, appended, running, stored
from kit.support import RedisServer
from rsws.errors import ErrorCode, NotPossible, Outcome, UsageError
from rsws.protocol import ZERO, StreamId
from rsws.redis.target import RedisTarget
from rsws.streams.fields import ALL, MessageFields, as_object, read_fields
from rsws.streams.primary import Primary
from rsws.streams.replies import Entry
from rsws.streams.store import IdempotencyKey, Stored

RULES = ("orders.*=payload", "raw.*=*", "*.raw=*", "orders.17=never")


def test_the_first_rule_that_names_the_channel_holds() -> None:
    fields = MessageFields(RULES)
    names = ("orders.17", "orders.raw", "raw.1", "a.raw", "news", "a=b")
    assert [fields.of(name) for name in names] == [b"payload", b"payload", ALL, ALL, b"messageData", b"messageData"]
    assert MessageFields(["a=b=c"]).of("a=b") == b"c"


@pytest.mark.parametrize("rule", ["", "=", "orders", "orders=", "=payload", "orders=end"])
def test_what_is_no_rule_is_refused(rule: str) -> None:
    with pytest.raises(UsageError, match=r"PATTERN=FIELD|marks the end"):
        MessageFields([rule])


@pytest.mark.parametrize(
    ("fields", "field", "result"),
    [
        ([], b"messageData", (None, False)),
        ([b"messageData", b"1", b"messageData", b"2"], b"messageData", (b"2", False)),
        ([b"end", b""], b"messageData", (None, True)),
        ([b"end", b"no", b"payload", b"3"], b"payload", (b"3", True)),
        ([b"a", b"end"], b"messageData", (None, False)),
        ([b"a", b"1", b"a", b"2", b"end", b"x"], ALL, (b'{"a":"2","end":"x"}', True)),
        ([], ALL, (b"{}", False)),
    ],
)
def test_what_an_entry_says(fields: list[bytes], field: bytes, result: tuple[bytes | None, bool]) -> None:
    assert read_fields(fields, field) == result


def test_bytes_that_are_no_text() -> None:
    odd = [b"name", 'é"\\\n\0'.encode(), b"blob", b"\xff\x00", b"k\xff", b"\xed\xa0\x80", b"", b""]
    assert json.loads(as_object(odd)) == {
        "name": 'é"\\\n\0', "blob": {"base64": "/wA="}, "k\\xff": {"base64": "7aCA"}, "": "",
    }  # fmt: skip


WAYS = {"scripts": (), "plain commands": ("-eval", "-evalsha", "-script", "-xinfo")}


@asynccontextmanager
async def primary(redis: RedisServer, forbidden: tuple[str, ...]) -> AsyncIterator[Primary]:
    redis.call("ACL", "SETUSER", "fields", "reset", "on", ">secret", "~*", "&*", "+@all", *forbidden)
    target = RedisTarget(f"redis://fields:secret@127.0.0.1:{redis.port}", 5.0)
    room = Primary(target, lambda cause: None, fields=MessageFields(RULES))
    async with running(room):
        yield room


@pytest.mark.parametrize("forbidden", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("limit", [2, 100])
@async_test
async def test_pages(redis_server: RedisServer, channel: str, limit: int, forbidden: tuple[str, ...]) -> None:
    for name in (f"orders.{channel}", f"raw.{channel}", channel):
        redis_server.call("XADD", name, "1-0", "payload", "1", "messageData", "2", "*", "3")
        redis_server.call("XADD", name, "2-0", "payload", "4", "end", "no")
        redis_server.call("XADD", name, "3-0", "x", "y")
    async with primary(redis_server, forbidden) as room:
        expected: dict[str, list[tuple[bytes | None, bool]]] = {
            f"orders.{channel}": [(b"1", False), (b"4", True), (None, False)],
            channel: [(b"2", False), (None, True), (None, False)],
            f"raw.{channel}": [
                (b'{"payload":"1","messageData":"2","*":"3"}', False),
                (b'{"payload":"4","end":"no"}', True),
                (b'{"x":"y"}', False),
            ],
        }
        for name, due in expected.items():
            for after, rest in ((ZERO, due), (StreamId(1, 0), due[1:]), (StreamId(1, 5), due[1:])):
                entries = (await room.store.page(name, after, limit, PAGE_BYTES)).entries
                assert [(entry.data, entry.ends) for entry in entries] == rest[:limit]


@pytest.mark.parametrize("forbidden", WAYS.values(), ids=WAYS.keys())
@async_test
async def test_names_of_fields_count_for_the_size_of_a_page(
    redis_server: RedisServer, channel: str, forbidden: tuple[str, ...]
) -> None:
    for number in range(8):
        redis_server.call("XADD", f"raw.{channel}", "*", f"{number}" * 10_000, "1")
    async with primary(redis_server, forbidden) as room:
        assert len((await room.store.page(f"raw.{channel}", ZERO, 8, 15_000)).entries) == 2


class Follows:
    """Takes note of what comes."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.has_broken = False

    def deliver(self, entries: list[Entry], /) -> None:
        self.entries += entries

    def unreadable(self, error: Exception, /) -> None:
        self.has_broken = True

    def interrupted(self) -> None:
        self.has_broken = True

    replaced = interrupted


@pytest.mark.parametrize("forbidden", WAYS.values(), ids=WAYS.keys())
@async_test
async def test_following(redis_server: RedisServer, channel: str, forbidden: tuple[str, ...]) -> None:
    names = {f"orders.{channel}": b"7", f"raw.{channel}": b'{"payload":"7","end":"x"}', channel: None}
    async with primary(redis_server, forbidden) as room:
        followers = {name: Follows() for name in names}
        for name, follower in followers.items():
            redis_server.call("XADD", name, "1-0", "payload", "1")
            room.reader.follow(name, ZERO, follower)
        due = 1
        for count in (1, 30, 1, 1):  # the entry at the position has to be the same, whether a script has read it or not
            await until(lambda: all(len(each.entries) == due for each in followers.values()))  # noqa: B023
            due += count
            for name in names:
                together = redis_server.client.pipeline(transaction=True)
                for _ in range(count):
                    together.xadd(name, {"payload": "7", "end": "x"})
                together.execute()
        await until(lambda: all(len(each.entries) == due for each in followers.values()))
        for name, data in names.items():
            assert not followers[name].has_broken
            assert {(entry.data, entry.ends) for entry in followers[name].entries[1:]} == {(data, True)}


@async_test
async def test_publishes_write_the_field_that_is_read(redis_server: RedisServer, channel: str) -> None:
    once = IdempotencyKey("producer", "m", 60)
    async with primary(redis_server, ()) as room:
        await stored(room.store, f"orders.{channel}", b"1")
        assert isinstance(await appended(room.store, f"orders.{channel}", b"2", once), Stored)
        for each in (None, once):
            refused = await appended(room.store, f"raw.{channel}", b"3", each)
            assert isinstance(refused, NotPossible)
            assert (refused.code, refused.outcome) == (ErrorCode.NOT_ALLOWED, Outcome.NOT_STORED)
    fields = [flat for _, flat in redis_server.call("XRANGE", f"orders.{channel}", "-", "+")]
    assert fields == [[b"payload", b"1"], [b"payload", b"2"]]
    assert redis_server.call("EXISTS", f"raw.{channel}") == 0

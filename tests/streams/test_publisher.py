"""Messages written straight to Redis."""

from __future__ import annotations

import asyncio

import pytest

from kit.support import RedisServer
from rsws.errors import ChannelUnreadable, Outcome, RedisRefused, RedisUnavailable, SetupError, StoreError
from rsws.protocol import StreamId
from rsws.redis.target import RedisTarget
from rsws.streams.publisher import Publisher, xadd

TIMEOUT_S = 0.5


def add(url: str, channel: str, *messages: bytes, maxlen: int | None = None) -> list[StreamId | StoreError]:
    async def main() -> list[StreamId | StoreError]:
        async with Publisher(RedisTarget(url, TIMEOUT_S)) as publisher:
            return await publisher.add(channel, messages, maxlen=maxlen)

    return asyncio.run(main())


def test_the_command() -> None:
    assert xadd("news", b"1") == [b"XADD", b"news", b"*", b"messageData", b"1"]
    assert xadd("é", b"1", 5) == [b"XADD", "é".encode(), b"MAXLEN", b"~", b"5", b"*", b"messageData", b"1"]


def test_messages_are_stored_in_order(redis_server: RedisServer, channel: str) -> None:
    messages = [b"%d" % number for number in range(1000)]
    ids = add(redis_server.url, channel, *messages)
    stored = redis_server.call("XRANGE", channel, "-", "+")
    assert [str(stream_id) for stream_id in ids] == [entry[0].decode() for entry in stored]
    assert [entry[1] for entry in stored] == [[b"messageData", message] for message in messages]


def test_a_refusal_is_the_result_of_its_message(own_redis: RedisServer) -> None:
    own_redis.call("SET", "string", "1")
    (refusal,) = add(own_redis.url, "string", b"1")
    assert isinstance(refusal, ChannelUnreadable)
    own_redis.call("CONFIG", "SET", "maxmemory", "1")
    (refusal,) = add(own_redis.url, "news", b"1")
    assert isinstance(refusal, RedisRefused)
    assert "OOM" in str(refusal)


def test_a_user_without_the_right(own_redis: RedisServer) -> None:
    own_redis.call("ACL", "SETUSER", "ann", "on", ">secret", "~news", "+@connection", "+xadd")
    url = own_redis.url.replace("//", "//ann:secret@")
    assert isinstance(add(url, "news", b"1")[0], StreamId)
    with pytest.raises(SetupError, match="refuses to write to 'other': NOPERM"):
        add(url, "other", b"1")
    own_redis.call("CONFIG", "SET", "requirepass", "other")
    with pytest.raises(SetupError, match="NOAUTH"):
        add(own_redis.url, "news", b"1")


def test_nobody_there() -> None:
    with pytest.raises(RedisUnavailable) as error:
        add("redis://127.0.0.1:1", "news", b"1")
    assert error.value.outcome is Outcome.NOT_STORED


@pytest.mark.parametrize("how", ["pause", "kill"])
def test_a_link_that_breaks_leaves_what_was_sent_unknown(own_redis: RedisServer, how: str) -> None:
    async def main() -> None:
        async with Publisher(RedisTarget(own_redis.url, TIMEOUT_S)) as publisher:
            assert isinstance((await publisher.add("news", [b"1"]))[0], StreamId)
            getattr(own_redis, how)()
            for result in await publisher.add("news", [b"2", b"3"]):
                assert isinstance(result, RedisUnavailable)
                assert result.outcome is Outcome.UNKNOWN
                assert result.cause.startswith(f"lost Redis at {own_redis.url}: ")

    asyncio.run(main())

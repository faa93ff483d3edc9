"""Where Redis is, and the shared link to it, on a real one."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from kit.faults import Proxy, command_calls
from kit.gateway import async_test, until
from kit.streams import PRIMARY_SAYS, running, target_of
from kit.support import RedisServer, free_port
from rsws.errors import (
    Outcome,
    RedisUnavailable,
    SetupError,
    UsageError,
)
from rsws.redis.connection import ReplyError, pack
from rsws.redis.limits import DEFAULTS
from rsws.redis.link import RedisLink
from rsws.redis.target import RedisTarget, probe

# --- the target ---


@pytest.mark.parametrize(
    "options", ["decode_responses=True", "protocol=3", "socket_timeout=0.001", "health_check_interval=1"]
)
@async_test
async def test_what_a_url_says_does_not_change_how_answers_are_read(redis_server: RedisServer, options: str) -> None:
    link = RedisLink(RedisTarget(f"{redis_server.url}?{options}", 5.0), "test")
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
            client.sendall(PRIMARY_SAYS)
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
    link = RedisLink(target_of(redis_server), "test")
    answers: list[Any] = []
    async with running(link):
        for index in range(0, 3000, 3):
            link.submit(pack(b"ECHO", b"%d" % index), answers.append)
            both = [pack(b"ECHO", b"%d" % each) for each in (index + 1, index + 2)]
            link.submit_all(both, [answers.append] * 2)
        with pytest.raises(ReplyError):
            await link.call(b"NO SUCH COMMAND")
        assert answers == [b"%d" % index for index in range(3000)]
        assert await link.call(b"GET", channel.encode()) is None
        assert await link.call(b"EXISTS", channel.encode()) == 0
        assert link.ready


@async_test
async def test_big_commands_and_big_replies(redis_server: RedisServer, channel: str) -> None:
    link = RedisLink(target_of(redis_server), "test")
    value = b"x" * 3_000_000
    async with running(link):
        assert await link.call(b"SET", channel.encode(), value) == b"OK"
        replies = await asyncio.gather(*[link.call(b"GET", channel.encode()) for _ in range(10)])
        assert all(reply == value for reply in replies)
    redis_server.call("DEL", channel)


@async_test
async def test_a_link_waits_for_its_first_connection(own_redis: RedisServer) -> None:
    changes: list[str | None] = []
    link = RedisLink(target_of(own_redis), "test", on_change=changes.append)
    async with running(link):
        assert not link.ready
        assert await link.call(b"PING") == b"PONG"
        assert link.ready
        assert changes == [None]


@async_test
async def test_a_link_out_of_reach_refuses_at_once_and_comes_back_by_itself() -> None:
    port = free_port()
    changes: list[str | None] = []
    link = RedisLink(RedisTarget(f"redis://127.0.0.1:{port}", 5.0), "test", on_change=changes.append)
    async with running(link):
        with pytest.raises(RedisUnavailable):
            await link.call(b"PING")
        answers: list[Any] = []
        link.submit(pack(b"PING"), answers.append)
        link.submit_all([pack(b"PING")] * 2, [answers.append] * 2)
        assert [answer.outcome for answer in answers] == [Outcome.NOT_STORED] * 3
        assert not link.ready
        with RedisServer(port):
            await until(lambda: link.ready)
            assert await link.call(b"PING") == b"PONG"
            assert [change is None for change in changes] == [False, True]


@async_test
async def test_what_was_sent_when_the_link_broke_is_unknown_and_what_was_not_is_not_stored(
    own_redis: RedisServer,
) -> None:
    link = RedisLink(target_of(own_redis, 0.3), "test")
    answers: list[Any] = []
    async with running(link):
        await link.call(b"PING")
        own_redis.pause()
        try:
            link.submit(pack(b"INCR", b"sent"), answers.append)
            await until(lambda: link.is_busy)
            link.submit(pack(b"INCR", b"waiting"), answers.append)
            link.submit_all([pack(b"INCR", b"waiting")] * 2, [answers.append] * 2)
            await until(lambda: len(answers) == 4)
        finally:
            own_redis.resume()
        assert [answer.outcome for answer in answers] == [Outcome.UNKNOWN, *[Outcome.NOT_STORED] * 3]
        await until(lambda: link.ready)
        assert own_redis.call("GET", "waiting") is None
        assert own_redis.call("GET", "sent") in (None, b"1")


@async_test
async def test_a_link_bounds_what_waits(own_redis: RedisServer) -> None:
    link = RedisLink(target_of(own_redis), "test", limits=replace(DEFAULTS, pending_bytes=1_000_000))
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
async def test_what_broken_links_have_held_counts_no_more(own_redis: RedisServer) -> None:
    async with Proxy(own_redis.port) as proxy:
        limits = replace(DEFAULTS, pending_bytes=1_000_000)
        link = RedisLink(RedisTarget(proxy.redis_url, 5.0), "test", limits=limits)
        async with running(link):
            for _ in range(5):
                with proxy.cut_reply(b"ECHO"), pytest.raises(RedisUnavailable) as caught:
                    await link.call(b"ECHO", b"x" * 300_000)
                assert caught.value.outcome is Outcome.UNKNOWN
            assert await link.call(b"PING") == b"PONG"


@async_test
async def test_repeats_go_in_order_and_before_what_came_later(redis_server: RedisServer, channel: str) -> None:
    link = RedisLink(target_of(redis_server), "test")

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
async def test_an_idle_link_notices_a_redis_that_went_silent(own_redis: RedisServer) -> None:
    link = RedisLink(target_of(own_redis, 0.3), "test", limits=replace(DEFAULTS, idle_ping_s=0.05))
    async with running(link):
        await until(lambda: link.ready)
        own_redis.pause()
        try:
            await until(lambda: not link.ready)
        finally:
            own_redis.resume()
        await until(lambda: link.ready)


@async_test
async def test_a_short_timeout_asks_the_role_no_more_often(own_redis: RedisServer) -> None:
    limits = replace(DEFAULTS, idle_ping_s=0.001, role_check_s=600)
    link = RedisLink(target_of(own_redis, 0.1), "test", watch_role=True, limits=limits)
    async with running(link):
        await link.call(b"PING")
        asked = command_calls(own_redis, "role")
        pinged = command_calls(own_redis, "ping")
        await until(lambda: command_calls(own_redis, "ping") > pinged + 3)
        assert command_calls(own_redis, "role") == asked


@async_test
async def test_a_link_that_is_stopped_answers_what_is_under_way(own_redis: RedisServer) -> None:
    link = RedisLink(target_of(own_redis), "test")
    answers: list[Any] = []
    async with running(link):
        await link.call(b"PING")
        own_redis.pause()
        link.submit(pack(b"PING"), answers.append)
        await until(lambda: link.is_busy)
    own_redis.resume()
    assert [answer.outcome for answer in answers] == [Outcome.UNKNOWN]


@async_test
async def test_a_caller_that_gives_up_disturbs_no_other(redis_server: RedisServer) -> None:
    link = RedisLink(target_of(redis_server), "test")
    async with running(link):
        calls = [link.call(b"ECHO", b"%d" % index) for index in range(100)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        assert [await call for call in calls[1::2]] == [b"%d" % index for index in range(1, 100, 2)]

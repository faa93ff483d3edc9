"""A connection to something that speaks like Redis, and does what Redis would not."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from kit.gateway import async_test, until
from kit.streams import PRIMARY_SAYS
from kit.support import free_port
from rsws.errors import Outcome
from rsws.redis.connection import PARSED_BYTES, RedisConnection, ReplyError, pack
from rsws.redis.link import RedisLink
from rsws.redis.target import ASK_ROLE, RedisTarget

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def peer(serve: Serve, *, greets: bool = True) -> AsyncIterator[RedisTarget]:
    """A server that lets everyone in, says it is a primary, and then does as ``serve`` says."""
    serving: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if greets:
            await reader.readuntil(ASK_ROLE)
            writer.write(PRIMARY_SAYS)
        with suppress(OSError):
            await serve(reader, writer)

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving[writer] = asyncio.create_task(accept(reader, writer))

    server = await asyncio.start_server(accepted, "127.0.0.1", free_port())
    async with server:
        yield RedisTarget(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", 5.0)
        for writer, task in serving.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.wait(serving.values())


def answering(*pieces: bytes) -> Serve:
    """Wait for something to be asked, then say ``pieces`` one by one, and wait for the end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.001)
        await reader.read(1000)

    return serve


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def shut_down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say no more, and go on listening."""
    writer.write_eof()
    await reader.read(1000)


async def outcome(target: RedisTarget, commands: int, replies: list[Any]) -> Exception | None:
    connection = await target.connect("test")
    try:
        await connection.ask(*[pack(b"PING")] * commands, timeout_s=0.2, replies=replies)
    except OSError as error:
        return error
    finally:
        await connection.close()
    return None


# --- replies ---


@async_test
async def test_replies_come_in_pieces_and_together() -> None:
    whole = b"+a\r\n:5\r\n$-1\r\n*2\r\n$3\r\nb\r\n\r\n*-1\r\n$0\r\n\r\n"
    for size in (1, 2, 3, 7, len(whole)):
        async with peer(answering(*[whole[i : i + size] for i in range(0, len(whole), size)])) as target:
            replies: list[Any] = []
            assert await outcome(target, 5, replies) is None
            assert replies == [b"a", 5, None, [b"b\r\n"[:3], None], b""]


@async_test
async def test_replies_of_any_size_come_at_once() -> None:
    sizes = [0, 1, *(PARSED_BYTES + more for more in (-12, -2, -1, 0, 1)), 5 * PARSED_BYTES, *[100] * 1000]
    said = b"".join(b"*1\r\n$%d\r\n%b\r\n" % (size, b"x" * size) for size in sizes)
    async with peer(answering(said)) as target:
        replies: list[Any] = []
        assert await outcome(target, len(sizes), replies) is None
        assert [len(reply) for (reply,) in replies] == sizes


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"-ERR unknown command", "unknown command"),
        (b"-WRONGTYPE no stream", "WRONGTYPE no stream"),
        (b"-NOSCRIPT none", "NOSCRIPT none"),
        (b"-\xff", "\N{REPLACEMENT CHARACTER}"),
    ],
)
@async_test
async def test_an_error_is_a_reply_with_all_its_words(line: bytes, text: str) -> None:
    async with peer(answering(line + b"\r\n+OK\r\n")) as target:
        replies: list[Any] = []
        assert await outcome(target, 2, replies) is None
        assert isinstance(replies[0], ReplyError)
        assert str(replies[0]) == text
        assert replies[1] == b"OK"


@async_test
async def test_who_waits_in_vain_gets_what_came() -> None:
    async with peer(answering(b"+1\r\n+2\r\n")) as target:
        replies: list[Any] = []
        assert str(await outcome(target, 3, replies)) == "no answer within 0.2 s"
        assert replies == [b"1", b"2"]


@async_test
async def test_what_is_said_without_being_asked_answers_nothing() -> None:
    push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n"
    async with peer(answering(push, b"+1\r\n" + push + b"+2\r\n" + push, push)) as target:
        connection = await target.connect("test")
        replies: list[Any] = []
        pushed: list[Any] = []
        idle: list[int] = []
        connection.on_push = pushed.append
        connection.on_idle = lambda: idle.append(len(replies))
        try:
            connection.send(pack(b"PING") * 2, [replies.append] * 2)
            await until(lambda: len(pushed) == 4)
            assert pushed == [[b"invalidate", [b"a"]]] * 4
            assert replies == [b"1", b"2"]
            assert idle == [2]
        finally:
            await connection.close()


@pytest.mark.parametrize("said", [b"+1\r\nHTTP/1.1 400\r\n", b"+1\r\n+2\r\n+3\r\n", b"+1\r\n>1\r\n+2\r\n"])
@async_test
async def test_what_is_no_answer_ends_the_connection(said: bytes) -> None:
    async with peer(answering(said)) as target:
        connection = await target.connect("test")
        try:
            replies: list[Any] = []
            connection.send(pack(b"PING") * 2, [replies.append] * 2)
            assert isinstance(await asyncio.wait_for(connection.ended, 5), ConnectionError)
            assert replies[0] == b"1"
            assert not connection.is_open
        finally:
            await connection.close()


# --- the end ---


@pytest.mark.parametrize("end", [hang_up, reset, shut_down])
@async_test
async def test_the_end_that_came_before_the_taking_over(end: Serve) -> None:
    async with peer(end, greets=False) as target:
        made = target.connection()
        await made.connect()  # type: ignore[no-untyped-call]
        reader, writer = made._reader, made._writer
        assert reader is not None
        assert writer is not None
        await until(lambda: reader.at_eof() or writer.is_closing())
        connection = RedisConnection(made)
        assert isinstance(connection.ended.result(), ConnectionError)
        with pytest.raises(ConnectionError):
            connection.send(pack(b"PING"), [print])
        assert not connection.unanswered
        await connection.close()


@pytest.mark.parametrize("end", [hang_up, reset, shut_down])
@async_test
async def test_an_end_that_is_known_takes_no_command_with_it(end: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[RedisConnection] = []
    connect = RedisTarget.connect

    async def noted(target: RedisTarget, name: str) -> RedisConnection:
        made.append(await connect(target, name))
        return made[-1]

    monkeypatch.setattr(RedisTarget, "connect", noted)
    connections = 0
    ready = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(1000)
        writer.write(b"+PONG\r\n")
        await ready.wait()
        if connections == 1:
            await end(reader, writer)
        else:
            writer.write(b"+1-1\r\n")

    async with peer(serve) as target, asyncio.timeout(5):
        link = RedisLink(target, "test")
        run = asyncio.create_task(link.run())
        try:
            await until(lambda: link.ready)
            ready.set()
            await made[0].ended
            assert await link.call(b"XADD") == b"1-1"
            assert connections == 2
        finally:
            run.cancel()
            await asyncio.wait([run])


@async_test
async def test_a_bug_in_what_gets_a_reply_is_not_hidden() -> None:
    def fail(reply: object) -> None:
        raise ZeroDivisionError

    heard: list[Any] = []
    async with peer(answering(b"+PONG\r\n", b"+1\r\n+2\r\n")) as target:
        link = RedisLink(target, "test")
        run = asyncio.create_task(link.run())
        link.submit(pack(b"PING"), fail)
        link.submit(pack(b"PING"), heard.append)
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(run, 5)
        assert [error.outcome for error in heard] == [Outcome.UNKNOWN]

"""What sentinels say, and what they would not say."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Self

import hiredis
import pytest

from kit.gateway import async_test, until
from kit.support import RedisServer
from rsws.errors import LoginRefused, RedisUnavailable
from rsws.redis.sentinel import Sentinels
from rsws.redis.target import RedisTarget
from rsws.redis.url import parse_redis_url
from rsws.urls import HostPort


class FakeSentinel:
    """A sentinel that names any address, and says any text to those who listen; an asynchronous context manager."""

    def __init__(self) -> None:
        self.primary: HostPort = ("127.0.0.1", 1)
        self.password = b""
        self._listeners: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis+sentinel://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/main"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(1000):
            parser.feed(data)
            while command := parser.gets():
                if command[0] == b"AUTH" and command[1] != self.password:
                    writer.write(b"-WRONGPASS\r\n")
                elif command[0] == b"SUBSCRIBE":
                    self._listeners.append(writer)
                elif command[0] == b"SENTINEL":
                    host, port = self.primary
                    writer.write(hiredis.pack_command((host.encode(), str(port).encode())))  # type: ignore[arg-type]
                else:
                    writer.write(b"+OK\r\n")
        writer.close()

    async def is_listened_to(self) -> None:
        """Wait until somebody has subscribed."""
        await until(lambda: self._listeners)

    async def say(self, *texts: bytes) -> None:
        """Say them as of a new primary."""
        await self.is_listened_to()
        for listener in self._listeners:
            for text in texts:
                listener.write(hiredis.pack_command((b"message", b"+switch-master", text)))  # type: ignore[arg-type]


@async_test
async def test_events_that_are_malformed_or_of_others_are_left_out() -> None:
    async with FakeSentinel() as fake:
        selected: list[HostPort] = []
        made: list[HostPort] = []
        sentinels = Sentinels(parse_redis_url(fake.url), 5, RedisTarget(fake.url, 5).connection)
        watching = asyncio.create_task(sentinels.watch(made.append, selected.append))
        await fake.say(
            b"",
            b"main",
            b"main 127.0.0.1 1 127.0.0.1",
            b"main 127.0.0.1 1 127.0.0.1 port",
            "main 127.0.0.1 1 127.0.0.1 \u00b2".encode(),  # a digit to Python, and no number
            b"main 127.0.0.1 1 \xff 2 more",
            b"other 127.0.0.1 1 127.0.0.1 2",
            b"slave 127.0.0.1:5 127.0.0.1 5 @ other 127.0.0.1 1",
            b"slave 127.0.0.1:5 127.0.0.1 port @ main 127.0.0.1 1",
            b"slave 127.0.0.1:3 127.0.0.1 3 @ main 127.0.0.1 1",
            b"main 127.0.0.1 1 127.0.0.1 4",
        )
        await until(lambda: made)
        assert (made, selected) == ([("127.0.0.1", 4)], [("127.0.0.1", 3)])
        watching.cancel()
        await asyncio.wait([watching])


@async_test
async def test_an_old_primary_that_hangs_is_given_up_when_another_one_is_made(redis_server: RedisServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # takes connections, and says nothing
        async with FakeSentinel() as fake:
            fake.primary = hanging.getsockname()
            target = RedisTarget(fake.url, 50)
            watching = asyncio.create_task(target.watch())
            connecting = asyncio.create_task(target.connect("test"))
            await asyncio.sleep(0.1)
            fake.primary = ("127.0.0.1", redis_server.port)
            await fake.say(b"main %s %d 127.0.0.1 %d" % (b"127.0.0.1", hanging.getsockname()[1], redis_server.port))
            async with asyncio.timeout(10):
                connection = await connecting
            assert target.primary == f"127.0.0.1:{redis_server.port}"
            await connection.close()
            watching.cancel()
            await asyncio.wait([watching])


@async_test
async def test_a_login_of_the_sentinels_that_changes(redis_server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "url"
    async with FakeSentinel() as fake:
        fake.primary, fake.password = ("127.0.0.1", redis_server.port), b"new"
        file.write_text(f"{fake.url}?sentinel_password=old")
        target = RedisTarget(file.read_text, 5)
        watching = asyncio.create_task(target.watch())
        with pytest.raises(RedisUnavailable) as caught:
            await target.connect("test")
        assert "WRONGPASS" in caught.value.cause
        file.write_text(f"{fake.url}?sentinel_password=new")
        connection = await target.connect("test")
        await fake.is_listened_to()
        await connection.close()
        watching.cancel()
        await asyncio.wait([watching])


@async_test
async def test_a_login_that_the_first_of_the_primaries_refuses(
    redis_server: RedisServer, own_redis: RedisServer
) -> None:
    own_redis.call("CONFIG", "SET", "requirepass", "other")
    async with FakeSentinel() as one, FakeSentinel() as two, FakeSentinel() as three:
        one.primary = two.primary = ("127.0.0.1", own_redis.port)
        three.primary = ("127.0.0.1", redis_server.port)
        places = ",".join(each.url.split("/")[2] for each in (one, two, three))
        target = RedisTarget(f"redis+sentinel://{places}/main", 5)
        connection = await target.connect("test")
        assert target.primary == f"127.0.0.1:{redis_server.port}"
        await connection.close()
        three.primary = one.primary
        with pytest.raises(LoginRefused):
            await target.connect("test")

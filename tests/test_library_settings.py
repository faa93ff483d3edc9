"""The settings of redis-py and websockets on which the promise rests, each shown by what it prevents.

The defaults of both do harm here. A new version that names a setting differently, or ignores it, must fail here.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio
from redis.asyncio.connection import AbstractConnection, Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.utils import HIREDIS_AVAILABLE
from websockets.asyncio.client import connect as websocket_connect

from faults import Proxy
from gateway_kit import KEY, async_test, connect, gateway
from rsws.gateway.connection import ClientConnection
from rsws.gateway.server import NOTSENT_BYTES, TCP_NOTSENT_LOWAT, Server
from rsws.streams.link import RedisTarget, pack, read_reply
from support import RedisServer

NO_RETRY = Retry(NoBackoff(), 0)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[AbstractConnection]:
    connection = await RedisTarget(url, 1).connect("rsws-test")
    try:
        yield connection
    finally:
        await connection.disconnect(nowait=True)


async def ask(connection: AbstractConnection, *command: bytes) -> object:
    async with asyncio.timeout(5):
        await connection.send_packed_command(pack(*command), check_health=False)
        return await read_reply(connection)


# --- redis-py ---


@async_test
async def test_redis_py_alone_stores_a_message_twice_and_ours_once(redis_server: RedisServer, channel: str) -> None:
    command = (b"XADD", channel.encode(), b"*", b"messageData", b"1")
    async with Proxy(redis_server.port) as link:
        with link.cut_reply(b"XADD"):
            async with redis.asyncio.Redis(port=link.port) as default:
                await default.execute_command(*command)  # type: ignore[no-untyped-call]
        assert redis_server.call("XLEN", channel) == 2, "the default has changed: is Retry(NoBackoff(), 0) still right?"
        with link.cut_reply(b"XADD"):
            async with connected(link.redis_url) as connection:
                with pytest.raises((RedisConnectionError, OSError)):
                    await ask(connection, *command)
        assert redis_server.call("XLEN", channel) == 3


@async_test
async def test_a_read_that_blocks_longer_than_redis_py_s_own_timeout(redis_server: RedisServer, channel: str) -> None:
    command = (b"XREAD", b"BLOCK", b"300", b"STREAMS", channel.encode(), b"0-0")
    async with redis.asyncio.Redis(port=redis_server.port, socket_timeout=0.1, retry=NO_RETRY) as impatient:
        with pytest.raises(redis.exceptions.TimeoutError):
            await impatient.execute_command(*command)  # type: ignore[no-untyped-call]
    async with connected(redis_server.url) as connection:
        assert connection.socket_timeout is None
        assert await ask(connection, *command) is None


@async_test
async def test_answers_stay_bytes(redis_server: RedisServer, channel: str) -> None:
    redis_server.call("XADD", channel, "1-0", "messageData", b"\xff")
    async with redis.asyncio.Redis(port=redis_server.port, decode_responses=True) as decoding:
        with pytest.raises(UnicodeDecodeError):
            await decoding.execute_command("XRANGE", channel, "-", "+")  # type: ignore[no-untyped-call]
    for options in ("", "?decode_responses=True&protocol=3"):
        async with connected(redis_server.url + options) as connection:
            assert await ask(connection, b"XRANGE", channel.encode(), b"-", b"+") == [
                [b"1-0", [b"messageData", b"\xff"]]
            ]
            assert await ask(connection, b"XREAD", b"STREAMS", channel.encode(), b"0") == [
                [channel.encode(), [[b"1-0", [b"messageData", b"\xff"]]]]
            ]  # RESP2: a list; RESP3 would have a map


@async_test
async def test_a_connection_says_nothing_of_its_own(redis_server: RedisServer) -> None:
    async with connected(redis_server.url) as connection:
        assert isinstance(connection, Connection)
        assert connection.health_check_interval == 0
        assert connection.socket_connect_timeout == 1
        assert connection.retry.get_retries() == 0
        info = await ask(connection, b"CLIENT", b"INFO")
        assert isinstance(info, bytes)
        fields = dict(field.split("=", 1) for field in info.decode().split())
        assert (fields["name"], fields["resp"]) == ("rsws-test", "2")
        assert fields.get("lib-name", "") == ""  # newer servers say it


def test_replies_are_parsed_in_c() -> None:
    assert HIREDIS_AVAILABLE, "reading is 14 times slower without hiredis"
    assert "Hiredis" in type(RedisTarget("redis://127.0.0.1", 1).connection("rsws")._parser).__name__


# --- websockets ---


def serving(server: Server) -> ClientConnection:
    (connection,) = server.clients.sessions
    return connection


@async_test
async def test_nothing_is_compressed(redis_server: RedisServer) -> None:
    async with (
        gateway(redis_server.url) as server,
        websocket_connect(f"{server.url}/?token={KEY}", compression="deflate", proxy=None) as client,
    ):
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers
        assert client.protocol.extensions == []
        assert "Server" not in client.response.headers


@async_test
async def test_what_is_queued_for_a_client_is_bounded_in_both_rooms(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, high_water_bytes=8192) as server, connect(server) as client:
        await client.subscribe(channel)
        connection = serving(server)
        assert connection.transport.get_write_buffer_limits()[1] == 8192
        if TCP_NOTSENT_LOWAT is not None:
            accepted = connection.transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) == NOTSENT_BYTES
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

"""The settings of redis-py and websockets on which the promise rests, each shown by what it prevents.

The defaults of both do harm here. A new version that names a setting differently, or ignores it, must fail here.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio
import uvloop
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from websockets.asyncio.client import connect as websocket_connect

from kit.faults import Proxy
from kit.gateway import KEY, async_test, connect, gateway
from kit.support import RedisServer
from kit.tls import Authority
from rsws.gateway.process.single import SingleProcess
from rsws.gateway.server import NOTSENT_BYTES, TCP_NOTSENT_LOWAT
from rsws.gateway.websocket.connection import ClientConnection
from rsws.redis.connection import RedisConnection, ReplyError, pack
from rsws.redis.target import RedisTarget

NO_RETRY = Retry(NoBackoff(), 0)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[RedisConnection]:
    connection = await RedisTarget(url, 1).connect("rsws-test")
    try:
        yield connection
    finally:
        await connection.close()


async def ask(connection: RedisConnection, *command: bytes) -> object:
    (reply,) = await connection.ask(pack(*command), timeout_s=5)
    return reply


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
                with pytest.raises(ConnectionError):
                    await ask(connection, *command)
        assert redis_server.call("XLEN", channel) == 3


@async_test
async def test_a_read_that_blocks_longer_than_redis_py_s_own_timeout(redis_server: RedisServer, channel: str) -> None:
    command = (b"XREAD", b"BLOCK", b"300", b"STREAMS", channel.encode(), b"0-0")
    async with redis.asyncio.Redis(port=redis_server.port, socket_timeout=0.1, retry=NO_RETRY) as impatient:
        with pytest.raises(redis.exceptions.TimeoutError):
            await impatient.execute_command(*command)  # type: ignore[no-untyped-call]
    async with connected(redis_server.url) as connection:
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
    made = RedisTarget(redis_server.url, 1).connection()
    assert isinstance(made, Connection)
    assert made.health_check_interval == 0
    assert made.socket_connect_timeout == 1
    assert made.retry.get_retries() == 0
    async with connected(redis_server.url) as connection:
        info = await ask(connection, b"CLIENT", b"INFO")
        assert isinstance(info, bytes)
        fields = dict(field.split("=", 1) for field in info.decode().split())
        assert (fields["name"], fields["resp"]) == ("rsws-test", "2")
        assert fields.get("lib-name", "") == ""  # newer servers say it


LOOPS = {"asyncio": asyncio.run, "uvloop": uvloop.run}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", ["redis", "unix", "rediss"])
def test_what_redis_py_has_connected_is_taken_over(kind: str, loop: str, public_path: Path) -> None:
    """``_reader`` and ``_writer`` are redis-py's own: a version that keeps its streams elsewhere must fail here."""
    path = public_path / "redis.sock"

    async def main(redis: RedisServer) -> None:
        authority = Authority(public_path)
        async with authority.in_front_of(redis.port) as tls_port:
            url = {
                "redis": f"redis://:right@127.0.0.1:{redis.port}/3",
                "unix": f"unix://:right@{path}?db=3",
                "rediss": f"rediss://:right@localhost:{tls_port}/3?ssl_ca_certs={authority.ca}",
            }[kind]
            async with connected(url) as connection:
                info = await ask(connection, b"CLIENT", b"INFO")
                assert isinstance(info, bytes)
                assert b"name=rsws-test" in info
                assert b"db=3" in info
                big = b"x" * 3_000_000
                replies = await connection.ask(
                    pack(b"ECHO", big), pack(b"NO SUCH"), pack(b"ECHO", b"last"), timeout_s=5
                )
                assert replies[0] == big
                assert isinstance(replies[1], ReplyError)
                assert replies[2] == b"last"
                assert connection.is_open
                redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                assert isinstance(await asyncio.wait_for(connection.ended, 5), ConnectionError)
                assert not connection.is_open
                with pytest.raises(ConnectionError):
                    await ask(connection, b"PING")
        gc.collect()  # a stream or a transport that nobody has closed says so now

    with RedisServer(requirepass="right", unixsocket=str(path)) as redis:
        LOOPS[loop](main(redis))


# --- websockets ---


def serving(server: SingleProcess) -> ClientConnection:
    (connection,) = server.server.clients.sessions
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

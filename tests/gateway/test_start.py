"""What keeps a gateway from starting, and what it says then."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from kit.gateway import (
    KEY,
    PATIENCE_S,
    async_test,
    connect,
    gateway,
    new_server,
    quoted,
)
from kit.support import RedisServer
from rsws.errors import SetupError, UsageError
from rsws.gateway.process.single import SingleProcess
from rsws.settings import Settings

pytestmark = pytest.mark.usefixtures("event_loop_kind")


@pytest.mark.parametrize("password", ["", ":wrong@", "nobody:wrong@"])
@async_test
async def test_a_password_that_redis_refuses(password: str) -> None:
    with RedisServer(requirepass="right") as redis:
        with pytest.raises(SetupError) as caught:
            async with gateway(f"redis://{password}127.0.0.1:{redis.port}"):
                pass
        assert "wrong" not in str(caught.value)
        assert str(redis.port) in str(caught.value)


@async_test
async def test_a_database_that_redis_does_not_have(redis_server: RedisServer) -> None:
    with pytest.raises(SetupError, match="DB index"):
        async with gateway(f"{redis_server.url}/9999"):
            pass


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        "localhost",
        "localhost:6379",
        "http://localhost",
        "redis",
        "redis:",
        "redis://",
        "redis:///0",
        "redis://localhost:port",
        "redis://localhost:99999",
        "redis://localhost:-1",
        "redis://[::1",
        "redis://local host:6379",
        "redis://localhost:6379/abc",
        "redis://localhost?db=x",
        "redis://localhost?nonsense=1",
        "redis://:secret@:6379",
        "unix://",
    ],
)
@async_test
async def test_a_redis_url_that_can_not_be_used(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        async with gateway(url):
            pass
    assert str(caught.value).startswith("the Redis URL ")
    assert "secret" not in str(caught.value)


@async_test
async def test_a_port_in_use(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(SetupError, match=f"port {port} is in use"):
            async with gateway(redis_server.url, port=port):
                pass
        async with connect(server) as client:
            await client.nothing_more()


@async_test
async def test_a_port_that_another_program_takes_while_the_gateway_starts(redis_server: RedisServer) -> None:
    with socket.socket() as bound, socket.socket() as taken:
        for each in (bound, taken):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        taken.bind(("127.0.0.1", port))
        taken.listen()
        settings = Settings(port=port, redis_url=redis_server.url, secret_key=KEY)
        with pytest.raises(SetupError, match=f"port {port} is in use"):
            await SingleProcess(settings, [bound]).__aenter__()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.1"])
@async_test
async def test_an_address_that_is_not_this_machine_s(redis_server: RedisServer, host: str) -> None:
    with pytest.raises(SetupError, match=host):
        async with gateway(redis_server.url, host=host):
            pass


@async_test
async def test_an_open_address_needs_a_key(redis_server: RedisServer) -> None:
    with pytest.raises(SetupError, match="WEBSOCKET_SECRET_KEY"):
        async with gateway(redis_server.url, host="0.0.0.0", secret_key=None):
            pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0.0.0.0"])
@async_test
async def test_the_url_is_one_to_connect_to(redis_server: RedisServer, host: str) -> None:
    try:
        key = "long-enough"
        async with (
            gateway(redis_server.url, host=host, secret_key=key) as server,
            connect(server, f"/?token={key}") as client,
        ):
            await client.nothing_more()
    except SetupError as error:  # no IPv6 here
        if host != "::1":
            raise
        pytest.skip(str(error))


@async_test
async def test_nothing_is_read_or_made_before_it_starts(redis_server: RedisServer, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    server = new_server(redis_server.url, secret_key=None, data_dir=data_dir)
    assert not data_dir.exists()
    async with server:
        assert server.key_file == data_dir / "key"
        async with connect(server, quoted(server.key_file.read_text().strip())) as client:
            await client.nothing_more()


@async_test
async def test_a_part_that_fails_at_the_start_ends_the_start(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("rsws.streams.primary.Reader.run", broken)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(ExceptionGroup) as failure:
            await new_server(redis_server.url).__aenter__()
    assert failure.group_contains(ZeroDivisionError)

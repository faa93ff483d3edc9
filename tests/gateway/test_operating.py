"""What operators see and decide: metrics and health on a listener of their own, origins, a stop that refuses nobody."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest

from kit.gateway import KEY, Wire, async_test, connect, gateway, handshake, http, new_server, until, until_status
from kit.support import RedisServer, free_port
from kit.tokens import SECRET, token
from rsws.errors import SetupError
from rsws.gateway.admin import MAX_CONNECTIONS
from rsws.gateway.process.single import SingleProcess

LONG_KEY = "a-key-that-is-long-enough"


class Admin:
    """The admin listener of a gateway."""

    def __init__(self, server: SingleProcess) -> None:
        assert server.admin_url is not None
        self.url = server.admin_url


# --- metrics and health ---


@async_test
async def test_the_admin_listener_has_metrics_and_health_alone(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, admin="127.0.0.1:0") as server:
        admin = Admin(server)
        assert (await http(admin, "/healthz"))[0] == 200
        await until_status(admin, "/readyz", 200)
        status, text = await http(admin, "/metrics")
        assert (status, "rsws_clients 0" in text) == (200, True)
        async with Wire(admin) as wire:
            await wire.send(handshake(f"/?token={KEY}"))
            assert (await wire.read_to_end()).startswith(b"HTTP/1.1 426 ")
        status, text = await http(server, "/metrics", Authorization=f"Bearer {KEY}")
        assert (status, text) == (404, "the metrics are at the address of --admin\n")
        assert (await http(server, "/healthz"))[0] == 200
        assert (await http(server, "/readyz"))[0] == 200


@async_test
async def test_the_admin_listener_bounds_who_says_nothing(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, admin="0") as server, AsyncExitStack() as stack:
        admin = Admin(server)
        silent = [await stack.enter_async_context(Wire(admin)) for _ in range(MAX_CONNECTIONS)]
        assert (await http(admin, "/healthz"))[0] == 200, "a probe is answered, whoever else is there"
        assert not await silent[0].read_some()
        await silent[1].send(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (await silent[1].read_to_end()).startswith(b"HTTP/1.1 200 ")
        async with Wire(admin) as wire:
            await wire.send(b"\0")
            assert (await wire.read_to_end()).startswith(b"HTTP/1.1 400 ")


@async_test
async def test_an_admin_port_that_is_in_use(redis_server: RedisServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=f"^port {port} is in use; choose another with --admin$"):
            await new_server(redis_server.url, admin=str(port)).__aenter__()


@async_test
async def test_an_admin_port_that_is_that_of_clients(redis_server: RedisServer) -> None:
    port = free_port()
    with pytest.raises(SetupError, match=f"^port {port} is in use; choose another with --admin$"):
        await new_server(redis_server.url, port=port, admin=str(port)).__aenter__()


@async_test
async def test_metrics_need_the_key_where_others_can_connect(redis_server: RedisServer) -> None:
    keys: dict[str, Any] = {"secret_key": LONG_KEY, "previous_secret_key": LONG_KEY + "-before", "jwt_key": SECRET}
    async with gateway(redis_server.url, host="0.0.0.0", **keys) as server:
        jwt = token(exp=time.time() + 60, channels={"*": "rw"})
        for given, expected in {LONG_KEY: 200, LONG_KEY + "-before": 200, "wrong": 401, jwt: 403}.items():
            assert (await http(server, "/metrics", Authorization=f"Bearer {given}"))[0] == expected
            assert (await http(server, f"/metrics?token={given}"))[0] == expected
        status, text = await http(server, "/metrics")
        assert (status, text.split(":")[0]) == (401, "the metrics need the secret key")
        for _ in range(20):
            status, _ = await http(server, "/metrics")
        assert status == 429, "as fast as one can try keys"
        assert (await http(server, f"/metrics?token={LONG_KEY}"))[0] == 200
        assert (await http(server, "/healthz"))[0] == 200


# --- origins ---


@async_test
async def test_only_pages_of_listed_origins_may_connect(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    listed = ("https://example.com", "http://localhost:3000", "null")
    cases = {
        "https://example.com": 101,
        "HTTPS://Example.com": 101,
        "http://localhost:3000": 101,
        "null": 101,
        None: 101,  # no page
        "http://example.com": 403,
        "https://example.com:444": 403,
        "https://example.com.evil.org": 403,
        "https://sub.example.com": 403,
        "": 403,
        "https://example.com, https://evil.org": 403,
        "\xff": 403,
    }
    async with gateway(redis_server.url, origin=listed) as server:
        for origin, expected in cases.items():
            async with Wire(server) as wire:
                line = b"" if origin is None else b"Origin: " + origin.encode("latin-1") + b"\r\n"
                await wire.send(handshake(f"/?token={KEY}").replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n", 1))
                assert (await wire.read_some()).startswith(b"HTTP/1.1 %d " % expected), origin
        for origin, expected in (("https://evil.org", 403), ("null", 426)):
            assert (await http(server, "/", Origin=origin))[0] == expected
        # Before anything else, the token too; and where the console has its files, which any page may have.
        for target in ("/?token=wrong", f"/console/app.js?token={KEY}"):
            async with Wire(server) as wire:
                await wire.send(handshake(target).replace(b"\r\n\r\n", b"\r\nOrigin: https://evil.org\r\n\r\n", 1))
                assert (await wire.read_to_end()).startswith(b"HTTP/1.1 403 ")
        assert server.server.board.metrics.origins_refused == 10
    said = [record.getMessage() for record in caplog.records if "origin refused" in record.getMessage()]
    assert len(said) == 1


# --- the stop ---


@async_test
async def test_who_comes_before_the_drain_is_not_refused(redis_server: RedisServer, channel: str) -> None:
    server = await new_server(redis_server.url, shutdown_delay_s=0.3).__aenter__()
    async with connect(server) as before:
        stopping = asyncio.create_task(server.stop())
        await until_status(server, "/readyz", 503)
        assert (await http(server, "/readyz"))[1] == "the gateway stops\n"
        assert (await http(server, "/healthz"))[0] == 200
        async with connect(server) as newcomer:
            assert await newcomer.publish(channel, 1)
            assert await before.publish(channel, 2)
            assert not stopping.done()
            assert [(await each.closed())[0] for each in (before, newcomer)] == [1001, 1001]
        await stopping


@async_test
async def test_who_comes_during_the_drain_is_not_refused(redis_server: RedisServer, channel: str) -> None:
    server = await new_server(redis_server.url, drain_s=0.5).__aenter__()
    async with connect(server) as first, connect(server) as second:
        stopping = asyncio.create_task(server.stop())
        assert (await first.closed())[0] == 1012
        async with connect(server) as newcomer:
            assert await newcomer.publish(channel, 1)
            assert (await second.closed())[0] == 1012
            assert (await newcomer.closed())[0] == 1012
        await stopping
    with pytest.raises(ConnectionRefusedError):
        async with Wire(server):
            pass


@async_test
async def test_the_admin_listener_answers_until_the_last_client_is_gone(redis_server: RedisServer) -> None:
    server = await new_server(redis_server.url, admin="127.0.0.1:0", drain_s=0.3).__aenter__()
    admin = Admin(server)
    async with connect(server), connect(server):
        stopping = asyncio.create_task(server.stop())
        await until(lambda: server.client_count == 1)
        assert (await http(admin, "/readyz"))[0] == 503
        assert "rsws_clients 1" in (await http(admin, "/metrics"))[1]
        await stopping
    host, port = urlsplit(admin.url).hostname, urlsplit(admin.url).port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port or 0), 1)


# --- log lines ---


@async_test
async def test_no_line_has_what_clients_sent(
    redis_server: RedisServer, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="rsws")
    secret = "S3cret-of-a-client"
    async with gateway(redis_server.url) as server:
        async with connect(server) as client:
            await client.publish(channel, {"text": secret})
            await client.send(action=secret)
            await client.next()
            await client.websocket.send(json.dumps([secret]))
            await client.next()
        async with connect(server, f"/?token={secret}", welcome=False) as stranger:
            await stranger.next()
            await stranger.closed()
        await http(server, f"/{secret}?token={secret}", Authorization=f"Bearer {secret}")
        await until(lambda: "client gone" in caplog.text)
    assert secret not in caplog.text

"""A gateway behind proxies: whose address is logged and counted, and who may say so."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kit.gateway import KEY, Wire, async_test, connect, gateway, handshake, http, new_server, request, until
from kit.proxies import LOCAL, proxy_v2
from kit.support import RedisServer, eventually, free_port, run_program
from kit.tls import Authority
from rsws.errors import UsageError
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.process.single import SingleProcess

pytestmark = pytest.mark.usefixtures("event_loop_kind")

CLIENT = "203.0.113.5"
HERE: dict[str, Any] = {"trusted_proxies": ("127.0.0.0/8", "::1")}
BEHIND_PROXY: dict[str, Any] = HERE | {"proxy_protocol": True}


def addresses(server: SingleProcess) -> list[str]:
    return [connection.address for connection in server.server.clients.sessions]


# --- headers ---


@pytest.mark.parametrize(
    ("headers", "trusted", "expected"),
    [
        ({}, HERE, "127.0.0.1"),
        ({"X-Forwarded-For": CLIENT}, {}, "127.0.0.1"),
        ({"X-Forwarded-For": CLIENT}, {"trusted_proxies": ("10.0.0.0/8",)}, "127.0.0.1"),
        ({"X-Forwarded-For": f"6.6.6.6, {CLIENT}"}, HERE, CLIENT),
        ({"Forwarded": f"for={CLIENT};proto=https"}, HERE, CLIENT),
    ],
)
@async_test
async def test_whose_connection_it_is(
    headers: dict[str, str], trusted: dict[str, Any], expected: str, redis_server: RedisServer
) -> None:
    async with (
        gateway(redis_server.url, **trusted) as server,
        connect(server, additional_headers=headers),
    ):
        assert addresses(server) == [expected]


@async_test
async def test_log_lines_and_wrong_tokens_are_those_of_the_client(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rsws.gateway")
    async with gateway(redis_server.url, **HERE) as server:
        for number in range(DEFAULTS.free_tries + 3):  # many clients are behind a proxy: none waits for another
            headers = {"X-Forwarded-For": f"203.0.113.{number}"}
            async with (
                asyncio.timeout(5),
                connect(server, "/?token=wrong", welcome=False, additional_headers=headers) as client,
            ):
                await client.expect('{"error":"Unauthorized","status":401}')
        assert len(server.server._access._wrong_tokens) == DEFAULTS.free_tries + 3
        async with connect(server, additional_headers={"X-Forwarded-For": "2001:db8::5"}):
            pass
        await until(lambda: "client gone client=2001:db8::5 " in caplog.text)
    assert "client connected client=2001:db8::5 " in caplog.text
    assert "token refused client=203.0.113.0 " in caplog.text
    assert "client=127.0.0.1" not in caplog.text


# --- the PROXY protocol ---

OPEN = handshake(f"/?token={KEY}")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (proxy_v2(CLIENT, 1234), f"{CLIENT}:1234"),
        (proxy_v2("2001:db8::5", 1234), "[2001:db8::5]:1234"),
        (f"PROXY TCP4 {CLIENT} 10.0.0.1 1234 443\r\n".encode(), f"{CLIENT}:1234"),
        (LOCAL, "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("piece", [1, 20, 1000])
@async_test
async def test_a_proxy_header(header: bytes, expected: str, piece: int, redis_server: RedisServer) -> None:
    sent = header + OPEN + request(action="ping")
    async with gateway(redis_server.url, **BEHIND_PROXY) as server, Wire(server) as wire:
        for start in range(0, len(sent), piece):
            await wire.send(sent[start : start + piece])
            await asyncio.sleep(0)
        while b'{"status":"pong"}' not in wire.received:
            assert await wire.read_some()
        [connection] = server.server.clients.sessions
        assert str(connection.peer).startswith(expected)


@async_test
async def test_a_header_before_tls(redis_server: RedisServer, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("localhost")
    async with gateway(redis_server.url, **BEHIND_PROXY, tls_cert=certificate, tls_key=key) as server:
        for piece in (10, 10_000):
            async with Wire(server) as wire:
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                tls = authority.trusted.wrap_bio(incoming, outgoing, server_hostname="localhost")
                with pytest.raises(ssl.SSLWantReadError):
                    tls.do_handshake()
                sent = proxy_v2(CLIENT, 1234) + outgoing.read()  # the header and the first of TLS at once
                for start in range(0, len(sent), piece):
                    await wire.send(sent[start : start + piece])
                    await asyncio.sleep(0)
                while True:
                    incoming.write(await wire.read_some())
                    try:
                        tls.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        continue
                tls.write(OPEN)
                await wire.send(outgoing.read())
                await until(lambda: addresses(server) == [CLIENT])
            await until(lambda: not addresses(server))


@async_test
async def test_a_header_that_lets_headers_count(redis_server: RedisServer) -> None:
    """A proxy in front of the proxy, which is trusted as well."""
    sent = handshake(f"/?token={KEY}", f"X-Forwarded-For: {CLIENT}\r\n")
    async with gateway(redis_server.url, **BEHIND_PROXY) as server:
        for source, expected in (("127.0.0.9", CLIENT), ("203.0.113.77", "203.0.113.77")):
            async with Wire(server) as wire:
                await wire.send(proxy_v2(source, 1) + sent)
                await until(lambda expected=expected: addresses(server) == [expected])  # type: ignore[misc]
            await until(lambda: not addresses(server))


@pytest.mark.parametrize("sent", [OPEN, b"\x16\x03\x01\x02", b"PROXY nonsense\r\n", proxy_v2(CLIENT, 1, bytes(1000))])
@async_test
async def test_without_a_header_it_is_closed_and_said(
    sent: bytes, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(redis_server.url, **BEHIND_PROXY) as server:
        for _ in range(3):
            async with Wire(server) as wire:
                await wire.send(sent)
                assert await wire.read_to_end() == b""
        await until(lambda: not len(server.server.clients), "the connections to be gone")
        assert server.server.board.metrics.proxy_headers_refused == 3
    [line] = [each.message for each in caplog.records]
    assert line.startswith("connection refused client=127.0.0.1:")
    assert "PROXY header" in line


@async_test
async def test_a_header_from_elsewhere_is_closed_and_said(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    settings = BEHIND_PROXY | {"trusted_proxies": ("10.0.0.0/8",)}
    async with gateway(redis_server.url, **settings) as server:
        async with Wire(server) as wire:
            with suppress(ConnectionError):
                await wire.send(proxy_v2(CLIENT, 1) + OPEN)
            assert await wire.read_to_end() == b""
        await until(lambda: not len(server.server.clients), "the connection to be gone")
    [line] = [each.message for each in caplog.records]
    assert "its address is not one of --trusted-proxies" in line


@async_test
async def test_half_a_header_has_the_deadline_of_a_handshake(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, handshake_timeout_s=0.2, **BEHIND_PROXY) as server, Wire(server) as wire:
        await wire.send(proxy_v2(CLIENT, 1)[:20])
        await until(lambda: server.server.clients.at_the_door == 1)
        assert await wire.read_to_end() == b""
        await until(lambda: not len(server.server.clients), "the connection to be gone")


@async_test
async def test_it_needs_proxies(redis_server: RedisServer) -> None:
    with pytest.raises(UsageError, match="--proxy-protocol needs --trusted-proxies"):
        async with new_server(redis_server.url, proxy_protocol=True):
            pass


# --- a real one ---


class Front:
    """Where a proxy listens."""

    def __init__(self, url: str) -> None:
        self.url = url


@contextmanager
def haproxy(directory: Path, server: SingleProcess, *options: str) -> Iterator[Front]:
    """A proxy that carries connections, with those options of its line ``server``."""
    port = free_port()
    config = directory / "haproxy.cfg"
    scheme, place = server.url.split("://")
    config.write_text(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
        f"listen gateway\n bind 127.0.0.1:{port}\n server a {place} {' '.join(options)}\n"
    )
    with run_program("haproxy", "-db", "-f", config):
        yield Front(f"{scheme}://127.0.0.1:{port}")


def listens(front: Front) -> bool:
    with socket.socket() as probe:
        return not probe.connect_ex(("127.0.0.1", int(front.url.rpartition(":")[2])))


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")
@pytest.mark.parametrize("options", [["send-proxy"], ["send-proxy-v2"], ["send-proxy-v2", "check", "inter", "50ms"]])
@async_test
async def test_haproxy(options: Sequence[str], redis_server: RedisServer, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("localhost")
    own_tls: dict[str, Any] = {"tls_cert": certificate, "tls_key": key}
    for tls in ({}, own_tls):
        trust: dict[str, Any] = {"ssl": authority.trusted, "server_hostname": "localhost"} if tls else {}
        async with gateway(redis_server.url, **(BEHIND_PROXY | tls)) as server:
            with haproxy(tmp_path, server, *options) as front:
                await asyncio.to_thread(eventually, partial(listens, front), what="haproxy")
                async with connect(front, **trust) as client:
                    await client.nothing_more()
                    [connection] = server.server.clients.sessions
                    assert tuple(connection.source) == client.websocket.local_address
                if not tls:
                    assert (await http(front, "/healthz"))[0] == 200
            async with Wire(server) as wire:  # is accepted after the last connection of the proxy
                await wire.send(LOCAL + b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")
                await wire.read_to_end()
            await until(lambda: not len(server.server.clients), "the connections to be gone")
            assert server.server.board.metrics.proxy_headers_refused == 0

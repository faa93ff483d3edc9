"""A plain request to a gateway, through a proxy too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kit.gateway import KEY, add, async_test, gateway
from kit.support import RedisServer
from kit.tls import Authority
from rsws.client.pages import Proxy, fetch
from rsws.urls import HostPort


@asynccontextmanager
async def proxy(answer: bytes) -> AsyncIterator[tuple[HostPort, list[bytes]]]:
    """A proxy that answers to CONNECT: its place, and the heads of the requests that it has had."""
    heads: list[bytes] = []
    async with asyncio.TaskGroup() as tasks:

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(4096):
                writer.write(data)
            writer.write_eof()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            if b" 200 OK" in answer:
                host, _, port = heads[-1].split()[1].decode().partition(":")
                there, back = await asyncio.open_connection(host, int(port))
                up = tasks.create_task(carry(reader, back))
                await carry(there, writer)
                up.cancel()
                back.close()
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[:2], heads


@async_test
async def test_through_a_proxy(redis_server: RedisServer, channel: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    add(redis_server, channel, "1")
    async with gateway(redis_server.url) as server, proxy(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n") as (place, heads):
        path = f"/channels/{channel}?from=0&follow=0"
        through = Proxy(place, "dTpw")
        port = urlsplit(server.url).port or 0
        page = await fetch(path, ("127.0.0.1", port), None, token=KEY, proxy=through, timeout_s=10)
        assert page.status == 200
        assert "data: 1\n" in page.body
        target = b"127.0.0.1:%d" % port
        assert heads == [
            b"CONNECT %b HTTP/1.1\r\nHost: %b\r\nProxy-Authorization: Basic dTpw\r\n\r\n" % (target, target)
        ]
        assert "dTpw" not in repr(through)
        page = await fetch("/healthz", ("127.0.0.1", port), None, proxy=Proxy(place), timeout_s=10)
        assert page.status == 200
        assert b"Authorization" not in heads[1]
        async with authority.in_front_of(port) as tls_port:
            there = ("localhost", tls_port)
            page = await fetch("/healthz", there, authority.trusted, proxy=Proxy(place), timeout_s=10)
            assert page.status == 200


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"HTTP/1.1 407 No\r\n\r\n", "the proxy refuses: HTTP status 407"),
        (b"no HTTP\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200", "has answered with what is no answer of a proxy"),
    ],
)
@async_test
async def test_a_proxy_that_refuses(answer: bytes, fault: str) -> None:
    async with proxy(answer) as (place, _):
        with pytest.raises(ValueError, match=fault):
            await fetch("/healthz", ("127.0.0.1", 1), None, proxy=Proxy(place), timeout_s=10)

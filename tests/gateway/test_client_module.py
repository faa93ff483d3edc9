"""``GET /rsws.js``: the client for browsers."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

import rsws
from kit.gateway import Wire, async_test, gateway, http
from kit.support import RedisServer

MODULE = (Path(rsws.__file__).parent / "web" / "rsws.js").read_bytes()


async def get(server: object, method: str = "GET", **headers: str) -> tuple[dict[str, str], bytes]:
    lines = "".join([f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()])
    async with Wire(server) as wire:  # type: ignore[arg-type]
        await wire.send(f"{method} /rsws.js?v=1 HTTP/1.1\r\nHost: gateway\r\n{lines}\r\n".encode())
        head, _, body = (await wire.read_to_end()).partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    assert status == "HTTP/1.1 200 OK"
    return dict(field.lower().split(": ", 1) for field in fields), body


@async_test
async def test_the_module_is_served_to_pages_of_any_origin(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server:
        headers, body = await get(server, Origin="https://example.com")
    assert body == MODULE
    assert headers["content-type"] == "text/javascript; charset=utf-8"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cache-control"] == "public, max-age=300"
    assert "content-encoding" not in headers


@async_test
async def test_it_is_compressed_for_those_who_accept_that(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server:
        headers, body = await get(server, Accept_Encoding="gzip, deflate, br")
        assert (headers["content-encoding"], headers["vary"]) == ("gzip", "accept-encoding")
        assert gzip.decompress(body) == MODULE
        assert len(body) < 4096
        headers, nothing = await get(server, "HEAD", Accept_Encoding="gzip")
        assert (int(headers["content-length"]), nothing) == (len(body), b"")


@async_test
async def test_pages_that_may_not_connect_do_not_get_it(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, origin=("https://example.com",)) as server:
        assert (await http(server, "/rsws.js", Origin="https://example.com"))[0] == 200
        assert (await http(server, "/rsws.js", Origin="https://example.org"))[0] == 403
        assert (await http(server, "/rsws.js"))[0] == 200  # no page, or the gateway's own


@pytest.mark.parametrize("method", ["POST", "PUT"])
@async_test
async def test_it_can_only_be_read(redis_server: RedisServer, method: str) -> None:
    async with gateway(redis_server.url) as server:
        assert (await http(server, "/rsws.js", method))[0] == 405

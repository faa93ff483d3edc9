"""``GET /`` of a browser: the console, as the gateway serves it. What it does has tests of its own in tests/web."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

import rsws
from kit.gateway import Wire, async_test, connect, gateway, http
from kit.support import RedisServer

WEB = Path(rsws.__file__).parent / "web"
FILES = sorted(path.name for path in (WEB / "console").iterdir())
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def get(server: object, target: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    lines = "".join([f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()])
    async with Wire(server) as wire:  # type: ignore[arg-type]
        await wire.send(f"GET {target} HTTP/1.1\r\nHost: gateway\r\n{lines}\r\n".encode())
        head, _, body = (await wire.read_to_end()).partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    return (
        int(status.split()[1]),
        {name.lower(): value for name, value in (each.split(": ", 1) for each in fields)},
        body,
    )


@async_test
async def test_a_browser_gets_the_page_and_a_program_what_it_got_before(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server:
        status, headers, body = await get(server, "/?x=1", Accept=BROWSER)
        assert (status, body) == (200, (WEB / "console" / "index.html").read_bytes())
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert headers["vary"] == "Accept, Accept-Encoding"
        for accept in ("*/*", "application/json"):
            assert (await http(server, "/", Accept=accept))[0] == 426
        for path in (
            "/ws",
            "/console",
            "/console/",
            "/console/none.js",
            "/console/../rsws.js",
            "/console/index.html",
            "/console/%69ndex.html",
        ):
            assert (await http(server, path, Accept=BROWSER))[0] == 426, path
        async with connect(server, additional_headers={"Accept": BROWSER}):
            pass  # a WebSocket is one, whatever is accepted


@pytest.mark.parametrize("name", [*FILES, "rsws.js"])
@async_test
async def test_its_files(redis_server: RedisServer, name: str) -> None:
    text = (WEB / name if name == "rsws.js" else WEB / "console" / name).read_bytes()
    path, accept = ("/", BROWSER) if name == "index.html" else (f"/console/{name}", "*/*")
    async with gateway(redis_server.url, origin=("https://example.com",)) as server:
        # A script is asked for with an origin, and no page.
        origin = {} if name == "index.html" else {"Origin": "https://gateway.example.com"}
        status, headers, body = await get(server, path, Accept=accept, **origin)
        assert (status, body) == (200, text)
        policy = dict(each.split(" ", 1) for each in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert {policy[f"{kind}-src"] for kind in ("script", "style", "connect")} == {"'self'"}
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "access-control-allow-origin" not in headers
        _, zipped, body = await get(server, path, Accept=accept, Accept_Encoding="br, gzip")
        assert (zipped["content-encoding"], gzip.decompress(body)) == ("gzip", text)
        status, again, body = await get(server, path, Accept=accept, If_None_Match=headers["etag"])
        assert (status, again["etag"], body) == (304, headers["etag"], b"")


@async_test
async def test_without_it_everything_is_as_before(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, console=False) as server:
        for path in ("/", "/console/app.js", "/console/rsws.js"):
            assert (await http(server, path, Accept=BROWSER))[0] == 426


@async_test
async def test_it_is_not_at_the_address_of_operators(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, admin="127.0.0.1:0") as server:
        server.url, public = str(server.admin_url), server.url
        assert (await http(server, "/", Accept=BROWSER))[0] == 426
        server.url = public
        assert (await http(server, "/", Accept=BROWSER))[0] == 200


def test_it_is_lean_and_names_nothing_elsewhere() -> None:
    texts = {name: (WEB / "console" / name).read_text() for name in FILES}
    assert sum(len(gzip.compress(text.encode())) for text in texts.values()) < 40 * 1024
    for name, text in texts.items():
        assert len(text.splitlines()) < 400, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            name
        )
        urls = re.findall(r"""(?:from|import|href=|src=|url\(|fetch\()\s*["'(]([^"')]+)""", text)
        assert [url for url in urls if url.startswith("/") or ":" in url] == [], name  # it works behind any prefix
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}, name  # a name

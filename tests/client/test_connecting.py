"""Connecting a client: the URL, the token, proxies, and how a failure is told."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable

import pytest

from kit.client import SECRET, assert_no_token, connected, in_a_loop, scripted
from kit.gateway import UNAUTHORIZED
from kit.support import free_port
from rsws.client import (
    connect,
)
from rsws.errors import (
    CannotConnect,
    Unauthorized,
    UsageError,
)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("{}", "/?token=s3cret%2F%2B%26%3D"),
        ("{}/some/path?room=1", "/some/path?room=1&token=s3cret%2F%2B%26%3D"),
        ("{}/?token=other&room=1", "/?room=1&token=s3cret%2F%2B%26%3D"),
    ],
)
@in_a_loop
async def test_the_token_goes_into_the_query_and_into_no_text(url: str, path: str) -> None:
    async with scripted() as script, connect(url.format(script.url), token=SECRET) as client:
        assert (await script.peer()).path == path
        assert client.url == url.format(script.url).partition("?")[0]


@in_a_loop
async def test_a_token_in_the_url_is_used_and_not_shown() -> None:
    async with scripted() as script, connect(f"{script.url}?token=abc") as client:
        assert (await script.peer()).path == "/?token=abc"
        assert client.url == script.url


@pytest.mark.parametrize(
    "url", ["http://h", "ws://", "ws://h:0", "ws://h:x", "ws://h/#part", "ws://a@h", "ws://\udc80"]
)
@in_a_loop
async def test_an_impossible_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="not a gateway's URL") as caught:
        await connect(url, token=SECRET).__aenter__()
    assert_no_token(caught.value)


async def answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
    writer.close()


async def answer_garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
    writer.close()


async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    query = (await reader.readuntil(b"\r\n\r\n")).split()[1]
    writer.write(b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1" + query + b"\r\nContent-Length: 0\r\n\r\n")
    writer.close()


@pytest.mark.parametrize(
    ("scheme", "answer", "text"),
    [
        ("ws", answer_http, "HTTP status 200 .*is this an rsws gateway"),
        ("ws", answer_garbage, "no WebSocket there"),
        ("ws", redirect, "no WebSocket there"),
        ("wss", answer_garbage, "TLS failed"),
    ],
)
@in_a_loop
async def test_what_is_no_websocket_server_is_called_that(
    scheme: str, answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], text: str
) -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(CannotConnect, match=text) as caught:
            await connect(url, token=SECRET).__aenter__()
        assert url in str(caught.value)
        assert_no_token(caught.value)


@in_a_loop
async def test_nobody_there_is_said_with_what_to_do() -> None:
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(CannotConnect, match="connection refused; is the gateway running") as caught:
            await connect(f"{host}:{free_port()}", token=SECRET).__aenter__()
        assert_no_token(caught.value)
    with pytest.raises(CannotConnect, match="can't be resolved"):
        await connect("ws://no-such-host.invalid", token=SECRET).__aenter__()
    async with scripted() as script:
        with pytest.raises(CannotConnect, match="is ws:// or wss:// right"):
            await connect(script.url.replace("ws:", "wss:"), token=SECRET).__aenter__()


@pytest.mark.parametrize(
    ("greetings", "code", "text"),
    [
        ([], None, r"no answer within 0\.2 s"),
        (["hello"], None, "not an rsws gateway"),
        (['{"status":"pong"}'], None, "not an rsws gateway"),
        ([], 1013, "1013"),
    ],
)
@in_a_loop
async def test_a_server_that_does_not_let_us_in(greetings: list[str], code: int | None, text: str) -> None:
    async with scripted() as script:
        script.greetings, script.close_code = greetings, code
        with pytest.raises(CannotConnect, match=text) as caught:
            await connect(script.url, token=SECRET, connect_timeout_s=0.2).__aenter__()
        assert_no_token(caught.value)
        await (await script.peer()).websocket.wait_closed()


@pytest.mark.parametrize("greetings", [[UNAUTHORIZED], []])
@in_a_loop
async def test_a_refused_token_is_unauthorized(greetings: list[str]) -> None:
    async with scripted() as script:
        script.greetings, script.close_code = greetings, 1008
        with pytest.raises(Unauthorized, match="refuses the token") as caught:
            await connect(script.url, token=SECRET).__aenter__()
        assert_no_token(caught.value)
        with pytest.raises(Unauthorized, match="none was given"):
            await connect(script.url).__aenter__()


@in_a_loop
async def test_proxies_of_the_environment_are_not_used_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy", "socks_proxy"):
        monkeypatch.setenv(name, "socks5h://127.0.0.1:9")
    async with connected() as (_, peer, _client):
        assert peer.path.startswith("/?token=")
    for proxy, text in (
        ("socks5h://127.0.0.1:9", "python-socks"),
        ("gopher://u:s3cret@h", "scheme gopher isn't supported"),
    ):
        monkeypatch.setenv("socks_proxy", proxy)
        with pytest.raises(CannotConnect, match=text) as caught:
            await connect("ws://gateway.example", token=SECRET).__aenter__()
        assert_no_token(caught.value)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "http_proxy", "https_proxy"])
@in_a_loop
async def test_what_a_proxy_answers_is_told_as_the_proxys(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Go away\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    for other in [each for each in os.environ if each.lower().endswith("_proxy")]:
        monkeypatch.delenv(other)
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv(name, f"ann:s3cret@127.0.0.1:{port}")
        refused = await fail_to_connect("ws://0.0.0.0:1")
        assert asked[0].startswith(b"CONNECT 0.0.0.0:1 ")
        shown = rf"the proxy http://\*\*\*@127\.0\.0\.1:{port} that the environment names"
        assert re.search(rf"{shown} refuses: HTTP status 403 Forbidden$", refused)
        monkeypatch.setenv("no_proxy", "0.0.0.0")
        assert "proxy" not in await fail_to_connect("ws://0.0.0.0:1")
        monkeypatch.delenv("no_proxy")
    assert re.search(rf"{shown}: connection refused$", await fail_to_connect("ws://0.0.0.0:1"))
    monkeypatch.setenv(name, "http://proxy:port")
    assert "is no URL: write http://HOST:PORT" in await fail_to_connect("ws://0.0.0.0:1")


async def fail_to_connect(url: str) -> str:
    with pytest.raises(CannotConnect) as caught:
        await connect(url, token=SECRET).__aenter__()
    assert_no_token(caught.value)
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


@in_a_loop
async def test_no_log_line_has_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with scripted() as script, connect(script.url, token=SECRET) as client:
        await (await script.peer()).drop()
        await script.peer()
        script.greetings = [UNAUTHORIZED]
        with pytest.raises(Unauthorized):
            await connect(script.url, token=SECRET).__aenter__()
        assert client.url == script.url
    ours = [record for record in caplog.records if not record.name.startswith("websockets.server")]
    assert ours
    assert not [record for record in ours if "s3cret" in record.getMessage()]

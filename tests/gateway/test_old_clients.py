"""What the Node.js server (its ``http`` and npm ``ws`` 8) answered to a handshake, the gateway answers too.

The statuses were taken from that server. Where the gateway is meant to answer something else, the case says so.
"""

from __future__ import annotations

import asyncio
import re

import pytest
from websockets.asyncio.client import connect as websocket_connect
from websockets.typing import Subprotocol

from kit.gateway import KEY, PATIENCE_S, WELCOME, Wire, async_test, frame, gateway
from kit.support import RedisServer

HEADERS = {
    "Host": "gateway",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
LINE = f"GET /?token={KEY} HTTP/1.1"


def asking(line: str = LINE, *more: str, end: str = "\r\n", **changed: str | None) -> bytes:
    """A handshake with another request line, with more header lines, with other headers or without some."""
    new = {name.replace("_", "-"): value for name, value in changed.items()}
    headers = [f"{name}: {value}" for name, old in HEADERS.items() if (value := new.get(name, old)) is not None]
    return end.join([line, *headers, *more, "", ""]).encode("latin-1")


def line(text: str) -> bytes:
    return asking(LINE.replace("/?", text))


def key(value: str | None) -> bytes:
    return asking(Sec_WebSocket_Key=value)


def version(value: str | None) -> bytes:
    return asking(Sec_WebSocket_Version=value)


def subprotocol(*values: str) -> bytes:
    return asking(LINE, *[f"Sec-WebSocket-Protocol: {value}" for value in values])


def header(text: str) -> bytes:
    return asking(LINE, text)


GROUPS: dict[str, list[tuple[bytes, int]]] = {
    "request line": [
        (asking(), 101),
        (asking(LINE.replace("1.1", "1.0")), 101),  # nginx without proxy_http_version 1.1
        (asking(LINE.replace("1.1", "1.0"), Host=None), 101),
        (asking(LINE.replace("1.1", "1.2")), 400),
        (line("http://gateway/?"), 101),
        (line('/"<>\\^`{|}?'), 101),
        (line("/\xe9?"), 400),
        (line("/a b?"), 400),
        (line("/\x01?"), 400),
        (line("/\t?"), 400),
        (asking(LINE + " "), 400),
        (asking(LINE.replace("GET", "get")), 400),
        (asking(LINE.replace("GET", "POST")), 405),
        (asking(LINE.replace("GET", "HEAD")), 405),
        (b"\r\n" + asking(), 101),
        (b"\r\n\r\n\r\n" + asking(), 101),
        (b"\n" + asking(), 101),
        (b" " + asking(), 400),
    ],
    "size": [
        (header("Cookie: " + "c" * 9_000), 101),
        (header("Cookie: " + "c" * 15_000), 101),
        (header("Cookie: " + "c" * 17_000), 431),
        (header("Cookie: " + "c" * 200_000), 431),
        (line(f"/{'u' * 9_000}?"), 101),
        (line(f"/{'u' * 15_000}?"), 101),
        (line(f"/{'u' * 17_000}?"), 431),
        (asking(LINE, *[f"X{number}:" for number in range(123)]), 101),
        (asking(LINE, *[f"X{number}:" for number in range(124)]), 431),  # the old server took a thousand
    ],
    "Host": [(asking(Host=None), 101), (asking(Host=""), 101), (header("Host: other"), 101)],
    "Sec-WebSocket-Key": [
        (key(None), 400),
        (key(""), 400),
        (key("dGhlIHNhbXBsZSBub25jZQ"), 400),
        (key("!" * 22 + "=="), 400),
        (key("dGhlIHNhbXBsZSBub25jZR=="), 101),
        (header("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
    ],
    "Sec-WebSocket-Version": [
        (version("8"), 101),
        (version("7"), 400),
        (version("13, 8"), 400),
        (version(None), 400),
        (header("Sec-WebSocket-Version: 13"), 400),
    ],
    "Upgrade and Connection": [
        (asking(Upgrade="WebSocket"), 101),
        (asking(Upgrade="websocket  "), 101),
        (asking(Upgrade="websocket, h2c"), 400),
        (asking(Upgrade="websocket,"), 400),
        (asking(Upgrade='"websocket"'), 400),
        (header("Upgrade: websocket"), 400),
        (asking(Upgrade="h2c"), 426),  # the old server said 400: it is no handshake at all
        (asking(Upgrade=None), 426),
        (asking(Connection=None), 426),
        (asking(Connection="close"), 426),
        (asking(Connection="upgraded"), 426),
        (asking(Connection="upgrade;x"), 426),
        (asking(Connection="upgrade keep-alive"), 426),
        (asking(Connection="keep-alive, Upgrade"), 101),
        (asking(Connection="close, Upgrade"), 101),
        (asking(Connection="a;b, upgrade"), 101),
        (asking(Connection=",Upgrade,"), 101),
        (header("Connection: keep-alive"), 101),
        (asking(LINE, "Connection: Upgrade", Connection="keep-alive"), 101),
    ],
    "Sec-WebSocket-Protocol": [
        (subprotocol("chat"), 101),
        (subprotocol("a", "b"), 101),
        (subprotocol("a", "a"), 400),
        (subprotocol("a,a"), 400),
        (subprotocol(""), 400),
        (subprotocol("a b"), 400),
        (subprotocol("a,"), 400),
        (subprotocol(",a"), 400),
        (subprotocol('"a"'), 400),
        (subprotocol("a;b"), 400),
    ],
    "other headers": [
        (header("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"), 101),
        (header("Sec-WebSocket-Extensions: permessage-deflate; ="), 101),
        (header("Sec-WebSocket-Extensions:"), 101),
        (header("Content-Length: 0"), 101),
        (header("Content-Length: 5"), 101),
        (header("Transfer-Encoding: gzip"), 101),
        (asking(LINE, "Origin: a", "Origin: b"), 101),
        (header("Cookie: \xe9"), 101),
        (header("Cookie: a\xa0"), 101),
        (header("Cookie: a\tb"), 101),
        (header("Cookie:a"), 101),
    ],
    "what can't be read": [
        (header("Cookie: a\x01b"), 400),
        (header("Cookie: a\x00b"), 400),
        (header("Cookie: a\x7fb"), 400),
        (header("Cookie: a\rb"), 400),
        (header("Cookie: a\x0bb"), 400),
        (header("Cookie: a\r\n b"), 400),
        (asking(LINE + "\r\n x: y"), 400),
        (header("Cookie : a"), 400),
        (header("Cookie"), 400),
        (header(": a"), 400),
        (header("a(b: c"), 400),
        (header("\xe9: c"), 400),
        (asking(end="\n"), 400),
        (asking(end="\r"), 400),
        (asking().replace(b"\r\nUpgrade", b"\nUpgrade"), 400),
        (b"HELLO\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
}


@pytest.mark.parametrize("cases", GROUPS.values(), ids=GROUPS)
@async_test
async def test_it_is_answered_as_it_was(redis_server: RedisServer, cases: list[tuple[bytes, int]]) -> None:
    async with gateway(redis_server.url) as server:

        async def status(request: bytes) -> int:
            async with Wire(server) as wire:
                await wire.send(request)
                while b"\r\n\r\n" not in wire.received and await wire.read_some():
                    pass
            found = re.match(rb"HTTP/1\.1 (\d+) ", wire.received)
            return int(found[1]) if found is not None else 0

        answers = await asyncio.gather(*[status(request) for request, _ in cases])
    assert [(request[:300], answer) for (request, _), answer in zip(cases, answers, strict=True)] == [
        (request[:300], right) for request, right in cases
    ]


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["chat"], "chat"),
        (["chat, v2.x ,z"], "chat"),
        (["b,\ta"], "b"),
        (["b", "a"], "b"),
        (["rsws"], "rsws"),
    ],
)
@async_test
async def test_the_first_subprotocol_is_given_back(redis_server: RedisServer, offered: list[str], chosen: str) -> None:
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        lines = "".join(f"Sec-WebSocket-Protocol: {each}\r\n" for each in offered)
        head = await wire.handshake(headers=lines)
        assert re.findall(r"(?i)sec-websocket-protocol: ([^\r]*)", head) == [chosen]
        assert await wire.text() == WELCOME


@async_test
async def test_a_client_that_insists_on_a_subprotocol_connects(redis_server: RedisServer) -> None:
    offered = [Subprotocol("chat"), Subprotocol("other")]
    async with (
        gateway(redis_server.url, compress=True) as server,
        websocket_connect(f"{server.url}/?token={KEY}", subprotocols=offered, proxy=None) as client,
        asyncio.timeout(PATIENCE_S),
    ):
        assert client.subprotocol == "chat"
        assert await client.recv() == WELCOME
        assert client.protocol.extensions


@async_test
async def test_what_came_right_behind_an_odd_handshake_counts(redis_server: RedisServer) -> None:
    ping = frame(b'{"action":"ping"}')
    odd = [b"\r\n" + asking(LINE.replace("1.1", "1.0")), version("8"), header("Cookie: " + "c" * 15_000)]
    async with gateway(redis_server.url) as server:
        for request in odd:
            for cut in (len(request) + 5, len(request) - 2, 1):
                async with Wire(server) as wire:
                    await wire.send((request + ping)[:cut])
                    await asyncio.sleep(0.01)  # a piece of its own, most of the time
                    await wire.send((request + ping)[cut:])
                    while b'{"status":"pong"}' not in wire.received:
                        assert await wire.read_some()


@async_test
async def test_a_refusal_says_which_versions_there_are(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.send(version("7"))
        assert b"\r\nSec-WebSocket-Version: 13, 8\r\n" in await wire.read_to_end()

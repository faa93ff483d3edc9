"""Plain HTTP through the proxies of ``deploy/``: nothing is held back or cut off, and no request hides in another."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kit.fronts import DEPLOY, HOST, PROGRAMS, Front, front
from kit.gateway import KEY, PATIENCE_S, add, async_test, entries, gateway, until
from kit.http import BEARER, Address, HttpClient, everything, http_client
from kit.support import RedisServer, free_port
from rsws.gateway.clients import ClientRegistry
from rsws.gateway.http import Request
from rsws.gateway.limits import Limits
from rsws.gateway.websocket.connection import ClientConnection

BLANK_S = 0.3
TIMEOUT_S = 1
"""That of a proxy, between the blanks and what a test waits for."""
each_proxy = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(not program.is_here, reason=f"needs {name}"))
        for name, program in PROGRAMS.items()
    ],
)


@asynccontextmanager
async def client_of(proxy: Front) -> AsyncIterator[HttpClient]:
    address = Address(f"https://127.0.0.1:{proxy.port}")
    async with http_client(address, ssl=proxy.trusted, server_hostname=HOST) as client:
        client.host = f"{HOST}:{proxy.port}"
        try:
            yield client
        finally:
            client.writer.transport.abort()  # TLS would wait for the end of a stream


@each_proxy
@async_test
async def test_everything_passes_at_once(name: str, redis_server: RedisServer, channel: str, tmp_path: Path) -> None:
    port = free_port()
    timeouts = {r"\b75s\b": f"{TIMEOUT_S}s", r" timeout=75\b": f" timeout={TIMEOUT_S}"}
    async with gateway(redis_server.url, Limits(blank_s=BLANK_S), port=port, max_message_bytes=2_000_000):
        with front(name, tmp_path, port, **timeouts) as proxy:
            async with client_of(proxy) as client, client_of(proxy) as events, client_of(proxy) as lines:
                path = f"/channels/{channel}%2Fx"
                data = b'"' + b"x" * 1_500_000 + b'"'
                await events.begin("GET", path, headers=BEARER | {"Accept": "text/event-stream"})
                assert (await events.head()).status_code == 200
                while b"event: caught_up" not in (await events.event()).data:
                    pass
                for key, body in (("a", [b"1"]), ("b", data), ("c", b"2")):  # over one connection
                    answer = await client.ask("POST", path, body, BEARER | {"Idempotency-Key": key})
                    assert (answer.status, client.is_kept) == (200, True), answer
                    seen = b""
                    while not seen.endswith(b"\n\n") or answer.json["streamId"].encode() not in seen:
                        seen += (await events.event()).data  # it is here before the next one is sent
                again = await client.ask("POST", path, b"2", BEARER | {"Idempotency-Key": "c"})
                assert again.json["duplicate"] is True
                [listed] = await everything(client, f"{channel}*")
                assert listed["entries"] == 3
                assert (await client.ask("GET", f"/channels/{channel}", headers={})).status == 401
                assert (await client.ask("HEAD", f"/channels?match={channel}")).status == 200
                await lines.begin("GET", f"{path}?from=0&follow=0", headers=BEARER | {"Accept": "application/x-ndjson"})
                assert (await lines.answer()).body.count(b"\n") == 3
                blanks = 0
                while blanks < 2 * TIMEOUT_S / BLANK_S:
                    blanks += (await events.event()).data.count(b":\n\n")


SMUGGLED = f"POST /channels/poison?token={KEY} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n7"
POST = f"POST /channels/attack?token={KEY} HTTP/1.1\r\nHost: x\r\n"
IN_A_CHUNK = f"{len(SMUGGLED):x}\r\n{SMUGGLED}\r\n0\r\n\r\n"
NO_CHUNK = f"0\r\n\r\n{SMUGGLED}"
SHAPES = [
    f"{POST}Content-Length: {len(NO_CHUNK)}\r\nTransfer-Encoding: chunked\r\n\r\n{NO_CHUNK}",
    f"{POST}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{IN_A_CHUNK}",
    f"{POST}Content-Length: 1\r\nContent-Length: {1 + len(SMUGGLED)}\r\n\r\n1{SMUGGLED}",
    f"{POST}Content-Length: {1 + len(SMUGGLED)}, 1\r\n\r\n1{SMUGGLED}",
    *[
        f"{POST}Content-Length: {len(NO_CHUNK)}\r\n{encoding}\r\n\r\n{NO_CHUNK}"
        for encoding in (
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding:\tchunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
            "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding:\x0bchunked",
            "Transfer-Encoding: CHUNKED",
            'Transfer-Encoding: "chunked"',
            "X: x\nTransfer-Encoding: chunked",
            "Transfer-Encoding\r\n : chunked",
            " Transfer-Encoding: chunked",
            "Transfer_Encoding: chunked",
        )
    ],
    *[
        f"{request} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}"
        for request in (
            f"GET /channels?token={KEY}&match=none",
            f"HEAD /channels?token={KEY}&match=none",
            f"POST /channels?token={KEY}",
            f"DELETE /channels/x?token={KEY}",
            f"POST /channels/x/y?token={KEY}",
            "POST /channels/x",
            "OPTIONS /channels/x",
            f"GET /channels/none?token={KEY}&follow=0",
            "POST /none",
            "GET /none",
        )
    ],
    f"{POST}Transfer-Encoding: chunked\r\n\r\n1;a=b\r\n1\r\n0\r\n\r\n{SMUGGLED}",
    f"{POST}Transfer-Encoding: chunked\r\n\r\n1;\nxx\r\n1\r\n0\r\n\r\n{SMUGGLED}",
    f"{POST}Transfer-Encoding: chunked\r\n\r\n1\n1\n0\n\n{SMUGGLED}",
    f"{POST}Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\nContent-Length: 99\r\n\r\n{SMUGGLED}",
    f"{POST}Content-Length: 1\r\n\r\n1{SMUGGLED}".replace("\r\n", "\n"),
    f"{POST}Content-Length: 1\r\nConnection: Content-Length\r\n\r\n1{SMUGGLED}",
    f"{POST}Expect: 100-continue\r\nContent-Length: 1\r\n\r\n1{SMUGGLED}",
]
"""What might be one request to nginx and two to the gateway."""


@pytest.mark.skipif(not PROGRAMS["nginx"].is_here, reason="needs nginx")
@pytest.mark.parametrize("buffering", ["on", "off"])
@async_test
async def test_no_request_hides_in_another(
    buffering: str, own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    over: set[Any] = set()
    answer = ClientRegistry.answer

    def noted(self: ClientRegistry, connection: ClientConnection, request: Any) -> Any:
        assert isinstance(request, Request), "nginx sends what can be read"
        seen.append(f"{request.method} {request.target.partition('?')[0]}")
        over.add(connection)
        return answer(self, connection, request)

    monkeypatch.setattr(ClientRegistry, "answer", noted)
    port = free_port()
    kept = {
        "least_conn;": "least_conn; keepalive 1;",
        r"''      close;": "''      '';",
        r"proxy_http_version 1\.1;": f"proxy_http_version 1.1; proxy_request_buffering {buffering};",
    }
    add(own_redis, "mine", "1")
    async with gateway(own_redis.url, port=port):
        with front("nginx", tmp_path, port, **kept) as proxy:

            def sent() -> list[str]:
                """The requests that nginx has sent on, which are those with a status of the gateway."""
                return re.findall(r'"(\w+ \S+)" \d+ \d+ \S+ 127\.0\.0\.1:\d+ \d+$', proxy.log, flags=re.MULTILINE)

            for shape in SHAPES:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", proxy.port, ssl=proxy.trusted, server_hostname=HOST
                )
                writer.write(shape.encode("latin-1"))
                async with asyncio.timeout(PATIENCE_S):
                    assert (await reader.readline()).startswith(b"HTTP/1.1 "), shape
                async with client_of(proxy) as client:
                    answered = await client.ask("GET", "/channels?match=mine")
                    assert [each["channel"] for each in answered.json["channels"]] == ["mine"], shape
                writer.transport.abort()
            await until(lambda: sorted(sent()) == sorted(seen), f"the same requests: {seen}")
            assert len(over) < len(seen) - 20, "connections were kept"
    assert len(entries(own_redis, "poison")) == seen.count("POST /channels/poison")


@pytest.mark.skipif(not PROGRAMS["nginx"].is_here, reason="needs nginx")
@async_test
async def test_the_console_behind_a_prefix_as_its_page_says(
    redis_server: RedisServer, channel: str, tmp_path: Path
) -> None:
    [snippet] = re.findall(r"```nginx\n(.*?)```", (DEPLOY.parent / "docs" / "console.md").read_text(), flags=re.DOTALL)
    outer, hidden, inner = (line.partition("  #")[0] for line in snippet.splitlines() if line)
    [rest] = re.findall(r"location / \{.*?\n(.*?)\n    \}", (DEPLOY / "nginx.conf").read_text(), flags=re.DOTALL)
    inner = inner.replace("...", re.sub(r"#.*|proxy_pass .*", "", rest))
    added = {
        r"map \$http_upgrade": f"{outer}\nmap $http_upgrade",
        r"location / \{": f"{hidden}\n{inner}\nlocation / {{",
    }
    add(redis_server, f"{channel}/x", "1")
    port = free_port()
    async with gateway(redis_server.url, port=port):
        with front("nginx", tmp_path, port, **added) as proxy:
            async with client_of(proxy) as client:
                page = await client.ask("GET", "/realtime/", headers={"Accept": "text/html"})
                assert page.status == 200
                paths = re.findall(r'(?:src|href)="(console/[^"]+)"', page.body.decode())
                assert len(paths) > 1
                for path in paths:
                    assert (await client.ask("GET", f"/realtime/{path}")).status == 200, path
                answered = await client.ask("POST", f"/realtime/channels/{channel}%2Fx", b"2", headers=BEARER)
                assert answered.status == 200
                assert len(entries(redis_server, f"{channel}/x")) == 2
                for hidden in ("metrics", "healthz", "readyz"):
                    assert (await client.ask("GET", f"/realtime/{hidden}", headers=BEARER)).status == 404

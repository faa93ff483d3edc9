"""The proxies of ``deploy/`` in front of a gateway: everything passes that should, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from kit.fronts import DEPLOY, PROGRAMS, front
from kit.gateway import KEY, UNAUTHORIZED, async_test, connect, gateway
from kit.support import RedisServer, RswsProcess, eventually, free_port
from rsws.settings import Settings

TOKEN = "a-token-that-is-in-no-log"
CLIENT = "127.0.0.2"
"""An address of this machine other than the proxies' own."""

each_proxy = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(not program.is_here, reason=f"needs {name}"))
        for name, program in PROGRAMS.items()
    ],
)


@each_proxy
@async_test
async def test_clients_pass(
    name: str, redis_server: RedisServer, channel: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rsws.gateway")
    port = free_port()
    big = "x" * 900_000
    spoofed = {"X-Forwarded-For": "203.0.113.5", "Forwarded": "for=203.0.113.6"}
    # All are trusted, so that anything would be believed that the client says.
    async with gateway(redis_server.url, port=port, trusted_proxies=("127.0.0.0/8",)):
        with front(name, tmp_path, port) as proxy:
            source: dict[str, Any] = {"local_addr": (CLIENT, 0)}
            async with (
                connect(proxy, **proxy.options, **source, additional_headers=spoofed) as subscriber,
                connect(proxy, f"/realtime/?token={KEY}", **proxy.options) as publisher,
            ):
                assert f"client connected client={CLIENT} " in caplog.text
                assert "203.0.113" not in caplog.text
                await subscriber.subscribe(channel, lastMessageId="0")
                stored = [await publisher.publish(channel, data) for data in ("hello", big)]
                assert await subscriber.messages(channel, 2) == [(stored[0], "hello"), (stored[1], big)]
                await publisher.websocket.send(b"binary")
                assert (await publisher.closed())[0] == 1003
            async with connect(proxy, "/?token=wrong", welcome=False, **proxy.options) as refused:
                await refused.expect(UNAUTHORIZED)
                assert await refused.closed() == (1008, "Unauthorized")


@each_proxy
@async_test
async def test_what_is_for_operators_does_not_pass(name: str, redis_server: RedisServer, tmp_path: Path) -> None:
    port = free_port()
    async with gateway(redis_server.url, port=port):  # without --admin, so that the gateway would tell
        with front(name, tmp_path, port) as proxy:
            for page in ("metrics", "healthz", "readyz"):
                status, body = await proxy.get(f"/{page}")
                assert status in (403, 404)
                assert body != "ok\n"
            for target in (
                "/metrics?x=1",
                "//metrics",
                "/./metrics",
                "/x/../metrics",
                "/%6detrics",
                "/metrics/",
                "/metrics%3f",
                f"http://127.0.0.1:{port}/metrics",
            ):
                assert "rsws_clients" not in (await proxy.get(target))[1], target


SOON = {"inter 1s fall 3": "inter 50ms fall 1"}
"""When HAProxy is to notice that a gateway is away."""


def with_token_in_subprotocol() -> dict[str, Any]:
    return {"subprotocols": ["rsws", "rsws.token." + base64.urlsafe_b64encode(TOKEN.encode()).decode().rstrip("=")]}


PLACES: list[tuple[str, dict[str, Any]]] = [
    (f"/in-the-query?token={TOKEN}", {}),
    (f"/in-the-query-too?x=1&token={TOKEN}&y=2", {}),
    ("/in-a-subprotocol", with_token_in_subprotocol()),
    ("/in-a-header", {"additional_headers": {"Authorization": f"Bearer {TOKEN}"}}),
]


@each_proxy
@async_test
async def test_no_log_has_a_token(name: str, redis_server: RedisServer, tmp_path: Path) -> None:
    port = free_port()
    async with gateway(redis_server.url, port=port, secret_key=TOKEN) as server:
        with front(name, tmp_path, port, **SOON) as proxy:
            for path, options in PLACES:
                async with connect(proxy, f"/served{path}", **proxy.options, **options):
                    pass
            await server.stop()
            for path, options in PLACES:
                with pytest.raises(InvalidStatus, match=r"50[23]"):
                    async with connect(proxy, f"/failed{path}", **proxy.options, **options):
                        pass
            await proxy.get(f"/%zz?token={TOKEN}")  # and what proxies themselves refuse
            await proxy.get(f"/metrics?token={TOKEN}")

            def logged() -> bool:
                return all(
                    f"/{kind}{path.partition('?')[0]}" in proxy.log
                    for kind in ("served", "failed")
                    for path, _ in PLACES
                )

            await asyncio.to_thread(eventually, logged, 10, "a line of each request")
            encoded = with_token_in_subprotocol()["subprotocols"][1].rpartition(".")[2]
            for secret in (TOKEN, encoded):
                assert secret not in proxy.log


@pytest.mark.skipif(not PROGRAMS["haproxy"].is_here, reason="needs haproxy")
def test_haproxy_sends_nobody_to_a_gateway_that_is_about_to_stop(redis_server: RedisServer, tmp_path: Path) -> None:
    settings = {"REDIS_URL": redis_server.url, "WEBSOCKET_SECRET_KEY": KEY, "RSWS_SHUTDOWN_DELAY": "60"}
    port = free_port()
    with (
        RswsProcess("serve", "--port", str(port), env=settings) as process,
        front("haproxy", tmp_path, port, **SOON) as proxy,
    ):
        process.wait_for("listening")

        def status() -> int:
            return asyncio.run(proxy.get("/"))[0]

        eventually(lambda: status() == 426, 10, "the gateway")
        process.process.send_signal(signal.SIGTERM)
        eventually(lambda: status() == 503, 10, "the gateway's removal")
        assert process.process.poll() is None
        process.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("nginx.conf", r"proxy_(?:read|send)_timeout (\d+)s"),
        ("haproxy.cfg", r"timeout (?:client|server) (\d+)s"),
        ("apache.conf", r" timeout=(\d+)"),
    ],
)
def test_they_wait_longer_than_the_gateway_is_silent(file: str, pattern: str) -> None:
    waits = re.findall(pattern, (DEPLOY / file).read_text())
    assert waits
    assert all(int(wait) > Settings().idle_timeout_s > Settings().ping_interval_s for wait in waits)

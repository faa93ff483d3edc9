"""``/clients``: who is connected, who lags, and which channels are busy; for the secret key alone."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from kit.gateway import KEY, Reachable, Wire, add, async_test, connect, gateway, http, request, until
from kit.support import RedisServer
from kit.tokens import SECRET, token
from rsws.gateway.limits import DEFAULTS

AT_ONCE = replace(DEFAULTS, publish_s=0)
"""What is told is found out each time."""


async def told(server: Reachable, query: str = "") -> dict[str, Any]:
    status, text = await http(server, f"/clients{query}", Authorization=f"Bearer {KEY}")
    assert status == 200
    found: dict[str, Any] = json.loads(text)
    return found


@async_test
async def test_clients_and_channels(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, AT_ONCE) as server:
        assert await told(server) == {"worker": 0, "clients": 0, "slowest": [], "busiest": []}
        async with connect(server) as one, connect(server) as two:
            await one.subscribe(channel)
            await one.subscribe(f"{channel}-quiet")
            await two.subscribe(channel)
            add(redis_server, channel, *["1"] * 20)
            await one.messages(channel, 20)
            await two.messages(channel, 20)
            found = await told(server)
            assert found["clients"] == 2
            by_count = sorted(found["slowest"], key=lambda each: each["subscriptions"])
            assert [each["subscriptions"] for each in by_count] == [1, 2]
            for each in by_count:
                assert each["client"].startswith("127.0.0.1:")
                assert (each["behind"], each["lag"], each["channel"], each["queuedBytes"]) == (0, 0, None, 0)
            busy, quiet = found["busiest"]
            assert busy == {"channel": channel, "perSecond": 2.0, "subscribers": 2, "behind": 0, "gaps": 0}
            assert quiet == {
                "channel": f"{channel}-quiet", "perSecond": 0.0, "subscribers": 1, "behind": 0, "gaps": 0,
            }  # fmt: skip
        await until(lambda: not server.client_count)


@async_test
async def test_who_lags_comes_first(redis_server: RedisServer, channel: str) -> None:
    big = json.dumps("x" * 100_000)
    async with gateway(redis_server.url, AT_ONCE) as server, connect(server) as fast, Wire(server, 4096) as slow:
        await slow.handshake(and_send=request(action="subscribe", channel=channel))
        assert json.loads(await slow.text())["status"] == "connected"
        assert json.loads(await slow.text())["status"] == "subscribed"
        await fast.subscribe(channel)
        for _ in range(20):
            [stream_id] = add(redis_server, channel, big)
            assert (await fast.message(channel))[0] == stream_id
        found = await told(server)
        first, second = found["slowest"]
        assert (first["behind"], first["channel"], second["behind"]) == (1, channel, 0)
        assert first["lag"] > 0
        assert first["queuedBytes"] > 50_000
        about = await told(server, f"?channel={channel}")
        assert (about["subscribers"], about["behind"]) == (2, 1)
        behind, live = about["subscriptions"]
        assert (behind["client"], behind["lag"]) == (first["client"], first["lag"])
        assert behind["state"] in ("behind", "reading")
        assert (live["state"], live["lastId"], live["lag"]) == ("live", stream_id, 0)


@async_test
async def test_gaps_of_a_channel(redis_server: RedisServer, channel: str) -> None:
    ids = add(redis_server, channel, "1", "2", "3")
    redis_server.call("XTRIM", channel, "MAXLEN", "1")
    async with gateway(redis_server.url, AT_ONCE) as server, connect(server) as client:
        await client.subscribe(channel, lastMessageId=ids[0])
        assert (await client.next())["event"] == "gap"
        assert (await told(server, f"?channel={channel}"))["gaps"] == 1
        assert await told(server, "?channel=none") == {
            "worker": 0, "clients": 1, "channel": "none", "subscribers": 0, "behind": 0, "gaps": 0, "subscriptions": [],
        }  # fmt: skip


@async_test
async def test_it_is_found_out_once_in_a_while(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, replace(DEFAULTS, publish_s=60)) as server:
        before = await told(server)
        async with connect(server):
            assert await told(server) == before
            assert (await told(server, f"?channel={channel}"))["clients"] == 1


@pytest.mark.parametrize("admin", [None, "127.0.0.1:0"])
@async_test
async def test_it_is_for_the_secret_key_alone(redis_server: RedisServer, admin: str | None) -> None:
    async with gateway(redis_server.url, jwt_key=SECRET, admin=admin) as server:
        assert (await http(server, "/clients"))[0] == 401
        status, text = await http(server, "/clients", Authorization="Bearer wrong")
        assert (status, "secret key" in text) == (401, True)
        assert (await http(server, "/clients", Authorization=f"Bearer {token(channels={'*': 'rw'})}"))[0] == 403
        assert (await http(server, f"/clients?token={KEY}"))[0] == 200
    async with gateway(redis_server.url, key_may=("chat.*=r",)) as server:
        assert (await http(server, "/clients", Authorization=f"Bearer {KEY}"))[0] == 403


@async_test
async def test_it_is_not_where_nothing_asks_for_a_token(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, admin="127.0.0.1:0") as server:
        assert server.admin_url is not None
        admin = urlsplit(server.admin_url)
        reader, writer = await asyncio.open_connection(admin.hostname, admin.port)
        writer.write(f"GET /clients HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 404 ")
        writer.close()

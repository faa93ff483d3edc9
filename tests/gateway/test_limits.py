"""The limits on addresses, on what clients do in a second, on channels, and on what is a channel at all."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kit.gateway import (
    PATIENCE_S,
    Client,
    Wire,
    add,
    async_test,
    connect,
    entries,
    gateway,
    handshake,
    http,
    until,
)
from kit.proxies import LOCAL, proxy_v2
from kit.support import RedisServer
from kit.tls import Authority
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.metrics import Metrics
from rsws.gateway.process.single import SingleProcess
from rsws.rates import Rate

ELSEWHERE = ("127.0.0.2", 0)
"""Where those connect from to whom the defaults apply as to any other machine."""
HERE: dict[str, Any] = {"trusted_proxies": ("127.0.0.1",)}
CLIENT, OTHER = "203.0.113.5", "203.0.113.6"
FEW_PUBLISHES: dict[str, Any] = {"publish_rate": "5,5"}
FEW_BYTES: dict[str, Any] = {"publish_bytes_rate": "1000,1000"}


def counts(server: SingleProcess) -> Metrics:
    return server.server.board.metrics


async def refused(server: SingleProcess, reason: str, **options: Any) -> None:
    """The next client is turned away after its handshake."""
    async with connect(server, welcome=False, **options) as client:
        assert await client.closed() == (1013, reason)


# --- connections of one address ---

TOO_MANY = "too many connections from this address"


@async_test
async def test_so_many_connections_of_one_address(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with gateway(redis_server.url, max_connections_per_address=3) as server:
        async with AsyncExitStack() as stack:
            first, *_ = [await stack.enter_async_context(connect(server)) for _ in range(3)]
            for _ in range(3):
                await refused(server, TOO_MANY)
            async with Wire(server) as wire:
                await wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                head = (await wire.read_to_end()).decode()
            assert head.startswith("HTTP/1.1 429 Too Many Requests\r\n")
            assert "\r\nRetry-After: 10\r\n" in head
            async with connect(server, local_addr=ELSEWHERE):
                pass
            await first.websocket.close()
            await until(lambda: len(server.server.clients.sessions) == 2)
            async with connect(server):  # there is room again
                pass
        await until(lambda: not len(server.server.clients), "the connections to be gone")
        assert not server.server.clients._addresses._connections
        assert counts(server).address_connections_refused == 4
        assert (await http(server, "/healthz"))[0] == 200
    [line] = [each.message for each in caplog.records if "from one address" in each.message]
    assert line.startswith("too many connections from one address; if it is a proxy's, name it in --trusted-proxies")
    assert " client=127.0.0.1:" in line


@async_test
async def test_behind_a_proxy_each_client_has_its_own(redis_server: RedisServer) -> None:
    def of(address: str) -> dict[str, Any]:
        return {"additional_headers": {"X-Forwarded-For": address}}

    async with gateway(redis_server.url, max_connections_per_address=1, **HERE) as server, AsyncExitStack() as stack:
        for address in (CLIENT, OTHER, "2001:db8::1", "2001:db8:0:1::1"):
            await stack.enter_async_context(connect(server, **of(address)))
        for address in (CLIENT, "2001:db8::2"):  # one that is in the same /64 network
            await refused(server, TOO_MANY, **of(address))
        assert (await http(server, "/healthz", **{"X-Forwarded-For": OTHER}))[0] == 429
        for _ in range(3):
            assert (await http(server, "/healthz"))[0] == 200  # the proxy's own
        assert counts(server).address_connections_refused == 3


@async_test
async def test_behind_a_proxy_header(redis_server: RedisServer) -> None:
    settings = HERE | {"proxy_protocol": True, "max_connections_per_address": 1}
    async with gateway(redis_server.url, **settings) as server:
        async with Wire(server) as one, Wire(server) as another, Wire(server) as proxy:
            await one.send(proxy_v2(CLIENT, 1) + handshake("/?token=k"))
            await until(lambda: len(server.server.clients.sessions) == 1)
            await another.send(proxy_v2(CLIENT, 2) + handshake("/?token=k"))
            assert (await another.read_to_end()).endswith(b"\x03\xf5" + TOO_MANY.encode())
            await proxy.send(LOCAL + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await proxy.read_to_end()).startswith(b"HTTP/1.1 200 ")
        await until(lambda: not server.server.clients._addresses._connections)


# --- attempts of one address ---


@async_test
async def test_so_many_attempts_of_one_address(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    reason = "too many attempts from this address"
    async with gateway(redis_server.url, attempt_rate="4,4") as server:
        for path in ("/?token=k", "/?token=wrong") * 2:  # whatever comes of it
            async with connect(server, path, welcome=False) as client:
                await client.next()
        await refused(server, reason)
        assert (await http(server, "/"))[0] == 429
        async with connect(server, local_addr=ELSEWHERE):
            pass
        await asyncio.sleep(1.05)
        async with connect(server):
            pass
        assert counts(server).address_attempts_refused == 2
        assert counts(server).tokens_refused == 2
    assert caplog.text.count("too many attempts from one address") == 1


@async_test
async def test_beyond_that_they_are_cut_off_when_they_are_accepted(redis_server: RedisServer, tmp_path: Path) -> None:
    limits = replace(DEFAULTS, polite=Rate(3, 3), polite_tls=3)
    certificate, key = Authority(tmp_path).issue("localhost")
    own_tls: dict[str, Any] = {"tls_cert": certificate, "tls_key": key}
    for tls, told in (({}, 3), (own_tls, 1)):
        async with gateway(redis_server.url, limits, max_connections_per_address=1, **tls) as server:
            async with Wire(server):
                await until(lambda server=server: len(server.server.clients) == 1)  # type: ignore[misc]
                there = [Wire(server) for _ in range(8)]
                for wire in there:
                    await wire.__aenter__()
                await until(lambda server=server: counts(server).address_connections_refused == 8)  # type: ignore[misc]
                await until(lambda server=server, told=told: len(server.server.clients) == 1 + told)  # type: ignore[misc]
                for wire in there:
                    wire.socket.close()
            await until(lambda server=server: not len(server.server.clients))  # type: ignore[misc]


@async_test
async def test_addresses_are_forgotten(redis_server: RedisServer) -> None:
    limits = replace(DEFAULTS, max_addresses=5)
    async with gateway(redis_server.url, limits) as server:
        for number in range(2, 10):
            async with connect(server, local_addr=(f"127.0.0.{number}", 0)):
                pass
        assert len(server.server.clients._addresses) == 5


@async_test
async def test_the_defaults_are_not_for_this_machine(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server, connect(server):
        addresses = server.server.clients._addresses
        addresses._most = 1
        addresses._rate = Rate(1, 1)
        for _ in range(3):
            async with connect(server):
                pass
        async with connect(server, local_addr=ELSEWHERE):
            await refused(server, "too many attempts from this address", local_addr=ELSEWHERE)


# --- publishes ---


async def publish(client: Client, channel: str, count: int, data: str = "x") -> list[dict[str, Any]]:
    """All at once; the answers, in the order of the publishes."""
    for number in range(count):
        await client.send(action="publish", channel=channel, data=data, messageId=str(number))
    answers = {frame["messageId"]: frame for frame in [await client.next() for _ in range(count)]}
    return [answers[str(number)] for number in range(count)]


@pytest.mark.parametrize(
    ("settings", "data", "metric"),
    [(FEW_PUBLISHES, "x", "publishes_over_rate"), (FEW_BYTES, "x" * 198, "publishes_over_bytes_rate")],
)
@async_test
async def test_publishes_above_the_rate_are_refused_until_it_allows_them(
    settings: dict[str, Any], data: str, metric: str, redis_server: RedisServer, channel: str
) -> None:
    async with gateway(redis_server.url, **settings) as server, connect(server) as client, connect(server) as other:
        answers = await publish(client, channel, 12, data)
        assert [each["status"] for each in answers] == ["ack"] * 5 + ["error_ack"] * 7
        for answer in answers[5:]:
            assert list(answer) == ["status", "messageId", "error", "code", "outcome", "retryAfter"]
            assert (answer["code"], answer["outcome"]) == ("rate_limited", "not_stored")
            assert 0.5 < answer["retryAfter"] <= 1
            assert answer["retryAfter"] == round(answer["retryAfter"], 3)
        assert getattr(counts(server), metric) == 7
        assert len(await publish(other, channel, 5, data)) == 5  # each client has its own
        await client.nothing_more()  # the connection stays
        await client.subscribe(channel, lastMessageId="$")
        await asyncio.sleep(answers[-1]["retryAfter"])
        await client.send(action="publish", channel=channel, data=data, messageId="again")
        assert {(await client.next()).get("status") for _ in range(2)} == {"ack", None}
    assert len(entries(redis_server, channel)) == 11


@async_test
async def test_what_was_refused_is_not_overtaken(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, publish_rate="100,100") as server, connect(server) as client:
        answers = await publish(client, channel, 300)
        for _ in range(20):  # in this time the rate would allow some
            await asyncio.sleep(0.01)
            answers += await publish(client, channel, 3)
        kinds = [each["status"] for each in answers]
    allowed = kinds.index("error_ack")
    assert allowed >= 100  # and what the rate allowed while they came
    assert kinds[allowed:] == ["error_ack"] * len(kinds[allowed:])


@async_test
async def test_a_message_above_the_burst_passes_now_and_then(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, publish_bytes_rate="20000,1000") as server, connect(server) as client:
        [first] = await publish(client, channel, 1, "x" * 20_000)
        assert first["status"] == "ack"
        [second] = await publish(client, channel, 1)
        assert 0.5 < second["retryAfter"] < 1.25
        await asyncio.sleep(second["retryAfter"])
        [third] = await publish(client, channel, 1)
        assert third["status"] == "ack"


@async_test
async def test_what_is_refused_otherwise_costs_nothing_of_it(redis_server: RedisServer, channel: str) -> None:
    settings = FEW_PUBLISHES | {"key_may": ("test-*=rw",), "max_message_bytes": 2048}
    async with gateway(redis_server.url, **settings) as server, connect(server) as client:
        for name, size in (("other", 1), ("rsws:x", 1), (channel, 1960)):
            assert {each["code"] for each in await publish(client, name, 6, "x" * size)} <= {
                "not_allowed", "bad_channel", "bad_request"
            }  # fmt: skip
        assert {each["status"] for each in await publish(client, channel, 5)} == {"ack"}


# --- subscribes ---


@async_test
async def test_subscribes_above_the_rate_are_refused(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, subscribe_rate="4,4") as server, connect(server) as client:
        for number in range(4):
            await client.subscribe(f"{channel}-{number % 2}", lastMessageId="$")
            await client.send(action="unsubscribe", channel=f"{channel}-{number % 2}")
            assert (await client.next())["status"] == "unsubscribed"
        await client.send(action="subscribe", channel=channel)
        frame = await client.next()
        assert list(frame) == ["status", "error", "code", "channel", "retryAfter"]
        assert (frame["status"], frame["code"], frame["channel"]) == ("error", "rate_limited", channel)
        await client.send(action="unsubscribe", channel=channel)  # always
        assert (await client.next())["status"] == "unsubscribed"
        await asyncio.sleep(frame["retryAfter"])
        await client.subscribe(channel, lastMessageId="$")
        assert counts(server).subscribes_over_rate == 1


@async_test
async def test_nobody_who_comes_back_meets_the_default(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, max_subscriptions=20) as server, connect(server) as client:
        for round_ in range(50):
            for number in range(20):
                await client.send(action="subscribe", channel=f"{channel}-{number}", lastMessageId="$")
            assert {(await client.next())["status"] for _ in range(20)} == {"subscribed"}, round_


# --- channels of a gateway ---


@async_test
async def test_so_many_channels_of_a_gateway(redis_server: RedisServer, channel: str) -> None:
    async with (
        gateway(redis_server.url, max_channels=3) as server,
        connect(server) as client,
        connect(server) as other,
    ):
        for number in range(3):
            await client.subscribe(f"{channel}-{number}", lastMessageId="$")
        await other.subscribe(f"{channel}-0", lastMessageId="$")  # is followed already
        await other.send(action="subscribe", channel=channel)
        error = (await other.expect_error("too_many", channel))["error"]
        assert error.startswith("the gateway follows 3 channels, and may not follow more (--max-channels)")
        await client.send(action="unsubscribe", channel=f"{channel}-2")
        assert (await client.next())["status"] == "unsubscribed"
        await other.subscribe(channel, lastMessageId="$")
        assert counts(server).channels_refused == 1


# --- handshakes ---


@async_test
async def test_handshakes_are_limited_in_time_and_size(redis_server: RedisServer) -> None:
    async with (
        gateway(redis_server.url, handshake_timeout_s=0.2, max_header_bytes=1000) as server,
        connect(server) as client,
    ):
        async with Wire(server) as wire:
            began = time.monotonic()
            await wire.send(b"GET / HTTP/1.1\r\n")
            assert await wire.read_to_end() == b""
            assert time.monotonic() - began < 5
        assert counts(server).handshakes_timed_out == 1
        assert (await http(server, "/healthz", X="x" * 900))[0] == 200
        status, why = await http(server, "/healthz", X="x" * 1000)
        assert (status, why) == (431, "the URL and headers of the request are too large, or too many\n")
        assert counts(server).headers_too_large == 1
        await client.nothing_more()


# --- what is a channel ---

PATTERNS = ("chat.*", "news")
OUTSIDE = ("chat", "Chat.1", "news.1", "xnews", "session:1", "*", "chat*", "rsws:x", "rsws:once:{chat.1}:x")
MANY_GUESSES = replace(DEFAULTS, free_tries=1000)
ACTIONS = ("subscribe", "publish", "publish with a producer", "unsubscribe", "ping", "token", "other")


def asked(action: str, channel: str) -> dict[str, Any]:
    """A request of this kind that would reach a key, if anything could, by whatever it has in it."""
    name, _, more = action.partition(" ")
    names = {"channel": channel, "messageId": channel, "data": channel, "token": channel, "lastMessageId": "0"}
    return {"action": name, **names, **({"producer": channel} if more else {})}


@pytest.mark.parametrize("action", ACTIONS)
@async_test
async def test_no_action_reaches_a_key_that_is_no_channel(own_redis: RedisServer, action: str) -> None:
    for name in OUTSIDE:
        add(own_redis, name, '"secret"')
    own_redis.call("SET", "chat:string", "x")
    before = {name: own_redis.call("DUMP", name) for name in (*OUTSIDE, "chat:string")}
    async with gateway(own_redis.url, MANY_GUESSES, channels=PATTERNS) as server, connect(server) as client:
        for channel in (*OUTSIDE, "chat:string"):
            await client.send(**asked(action, channel))
            frame = await client.next()
            assert "secret" not in json.dumps(frame)
            if action.startswith(("subscribe", "publish")):
                assert frame["code"] == "bad_channel"
                assert frame.get("outcome", "not_stored") == "not_stored"
        for channel in ("chat.1", "news"):  # they work, whatever names they are given beside the channel's
            for inside in OUTSIDE:
                await client.send(**asked(action, inside) | {"channel": channel})
                is_own = "producer" in action and inside.startswith("rsws:")  # which is no name of a producer
                codes = ("bad_request",) if is_own else (None, "bad_token", "unknown_action")
                assert (await client.next()).get("code") in codes
        await client.nothing_more()
        ours = len([each for each in OUTSIDE if each.startswith("rsws:")])
        refusals = 0 if action.startswith(("un", "ping", "token", "other")) else len(OUTSIDE) + 1 - ours
        assert counts(server).requests_for_no_channel == refusals
    assert {name: own_redis.call("DUMP", name) for name in before} == before
    there = {key.decode() for key in own_redis.call("KEYS", "*")} - set(before)
    assert {key for key in there if not key.startswith("rsws:once:{")} <= {"chat.1", "news"}
    assert bool(there) is action.startswith("publish")


@async_test
async def test_retention_leaves_other_keys_alone(own_redis: RedisServer) -> None:
    names = ("chat.1", "news", "session:1", "rsws:x")
    for name in names:
        add(own_redis, name, *["1"] * 500)
    streams = replace(DEFAULTS.streams, trim_every_s=0.05)
    async with gateway(own_redis.url, replace(DEFAULTS, streams=streams), channels=PATTERNS, retain=("*=10",)):
        await until(lambda: all(own_redis.call("XLEN", name) < 500 for name in names[:2]), "trimming")
    assert [own_redis.call("XLEN", name) for name in names[2:]] == [500, 500]
    async with gateway(own_redis.url, replace(DEFAULTS, streams=streams), retain=("*=10",)):
        await until(lambda: own_redis.call("XLEN", "session:1") < 500, "trimming")
    assert own_redis.call("XLEN", "rsws:x") == 500


@pytest.mark.parametrize("channels", [(), ("*",), ("x", "*")])
@async_test
async def test_all_are_channels_if_nothing_is_said(
    redis_server: RedisServer, channel: str, channels: tuple[str, ...]
) -> None:
    async with gateway(redis_server.url, channels=channels) as server, connect(server) as client:
        [answer] = await publish(client, channel, 1)
        assert answer["status"] == "ack"
        [session] = server.server.clients.sessions.values()
        assert session._context.channels is None
        async with asyncio.timeout(PATIENCE_S):
            await client.nothing_more()

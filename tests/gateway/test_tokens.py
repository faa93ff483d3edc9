"""Tokens over real connections: who may do what, before and after another token, and after the end."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect as websocket_connect
from websockets.typing import Subprotocol

from kit.gateway import (
    KEY,
    PATIENCE_S,
    UNAUTHORIZED,
    WELCOME,
    Client,
    Reachable,
    Wire,
    add,
    async_test,
    connect,
    entries,
    gateway,
    quoted,
    until,
)
from kit.support import RedisServer
from kit.tokens import KINDS, SECRET, claims, encoded, jwks, pair, sign, token
from rsws.backoff import Backoff
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.process.single import SingleProcess
from rsws.log_lines import SafeFormatter

STRICT = replace(DEFAULTS, clock_difference_s=0)
"""No difference of clocks is forgiven, so that a token ends at its ``exp``."""
RIGHTS = ("", "r", "w", "rw")
PREVIOUS = "the key before"


def signed(kind: str, rights: str, channel: str, ttl_s: float = 600) -> str:
    """A JWT with these rights on one channel, by a pattern."""
    return token(kind, exp=time.time() + ttl_s, channels={f"{channel[:-1]}*": rights} if rights else {"other": "rw"})


async def subscribes(client: Client, channel: str) -> bool:
    """Subscribe; whether that is allowed, which is the next frame."""
    await client.send(action="subscribe", channel=channel, lastMessageId="$")
    frame = await client.next()
    if frame["status"] == "subscribed":
        return True
    assert list(frame) == ["status", "error", "code", "channel"]
    assert (frame["code"], frame["channel"]) == ("not_allowed", channel)
    assert f"{channel}, which needs the right 'r'" in frame["error"]
    return False


async def publishes(client: Client, channel: str, **more: Any) -> bool:
    """Publish; whether that is allowed, which is the next frame, or the one after a message."""
    await client.send(action="publish", channel=channel, data=1, messageId="m", **more)
    frame = await client.next()
    while "event" in frame:
        frame = await client.next()
    if frame["status"] == "ack":
        return True
    assert list(frame) == ["status", "messageId", "error", "code", "outcome"]
    assert (frame["code"], frame["outcome"]) == ("not_allowed", "not_stored")
    assert f"{channel}, which needs the right 'w'" in frame["error"]
    return False


async def may(client: Client, channel: str) -> str:
    """The rights on a channel, as each action shows them."""
    await client.send(action="unsubscribe", channel=channel)
    assert await client.next() == {"status": "unsubscribed", "channel": channel}
    rights = "r" * await subscribes(client, channel) + "w" * await publishes(client, channel)
    assert await publishes(client, channel, producer="p") is ("w" in rights)
    await client.send(action="unsubscribe", channel=channel)
    while "event" in (frame := await client.next()):
        pass
    assert frame == {"status": "unsubscribed", "channel": channel}
    await client.nothing_more()
    return rights


async def change(client: Client, text: str) -> Any:
    """Send another token; the time it expires at."""
    await client.send(action="token", token=text)
    frame = await client.next()
    assert list(frame) == ["status", "expiresAt"], frame
    assert frame["status"] == "token"
    return frame["expiresAt"]


# --- the table: every right x every action x every kind of token, before and after another one, and after the end ---


@pytest.mark.parametrize("kind", KINDS)
@async_test
async def test_rights_before_and_after_a_change(redis_server: RedisServer, channel: str, kind: str) -> None:
    async with gateway(redis_server.url, jwt_key=pair(kind).public) as server:
        for before in RIGHTS:
            async with connect(server, quoted(signed(kind, before, channel))) as client:
                assert await may(client, channel) == before
                for after in RIGHTS:
                    expires_at = await change(client, signed(kind, after, channel))
                    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", expires_at)
                    assert await may(client, channel) == after
                assert await change(client, KEY) is None
                assert await may(client, channel) == "rw"
                await change(client, signed(kind, before, channel))
                assert await may(client, channel) == before


def put_forward(server: SingleProcess, by_s: float) -> None:
    """Set the clock that tokens are held against."""
    access: Any = server.server.clients._access
    access.ends._clock = access._tokens.signed._clock = lambda: time.time() + by_s
    access.ends.tell_due()


@pytest.mark.parametrize("kind", KINDS)
@async_test
async def test_nothing_is_left_after_the_end(redis_server: RedisServer, channel: str, kind: str) -> None:
    async with gateway(redis_server.url, jwt_key=pair(kind).public) as server, AsyncExitStack() as stack:
        clients = []
        for rights in RIGHTS:
            for is_changed in (False, True):
                text = signed(kind, rights, channel)
                first = token(kind, channels={}) if is_changed else text
                client = await stack.enter_async_context(connect(server, quoted(first)))
                if is_changed:
                    await change(client, text)
                assert await may(client, channel) == rights
                clients.append((client, text))
        put_forward(server, 565)
        for client, _ in clients:
            await client.nothing_more()
        put_forward(server, 585)
        for client, _ in clients:
            frame = await client.next()
            assert list(frame) == ["event", "expiresAt"]
            assert frame["event"] == "token_expiring"
            await client.nothing_more()
        put_forward(server, 625)
        for client, text in clients:
            await client.nothing_more()
            await change(client, text)
        put_forward(server, 631)
        for client, text in clients:
            assert await client.closed() == (1008, "token expired")
            assert not await lets_in(server, text)
        assert server.server.board.metrics.tokens_ended == len(clients)
        assert server.server.clients._access.ends.kept == 0


@async_test
async def test_the_secret_keys_may_do_what_the_operator_says(redis_server: RedisServer, channel: str) -> None:
    settings: dict[str, Any] = {"previous_secret_key": PREVIOUS, "jwt_key": SECRET}
    for key_may, rights in (((), "rw"), ((f"{channel}=r",), "r"), (("test-*=w",), "w"), (("x=rw",), "")):
        async with gateway(redis_server.url, key_may=key_may, **settings) as server:
            for key in (KEY, PREVIOUS):
                async with connect(server, quoted(key)) as client:
                    assert await may(client, channel) == rights
            async with connect(server, quoted(signed("HS256", "rw", channel))) as client:
                assert await may(client, channel) == "rw"


# --- another token on the open connection ---


@async_test
async def test_subscriptions_that_are_still_covered_go_on_and_the_others_end(
    redis_server: RedisServer, channel: str
) -> None:
    kept, lost = f"{channel}-kept", f"{channel}-lost"
    async with (
        gateway(redis_server.url, jwt_key=SECRET) as server,
        connect(server, quoted(token(channels={"*": "r"}))) as client,
    ):
        for name in (kept, lost):
            await client.subscribe(name)
        await change(client, token(channels={kept: "r"}))
        assert "which needs the right 'r'" in (await client.expect_error("not_allowed", lost))["error"]
        add(redis_server, lost, "1")
        add(redis_server, kept, "2")
        assert (await client.message(kept))[1] == 2
        await client.nothing_more()
        assert {each.name for each in server.server.hub.channels} == {kept}


@async_test
async def test_a_subscribe_under_way_has_one_answer(redis_server: RedisServer, channel: str) -> None:
    async with (
        gateway(redis_server.url, jwt_key=SECRET) as server,
        connect(server, quoted(token(channels={"*": "rw"}))) as client,
    ):
        narrow = token(channels={"other": "r"})
        texts = [
            json.dumps({"action": "subscribe", "channel": channel}),
            json.dumps({"action": "subscribe", "channel": channel}),
            json.dumps({"action": "publish", "channel": channel, "data": 1, "messageId": "m"}),
            json.dumps({"action": "token", "token": narrow}),
        ]
        for text in texts:
            await client.send_text(text)
        frames = [await client.next() for _ in texts]
        assert sorted(frame["status"] for frame in frames) == ["error", "error", "error_ack", "token"]
        assert {frame.get("code") for frame in frames} == {None, "not_allowed"}
        await client.nothing_more()
        assert not server.server.hub.channels
    assert not entries(redis_server, channel)


@async_test
async def test_a_bad_token_changes_nothing(redis_server: RedisServer, channel: str) -> None:
    limits = replace(DEFAULTS, free_tries=20, refusal=Backoff(0.05, 0.05))
    async with (
        gateway(redis_server.url, limits, jwt_key=SECRET) as server,
        connect(server, quoted(token(channels={channel: "r"}))) as client,
    ):
        await client.subscribe(channel)
        wrong = ["", "x", KEY + "x", token(exp=time.time() - 31), sign("none", "", claims()), token("RS256")]
        for text in wrong:
            await client.send(action="token", token=text)
            frame = await client.expect_error("bad_token")
            assert frame["error"] == "the token is wrong; the one before still holds"
        odd: Any
        for odd in (None, 1, [], {}):
            await client.send(action="token", token=odd)
            await client.expect_error("bad_request")
        await client.send(action="token")
        await client.expect_error("bad_request")
        add(redis_server, channel, "1")
        assert (await client.message(channel))[1] == 1
        assert not await publishes(client, channel)


@async_test
async def test_many_wrong_ones_wait_and_a_right_one_does_not(redis_server: RedisServer) -> None:
    limits = replace(DEFAULTS, free_tries=1, refusal=Backoff(2, 2))
    async with gateway(redis_server.url, limits, jwt_key=SECRET) as server, connect(server) as client:
        await client.send(action="token", token="x")
        await client.expect_error("bad_token")
        began = time.monotonic()
        await client.send(action="token", token="x")
        await change(client, token())
        assert time.monotonic() - began < 1.5
        async with connect(server, quoted(token())):
            assert time.monotonic() - began < 1.9
        await client.expect_error("bad_token")
        assert time.monotonic() - began > 1.9
        assert [each.under_way for each in server.server.clients.sessions] == [(0, 0)]
        await client.nothing_more()


# --- the end ---


@async_test
async def test_a_new_token_in_time_puts_off_the_end(redis_server: RedisServer, channel: str) -> None:
    async with (
        gateway(redis_server.url, STRICT, jwt_key=SECRET) as server,
        connect(server, quoted(signed("HS256", "r", channel, 0.4))) as client,
    ):
        await client.subscribe(channel)
        assert (await client.next())["event"] == "token_expiring"
        await change(client, signed("HS256", "r", channel))
        await asyncio.sleep(0.4)
        add(redis_server, channel, "1")
        assert (await client.message(channel))[1] == 1
        await client.nothing_more()


@async_test
async def test_what_was_received_before_the_end_is_answered_and_nothing_is_delivered_after(
    own_redis: RedisServer, channel: str
) -> None:
    async with (
        gateway(own_redis.url, STRICT, jwt_key=SECRET) as server,
        connect(server, quoted(signed("HS256", "rw", channel, 0.6))) as client,
    ):
        await client.subscribe(channel)
        own_redis.pause()
        await client.send(action="publish", channel=channel, data=1, messageId="m")
        await until(lambda: server.server.board.metrics.tokens_ended)
        own_redis.resume()
        assert (await client.next())["event"] == "token_expiring"
        frame = await client.next()
        assert (frame["status"], frame["messageId"]) == ("ack", "m")
        assert await client.closed() == (1008, "token expired")


@async_test
async def test_thirty_seconds_are_forgiven(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, jwt_key=SECRET) as server:
        for text in (token(exp=time.time() - 28), token(nbf=time.time() + 28)):
            async with connect(server, quoted(text)) as client:
                await client.nothing_more()


# --- where it comes from ---


@asynccontextmanager
async def answered(
    server: Reachable, path: str = "/", headers: dict[str, str] | None = None, offered: list[str] | None = None
) -> AsyncIterator[tuple[str, str | None]]:
    """The first frame, and the subprotocol that was chosen."""
    async with (
        websocket_connect(
            server.url + path,
            additional_headers=headers,
            subprotocols=[Subprotocol(each) for each in offered] if offered else None,
            proxy=None,
        ) as client,
        asyncio.timeout(PATIENCE_S),
    ):
        yield str(await client.recv()), client.subprotocol


@async_test
async def test_a_token_from_each_place_and_no_other(redis_server: RedisServer) -> None:
    text = token("ES256")
    bearer = {"Authorization": f"Bearer {text}"}
    protocol = f"rsws.token.{encoded(text.encode())}"
    wrong = f"rsws.token.{encoded(b'wrong')}"
    cases: list[tuple[str, dict[str, str], list[str], str, str | None]] = [
        ("/", bearer, [], WELCOME, None),
        ("/", {"Authorization": f"bearer  {KEY}"}, [], WELCOME, None),
        ("/?token=wrong", bearer, [wrong, "rsws"], WELCOME, "rsws"),
        ("/?token=wrong", {}, ["rsws", protocol], WELCOME, "rsws"),
        ("/?token=wrong", {"Authorization": "Basic eDp5"}, ["chat", protocol, "rsws"], WELCOME, "rsws"),
        (quoted(text), {}, ["rsws"], WELCOME, "rsws"),
        (quoted(KEY), {}, ["chat", "rsws"], WELCOME, "chat"),
        (quoted(KEY), {"Authorization": "Bearer wrong"}, ["rsws", protocol], UNAUTHORIZED, "rsws"),
        (quoted(KEY), {"Authorization": "Bearer"}, [], UNAUTHORIZED, None),
        (quoted(KEY), {}, ["rsws", wrong], UNAUTHORIZED, "rsws"),
        (quoted(KEY), {}, ["rsws", protocol, wrong], UNAUTHORIZED, "rsws"),
        ("/", {}, ["chat", protocol], UNAUTHORIZED, "chat"),
        ("/", {}, ["rsws", encoded(text.encode())], UNAUTHORIZED, "rsws"),
        ("/", {"Cookie": f"token={text}", "X-Token": text}, [], UNAUTHORIZED, None),
        ("/", {"Authorization": f"Basic {text}"}, [], UNAUTHORIZED, None),
        (f"/{text}?access_token={text}", {}, [], UNAUTHORIZED, None),
    ]
    async with gateway(redis_server.url, jwt_key=pair("ES256").public) as server:
        for path, headers, offered, frame, chosen in cases:
            async with answered(server, path, headers, offered) as answer:
                assert answer == (frame, chosen), (path[:20], headers, offered)
        async with Wire(server) as wire:  # a token's subprotocol alone: that is never given back
            head = await wire.handshake("/", headers=f"Sec-WebSocket-Protocol: {protocol}\r\n")
            assert "sec-websocket-protocol" not in head.lower()
            assert await wire.text() == UNAUTHORIZED


# --- what is refused, and what is said of it ---

NOW = time.time()
ATTEMPTS: dict[str, tuple[str, str]] = {
    "no token": ("", "no token"),
    "a wrong one": ("Wr0ngT0ken", "wrong token"),
    "none": (sign("none", "", claims(), {"kid": "RS256"}), "a JWT with another algorithm than its key's"),
    "the public key as a secret": (sign("HS256", pair("RS256").public, claims(), {"kid": "RS256"}), "another algo"),
    "another's signature": (sign("ES256", pair("ES256").private, claims(), {"kid": "x"}), "kid that is not among"),
    "a kid of a file": (sign("RS256", pair("RS256").private, claims(), {"kid": "../../dev/null"}), "kid that is not"),
    "no kid": (token("RS256"), "a JWT without kid"),
    "a changed signature": (token("JWKS")[:-20] + "A" * 20, "a JWT with a wrong signature"),
    "expired": (token("JWKS", exp=NOW - 3600), "a JWT that has expired"),
    "from the future": (token("JWKS", nbf=NOW + 3600), "a JWT from the future"),
    "without exp": (token("JWKS", exp=None), "a JWT without exp"),
    "for others": (token("JWKS", aud="others"), "a JWT for another audience"),
}  # fmt: skip


@async_test
async def test_each_attempt_is_refused_alike_and_logged_with_its_reason(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="rsws")
    settings = {"jwt_key": jwks("RS256", "ES256"), "jwt_audience": "us"}
    limits = replace(DEFAULTS, free_tries=100)
    for name, (text, reason) in ATTEMPTS.items():
        async with gateway(redis_server.url, limits, **settings) as server:
            caplog.clear()
            for _ in range(3):
                async with Wire(server) as wire:
                    await wire.handshake(quoted(text) if text else "/")
                    assert (await wire.frame(), (await wire.frame())[1]) == (
                        (1, UNAUTHORIZED.encode()), b"\x03\xf0Unauthorized",
                    )  # fmt: skip
            async with connect(server) as client:
                await client.send(action="token", token=text)
                await client.expect_error("bad_token")
        lines = [each.getMessage() for each in caplog.records if "token refused" in each.getMessage()]
        assert len(lines) == 1, name  # and one in 10 s, with their number
        assert re.fullmatch(r'token refused client=[\d.:]+( who=alice)? source=url reason=".*" refused=1', lines[0])
        assert reason in lines[0], name
        if text:
            assert not any(part in caplog.text for part in text.split(".") if len(part) > 4), name
        assert server.server.board.metrics.tokens_refused == 4


@async_test
async def test_log_lines_say_who_and_nothing_that_a_terminal_obeys(
    redis_server: RedisServer, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with gateway(redis_server.url, STRICT, jwt_key=SECRET) as server:
        text = token(exp=time.time() + 0.4, sub='a"\n\x1b[31m clients=9' + "x" * 500, channels={channel: "r"})
        async with connect(server, quoted(text)) as client:
            assert not await publishes(client, channel)
            assert not await publishes(client, channel)
            assert (await client.next())["event"] == "token_expiring"
            await client.closed()
        assert server.server.board.metrics.requests_not_allowed == 2
    lines = [SafeFormatter().format(each) for each in caplog.records if "who=" in each.getMessage()]
    said = [line.split(" client=")[0] for line in lines]
    assert said == ["client connected", "request not allowed", "token expired", "client gone"]
    assert all(r'who="a\"\n\u001b[31m clients=9xx' in line for line in lines)
    assert all(len(line) < 250 for line in lines)


# --- keys that change ---


async def lets_in(server: Reachable, text: str) -> bool:
    async with connect(server, quoted(text), welcome=False) as client:
        return await client.text() == WELCOME


@async_test
async def test_keys_change_while_clients_stay(redis_server: RedisServer, channel: str, tmp_path: Path) -> None:
    limits = replace(DEFAULTS, key_files_check_s=0.02, free_tries=1000)
    files = {name: tmp_path / name for name in ("secret_key_file", "previous_secret_key_file", "jwt_key_file")}
    for name, text in (("secret_key_file", "first"), ("previous_secret_key_file", "first")):
        files[name].write_text(text)
    files["jwt_key_file"].write_text(jwks("RS256"))
    async with gateway(redis_server.url, limits, secret_key=None, **files) as server:
        signed_token = token("JWKS")
        assert not await lets_in(server, signed_token)
        async with connect(server, quoted("first")) as client:
            files["secret_key_file"].write_text("second")
            files["jwt_key_file"].write_text(jwks("RS256", "ES256"))
            access: Any = server.server.clients._access
            await until(lambda: access._tokens._key == b"second" and len(access._tokens.signed.keys) == 2)
            for text in ("first", "second", signed_token):
                assert await lets_in(server, text)
            files["previous_secret_key_file"].write_text("second")
            files["jwt_key_file"].write_text("nonsense")
            await until(lambda: access._tokens._previous == b"second")
            assert not await lets_in(server, "first")
            assert await lets_in(server, signed_token)
            assert await may(client, channel) == "rw"

"""Who is let in, and who not: tokens, crowds, plain HTTP, and what is never in a log line."""

from __future__ import annotations

import logging
import select
import socket
import struct
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from kit.gateway import (
    FEW_FILES,
    KEY,
    UNAUTHORIZED,
    WELCOME,
    Wire,
    add,
    async_test,
    connect,
    entries,
    frame,
    gateway,
    handshake,
    http,
    quoted,
    request,
    until,
    until_status,
)
from kit.support import RedisServer, eventually, run_python
from rsws.errors import SetupError

both_loops = pytest.mark.usefixtures("event_loop_kind")


# --- connect ---


@pytest.mark.parametrize(
    "path",
    [f"/?token={KEY}", f"?token={KEY}", f"/ws?token={KEY}", f"/a/b%20c/?x=1&token={KEY}&y", f"/healthz?token={KEY}"],
)
@async_test
async def test_connect_on_any_path(redis_server: RedisServer, path: str) -> None:
    async with gateway(redis_server.url) as server, connect(server, path, welcome=False) as client:
        await client.expect(WELCOME)
        await client.nothing_more()


@pytest.mark.parametrize("key", ["a+b/c=d", "a&b=c", "100%", "%41", "a b", "schlüssel €", "#?;"])
@async_test
async def test_a_key_may_hold_anything(redis_server: RedisServer, key: str) -> None:
    async with gateway(redis_server.url, secret_key=key) as server:
        async with connect(server, quoted(key)) as client:
            await client.nothing_more()
        async with connect(server, quoted(key + "x"), welcome=False) as client:
            await client.expect(UNAUTHORIZED)


@async_test
async def test_a_key_with_a_plus_that_the_page_did_not_escape(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, secret_key="a+b/c==") as server, connect(server, "/?token=a+b/c==") as client:
        await client.nothing_more()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/?",
        "/?token",
        "/?token=",
        "/?token=wrong",
        "/?token=K",
        "/?token=kk",
        "/?token=%00k",
        "/?token=%ff",
        "/?Token=k",
        "/?xtoken=k",
        "/?x=token=k",
        "/?token=wrong&token=k",
        "/token=k",
        "/?token=k%20",
    ],
)
@async_test
async def test_a_wrong_or_missing_token(redis_server: RedisServer, path: str) -> None:
    async with gateway(redis_server.url) as server, connect(server, path, welcome=False) as client:
        await client.expect(UNAUTHORIZED)
        assert await client.closed() == (1008, "Unauthorized")


@async_test
async def test_a_token_that_is_no_ascii_on_the_wire(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.send(handshake("/?token=XX").replace(b"XX", b"\xff\xc3"))
        received = await wire.read_to_end()
        assert received.startswith(b"HTTP/1.1 400 ")
        async with connect(server) as client:
            await client.nothing_more()


@async_test
async def test_nothing_is_looked_at_without_a_token(redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "0")
    requests = [
        request(action="publish", channel=channel, data=1, messageId="m"),
        request(action="subscribe", channel=channel),
        request(action="ping"),
        frame(b"not JSON"),
        frame(b"binary", 2),
    ]
    async with gateway(redis_server.url) as server:
        for token in ("", "wrong"):
            async with Wire(server) as wire:
                await wire.handshake(f"/?token={token}", and_send=b"".join(requests))
                assert await wire.text() == UNAUTHORIZED
                assert await wire.close_code() == 1008
                await wire.send(frame(struct.pack("!H", 1008), 8))
                assert not await wire.read_some()
            async with Wire(server) as wire:
                await wire.handshake(f"/?token={token}")
                await wire.send(b"".join(requests))
                assert await wire.text() == UNAUTHORIZED
                assert await wire.close_code() == 1008
        async with connect(server) as client:
            await client.publish(channel, 2)
    assert [fields for _, fields in entries(redis_server, channel)] == [{"messageData": "0"}, {"messageData": "2"}]


# --- crowds ---


@both_loops
@async_test
async def test_a_client_too_many_is_told_to_come_back_later(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(redis_server.url, max_clients=2) as server, connect(server) as first:
        async with connect(server) as second:
            for _ in range(5):
                async with connect(server, welcome=False) as third:
                    assert await third.closed() == (1013, "too many clients")
            async with connect(server, "/?token=wrong", welcome=False) as refused:
                await refused.expect(UNAUTHORIZED)
            await first.nothing_more()
            await second.nothing_more()
        await until(lambda: len(server.server.clients.sessions) == 1)
        async with connect(server) as third:
            await third.nothing_more()
    said = [record.getMessage() for record in caplog.records if "no room" in record.getMessage()]
    assert said == ["no room for another client clients=2 connections=3 turned_away=1"]


def test_a_crowd_does_not_take_the_last_open_file(redis_server: RedisServer, event_loop_kind: str) -> None:
    with run_python(FEW_FILES, redis_server.url, event_loop_kind, "100") as process, ExitStack() as crowd:
        assert process.stdout is not None
        url = urlsplit(next(line for line in process.stdout if line.startswith("ws://")))
        silent = [crowd.enter_context(socket.socket()) for _ in range(500)]
        for each in silent:
            each.setblocking(False)
            each.connect_ex((url.hostname, url.port))
        eventually(lambda: len(select.select(silent, [], [], 0)[0]) >= 500 - 52, what="cutting off")
        assert len(select.select(silent, [], [], 0.1)[0]) == 500 - 52  # 100 files, 48 of them for the gateway itself
        crowd.close()
        process.terminate()
        log = process.stdout.read()
    assert process.returncode == 0
    assert "no room for another client clients=0 connections=52" in log
    assert "Traceback" not in log


# --- HTTP ---


@both_loops
@async_test
async def test_health_over_plain_http(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server:
        assert (await http(server, "/healthz"))[0] == 200
        assert (await http(server, "/healthz?x=1"))[0] == 200
        await until_status(server, "/readyz", 200)
        for path in ("/", "/ws", f"/?token={KEY}", "/healthz/", "/metrics/", "/favicon.ico", "//x", "//[", "*"):
            status, body = await http(server, path)
            assert status == 426, path
            assert "ws://" in body


# --- tokens and logs ---


@async_test
async def test_a_token_is_never_in_a_log_line(
    redis_server: RedisServer, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("websockets", "websockets.server", "rsws"):
        caplog.set_level(logging.DEBUG, logger=name)
    secret = "S3cretOfTheGateway"
    async with gateway(redis_server.url, secret_key=secret) as server:
        async with Wire(server) as wire:
            await wire.handshake(f"/?token={secret}")
            assert await wire.text() == WELCOME
            await wire.send(request(action="subscribe", channel=channel) + frame(b"nonsense") + frame(b"x", 2))
            await wire.read_some()
        for wrong in (f"/?token={secret}x", f"/?Token={secret}"):
            async with Wire(server) as wire:
                await wire.handshake(wrong)
                assert await wire.text() == UNAUTHORIZED
        await http(server, f"/?token={secret}")
        for data in (
            f"GET /?token={secret}\r\n\r\n".encode(),
            f"GET /?token={secret} HTTP/1.1\r\nUpgrade: websocket\r\n\r\n".encode(),
            f"POST /?token={secret} HTTP/1.1\r\n\r\n".encode(),
            f"GET /?token={secret}{'x' * 20_000} HTTP/1.1\r\n\r\n".encode(),
        ):
            async with Wire(server) as wire:
                await wire.send(data)
                await wire.read_to_end()
    assert "client connected" in caplog.text
    assert "token refused" in caplog.text
    assert secret not in caplog.text


@async_test
async def test_a_password_of_redis_is_never_in_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with RedisServer(requirepass="S3cretOfRedis") as redis:
        async with gateway(redis.url) as server, connect(server) as client:
            await client.publish("c", 1)
            redis.kill()
            await client.send(action="publish", channel="c", data=1, messageId="m")
            await client.next()
            assert "S3cretOfRedis" not in server.redis_description
        redis.start()
        with pytest.raises(SetupError) as caught:
            async with gateway(redis.url.replace("OfRedis", "OfNobody")):
                pass
    assert "S3cret" not in str(caught.value)
    assert "S3cret" not in caplog.text

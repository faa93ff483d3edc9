"""Who is let in, whatever comes to the door: silent crowds, and guesses of the token."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from kit import gateway as gateway_kit
from kit.gateway import FEW_FILES, PATIENCE_S, UNAUTHORIZED, WELCOME, Wire, async_test, connect, gateway, http, until
from kit.support import RedisServer, run_python
from rsws.backoff import Backoff
from rsws.errors import CloseCode
from rsws.gateway.access.attempts import WrongTokens
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.logs import NowAndThen

pytestmark = pytest.mark.usefixtures("event_loop_kind")


# --- silent crowds ---


class There(NamedTuple):
    """A gateway in another process."""

    url: str


@async_test
async def test_silent_connections_keep_nobody_out(redis_server: RedisServer, event_loop_kind: str) -> None:
    with run_python(FEW_FILES, redis_server.url, event_loop_kind, "160") as process:
        assert process.stdout is not None
        server = There(next(line.strip() for line in process.stdout if line.startswith("ws://")))
        url = urlsplit(server.url)
        address = url.hostname, url.port
        async with AsyncExitStack() as stack:

            async def crowd() -> None:
                for _ in range(200):
                    silent = stack.enter_context(socket.socket())
                    silent.setblocking(False)
                    async with asyncio.timeout(PATIENCE_S):
                        await asyncio.get_running_loop().sock_connect(silent, address)

            await crowd()
            room = 160 - 48 - 16  # but for the gateway's own files, and those of the door
            honest = [await stack.enter_async_context(connect(server)) for _ in range(room)]
            await crowd()
            async with connect(server, welcome=False) as one_too_many:
                assert await one_too_many.closed() == (1013, "too many clients")
            for client in honest:
                await client.nothing_more()
            await honest[0].websocket.close()
            async with connect(server):
                pass
        process.terminate()
        log = process.stdout.read()
    assert process.returncode == 0
    assert "Traceback" not in log
    assert "Too many open files" not in log


NARROW_DOOR = replace(DEFAULTS, door_least=1, door_most=4)


@async_test
async def test_the_oldest_silent_one_makes_room(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, NARROW_DOOR) as server, connect(server) as client, AsyncExitStack() as stack:
        silent = []
        for number in range(6):
            silent.append(await stack.enter_async_context(Wire(server)))
            await silent[-1].send(b"GET / HTTP/1.1\r\n"[:number])
            await until(lambda n=number: server.server.clients.at_the_door == min(n + 1, 4))  # type: ignore[misc]
        assert await silent[0].read_to_end() == b""
        assert await silent[1].read_to_end() == b""
        await silent[2].send(b"GET /?token=k HTTP/1.1\r\n\r\n"[2:])
        assert (await silent[2].read_to_end()).startswith(b"HTTP/1.1 426")
        await client.nothing_more()
        assert server.server.board.metrics.clients_turned_away == 2


@async_test
async def test_those_who_got_something_else_than_a_welcome_make_room_too(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, NARROW_DOOR) as server, connect(server) as client, AsyncExitStack() as stack:
        for _ in range(10):
            wire = await stack.enter_async_context(Wire(server))
            await wire.send(b"GET /healthz HTTP/1.1\r\n\r\n")
            while b"ok" not in wire.received:  # and it does not go then
                assert await wire.read_some()
        assert server.server.clients.at_the_door <= 4
        async with connect(server) as other:
            await other.nothing_more()
        await client.nothing_more()


@async_test
async def test_clients_that_close_are_not_cut_off(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, NARROW_DOOR) as server, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(server)) for _ in range(4)]
        for wire in wires:
            await wire.handshake()
            assert await wire.text() == WELCOME
        closing = [*server.server.clients.sessions]
        for each in closing:
            each.close(CloseCode.GOING_AWAY, "bye")
        for _ in range(8):
            await stack.enter_async_context(Wire(server))
        await until(lambda: server.server.board.metrics.clients_turned_away == 4)
        assert [await wire.close_code() for wire in wires] == [1001] * 4
        assert {*closing} < {*server.server.clients}
        assert server.server.clients.at_the_door == 4


# --- wrong tokens ---


WRONG_FOR_LONG = replace(DEFAULTS, free_tries=1, refusal=Backoff(600.0, 600.0))
"""One wrong token is refused at once, the next waits for longer than any test."""


async def refused(server: gateway_kit.Reachable) -> None:
    async with connect(server, "/?token=wrong", welcome=False) as client:
        await client.expect(UNAUTHORIZED)
        assert await client.closed() == (1008, "Unauthorized")


@async_test
async def test_who_has_the_token_does_not_wait(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, WRONG_FOR_LONG) as server, Wire(server) as wire:
        await refused(server)
        await wire.handshake("/?token=wrong", and_send=b"x" * 100_000)
        async with connect(server) as client:
            await client.nothing_more()
        assert wire.received == b""
        with pytest.raises(BlockingIOError):  # there is nothing to be read, and no end either
            wire.socket.recv(1)
        assert server.server.clients.at_the_door == 1
        assert (await http(server, "/healthz"))[0] == 200
    assert server.server.clients.at_the_door == 0


@async_test
async def test_no_more_than_the_door_holds_wait_for_their_refusal(redis_server: RedisServer) -> None:
    limits = replace(WRONG_FOR_LONG, door_least=1, door_most=4)
    async with gateway(redis_server.url, limits) as server, AsyncExitStack() as stack:
        await refused(server)
        for _ in range(12):
            wire = await stack.enter_async_context(Wire(server))
            await wire.send(gateway_kit.handshake("/?token=wrong"))
        await until(lambda: server.server.board.metrics.tokens_refused == 13)
        assert server.server.clients.at_the_door <= 4
        async with connect(server) as client:
            await client.nothing_more()


@async_test
async def test_a_refusal_that_waited_is_the_same(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with gateway(redis_server.url, replace(DEFAULTS, refusal=Backoff(0.001, 0.01))) as server:
        for _ in range(DEFAULTS.free_tries + 12):
            await refused(server)
        assert server.server.board.metrics.tokens_refused == DEFAULTS.free_tries + 12
    said = [record.getMessage() for record in caplog.records if "token refused" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("token refused client=127.0.0.1:")
    assert said[0].endswith(" refused=1")


def test_each_further_one_waits_longer() -> None:
    wrong = WrongTokens()
    waits = [wrong.wait_s("192.0.2.1", now=float(second)) for second in range(40)]
    assert waits[: DEFAULTS.free_tries] == [0.0] * DEFAULTS.free_tries
    assert waits[DEFAULTS.free_tries] > 0
    assert waits == sorted(waits)
    assert waits[-1] == DEFAULTS.refusal.longest_s
    assert wrong.wait_s("192.0.2.2", 40.0) == 0
    assert wrong.wait_s("192.0.2.1", 41.0 + DEFAULTS.forget_tries_s) == 0


def test_an_address_of_ipv6_is_one_of_a_network() -> None:
    wrong = WrongTokens()
    waits = [wrong.wait_s(f"2001:db8::{number:x}", 0.0) for number in range(DEFAULTS.free_tries + 2)]
    assert waits[-1] > 0
    assert wrong.wait_s("2001:db8:0:1::1", 0.0) == 0
    assert wrong.wait_s("fe80::1%eth0", 0.0) == 0
    assert wrong.wait_s("", 0.0) == 0


def test_no_more_addresses_are_kept_than_there_is_room_for() -> None:
    wrong = WrongTokens()
    for _ in range(DEFAULTS.free_tries + 1):
        wrong.wait_s("192.0.2.1", 0.0)
    for number in range(DEFAULTS.max_addresses - 1):
        wrong.wait_s(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1.0)
    assert wrong.wait_s("192.0.2.1", 1.0) > 0
    for number in range(DEFAULTS.max_addresses):
        wrong.wait_s(f"11.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1.0)
    assert len(wrong) == DEFAULTS.max_addresses
    assert wrong.wait_s("192.0.2.1", 1.0) == 0


def test_a_line_of_a_crowd_is_said_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 5.0
    monkeypatch.setattr("rsws.gateway.logs.time.monotonic", lambda: now)
    line = NowAndThen(logging.getLogger("rsws.gateway"))
    for now in (5.0, 5.1, 14.9, 15.0, 15.1, 30.0):
        line.warning("said", at=now)
    assert [record.getMessage() for record in caplog.records] == ["said at=5.0", "said at=15.0", "said at=30.0"]

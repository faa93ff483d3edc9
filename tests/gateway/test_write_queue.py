"""What is written past the transport, and what is not."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

from kit.gateway import WELCOME, Wire, async_test, gateway, until
from kit.support import RedisServer
from rsws.gateway.websocket.frames import text_frame

pytestmark = pytest.mark.usefixtures("event_loop_kind")


@async_test
async def test_what_the_socket_does_not_take_leaves_in_order(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    write = os.write

    def watched(descriptor: int, data: bytes) -> int:
        taken.append(write(descriptor, data))
        return taken[-1]

    async with gateway(redis_server.url) as server, Wire(server, 4096) as wire:
        await wire.handshake()
        assert await wire.text() == WELCOME
        [connection] = server.server.clients.sessions
        monkeypatch.setattr("rsws.gateway.websocket.write_queue.os.write", watched)
        texts = [str(number) * 50_000 for number in range(10, 90)]
        for text in texts:
            connection.send(text_frame(text.encode()))
        assert sum(taken) < 80 * 100_000, "the socket has taken all"
        assert [await wire.text() for _ in texts] == texts
        await until(lambda: not connection.buffered_bytes)
        behind = len(taken)
        for text in ("first", "second"):
            connection.send(text_frame(text.encode()))
            assert await wire.text() == text
        assert len(taken) == behind + 1, "the first shows that nothing waits, so that the second needs no transport"


@async_test
async def test_nothing_is_written_to_the_descriptor_of_a_lost_connection(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    async with gateway(redis_server.url) as server:
        async with Wire(server) as wire:
            await wire.handshake()
            assert await wire.text() == WELCOME
            [connection] = server.server.clients.sessions
        await until(lambda: not server.server.clients.sessions)
        monkeypatch.setattr(
            "rsws.gateway.websocket.write_queue.os.write", lambda descriptor, _: written.append(descriptor)
        )
        with suppress(RuntimeError):  # how uvloop's transport says that it is closed
            connection.send(text_frame(b"late"))
        assert written == []

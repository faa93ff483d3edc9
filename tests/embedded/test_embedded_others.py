"""Whose Redis it is: gateways that share a server, the user's own, and what is none."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from contextlib import suppress
from dataclasses import replace

import pytest

from kit.local_redis import Gateway, Run, add, answers, enter, history, server_pid, until_seen, watched
from kit.support import (
    RedisServer,
    eventually,
    free_port,
)
from rsws.backoff import Backoff
from rsws.datadir import DataDir
from rsws.embedded import local as local_redis
from rsws.embedded import valkey
from rsws.embedded.limits import DEFAULTS
from rsws.embedded.local import LocalRedis
from rsws.embedded.valkey import Where
from rsws.errors import SetupError


def test_a_second_gateway_shares_the_server(gateway: Gateway, data_dir: DataDir, port: int) -> None:

    async def main() -> None:
        async with watched(LocalRedis(data_dir, port)) as local:
            assert local.embedded
            assert local.directory == data_dir.redis
            assert f"pid {gateway.process.pid}" in local.description
        assert server_pid(port) == gateway.server

    asyncio.run(main())


def test_gateways_that_start_at_once_share_one_server(data_dir: DataDir, port: int, run: Run) -> None:
    async def main() -> None:
        gateways = [LocalRedis(data_dir, port) for _ in range(8)]
        await asyncio.gather(*(gateway.__aenter__() for gateway in gateways))
        assert all(gateway.embedded for gateway in gateways)
        assert len([gateway for gateway in gateways if "of the gateway with pid" not in gateway.description]) == 1
        for gateway in gateways:
            await gateway.__aexit__(None, None, None)
        assert not answers(port)

    run(main())


def test_a_shared_server_is_taken_over(data_dir: DataDir, port: int) -> None:
    async def main() -> None:
        async with watched(LocalRedis(data_dir, port)):
            add(port, "1")
            first = server_pid(port)
            second = LocalRedis(data_dir, port)
            third = LocalRedis(data_dir, port)
            await asyncio.gather(second.__aenter__(), third.__aenter__())
            watches = [asyncio.create_task(local.watch()) for local in (second, third)]
        await until_seen(lambda: answers(port) and server_pid(port) != first, "the take-over")
        assert history(port) == ["1"]
        await until_seen(
            lambda: (
                sorted("of the gateway with pid" in local.description for local in (second, third)) == [False, True]
            ),
            "one owner, one guest",
        )
        for local, watch in zip((second, third), watches, strict=True):
            assert not watch.done()
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
            await local.__aexit__(None, None, None)
        assert not answers(port)

    asyncio.run(main())


def test_a_shared_server_is_not_exchanged_for_another_redis(
    gateway: Gateway,
    data_dir: DataDir,
    port: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = replace(DEFAULTS, restart=Backoff(0.5, 30.0))

    async def main() -> None:
        async with watched(LocalRedis(data_dir, port, limits=limits)) as local:
            add(port, "1")
            gateway.process.kill()
            await until_seen(lambda: not answers(port), "end of the shared server")
            with RedisServer(port):
                await until_seen(lambda: "is not the embedded server" in caplog.text, "the complaint")
                assert local.embedded
            await until_seen(lambda: answers(port), "the take-over")
            assert history(port) == ["1"]

    asyncio.run(main())


def test_a_gateway_that_was_first_by_a_moment_is_found(
    data_dir: DataDir, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = LocalRedis(data_dir, port), LocalRedis(data_dir, port)

    async def ping_after_the_first(where: Where, timeout_s: float) -> bytes | None:
        monkeypatch.setattr(local_redis, "ping", valkey.ping)
        await first.__aenter__()
        return await valkey.ping(where, timeout_s)

    async def main() -> None:
        monkeypatch.setattr(local_redis, "ping", ping_after_the_first)
        async with second:
            assert second.embedded
        await first.__aexit__(None, None, None)

    asyncio.run(main())


def test_two_servers_on_one_directory_are_refused(gateway: Gateway, data_dir: DataDir, port: int) -> None:
    with pytest.raises(SetupError, match=rf"pid {gateway.process.pid} .*{data_dir.redis} on port {port}") as refused:
        enter(data_dir, free_port())
    assert "--data-dir" in str(refused.value)


def test_a_gateway_whose_server_does_not_answer_is_named(gateway: Gateway, data_dir: DataDir, port: int) -> None:
    limits = replace(DEFAULTS, takeover_timeout_s=0.1, probe_timeout_s=0.1)
    os.kill(gateway.server, signal.SIGSTOP)
    with pytest.raises(
        SetupError, match=rf"pid {gateway.process.pid} .*{data_dir.redis}.* does not answer on 127.0.0.1:{port}"
    ):
        enter(data_dir, port, limits)
    os.kill(gateway.server, signal.SIGCONT)


def test_the_users_own_redis_is_used_and_nothing_started_in_its_place(
    data_dir: DataDir, own_redis: RedisServer
) -> None:
    async def main() -> None:
        async with watched(LocalRedis(data_dir, own_redis.port)) as local:
            assert local.url == own_redis.url
            assert not local.embedded
            assert local.directory is None
            own_redis.stop()
            await asyncio.sleep(5 * DEFAULTS.restart.first_s)
            assert not answers(own_redis.port)
        assert not data_dir.path.exists()

    asyncio.run(main())


def test_the_users_own_redis_goes_before_the_servers_of_earlier_days(data_dir: DataDir, own_redis: RedisServer) -> None:
    enter(data_dir, free_port())

    async def main() -> None:
        async with LocalRedis(data_dir, own_redis.port) as local:
            assert not local.embedded
            assert server_pid(own_redis.port) == own_redis.process.pid  # type: ignore[union-attr]

    asyncio.run(main())
    enter(data_dir, free_port())


def test_the_users_own_redis_beside_another_gateways_server(
    gateway: Gateway, data_dir: DataDir, own_redis: RedisServer
) -> None:
    async def main() -> None:
        async with LocalRedis(data_dir, own_redis.port) as local:
            assert not local.embedded

    asyncio.run(main())


def test_a_redis_that_is_loading_is_a_redis(data_dir: DataDir) -> None:
    with RedisServer(loading_process_events_interval_bytes="1024") as server:
        server.client.mset({f"key-{number}": "x" * 100 for number in range(300)})
        server.call("SAVE")
        server.kill()
        server.options["key-load-delay"] = "10000"  # microseconds
        server.start(wait=False)
        eventually(lambda: "Loading" in server.log)

        async def main() -> None:
            async with LocalRedis(data_dir, server.port) as local:
                assert not local.embedded
                assert (await valkey.ping(server.port) or b"").startswith(b"-LOADING")

        asyncio.run(main())


def test_a_redis_that_wants_a_password(data_dir: DataDir) -> None:
    with (
        RedisServer(requirepass="secret") as server,
        pytest.raises(SetupError, match=f"REDIS_URL=redis://:PASSWORD@127.0.0.1:{server.port}"),
    ):
        enter(data_dir, server.port)


@pytest.mark.parametrize("known", [False, True], ids=["first start", "later"])
def test_what_is_no_redis_is_named(data_dir: DataDir, port: int, known: bool) -> None:
    if known:
        enter(data_dir, port)

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection = listener.accept()[0]
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            with pytest.raises(SetupError, match=rf"127.0.0.1:{port} is no Redis .*HTTP/1.1 400") as refused:
                enter(data_dir, port)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert "RSWS_LOCAL_REDIS_PORT" in str(refused.value)
    assert "REDIS_URL" in str(refused.value)


def test_what_never_answers_is_no_redis(data_dir: DataDir, port: int) -> None:
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(SetupError, match=rf"127.0.0.1:{port} is no Redis \(it did not answer"),
    ):
        enter(data_dir, port, replace(DEFAULTS, probe_timeout_s=0.1))

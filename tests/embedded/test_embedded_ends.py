"""What ends with what, and what is started again: gateways, servers and watchdogs that are killed."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from dataclasses import replace
from functools import partial

import pytest

from kit.local_redis import Gateway, Run, add, answers, enter, history, server_pid, until_seen, watched
from kit.support import (
    eventually,
    is_running,
)
from rsws.datadir import DataDir
from rsws.embedded import valkey
from rsws.embedded.limits import DEFAULTS
from rsws.embedded.local import LocalRedis
from rsws.errors import SetupError


def test_ctrl_c_in_the_terminal_does_not_reach_it(gateway: Gateway) -> None:
    assert len({os.getpgid(gateway.process.pid), os.getpgid(gateway.server), os.getpgid(gateway.watchdog)}) == 3
    assert os.getsid(gateway.server) != os.getsid(gateway.process.pid)
    assert os.getsid(gateway.watchdog) != os.getsid(gateway.process.pid)


def test_kill_9_of_the_gateway_leaves_no_process(gateway: Gateway) -> None:
    gateway.kill_9()
    eventually(lambda: not is_running(gateway.server), 3, "end of the server")  # it is killed after 5 s
    eventually(lambda: not is_running(gateway.watchdog), what="end of the watchdog")


def test_kill_9_of_the_gateway_loses_nothing(gateway: Gateway, data_dir: DataDir, port: int) -> None:

    async def main() -> None:
        for number in range(100):
            add(port, str(number))
        gateway.kill_9()
        async with watched(LocalRedis(data_dir, port)) as local:
            assert "of the gateway with pid" not in local.description, "it runs its own"
            assert server_pid(port) != gateway.server
            assert history(port) == list(map(str, range(100)))

    asyncio.run(main())


def test_a_dying_server_is_not_taken_for_the_users(
    gateway: Gateway, data_dir: DataDir, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    os.kill(gateway.server, signal.SIGSTOP)
    gateway.kill_9()

    async def main() -> None:
        starting = asyncio.create_task(LocalRedis(data_dir, port).__aenter__())
        await until_seen(lambda: "waiting for the end" in caplog.text, "the wait for the dying server")
        assert not starting.done()
        os.kill(gateway.server, signal.SIGCONT)
        local = await starting
        assert server_pid(port) != gateway.server
        await local.__aexit__(None, None, None)

    asyncio.run(main())


def test_a_server_that_does_not_end_is_named(gateway: Gateway, data_dir: DataDir, port: int) -> None:
    limits = replace(DEFAULTS, takeover_timeout_s=0.1)
    os.kill(gateway.watchdog, signal.SIGSTOP)
    gateway.kill_9()
    try:
        with pytest.raises(SetupError, match=rf"{data_dir.redis} does not end; end it \(kill {gateway.server}\)"):
            enter(data_dir, port, limits)
    finally:
        os.kill(gateway.server, signal.SIGKILL)
        os.kill(gateway.watchdog, signal.SIGCONT)
    enter(data_dir, port)


def test_the_death_of_the_server_restarts_it(
    data_dir: DataDir, port: int, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def has_started(times: int) -> bool:
        return caplog.text.count("started valkey") == times

    async def main() -> None:
        async with watched(LocalRedis(data_dir, port)):
            for number in range(3):
                add(port, str(number))
                os.kill(server_pid(port), signal.SIGKILL)
                await until_seen(partial(has_started, number + 2), "the restart")
                assert history(port) == list(map(str, range(number + 1)))
        assert not answers(port)

    run(main())
    assert caplog.text.count("the embedded server has ended (exit code -9)") == 3


def test_a_restart_that_fails_is_tried_again(
    data_dir: DataDir, port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with watched(LocalRedis(data_dir, port)):
            candidates = valkey.candidates
            monkeypatch.setattr(valkey, "candidates", lambda: iter(()))
            os.kill(server_pid(port), signal.SIGKILL)
            await until_seen(lambda: "pip install" in caplog.text, "the failure")
            monkeypatch.setattr(valkey, "candidates", candidates)
            await until_seen(lambda: answers(port), "the restart")

    asyncio.run(main())


def test_the_death_of_the_watchdog_brings_another(data_dir: DataDir, port: int) -> None:
    async def main() -> None:
        async with watched(LocalRedis(data_dir, port)) as local:
            server = local.server
            assert server is not None
            before = server.watchdog_pid
            assert before is not None
            os.kill(before, signal.SIGKILL)
            await until_seen(lambda: server.watchdog_pid != before, "another watchdog")
            assert server.watchdog_pid is not None
            assert is_running(server.watchdog_pid)
            assert server_pid(port) == server.pid

    asyncio.run(main())


def test_a_hung_server_is_killed(data_dir: DataDir, port: int, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with LocalRedis(data_dir, port, limits=replace(DEFAULTS, stop_timeout_s=0.1)):
            add(port, "1")
            os.kill(server_pid(port), signal.SIGSTOP)
        assert not answers(port)
        async with LocalRedis(data_dir, port):
            assert history(port) == ["1"]

    asyncio.run(main())
    assert "killing it" in caplog.text

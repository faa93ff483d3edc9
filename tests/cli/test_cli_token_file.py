"""The file of a client's token, which is read again whenever a token is needed."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from kit.cli import messages_in, run_main, serving
from kit.client import in_a_loop
from kit.gateway import add, gateway
from kit.support import RedisServer, RswsProcess, free_port
from kit.tokens import SECRET, token
from rsws.cli.exits import ExitCode
from rsws.gateway.limits import DEFAULTS

ONE, TWO = "the first key", "the second key"


@pytest.mark.parametrize("way", ["--token-file", "RSWS_TOKEN_FILE", ".env"])
def test_who_comes_back_has_what_is_then_in_the_file(
    redis_server: RedisServer, channel: str, tmp_path: Path, way: str
) -> None:
    port, file = free_port(), tmp_path / "token"
    file.write_text(ONE)
    env = {"RSWS_URL": f"ws://127.0.0.1:{port}"}
    options = [way, str(file)] if way.startswith("--") else []
    if way == ".env":
        Path(".env").write_text(f"WEBSOCKET_SECRET_KEY_FILE={file}\n")
    elif not options:
        env[way] = str(file)
    command = ["pub", channel, "--lines"] if options else ["sub", channel, "--from", "0"]

    def publish(number: int) -> None:
        if options:
            process.send(f"{number}\n")
        else:
            add(redis_server, channel, str(number))
        process.wait_lines(number)

    with ExitStack() as stack:
        with serving(redis_server.url, port, WEBSOCKET_SECRET_KEY=ONE):
            process = stack.enter_context(RswsProcess(*command, *options, env=env))
            publish(1)
            file.write_text("")
        process.wait_for("; reconnecting")
        with serving(redis_server.url, port, WEBSOCKET_SECRET_KEY=TWO):
            process.wait_for("no token: UsageError: the file of the token, .*, is empty; trying again")
            file.write_text(TWO)
            publish(2)
    assert [text for _, text in messages_in(redis_server, channel)] == ["1", "2"]
    assert len(process.stdout) == 2


@in_a_loop
async def test_a_token_is_changed_on_the_open_connection_and_nothing_said(
    redis_server: RedisServer, channel: str, tmp_path: Path
) -> None:
    file, limits = tmp_path / "token", replace(DEFAULTS, clock_difference_s=0)
    async with gateway(redis_server.url, limits, jwt_key=SECRET) as server:
        ends_at = time.time() + 3
        file.write_text(token(exp=ends_at))
        with RswsProcess("sub", channel, "--token-file", file, env={"RSWS_URL": server.url}) as process:
            add(redis_server, channel, "0")
            while not server.server.clients._access.ends.kept:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            file.write_text(token())
            await asyncio.sleep(ends_at + 0.1 - time.time())
            add(redis_server, channel, "1")
            await asyncio.to_thread(process.wait_for, '"data":1}', "stdout")
            assert process.stderr == []
        assert server.server.board.metrics.tokens_ended == 0


def test_a_pipe_is_read_once(redis_server: RedisServer, channel: str) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"wrong\n")
    os.close(writing)
    with serving(redis_server.url) as server:
        pipe = f"/proc/{os.getpid()}/fd/{reading}"
        done = run_main("pub", channel, "1", "--token-file", pipe, env={"RSWS_URL": server.url})
    os.close(reading)
    assert done.returncode == ExitCode.REFUSED
    assert "refuses the token" in done.stderr
    assert "the token came from --token-file" in done.stderr

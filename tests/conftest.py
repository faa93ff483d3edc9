"""Fixtures that every test may use; what they are made of is in ``support``."""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock
from uuid import uuid4

import pytest

from kit.support import RedisServer, free_port, heed_signals
from rsws.options import options
from rsws.settings import ClientSettings, Settings

_OURS = {each.env for settings in (Settings, ClientSettings) for each in options(settings).values()}
_LOOKS = {"NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "COLUMNS", "LINES"}

heed_signals()

# Hundreds of processes import rsws here: only the first of them compiles it, whatever the environment says.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


_LONG = {
    "test_bench.py",
    "test_cli_serve.py",
    "test_cli_terminal.py",
    "test_clients.py",
    "test_cluster.py",
    "test_console.py",
    "test_console_access.py",
    "test_container.py",
    "test_delivery.py",
    "test_docs.py",
    "test_durable_streams.py",
    "test_examples.py",
    "test_faults.py",
    "test_package.py",
    "test_page.py",
    "test_reader.py",
    "test_subscription.py",
    "test_workers.py",
}


_UNTRACED = {"deploy", "web", "test_clients.py", "test_container.py", "test_docs.py", "test_examples.py"}
"""The folders and files whose processes run what others trace for the coverage, which takes a third of the time."""


@pytest.fixture(autouse=True, scope="module")
def traced_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whether the processes that a file starts are traced for the coverage."""
    with mock.patch.dict(os.environ):
        if {request.path.name, request.path.parent.name} & _UNTRACED:
            os.environ.pop("COVERAGE_PROCESS_START", None)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first: at the end three workers would wait for the one that has it."""
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Let the garbage collector, which many tests run, look at what they make, never at all tests and modules."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the user's: no rsws variable, an empty HOME, an empty working directory, a port of its own.

    What the test changes in ``os.environ`` is undone, also what ``load_env_file`` put there.
    """
    with mock.patch.dict(os.environ):
        for name in list(os.environ):
            if name in _OURS | _LOOKS or name.startswith("RSWS_"):
                del os.environ[name]
        home = tmp_path / "home"
        home.mkdir()
        os.environ |= {
            "HOME": str(home),
            "XDG_DATA_HOME": str(home / ".local" / "share"),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "RSWS_DATA_DIR": str(tmp_path / "data"),
            "RSWS_LOCAL_REDIS_PORT": str(free_port()),
        }
        monkeypatch.chdir(tmp_path)
        yield


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """What a command makes of logging ends with the test that ran it."""
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, sys.excepthook
    yield
    sys.excepthook = hook
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis that all tests share: take names from ``channel``, and do it no harm."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A fresh Redis to stop, kill or pause."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def channel() -> str:
    """A channel name that no other test has."""
    return f"test-{uuid4().hex[:12]}"


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A temporary directory that ``unprivileged`` can reach, which it can't below ``tmp_path``."""
    with tempfile.TemporaryDirectory(prefix="rsws-test-") as path:
        os.chmod(path, 0o755)
        yield Path(path)

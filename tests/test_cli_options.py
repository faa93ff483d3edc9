"""Which gateway a command finds, and with which token."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rsws.cli.exits import ExitCode, Failure
from rsws.cli.options import find_gateway, flag
from rsws.datadir import DataDir
from rsws.errors import UsageError
from rsws.settings import ClientSettings


def settings(**flags: object) -> ClientSettings:
    """What flags and environment make of the settings, as typer would do it."""
    environment = {"url": "RSWS_URL", "token": "RSWS_TOKEN", "token_file": "RSWS_TOKEN_FILE"}
    values = {name: os.environ.get(variable) for name, variable in environment.items()} | flags
    if values["token_file"] is not None:
        values["token_file"] = Path(str(values["token_file"]))
    return ClientSettings(**values)  # type: ignore[arg-type]


def test_flags() -> None:
    assert flag("port") == "--port"
    assert flag("redis_timeout_s") == "--redis-timeout"
    assert flag("high_water_bytes") == "--high-water-bytes"
    assert flag("max_subscriptions") == "--max-subscriptions"


def test_the_token_that_stands_nearest_wins(tmp_path: Path) -> None:
    DataDir().path.mkdir(parents=True)
    DataDir().key_file.write_text("of the data directory\n")
    (tmp_path / "token").write_text("of a file\n")
    (tmp_path / "other").write_text("of the environment's file\n")
    assert find_gateway(settings()).token == "of the data directory"
    os.environ["WEBSOCKET_SECRET_KEY"] = "the gateway's"
    assert find_gateway(settings()).token == "the gateway's"
    os.environ["RSWS_URL"] = "ws://127.0.0.1/?token=of-the-environments-url"
    assert find_gateway(settings()).token == "of-the-environments-url"
    os.environ["RSWS_TOKEN_FILE"] = str(tmp_path / "other")
    assert find_gateway(settings()).token == "of the environment's file"
    os.environ["RSWS_TOKEN"] = "of the environment"
    assert find_gateway(settings()).token == "of the environment"
    assert find_gateway(settings(url="ws://127.0.0.1/?token=of-the-url")).token == "of-the-url"
    assert find_gateway(settings(token_file=tmp_path / "token")).token == "of a file"
    assert find_gateway(settings(token="of a flag", token_file=tmp_path / "token")).token == "of a flag"


def test_the_url() -> None:
    assert find_gateway(settings(token="x")).url == "ws://127.0.0.1:8080"
    os.environ["PORT"] = "9000"
    assert find_gateway(settings(token="x")).url == "ws://127.0.0.1:9000"
    os.environ["RSWS_URL"] = "gateway:1"
    assert find_gateway(settings(token="x")).url == "ws://gateway:1"
    assert find_gateway(settings(url="wss://other/ws?a=b&token=c")).url == "wss://other/ws?a=b"


def test_the_key_of_the_data_directory_is_for_this_machine_alone() -> None:
    DataDir().path.mkdir(parents=True)
    DataDir().key_file.write_text("secret\n")
    for url in ("ws://localhost", "ws://127.0.0.1:9", "ws://[::1]:9"):
        assert find_gateway(settings(url=url)).token == "secret"
    for url in ("ws://example.org", "ws://10.0.0.1", "ws://localhost.example.org"):
        with pytest.raises(Failure, match="no token for ws://") as failure:
            find_gateway(settings(url=url))
        assert failure.value.code == ExitCode.REFUSED


def test_the_data_directory_that_is_named(tmp_path: Path) -> None:
    DataDir(tmp_path).key_file.write_text("here\n")
    assert find_gateway(settings(data_dir=tmp_path)).token == "here"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_a_token_file_that_can_not_be_used(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=f"the token file {path}"):
        find_gateway(settings(token_file=path))


@pytest.mark.parametrize("port", ["abc", "0", "70000", "-1", "٣"])
def test_a_port_that_is_none(port: str) -> None:
    os.environ["PORT"] = port
    with pytest.raises(UsageError, match=f"PORT is '{port}', which is no port"):
        find_gateway(settings(token="x"))
    assert find_gateway(settings(token="x", url="ws://127.0.0.1:1")).url == "ws://127.0.0.1:1"

"""Every setting and argument of every command, with text that can't be encoded, resolved or used: never a traceback."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from unittest import mock

import pytest

from kit.cli import call_main, run_main
from kit.support import RedisServer, RswsProcess, free_port, run_rsws
from rsws.cli.exits import ExitCode
from rsws.cli.options import flag
from rsws.client import connect
from rsws.errors import UsageError
from rsws.options import Option, options
from rsws.settings import ClientSettings, Settings

NO_UTF8 = os.fsdecode(b"\xff")
TEXTS = [NO_UTF8, ".example", "a..b", "x" * 100_000, ""]
NUMBERS = [NO_UTF8, "1e308", "nan", "9" * 5000]
REDIS_FLAGS = ("redis_url", "local_redis_port", "redis_timeout_s")

# Command -> its settings. None of them can connect, and each ends at once.
COMMANDS: dict[tuple[str, ...], dict[str, Option]] = {
    ("serve",): options(Settings),
    ("serve", "--workers", "2"): {name: options(Settings)[name] for name in ("host", "retain")},
    ("xadd", "c", "1"): {name: options(Settings)[name] for name in REDIS_FLAGS},
    ("sub", "c"): options(ClientSettings),
    ("pub", "c", "1"): options(ClientSettings),
    ("bench", "connect", "--clients", "1"): options(ClientSettings),
}
SETTINGS = [(command, name) for command, chosen in COMMANDS.items() for name in chosen]
TYPES = {field.name: str(field.type) for kind in (Settings, ClientSettings) for field in fields(kind)}


@pytest.fixture(autouse=True)
def nothing_to_connect_to() -> Iterator[None]:
    """No gateway, no Redis, and a port that is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        os.environ |= {
            "PORT": str(taken.getsockname()[1]),
            "WEBSOCKET_SECRET_KEY": "x",
            "REDIS_URL": f"redis://127.0.0.1:{free_port()}",
            "RSWS_TOKEN": "x",
        }
        yield


def check_end(code: int, stderr: str) -> None:
    """That it has ended as a command ends, with what to do in one line."""
    assert code in {*ExitCode}
    assert "Traceback" not in stderr
    assert "Input should be" not in stderr  # pydantic's words
    if code:
        assert re.search(r"^rsws: .+\n\Z|─ Error ─", stderr, flags=re.MULTILINE), stderr[:2000]


@pytest.mark.parametrize("way", ["flag", "environment"])
@pytest.mark.parametrize(
    ("command", "name"), SETTINGS, ids=[f"{' '.join(command)} {name}" for command, name in SETTINGS]
)
def test_any_value_of_a_setting(
    command: tuple[str, ...], name: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if command[0] != "serve":
        os.environ["PORT"] = str(free_port())
    for value in NUMBERS if re.match("int|float", TYPES[name]) else TEXTS:
        if way == "flag":
            code = call_main(*command, f"{flag(name)}={value}")
        elif not value or not COMMANDS[command][name].env:
            continue  # it is not set
        else:
            with mock.patch.dict(os.environ, {COMMANDS[command][name].env: value}):
                code = call_main(*command)
        stderr = capsys.readouterr().err
        check_end(code, stderr)
        if value in NUMBERS and "Path" not in TYPES[name]:
            assert code == ExitCode.USAGE, stderr
        if value in (".example", "a..b") and name in ("host", "url"):
            assert code == ExitCode.USAGE, stderr


ARGUMENTS = [
    ("sub", "{}"),
    ("sub", "c", "{}"),
    ("sub", "c", "--from={}"),
    ("sub", "c", "--count={}"),
    ("sub", "c", "--timeout={}"),
    ("sub", "c", "--output={}"),
    ("sub", "c", "--on-gap={}"),
    ("pub", "{}", "1"),
    ("pub", "c", "{}"),
    ("pub", "c", "{}", "--text"),
    ("pub", "c", "1", "--timeout={}"),
    ("xadd", "{}", "1"),
    ("xadd", "c", "{}"),
    ("xadd", "c", "{}", "--text"),
    ("xadd", "c", "1", "--maxlen={}"),
    ("xadd", "c", "{}", "--print-command"),
    ("bench", "{}"),
    ("bench", "connect", "--prefix={}"),
    ("bench", "connect", "--clients={}"),
    ("bench", "fanout", "--duration={}"),
    ("bench", "fanout", "--rate={}"),
    ("{}",),
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=" ".join)
def test_any_value_of_an_argument(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    os.environ["PORT"] = str(free_port())
    for value in (NO_UTF8, "nan", "inf", "1e308", "9" * 5000, ""):
        code = call_main(*[argument.format(value) for argument in arguments])
        check_end(code, capsys.readouterr().err)
        if value == NO_UTF8:
            assert code == ExitCode.USAGE


@pytest.mark.parametrize("arguments", [("serve", NO_UTF8), (f"--{NO_UTF8}",)], ids=["argument", "option"])
def test_what_is_no_argument_at_all(arguments: tuple[str, ...]) -> None:
    refused = run_rsws(*arguments)  # typer's own words, which take a standard error that can show them
    check_end(refused.returncode, refused.stderr)
    assert refused.returncode == ExitCode.USAGE


@pytest.mark.parametrize("command", [("sub", "c"), ("pub", "c", "1"), ("bench", "connect", "--clients", "1")])
def test_the_gateway_s_key_in_the_environment_of_a_client(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    del os.environ["RSWS_TOKEN"]
    os.environ |= {"PORT": str(free_port()), "WEBSOCKET_SECRET_KEY": NO_UTF8}
    assert call_main(*command) == ExitCode.USAGE
    assert "WEBSOCKET_SECRET_KEY" in capsys.readouterr().err


ENV_FILES = {
    "no UTF-8": b"HOST=\xff\n",
    "NUL": b"HOST=a\0b\n",
    "NUL in a name": b"\0=1\nHOST=a..b\n",
    "escape": b"PORT=\x1b[2J\n",
    "no host": b"HOST=a..b\n",
}


@pytest.mark.parametrize("content", ENV_FILES.values(), ids=ENV_FILES)
def test_any_env_file(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del os.environ["PORT"]
    (tmp_path / ".env").write_bytes(content)
    code = call_main("serve")
    stderr = capsys.readouterr().err
    check_end(code, stderr)
    assert code == ExitCode.USAGE
    assert "\x1b" not in stderr


@pytest.mark.parametrize("url", ["redis://:{}@h", "redis://{}", "redis://.example", "redis://a..b", "redis://h/{}"])
def test_a_redis_url_that_can_not_be_used(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call_main("xadd", "c", "1", "--redis-url", url.format(NO_UTF8)) == ExitCode.USAGE
    check_end(ExitCode.USAGE, capsys.readouterr().err)


def test_a_directory_whose_name_is_no_text_is_one_all_the_same(redis_server: RedisServer, tmp_path: Path) -> None:
    directory = tmp_path / NO_UTF8
    environment = {"RSWS_DATA_DIR": str(directory), "REDIS_URL": redis_server.url, "WEBSOCKET_SECRET_KEY": ""}
    with RswsProcess("serve", "--port", "0", env=environment) as serve:
        url = serve.wait_for(r"url=(ws://\S+)")[1]
        serve.wait_for(r"kept in .*\\udcff")
        env = {"RSWS_DATA_DIR": str(directory), "RSWS_URL": url, "RSWS_TOKEN": None, "WEBSOCKET_SECRET_KEY": None}
        assert run_main("pub", "c", "1", env=env).returncode == ExitCode.DONE


# --- the library ---


@pytest.mark.parametrize(
    ("url", "token"),
    [("h", NO_UTF8), (".example", "x"), ("a..b", "x"), (f"h/{NO_UTF8}", "x")],
    ids=["token", "a dot", "two dots", "path"],
)
def test_the_library_says_what_can_not_be_used(url: str, token: str) -> None:
    async def try_it() -> None:
        async with connect(url, token=token):
            pass

    with pytest.raises(UsageError, match=r"not a gateway's URL|the token is not valid UTF-8"):
        asyncio.run(try_it())

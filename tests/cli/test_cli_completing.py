"""What the shell completes: words by the protocol of rsws' own scripts, and once in bash itself."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer.main

from kit.cli import Gateway, mute_gateway, run_main, serving
from kit.gateway import add
from kit.support import RedisServer, free_port, run_rsws
from rsws.cli.commands import app
from rsws.cli.completing import FILES_CODE, SHELLS
from rsws.profiles import Profiles, write_profiles

NAMES = ("news", "news:sport", "news:world", "chat.a b", "odd'\"\\$(id)`id`;:x", "*", "tab\tin it")


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        for name in NAMES:
            add(server, name, "1")
        server.call("SET", "newest", "no stream")
        yield server


@pytest.fixture(scope="module")
def gateway(redis: RedisServer) -> Iterator[Gateway]:
    with serving(redis.url) as gateway:
        yield gateway


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is given up for want of time, which a busy machine may take."""
    monkeypatch.setattr("rsws.cli.channel_names.DEADLINE_S", 30.0)


def complete(line: str, env: dict[str, str | None], shell: str = "fish", word: str = "") -> tuple[list[str], int]:
    """The words that may come next, and the exit code; nothing is said on standard error."""
    asked = {"_RSWS_COMPLETE": shell, "_TYPER_COMPLETE_ARGS": line, "_RSWS_WORD": word}
    done = run_main(env={**env, **asked})
    assert done.stderr == ""
    return [each.split("\t")[0] for each in done.stdout.splitlines()], done.returncode


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("rsws sub ne", ["news", "news:sport", "news:world"]),
        ("rsws sub news:", ["news:sport", "news:world"]),
        ("rsws sub news news:sport new", ["news:world"]),
        ("rsws pub chat", ["chat.a b"]),
        ("rsws pub news {", []),
        ("rsws ls news:s", ["news:sport"]),
        ("rsws info news:s", ["news:sport"]),
        ("rsws check --channel news:s", ["news:sport"]),
        ("rsws check --channel=news:s", ["--channel=news:sport"]),
        ("rsws sub --url ws://127.0.0.1:1 ne", []),
        ("rsws sub --token wrong ne", []),
        ("rsws sub --token-file gone ne", []),
        ("rsws sub --profile none ne", []),
        ("rsws sub nothing", []),
        ("rsws xadd ne", []),
    ],
)
def test_channels_at_the_gateway(line: str, found: list[str], gateway: Gateway) -> None:
    assert complete(line, gateway.env) == (found, 0)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("rsws xadd --redis-url {url} ne", ["news", "news:sport", "news:world"]),
        ("rsws restore --redis-url {url} --channel news:w", ["news:world"]),
        ("rsws info --redis-url {url} news:w", ["news:world"]),
        ("rsws copy {url} redis://new news:w", ["news:world"]),
        ("rsws copy @$HOME/old.url redis://new news:w", ["news:world"]),
        ("rsws copy @~/gone.url redis://new news:w", []),
        ("rsws xadd --profile old news:w", ["news:world"]),
        ("rsws xadd --redis-url nonsense news:w", []),
        ("rsws sub ne", []),
    ],
)
def test_channels_in_redis(line: str, found: list[str], redis: RedisServer) -> None:
    write_profiles(Profiles({"old": {"redis_url": redis.url}}))
    Path("~/old.url").expanduser().write_text(redis.url)
    assert complete(line.format(url=redis.url), {}) == (found, 0)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("shell", "line", "word", "found"),
    [
        ("bash", "rsws sub news:s", "s", ["sport"]),
        ("bash", "rsws sub news:", "", ["sport", "world"]),
        ("bash", "rsws sub 'news:s", "news:s", ["news:sport"]),
        ("bash", "rsws sub chat", "chat", [r"chat.a\ b"]),
        ("bash", "rsws sub 'chat", "chat", ["chat.a b"]),
        ("bash", "rsws sub odd", "odd", [r"""odd\'\"\\\$\(id\)\`id\`\;:x"""]),
        ("bash", "rsws sub 'odd", "odd", []),
        ("bash", "rsws sub x --output=p", "p", ["pretty"]),
        ("zsh", "rsws sub news:s", "", [r"news\:sport"]),
        ("zsh", "rsws sub odd", "", [r"""odd'"\\$(id)`id`;\:x"""]),
        ("zsh", "rsws sub x --output=p", "", ["--output=pretty"]),
        ("fish", "rsws sub odd", "", [r"""odd'"\$(id)`id`;:x"""]),
        ("fish", "rsws sub tab", "", []),
    ],
)
def test_names_are_other_people_s(shell: str, line: str, word: str, found: list[str], gateway: Gateway) -> None:
    assert complete(line, gateway.env, shell, word) == (found, 0)


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_options_and_values(shell: str) -> None:
    for line, found in (
        ("rsws chec", "check"),
        ("rsws bench fan", "fanout"),
        ("rsws sub --qui", "--quiet"),
        ("rsws sub news --output pre", "pretty"),
        ("rsws check --skip open", "open-files"),
    ):
        words, code = complete(line, {}, shell, line.split()[-1])
        assert ([each.split(":")[0] for each in words], code) == ([found], 0)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("rsws sub x --state ", FILES_CODE),
        ("rsws sub x --token-file=to", FILES_CODE),
        ("rsws serve --tls-cert ", FILES_CODE),
        ("rsws restore < ", FILES_CODE),
        ("rsws xadd x --lines < file 2> ", FILES_CODE),
        ("rsws token --ttl ", 0),
        ("rsws sub x --exec ", 0),
    ],
)
def test_files_where_files_go(line: str, code: int) -> None:
    assert complete(line, {}, "bash") == ([], code)


def parameters(command: Any, path: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    command = getattr(command, "make", lambda: command)()
    for name, each in getattr(command, "commands", {}).items():
        yield from parameters(each, (*path, name))
    for each in command.params:
        yield " ".join((*path, each.name)), each


def test_each_path_takes_files_and_nothing_else_does() -> None:
    taken = {name: each.type_descriptor for name, each in parameters(typer.main.get_command(app))}
    wanted = {name for name, each in taken.items() if "Path" in str(each.annotation)}
    assert {"sub state", "pub token_file", "serve tls_cert", "copy redis_tls_ca", "profile add ca"} <= wanted
    files = set()
    for name, each in parameters(typer.main.get_command(app)):
        with (
            mock.patch("rsws.cli.completing._files_go") as noted,
            mock.patch("rsws.cli.channel_names._found", return_value=[]),
        ):
            each.shell_complete(None, "")
        if noted.set.called:
            files.add(name)
    assert files == wanted


def test_nobody_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    with mute_gateway() as (env, _):
        for more in ((), ("--token-file", str(tmp_path / "token"))):
            line = shlex.join(["rsws", "sub", *more, "n"])
            done = run_rsws(env=env | {"_RSWS_COMPLETE": "zsh", "_TYPER_COMPLETE_ARGS": line}, timeout=20)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.usefixtures("patient")
def test_no_server_is_started(tmp_path: Path) -> None:
    assert complete("rsws xadd ", {"RSWS_LOCAL_REDIS_PORT": str(free_port())}) == ([], 0)
    assert not (tmp_path / "data").exists()


def test_other_scripts_get_no_names(gateway: Gateway) -> None:
    """That which typer has for zsh is evaluated."""
    done = run_main(env={**gateway.env, "_RSWS_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "rsws sub ne"})
    assert done.stdout == "_files\n"


@pytest.mark.parametrize(
    ("line", "word", "found"),
    [
        ("rsws sub news:s", "s", ["sport"]),
        ("rsws profile use p", "p", ["prod"]),
        ("rsws sub x --ca ", "", ["compopt -o default"]),
    ],
)
def test_in_bash(line: str, word: str, found: list[str], gateway: Gateway) -> None:
    write_profiles(Profiles({"prod": {"url": gateway.url}, "dev": {"url": gateway.url}}))
    script = f"""
        eval "$(rsws --show-completion bash)"
        compopt() {{ COMPREPLY=("compopt $*"); }}
        COMP_LINE={shlex.quote(line)} COMP_POINT=${{#COMP_LINE}}
        for try in {{1..20}}; do  # a busy machine may take too long
            _rsws_completion rsws {shlex.quote(word)}
            [[ ${{#COMPREPLY[@]}} -ge {len(found)} ]] && break
        done
        [[ -z ${{COMPREPLY[*]}} ]] || printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    env = {**os.environ, **gateway.env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)  # type: ignore[arg-type]
    assert (done.stdout.splitlines(), done.stderr) == (found, "")

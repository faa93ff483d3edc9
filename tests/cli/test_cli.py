"""The command line as a whole: help, settings, exit codes, what goes wrong before a command begins."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from kit.cli import call_main, run_main
from rsws.cli import bench, check, copy, info, ls, profile, pub, restore, serve, token, top, usage, xadd
from rsws.cli.commands import SUMMARIES, make
from rsws.cli.exits import CHECK_EXIT_HELP, EXIT_HELP, ExitCode, describe, exit_code
from rsws.cli.options import flag
from rsws.cli.sub import command as sub
from rsws.errors import (
    CannotConnect,
    ConnectionLost,
    Outcome,
    PublishFailed,
    RedisRefused,
    RedisUnavailable,
    SetupError,
    SubscribeRefused,
    Unauthorized,
    UsageError,
)
from rsws.options import options
from rsws.settings import ClientSettings, Settings

COMMANDS: dict[str, Any] = {name: make(name) for name in SUMMARIES}
WORKS: dict[str, Any] = COMMANDS["bench"].commands
EPILOGS = {
    "serve": serve.EPILOG,
    "sub": sub.EPILOG,
    "pub": pub.EPILOG,
    "xadd": xadd.EPILOG,
    "token": token.EPILOG,
    "check": check.EPILOG,
    "restore": restore.EPILOG,
    "copy": copy.EPILOG,
    "ls": ls.EPILOG,
    "info": info.EPILOG,
    "top": top.EPILOG,
    "profile": profile.EPILOG,
    "bench": bench.EPILOG,
}
SUB_OPTIONS = {
    *("channels", "start", "until", "count", "timeout", "no_follow", "end", "literal", "no_merge", "on_gap", "quiet"),
    *("include", "exclude", "where", "output", "template", "pretty", "highlight", "execute", "parallel", "state"),
}
WIDE = {"COLUMNS": "200"}


def examples(epilog: str) -> list[str]:
    return epilog.partition("Examples:\n")[2].splitlines()


# --- help ---


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS), *(("bench", name) for name in WORKS)])
def test_help_ends_with_exit_codes_and_examples(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert call_main(*command, "--help") == ExitCode.DONE
    shown = capfd.readouterr()
    assert shown.err == ""
    for code, meaning in (CHECK_EXIT_HELP if command == ("check",) else EXIT_HELP).items():
        assert f"{code} {meaning}" in shown.out
    last_lines = shown.out.partition("Examples:")[2].split("\n")
    assert 2 <= len([line for line in last_lines if line.strip()]) <= 3


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_the_help_can_be_run(name: str) -> None:
    commands = set()
    for example in examples(EPILOGS[name]):
        words = shlex.split(re.split(r"[<|>]", example)[0])
        command, *arguments = words[words.index("rsws") + 1 :]
        commands.add(command)
        found = COMMANDS[command]
        if command in ("bench", "profile"):
            command, *arguments = arguments
            found = found.commands[command]
        found.make_context(command, arguments)
    assert name in commands


@pytest.mark.parametrize(
    ("name", "settings", "own"),
    [
        ("serve", Settings, set()),
        ("sub", ClientSettings, {*SUB_OPTIONS, "profile"}),
        (
            "pub",
            ClientSettings,
            {"channel", "data", "lines", "text", "timeout", "count", "rate", "template", "profile"},
        ),
    ],
)
def test_the_options_are_the_settings(name: str, settings: type[Any], own: set[str]) -> None:
    parameters = {parameter.name: parameter for parameter in COMMANDS[name].params}
    assert parameters.keys() - own == options(settings).keys()
    for field, option in options(settings).items():
        assert parameters[field].opts == [flag(field)]
        assert (parameters[field].envvar or "") == option.env


def test_the_help_of_serve_says_each_option_with_its_environment_name() -> None:
    shown = run_main("serve", "--help", env=WIDE).stdout
    for field, option in options(Settings).items():
        assert re.search(rf"{flag(field)}\b.*\[env var: {option.env}\]", " ".join(shown.split()))


def test_no_command_is_a_question_for_the_help() -> None:
    asked = run_main()
    assert asked.returncode == ExitCode.USAGE
    assert "Usage: rsws " in asked.stdout + asked.stderr


# --- settings ---


def where_it_looks(*arguments: str, env: dict[str, str | None] | None = None) -> str:
    """The port at which ``rsws sub`` finds no gateway."""
    looked = run_main("sub", "news", "--token", "x", *arguments, env=env)
    assert looked.returncode == ExitCode.NOT_CONNECTED
    found = re.search(r"ws://127\.0\.0\.1:(\d+)", looked.stderr)
    assert found is not None
    return found[1]


def test_flags_beat_the_environment_which_beats_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# a comment\nPORT=1\n")
    assert where_it_looks() == "1"
    assert where_it_looks(env={"PORT": "2"}) == "2"
    assert where_it_looks("--url", "ws://127.0.0.1:3", env={"PORT": "2"}) == "3"


def test_an_empty_variable_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=\nRSWS_URL=\n")
    assert COMMANDS["serve"].make_context("serve", []).params["port"] == 8080
    assert where_it_looks(env={"PORT": "2"}) == "2"


@pytest.mark.parametrize(
    ("arguments", "env_file", "named"),
    [
        ((), "PORT=abc", "PORT"),
        ((), "PORT=70000", "PORT"),
        ((), "RSWS_LOG_LEVEL=loud", "RSWS_LOG_LEVEL"),
        (("--redis-timeout", "0"), "", "--redis-timeout"),
        (("--ping-interval", "nan"), "", "--ping-interval"),
        (("--idle-timeout", "inf"), "", "--idle-timeout"),
        (("--no-such-option",), "", "--no-such-option"),
        (("--retain", "news"), "", "PATTERN=COUNT"),
        (("--redis-url", "http://cache"), "", "redis://"),
    ],
)
def test_a_setting_that_can_not_be_used_is_a_usage_error(
    tmp_path: Path, arguments: tuple[str, ...], env_file: str, named: str
) -> None:
    (tmp_path / ".env").write_text(env_file)
    refused = run_main("serve", *arguments)
    assert refused.returncode == ExitCode.USAGE, refused.stderr
    assert named in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "env_file", "named"),
    [
        (("nonsense",), "", "nonsense"),
        (("sub",), "", "CHANNEL"),
        (("sub", "news"), "PORT=abc", "PORT"),
        (("sub", "news", "--count", "0"), "", "--count"),
        (("sub", "news", "--output", "xml"), "", "--output"),
        (("sub", "news", "--from", "yesterday"), "", "yesterday"),
        (("sub", "news", "--url", "http://127.0.0.1"), "", "ws://HOST:PORT"),
        (("sub", "news", "--token-file", "nowhere"), "", "nowhere"),
        (("sub", ""), "", "channel name is empty"),
        (("pub", "a\nb", "1"), "", "control characters"),
        (("pub", "a" * 513, "1"), "", "513 bytes"),
        (("pub", "news", "1", "--lines"), "", "--lines"),
        (("xadd", "news", "1", "--redis-url", "http://cache"), "", "redis://"),
    ],
)
def test_what_can_not_be_used_is_a_usage_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], env_file: str, named: str
) -> None:
    (tmp_path / ".env").write_text(env_file)
    os.environ["RSWS_TOKEN"] = "x"
    assert call_main(*arguments) == ExitCode.USAGE
    shown = capfd.readouterr()
    assert named in shown.err
    assert shown.out == ""


def test_lines_of_the_env_file_that_say_nothing_are_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# a comment\n\n\nnot a setting\nPORT=1\n")
    looked = run_main("sub", "news", "--token", "x")
    first, second = looked.stderr.splitlines()
    assert first == "rsws: .env line 4 is no NAME=VALUE, and is left out"
    assert "ws://127.0.0.1:1:" in second


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (("serve", "--port", "abc"), {}, "--port is 'abc': it must be a whole number"),
        (("serve",), {"PORT": "70000"}, "PORT is '70000': it must be 65535 or less"),
        (("serve",), {"RSWS_COMPRESS": "perhaps"}, "RSWS_COMPRESS is 'perhaps': it must be true or false"),
        (("serve", "--compress=1"), {}, "option '--compress' does not take a value"),
        (("serve", "--redis-timeout", "soon"), {}, "--redis-timeout is 'soon': it must be a number"),
        (("serve", "--redis-timeout", "0"), {}, "--redis-timeout is '0': it must be 0.1 or more"),
        (("sub", "news", "--on-gap", "z"), {}, "--on-gap is 'z': it must be one of 'warn', 'exit'"),
        (("sub", "news", "--count"), {}, "option '--count' wants a value"),
        (("sub",), {}, "CHANNEL is missing"),
        (("serve", "now"), {}, "more arguments than it takes: (now)"),
        (("pubs",), {}, "no such command 'pubs'; did you mean 'pub'?"),
        (("pub", "c", "1", "--tex"), {}, "no such option: --tex; did you mean --rate or --text or --token?"),
        (
            ("pub", "c", "-5.5"),
            {},
            "no such option: -5; DATA that begins with - goes after --: rsws pub CHANNEL -- -5.5",
        ),
        (("sub", "c", "-5"), {}, "no such option: -5"),
        (("bench", "fanout", "--rate", "inf"), {}, "--rate is 'inf': it must be 10000000 or less"),
    ],
)
def test_a_usage_error_is_one_plain_line(
    capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    os.environ.update(env)
    assert call_main(*arguments) == ExitCode.USAGE
    command = re.escape("rsws" if arguments[0] == "pubs" or "option '" in said else f"rsws {arguments[0]}")
    assert re.fullmatch(rf"rsws: {re.escape(said)} \(see `{command}(?: fanout)? --help`\)\n", capfd.readouterr().err)


@pytest.mark.parametrize("name", ["serve", "sub", "pub", "xadd", *WORKS])
def test_what_is_wrong_with_an_option_is_said_plainly(name: str) -> None:
    command = (COMMANDS | WORKS)[name]
    options = [each for each in command.params if each.param_type_name == "option" and not each.is_flag]
    for option, value in product(options, ["nonsense", "", "-1", "1e999", "nan", "99999999999999999999"]):
        try:
            command.make_context(name, ["a", option.opts[0], value])
        except (usage.CommandLineError, UsageError) as error:
            said = str(error) if isinstance(error, UsageError) else usage.describe_usage(error)
            assert not re.search(r"Value error|[Ii]nput|invalid|not a valid|unable|<", said), said
            if not said.startswith("more arguments"):
                assert re.match(rf"{option.opts[0]}( \(\w+\)| is '{value}')?: it (must be|is no) \w", said), said


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS), *(("bench", name) for name in WORKS)])
def test_the_help_says_no_python_types(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    call_main(*command, "--help")
    assert not re.search(r"<(bool|str|int|float|list|path)\b", capfd.readouterr().out)


def test_an_env_file_that_is_no_text_is_a_usage_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".env").write_bytes(b"PORT=\xff\xfe")
    assert call_main("sub", "news") == ExitCode.USAGE
    assert re.fullmatch(r"rsws: \.env .* can't be read: .*\n", capfd.readouterr().err)


def test_a_setting_that_may_be_repeated() -> None:
    serve = COMMANDS["serve"]
    assert serve.make_context("serve", ["--retain", "a=1", "--retain", "b=2,7d"]).params["retain"] == ["a=1", "b=2,7d"]
    os.environ["RSWS_RETAIN"] = "a=1 b=2,7d"
    assert serve.make_context("serve", []).params["retain"] == ["a=1", "b=2,7d"]


# --- how it ends ---


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError(""), 2),
        (CannotConnect(""), 3),
        (ConnectionLost(""), 3),
        (RedisUnavailable(""), 3),
        (PublishFailed("", "connection_lost", Outcome.UNKNOWN), 3),
        (Unauthorized(""), 4),
        (SubscribeRefused("", "not_allowed", "news"), 4),
        (PublishFailed("", "not_allowed", Outcome.NOT_STORED), 4),
        (PublishFailed("", "timeout", Outcome.UNKNOWN), 6),
        (SubscribeRefused("", "channel_unreadable", "news"), 1),
        (SubscribeRefused("", "redis_unavailable", "news"), 3),
        (PublishFailed("", "redis_unavailable", Outcome.NOT_STORED), 3),
        (RedisRefused(""), 1),
        (SetupError(""), 1),
        (OSError(), 1),
    ],
)
def test_each_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_what_the_wire_says_in_one_language_is_explained() -> None:
    failed = PublishFailed("Server Redis tidak siap", "redis_unavailable", Outcome.NOT_STORED)
    assert describe(failed) == "not stored: Redis can't be reached (Server Redis tidak siap)"
    failed_directly = RedisUnavailable("redis://cache: connection refused.")
    assert describe(failed_directly) == "not stored: Redis can't be reached (redis://cache: connection refused)"
    refused = SubscribeRefused("Server Redis tidak siap", "redis_unavailable", "news")
    assert describe(refused) == "Redis can't be reached (Server Redis tidak siap)"
    failed = PublishFailed("no ack within 1 s", "timeout", Outcome.UNKNOWN)
    assert describe(failed) == "no ack within 1 s; the message may be stored all the same"


def test_help_for_a_reader_that_has_gone_shows_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "rsws", "serve", "--help"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=20
    )
    os.close(writing)
    assert done.stderr == ""


INTERRUPTED_WHILE_IT_STARTS = """
import os, runpy, signal, sys


class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)


sys.meta_path.insert(0, CtrlC())
runpy.run_module("rsws", run_name="__main__")
"""


def test_ctrl_c_while_a_command_starts_shows_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_IT_STARTS], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.INTERRUPTED, "", "")


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_standard_stream_that_is_closed_is_an_empty_one(closed: int) -> None:
    script = f"exec {sys.executable} -m rsws pub news - {closed}>&-"
    environment = {**os.environ, "RSWS_URL": "ws://127.0.0.1:1", "RSWS_TOKEN": "x"}
    done = subprocess.run(["sh", "-c", script], input="1", env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == (ExitCode.USAGE if closed == 0 else ExitCode.NOT_CONNECTED)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("sub", "c", "--url", "ws://127.0.0.1:1", "--token", "x"), ("nonsense",)])
@pytest.mark.parametrize("how", ["2>/dev/full", "2>&-", "2> >(exec true)"])
def test_standard_error_that_can_not_be_written_changes_nothing(arguments: tuple[str, ...], how: str) -> None:
    command = shlex.join([sys.executable, "-m", "rsws", *arguments])
    done = subprocess.run(["bash", "-c", f"{command} {how}; exit $?"], capture_output=True, text=True, timeout=20)
    expected = ExitCode.USAGE if arguments == ("nonsense",) else ExitCode.NOT_CONNECTED
    assert (done.returncode, done.stdout, done.stderr) == (expected, "", "")


@pytest.mark.parametrize("arguments", [("--url", "1"), ("--url", ":1"), ()])
def test_a_port_alone_is_one_of_this_machine(capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    os.environ.update({"RSWS_TOKEN": "x", "RSWS_URL": ":1"})
    assert call_main("sub", "c", *arguments) == ExitCode.NOT_CONNECTED
    assert capfd.readouterr().err.startswith("rsws: can't connect to ws://127.0.0.1:1: connection refused")


def test_a_proxy_that_is_not_there_is_told_as_such(capfd: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    os.environ["ALL_PROXY"] = "http://ann:s3cret@127.0.0.1:1"
    assert call_main("sub", "c", "--url", "ws://gateway.invalid", "--token", "x") == ExitCode.NOT_CONNECTED
    proxy = "the proxy http://***@127.0.0.1:1 that the environment names: connection refused"
    assert capfd.readouterr().err == f"rsws: can't connect to ws://gateway.invalid: {proxy}\n"


@pytest.mark.parametrize("url", ["99999", ":0", ":1/x"])
def test_a_port_that_is_none(capfd: pytest.CaptureFixture[str], url: str) -> None:
    assert call_main("sub", "c", "--url", url, "--token", "x") == ExitCode.USAGE
    assert "write ws://HOST:PORT" in capfd.readouterr().err

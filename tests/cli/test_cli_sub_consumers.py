"""``rsws sub --state`` and ``--exec``: each message at least once, whatever ends a run."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cli import Gateway, call_main, run_main, serving, unread
from kit.consumers import kill_executing, kill_printing
from kit.gateway import add
from kit.support import RedisServer, RswsProcess, eventually
from rsws.cli.exits import ExitCode

LINE_BYTES = 10_000


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer) -> Iterator[Gateway]:
    with serving(redis_server.url) as gateway:
        yield gateway


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def positions(state: Path) -> dict[str, str]:
    said: dict[str, str] = json.loads(state.read_text() or "{}")  # it is empty for a moment when it is new
    return said


# --- the position ---


def test_the_next_run_goes_on(gateway: Gateway, redis_server: RedisServer, channel: str, state: Path) -> None:
    other = f"{channel}-2"
    ids = add(redis_server, channel, "1", "2", "3")

    def shown(*options: str) -> list[str]:
        arguments = ("sub", channel, "-o", "raw", "--state", str(state), "-q", *options)
        done = run_main(*arguments, env=gateway.env)
        assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
        return done.stdout.split()

    assert shown("-f", "0", "-n", "2") == ["1", "2"]
    assert positions(state) == {channel: ids[1]}
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert shown("-f", "0", "--no-follow") == ["3"]
    assert shown("-f", "0", "--no-follow") == []
    (last,) = add(redis_server, channel, "4")
    assert shown("-f", "$", "--no-follow", "--exclude", "4") == []  # what is not wanted is dealt with
    add(redis_server, other, "5", "6")
    assert shown("-f", "-1", "--no-follow", other) == ["6"]
    assert positions(state).keys() == {channel, other}
    assert positions(state)[channel] == last
    assert sorted(path.name for path in state.parent.iterdir() if path.name.startswith("state")) == ["state"]


def test_what_comes_while_it_is_away_is_printed_though_nothing_was(
    gateway: Gateway, redis_server: RedisServer, channel: str, state: Path
) -> None:
    add(redis_server, channel, "1")
    arguments = ("sub", channel, "-o", "raw", "--state", str(state))
    run_main(*arguments, "--no-follow", env=gateway.env)
    add(redis_server, channel, "2")
    assert run_main(*arguments, "--no-follow", env=gateway.env).stdout == "2\n"


def test_a_channel_that_has_ended_has_done_so_the_next_time(
    gateway: Gateway, redis_server: RedisServer, channel: str, state: Path
) -> None:
    redis_server.call("XADD", channel, "*", "messageData", "1", "end", "1")
    arguments = ("sub", channel, "-f", "0", "-o", "raw", "--timeout", "20", "--state", str(state))
    for expected in ("1\n", ""):
        done = run_main(*arguments, env=gateway.env)
        assert (done.returncode, done.stdout, done.stderr) == (ExitCode.DONE, expected, "")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_does_not_lose_the_position(
    gateway: Gateway, redis_server: RedisServer, channel: str, state: Path, how: signal.Signals
) -> None:
    ids = add(redis_server, channel, "1", "2", "3")
    arguments = ("sub", channel, "-f", "0", "-o", "raw", "--state", state)
    with RswsProcess(*arguments, env=gateway.env) as process:
        process.wait_lines(3)
        code = process.stop(how)
    assert code == (ExitCode.INTERRUPTED if how is signal.SIGINT else -signal.SIGTERM)
    assert process.stderr == []
    assert positions(state) == {channel: ids[-1]}


def test_a_position_is_never_ahead_of_a_reader_that_is_slow(
    gateway: Gateway, redis_server: RedisServer, channel: str, state: Path
) -> None:
    ids = add(redis_server, channel, *[json.dumps("x" * (LINE_BYTES - 3))] * 30)
    arguments = [sys.executable, "-m", "rsws", "sub", channel, "--from", "0", "-o", "raw", "--state", str(state)]
    environment = {name: value for name, value in (os.environ | gateway.env).items() if value is not None}
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            eventually(lambda: unread(process.stdout) > 40_000, what="a pipe that is full")
            whole = unread(process.stdout) // LINE_BYTES
            eventually(lambda: positions(state) == {channel: ids[whole - 1]}, what="the last one in the pipe")
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("[]", "it is not an object of channels and ids"),
        ('{"a":1}', "it is not an object of channels and ids"),
        ('{"a":"x"}', "not a stream id"),
        ("\x00" * 10, "it is not JSON"),
        (None, "it can't be used: Is a directory"),
    ],
)
def test_a_file_that_is_no_state(
    state: Path, content: str | None, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if content is None:
        state.mkdir()
    else:
        state.write_text(content)
    assert call_main("sub", "news", "--token", "x", "--state", str(state)) == ExitCode.USAGE
    assert fault in capfd.readouterr().err
    assert content is None or state.read_text() == content
    assert call_main("sub", "news", "--token", "x", "--state", str(state / "none" / "x")) == ExitCode.USAGE
    assert call_main("sub", "news", "--token", "x", "--state", os.devnull) == ExitCode.USAGE


def test_a_state_that_can_not_be_written_ends_it(
    gateway: Gateway, redis_server: RedisServer, channel: str, tmp_path: Path
) -> None:
    directory = tmp_path / "mine"
    directory.mkdir()
    with RswsProcess("sub", channel, "--state", directory / "state", "-q", env=gateway.env) as process:
        eventually(lambda: (directory / "state").exists() and channel in positions(directory / "state"))
        (directory / "state").unlink()
        directory.rmdir()
        add(redis_server, channel, "1")
        assert process.wait() == ExitCode.ERROR
    assert process.stderr[-1].endswith("it can't be written: No such file or directory")


def test_two_runs_at_a_time_do_not_share_a_file(
    gateway: Gateway, redis_server: RedisServer, channel: str, state: Path
) -> None:
    (first,) = add(redis_server, channel, "1")
    with RswsProcess("sub", channel, "-f", "0", "--state", state, "-q", env=gateway.env) as process:
        eventually(lambda: state.exists() and positions(state) == {channel: first})  # written again since the start
        for _ in range(2):
            refused = run_main("sub", channel, "--state", state, env=gateway.env)
            assert refused.returncode == ExitCode.USAGE
            assert (
                refused.stderr == f"rsws: --state {state}: another run uses it now; give this one a file of its own\n"
            )
        (state.parent / "link").symlink_to(state)
        assert run_main("sub", channel, "--state", state.parent / "link", env=gateway.env).returncode == ExitCode.USAGE
        process.kill()
    for _ in range(2):
        assert run_main("sub", channel, "--state", state, "--no-follow", env=gateway.env).returncode == 0


def test_an_empty_file_has_no_positions(gateway: Gateway, channel: str, state: Path) -> None:
    state.touch()
    assert run_main("sub", channel, "--state", state, "--no-follow", env=gateway.env).returncode == 0
    assert state.read_text()


# --- a command for each message ---


def test_a_command_gets_the_message(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, '{"a":\n1}', '"é"', id="1700000001234-*")
    command = 'printf "%s %s %s " "$RSWS_CHANNEL" "$RSWS_ID" "$RSWS_TIME"; cat'
    done = run_main("sub", channel, "-f", "0", "--no-follow", "--exec", command, env=gateway.env)
    assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
    assert done.stdout == (
        f'{channel} 1700000001234-0 2023-11-14T22:13:21.234Z {{"a": 1}}\n'
        f'{channel} 1700000001234-1 2023-11-14T22:13:21.234Z "é"\n'
    )


def test_a_command_that_reads_nothing(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, json.dumps("x" * 200_000), "2")
    done = run_main("sub", channel, "-f", "0", "-n", "2", "--exec", "echo $RSWS_TIME >&2", env=gateway.env)
    assert (done.returncode, done.stdout, done.stderr.count("Z\n")) == (ExitCode.DONE, "", 2)


@pytest.mark.parametrize(("end", "how"), [("exit 7", "exit code 7"), ("kill -9 $$", "signal 9")])
def test_the_first_failure_ends_it_and_the_next_run_begins_there(
    gateway: Gateway, redis_server: RedisServer, channel: str, state: Path, end: str, how: str
) -> None:
    ids = add(redis_server, channel, "1", "2", "3")
    arguments = ("sub", channel, "-f", "0", "--no-follow", "--state", str(state), "--exec")
    done = run_main(*arguments, f'read n; [ "$n" = 2 ] && {end}; echo "$n"', env=gateway.env)
    assert (done.returncode, done.stdout) == (ExitCode.ERROR, "1\n")
    assert done.stderr == f"rsws: {channel}: --exec has failed for {ids[1]}, with {how}\n"
    assert positions(state) == {channel: ids[0]}
    assert run_main(*arguments, "cat", env=gateway.env).stdout == "2\n3\n"
    assert positions(state) == {channel: ids[2]}


def test_a_position_is_never_beyond_a_command_that_has_not_succeeded(
    gateway: Gateway, redis_server: RedisServer, channel: str, state: Path, tmp_path: Path
) -> None:
    ids = add(redis_server, channel, *map(str, range(6)))
    command = f'read n; if [ "$n" = 1 ]; then exec sleep 100; fi; : > "{tmp_path}/did-$n"'
    arguments = ("sub", channel, "-f", "0", "--state", state, "--exec-parallel", "2", "--exec", command)
    with RswsProcess(*arguments, "--exclude", "[45]", env=gateway.env) as process:
        eventually(lambda: (tmp_path / "did-3").exists())
        eventually(lambda: positions(state) == {channel: ids[0]})
        assert process.stop(signal.SIGTERM) == -signal.SIGTERM
    assert positions(state) == {channel: ids[0]}
    assert not (tmp_path / "did-4").exists()
    done = run_main("sub", channel, "--state", state, "--no-follow", "--exec", "cat", env=gateway.env)
    assert done.stdout.split() == ["1", "2", "3", "4", "5"]


def test_no_more_run_than_may_and_all_of_them_end(
    gateway: Gateway, redis_server: RedisServer, channel: str, tmp_path: Path
) -> None:
    add(redis_server, channel, *map(str, range(5)))
    trap = "trap 'echo told; exit 1' TERM"
    command = f'{trap}; read n; echo $$ > "{tmp_path}/pid-$n"; echo "$n"; sleep 100 & wait'
    arguments = ("sub", channel, "-f", "0", "--exec-parallel", "3", "--exec", command)
    with RswsProcess(*arguments, env=gateway.env) as process:
        assert sorted(process.wait_lines(3)) == ["0", "1", "2"]
        pids = [int((tmp_path / f"pid-{number}").read_text()) for number in range(3)]
        assert process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
    assert process.stdout[3:] == ["told"] * 3
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--exec", " "], "--exec: the command is empty"),
        (["--exec", "cat", "-o", "raw"], "--exec prints nothing: leave"),
        (["--exec", "cat", "--format", "{id}"], "--exec prints nothing: leave"),
        (["--exec", "cat", "--pretty"], "--exec prints nothing: leave"),
        (["--exec-parallel", "2"], "--exec-parallel is of use with --exec alone"),
        (["--exec", "cat", "--exec-parallel", "0"], "--exec-parallel is '0': it must be 1 or more"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert call_main("sub", "news", "--token", "x", *options) == ExitCode.USAGE
    assert fault in capfd.readouterr().err


# --- kill -9 ---


def test_printing_killed(gateway: Gateway, redis_server: RedisServer, channel: str, tmp_path: Path) -> None:
    result = kill_printing(redis_server, gateway, [f"{channel}-1", f"{channel}-2"], tmp_path, kills=2, seed=1)
    assert (result.lost, result.reordered, result.ahead) == (0, 0, 0)
    assert result.kills == 2


def test_executing_killed(gateway: Gateway, redis_server: RedisServer, channel: str, tmp_path: Path) -> None:
    result = kill_executing(redis_server, gateway, [channel], tmp_path, kills=2, seed=1)
    assert (result.lost, result.ahead) == (0, 0)
    assert result.kills == 2

"""``rsws sub``, run for real."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kit.cli import KEY, Gateway, call_main, fake_gateway, messages_in, run_main, serving, subscriptions, unread
from kit.gateway import add
from kit.support import RedisServer, RswsProcess, eventually, free_port
from rsws.cli.exits import ExitCode


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer) -> Iterator[Gateway]:
    with serving(redis_server.url) as gateway:
        yield gateway


# --- what it prints ---


def test_a_json_line_for_each_message(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, '{"n" : 1e400, "b":[ ]}', id="1700000001234-5")
    shown = run_main("sub", channel, "--from", "0", "--count", "1", env=gateway.env)
    assert shown.returncode == ExitCode.DONE
    assert shown.stdout == (
        f'{{"channel":"{channel}","id":"1700000001234-5","time":"2023-11-14T22:13:21.234Z",'
        '"data":{"n" : 1e400, "b":[ ]}}\n'
    )
    assert shown.stderr == ""


def test_it_is_done_where_all_channels_have_ended(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    other = f"{channel}-2"
    for each in (channel, other):
        add(redis_server, each, "1")
        redis_server.call("XADD", each, "*", "messageData", "2", "end", "1")
        add(redis_server, each, "3")
    shown = run_main("sub", channel, other, "--from", "0", "--output", "raw", env=gateway.env)
    assert (shown.returncode, sorted(shown.stdout.split()), shown.stderr) == (ExitCode.DONE, [*"1122"], "")
    shown = run_main("sub", channel, "--from", "0", "--output", "pretty", "--timeout", "30", env=gateway.env)
    assert (shown.returncode, shown.stdout.count("\n")) == (ExitCode.DONE, 2)
    assert f"{channel} has ended" in shown.stderr
    shown = run_main("sub", channel, "--from", "0", "--no-end", "--no-follow", "--output", "raw", env=gateway.env)
    assert shown.stdout.split() == [*"123"]
    assert run_main("sub", channel, "--from", "10m", "--output", "raw", env=gateway.env).stdout.split() == [*"12"]


def test_raw_is_the_data_alone_one_a_line(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, '{\r\n  "a": [\n    1\n  ]\n}', '"\\n"', '"é"')
    shown = run_main("sub", channel, "--from", "0", "--no-follow", "--output", "raw", env=gateway.env)
    assert shown.stdout == '{ "a": [ 1 ] }\n"\\n"\n"é"\n'


def test_pretty_in_a_pipe_has_no_colours_and_no_breaks(
    gateway: Gateway, redis_server: RedisServer, channel: str
) -> None:
    (stream_id,) = add(redis_server, channel, json.dumps("x" * 300))
    shown = run_main("sub", channel, "--from", "0", "--count", "1", "--output", "pretty", env=gateway.env)
    assert shown.stdout.endswith(f'  {channel}  {stream_id}  "{"x" * 300}"\n')
    assert "\x1b" not in shown.stdout


def test_lines_are_there_at_once(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "0")
    with RswsProcess("sub", channel, "--from", "-1", "--output", "raw", env=gateway.env) as process:
        process.wait_lines(1)
        for number in range(1, 4):
            add(redis_server, channel, str(number))
            assert process.wait_lines(number + 1)[-1] == str(number)
        assert process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
    assert process.stderr == []


def test_history_is_complete_whatever_the_pace(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    with redis_server.client.pipeline(transaction=False) as pipeline:
        for number in range(20_000):
            pipeline.xadd(channel, {"messageData": f'{{"n":{number},"text":"{"x" * 50}"}}'})
        pipeline.execute()
    shown = run_main("sub", channel, "--from", "0", "--no-follow", "--output", "raw", env=gateway.env)
    assert shown.stdout.splitlines() == [data for _, data in messages_in(redis_server, channel)]


def test_a_time_is_where_messages_begin_and_no_gap(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "1", id="1700000001234-0")
    add(redis_server, channel, "2", id="1700000002234-0")
    for start, expected in (("2020-01-01", "1\n2\n"), ("2023-11-14T22:13:22Z", "2\n"), ("10m", "")):
        shown = run_main("sub", channel, "--from", start, "--no-follow", "--output", "raw", env=gateway.env)
        assert (shown.returncode, shown.stdout, shown.stderr) == (0, expected, ""), start
    with RswsProcess("sub", channel, "--from", "10m", "--count", "1", "--output", "raw", env=gateway.env) as process:
        eventually(lambda: process.stdout or add(redis_server, channel, "3"))
        assert process.wait() == ExitCode.DONE
    assert (process.stdout, process.stderr) == (["3"], [])


# --- when it stops ---


def test_no_follow_stops_at_the_end_as_it_was(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    one, two, empty = f"{channel}-1", f"{channel}-2", f"{channel}-3"
    add(redis_server, one, "1", "2")
    add(redis_server, two, "3")
    last = add(redis_server, two, "4")[0]
    redis_server.call("XDEL", two, last)  # the end is then where no message is
    shown = run_main("sub", one, two, empty, "--from", "0", "--no-follow", "--output", "raw", env=gateway.env)
    assert shown.returncode == ExitCode.DONE
    assert sorted(shown.stdout.split()) == ["1", "2", "3"]


@pytest.mark.parametrize("start", ["$", "10m"])
def test_no_follow_of_nothing_stops_at_once(gateway: Gateway, channel: str, start: str) -> None:
    shown = run_main("sub", channel, "--from", start, "--no-follow", env=gateway.env)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", f"rsws: {channel}: no such stream yet\n")


def test_no_follow_prints_nothing_that_comes_later() -> None:
    replies: tuple[dict[str, object], ...] = (
        {"status": "subscribed", "channel": "c", "lastMessageId": "0-0", "latestId": "2-0"},
        {"event": "message", "channel": "c", "streamId": "1-0", "data": 1},
        {"event": "message", "channel": "c", "streamId": "3-0", "data": 3},
    )
    with fake_gateway(*replies) as env:
        shown = run_main("sub", "c", "--from", "0", "--no-follow", "--output", "raw", env=env)
    assert (shown.returncode, shown.stdout) == (ExitCode.DONE, "1\n")


def test_count_of_all_channels(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, f"{channel}-1", "1", "2")
    add(redis_server, f"{channel}-2", "3", "4")
    shown = run_main("sub", f"{channel}-1", f"{channel}-2", "--from", "0", "--count", "3", env=gateway.env)
    assert len(shown.stdout.splitlines()) == 3


def test_timeout(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "1")
    shown = run_main("sub", channel, "--from", "0", "--count", "2", "--timeout", "0.5", env=gateway.env)
    assert shown.returncode == ExitCode.TIMEOUT
    assert len(shown.stdout.splitlines()) == 1
    assert shown.stderr == "rsws: timeout: stopped after 0.5 s\n"


@pytest.mark.parametrize("messages", [1, 5000])
def test_a_reader_that_has_seen_enough_ends_it_quietly(
    gateway: Gateway, redis_server: RedisServer, channel: str, messages: int
) -> None:
    add(redis_server, channel, *(str(number) for number in range(messages)))
    script = f'"{sys.executable}" -m rsws sub {channel} --from 0 --output raw | head -1; exit ${{PIPESTATUS[0]}}'
    environment = {name: value for name, value in (os.environ | gateway.env).items() if value is not None}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.DONE, "0\n", "")


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
def test_it_ends_when_whoever_read_it_has_gone(gateway: Gateway, channel: str, kind: str) -> None:
    environment = {name: value for name, value in (os.environ | gateway.env).items() if value is not None}
    with ExitStack() as stack:
        ours, theirs = {"pipe": os.pipe, "socket": unix_sockets, "terminal": pty.openpty}[kind]()
        stack.callback(os.close, ours)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "rsws", "sub", channel, "-q"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        with process:
            try:
                if kind != "pipe":  # something to read says nothing
                    os.write(ours, b"x\n")
                eventually(lambda: subscriptions(gateway) == 1)
                assert process.poll() is None
                stack.close()
                assert process.wait(10) == ExitCode.DONE
                assert process.stderr is not None
                assert b"rsws: " not in process.stderr.read()
            finally:
                process.kill()


def unix_sockets() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def test_ctrl_c_while_nobody_reads(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, *[json.dumps("x" * 10_000)] * 30)
    environment = {name: value for name, value in (os.environ | gateway.env).items() if value is not None}
    arguments = [sys.executable, "-m", "rsws", "sub", channel, "--from", "0"]
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            eventually(lambda: unread(process.stdout) > 40_000, what="a pipe that is full")
            process.send_signal(signal.SIGINT)
            assert process.wait(5) == ExitCode.INTERRUPTED
            assert process.stderr.read() == b""
        finally:
            process.kill()


# --- what goes wrong ---


def test_no_gateway(capfd: pytest.CaptureFixture[str]) -> None:
    assert call_main("sub", "news", "--url", "ws://127.0.0.1:1", "--token", "x") == ExitCode.NOT_CONNECTED
    said = capfd.readouterr().err
    assert said.startswith("rsws: can't connect to ws://127.0.0.1:1: connection refused; ")
    assert "`rsws serve` starts one" in said


def test_a_wrong_token_is_refused_and_not_shown(gateway: Gateway) -> None:
    shown = run_main("sub", "news", "--url", f"{gateway.url}/?token=hunter2")
    assert shown.returncode == ExitCode.REFUSED
    assert "refuses the token" in shown.stderr
    assert "hunter2" not in shown.stderr


def test_a_redis_that_is_away_is_said_wherever_it_starts(own_redis: RedisServer) -> None:
    options = ("--output", "raw", "--count", "1")
    with serving(own_redis.url) as gateway, ExitStack() as stack:
        own_redis.call("XADD", "c", "*", "messageData", "1")
        own_redis.kill()
        processes = [
            stack.enter_context(RswsProcess("sub", "c", "--from", start, *options, env=gateway.env))
            for start in ("0", "10m", "2023-11-14", "-1", "$")
        ]
        for process in processes:
            process.wait_for("^rsws: c: Redis can't be reached \\(Server Redis tidak siap\\)$")
        own_redis.start()
        eventually(lambda: all(process.stdout for process in processes) or not add(own_redis, "c", "2"))
        for process in processes:
            assert process.wait() == ExitCode.DONE
            assert process.stdout == ["2"]


def test_a_time_to_come_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert call_main("sub", "news", "--from", "2123-01-01", "--token", "x") == ExitCode.USAGE
    assert "'2123-01-01' is in the future" in capfd.readouterr().err


def test_no_token(capfd: pytest.CaptureFixture[str]) -> None:
    assert call_main("sub", "news") == ExitCode.REFUSED
    assert "--token, --token-file, RSWS_TOKEN or WEBSOCKET_SECRET_KEY" in capfd.readouterr().err


def test_a_key_that_is_no_stream(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    redis_server.call("SET", channel, "1")
    shown = run_main("sub", channel, "other", "--from", "0", env=gateway.env)
    assert shown.returncode == ExitCode.ERROR
    assert shown.stderr.startswith(f"rsws: {channel}: ")
    assert "not a stream" in shown.stderr


def test_a_right_that_is_missing() -> None:
    with fake_gateway({"status": "error", "error": "not for you", "code": "not_allowed", "channel": "c"}) as env:
        shown = run_main("sub", "c", env=env)
    assert (shown.returncode, shown.stderr) == (ExitCode.REFUSED, "rsws: c: not for you\n")


def test_a_gap_is_said_and_it_goes_on_or_ends() -> None:
    replies = (
        {"status": "subscribed", "channel": "c", "lastMessageId": "1-0", "latestId": "5-0"},
        {"event": "gap", "channel": "c", "lastMessageId": "1-0", "resumesAt": "4-0", "reason": "trimmed"},
        {"event": "message", "channel": "c", "streamId": "4-0", "data": "later"},
    )
    with fake_gateway(*replies) as env:
        shown = run_main("sub", "c", "--from", "1-0", "--count", "1", "--output", "raw", env=env)
    assert (shown.returncode, shown.stdout) == (ExitCode.DONE, '"later"\n')
    gap = "rsws: c: gap, messages after 1-0 may be missing (they were trimmed); going on at 4-0\n"
    assert shown.stderr == gap
    with fake_gateway(*replies) as env:
        shown = run_main("sub", "c", "--from", "1-0", "--on-gap", "exit", env=env)
    assert (shown.returncode, shown.stdout, shown.stderr) == (ExitCode.GAP, "", gap)


def test_trouble_of_a_channel_that_was_good_is_said_and_it_goes_on() -> None:
    replies = (
        {"status": "subscribed", "channel": "c", "lastMessageId": "3-0", "latestId": "3-0"},
        {"status": "error", "error": "bad\x1b[31m", "code": "channel_unreadable", "channel": "c"},
        {"event": "message", "channel": "c", "streamId": "4-0", "data": 1},
    )
    with fake_gateway(*replies) as env:
        shown = run_main("sub", "c", "--count", "1", "--output", "raw", env=env)
    assert (shown.returncode, shown.stdout) == (ExitCode.DONE, "1\n")
    assert shown.stderr == "rsws: c: bad\\u001b[31m\n"


def test_it_comes_back_and_says_so(redis_server: RedisServer, channel: str) -> None:
    other = f"{channel}-2"
    with serving(redis_server.url, port := free_port()) as gateway:
        process = RswsProcess("sub", channel, other, "--output", "raw", "--from", "0", env=gateway.env)
        with process:
            add(redis_server, channel, "1")
            process.wait_lines(1)
            process.wait_for("no such stream yet")
            gateway.process.kill()
            process.wait_for("reconnecting$")
            add(redis_server, channel, "2", "3")
            add(redis_server, other, "4")
            with serving(redis_server.url, port):
                process.wait_for(r"^rsws: reconnected after \d+\.\d s, caught up 3$")
                add(redis_server, other, "5")
                assert sorted(process.wait_lines(5)) == ["1", "2", "3", "4", "5"]
                assert process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
    assert len([line for line in process.stderr if "no such stream yet" not in line]) == 2


def test_the_key_of_the_data_directory_opens_the_gateway_of_this_user(
    redis_server: RedisServer, channel: str, tmp_path: Path
) -> None:
    with RswsProcess("serve", "--port", "0", env={"REDIS_URL": redis_server.url}) as serve:
        url = serve.wait_for(r"url=(ws://\S+)")[1]
        assert run_main("sub", channel, "--url", url, "--no-follow").returncode == ExitCode.DONE
        refused = run_main("sub", channel, "--url", url, "--no-follow", env={"WEBSOCKET_SECRET_KEY": KEY})
        assert refused.returncode == ExitCode.REFUSED


@pytest.mark.parametrize(("after", "ending"), [("1-0", "going on at 3-0"), ("9-0", "going on at 3-0")])
def test_a_gap_ends_it_where_that_is_wanted(
    gateway: Gateway, redis_server: RedisServer, channel: str, after: str, ending: str
) -> None:
    for number in (1, 2, 3, 4):
        add(redis_server, channel, str(number), id=f"{number}-0")
    redis_server.call("XTRIM", channel, "MAXLEN", 2)
    options = ("--from", after, "--no-follow", "--output", "raw")
    goes_on = run_main("sub", channel, *options, env=gateway.env)
    assert (goes_on.returncode, goes_on.stdout) == (ExitCode.DONE, "3\n4\n")
    assert "gap" in goes_on.stderr
    ends = run_main("sub", channel, *options, "--on-gap", "exit", env=gateway.env)
    assert (ends.returncode, ends.stdout) == (ExitCode.GAP, "")
    assert f"{channel}: gap, messages after {after} may be missing" in ends.stderr
    assert ending in ends.stderr


def test_no_gap_where_nothing_is_missing(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    ids = add(redis_server, channel, "1", "2", "3")
    shown = run_main(
        "sub", channel, "--from", ids[0], "--no-follow", "--on-gap", "exit", "--output", "raw", env=gateway.env
    )
    assert (shown.returncode, shown.stdout, shown.stderr) == (ExitCode.DONE, "2\n3\n", "")

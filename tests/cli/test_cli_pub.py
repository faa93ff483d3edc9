"""``rsws pub`` in a pipe, run for real."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from kit.cli import Gateway, Terminal, acking, fake_gateway, messages_in, mute_gateway, run_main, serving
from kit.support import RedisServer, RswsProcess
from rsws.cli.data import as_message
from rsws.cli.exits import ExitCode
from rsws.cli.making import Pace
from rsws.errors import UsageError

GO_ON = "to go on, with the same options: tail -n +{} FILE | rsws pub --lines {}"


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer) -> Iterator[Gateway]:
    with serving(redis_server.url) as gateway:
        yield gateway


# --- what is stored ---


@pytest.mark.parametrize(
    ("arguments", "typed", "stored"),
    [
        (('{"n" : 1e400, "b":[ ]}',), None, '{"n" : 1e400, "b":[ ]}'),
        (("-",), '\n{\n"a": 1\n}\r\n', '{\n"a": 1\n}'),
        ((), '"é"\n', '"é"'),
        (("--", "-5"), None, "-5"),
        (("--text", 'he said "hi"'), None, '{"text":"he said \\"hi\\""}'),
        (("--text",), "  two\nlines\n", '{"text":"  two\\nlines"}'),
    ],
)
def test_one_message(
    gateway: Gateway,
    redis_server: RedisServer,
    channel: str,
    arguments: tuple[str, ...],
    typed: str | None,
    stored: str,
) -> None:
    done = run_main("pub", channel, *arguments, input=typed, env=gateway.env)
    [(stream_id, data)] = messages_in(redis_server, channel)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{stream_id}\n", "")
    assert data == stored


def test_a_line_is_a_message(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    lines = [json.dumps({"n": number}) for number in range(3000)]
    done = run_main("pub", channel, "--lines", input="\n\n".join(lines), env=gateway.env)
    stored = messages_in(redis_server, channel)
    assert [data for _, data in stored] == lines
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [stream_id for stream_id, _ in stored], "")


def test_a_line_is_sent_when_it_comes(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    with RswsProcess("pub", channel, "--lines", "--text", "-", env=gateway.env) as process:
        for count in (1, 2):
            process.send("hi\n")
            assert len(process.wait_lines(count)) == len(messages_in(redis_server, channel)) == count
        process.send("no end of line")
        process.close_stdin()
        assert process.wait() == ExitCode.DONE
    assert messages_in(redis_server, channel)[-1][1] == '{"text":"no end of line"}'


def test_ctrl_c_while_it_waits_for_a_line(gateway: Gateway, channel: str) -> None:
    with RswsProcess("pub", channel, "--lines", env=gateway.env) as process:
        process.send("1\n")
        process.wait_lines(1)
        assert process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
    assert process.stderr == [f"rsws: interrupted: 1 stored, line 2 on not sent; {GO_ON.format(2, channel)}"]


def test_ctrl_c_while_acks_are_awaited_says_how_far_it_came() -> None:
    with acking(1, 3) as (env, all_came), RswsProcess("pub", "c", "--lines", env=env) as process:
        process.send("1\n")
        process.wait_lines(1)
        process.send("2\n\n3\n")
        assert all_came.wait(10)
        assert process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
    said = "rsws: interrupted: 1 stored, 2 may be stored (from line 2 on), line 5 on not sent"
    assert process.stderr == [f"{said}; {GO_ON.format(5, 'c')}"]


def test_ctrl_c_while_the_ack_is_awaited_says_what_became_of_the_message() -> None:
    with acking(0, 1) as (env, came), RswsProcess("pub", "c", "1", env=env) as process:
        assert came.wait(10)
        assert process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
    assert process.stderr == ["rsws: interrupted: the message may be stored"]


@pytest.mark.parametrize(("arguments", "said"), [(("1",), "not sent"), (("--lines",), "0 stored, line 1 on not sent")])
def test_ctrl_c_before_anything_was_sent(arguments: tuple[str, ...], said: str) -> None:
    with mute_gateway() as (env, listening), RswsProcess("pub", "c", *arguments, env=env) as process:
        connection, _ = listening.accept()
        with connection:
            assert process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
    assert process.stderr == [f"rsws: interrupted: {said}"]


@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_all_is_sent_whoever_reads_the_ids(
    gateway: Gateway, redis_server: RedisServer, channel: str, reader: str
) -> None:
    script = f'"{sys.executable}" -m rsws pub {channel} --lines | {reader}; exit ${{PIPESTATUS[0]}}'
    environment = {name: value for name, value in (os.environ | gateway.env).items() if value is not None}
    done = subprocess.run(
        ["bash", "-c", script], input="1\n" * 4_000, env=environment, capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
    assert redis_server.call("XLEN", channel) == 4_000  # ids for more than a pipe holds


def test_ids_that_can_not_be_written_end_it_and_it_says_how_far_it_came(
    gateway: Gateway, redis_server: RedisServer, channel: str
) -> None:
    script = f'"{sys.executable}" -m rsws pub {channel} --lines > /dev/full'
    environment = {name: value for name, value in (os.environ | gateway.env).items() if value is not None}
    done = subprocess.run(
        ["bash", "-c", script], input="1\n" * 10_000, env=environment, capture_output=True, text=True, timeout=20
    )
    stored = redis_server.call("XLEN", channel)
    assert 0 < stored < 10_000
    assert done.returncode == ExitCode.ERROR
    said = f"rsws: No space left on device; {stored:,} stored, line {stored + 1} on not sent"
    assert done.stderr == f"{said}; {GO_ON.format(stored + 1, channel)}\n"


def test_lines_are_gone_on_with_as_it_says(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    name = f"-{channel} $"
    lines = [f"it's {number}" for number in range(5)]
    Path("FILE").write_text("\n".join(lines))
    with RswsProcess("pub", "--lines", "--text", "--", name, env=gateway.env) as process:
        process.send("\n".join(lines[:2]) + "\n")
        process.wait_lines(2)
        assert process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
    command = process.stderr[-1].partition("with the same options: ")[2]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {name: value for name, value in (os.environ | gateway.env).items() if value is not None}
    subprocess.run(["bash", "-c", command], env=environment | {"PATH": path}, capture_output=True, check=True)
    assert [json.loads(data) for _, data in messages_in(redis_server, name)] == [{"text": line} for line in lines]


# --- what is made ---


def test_a_template_makes_each_message(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    template = '{"a":{"n":{{n}}}, "at":"{{ time }}", "id":"{{uuid}}", "r":{{random}}}'
    done = run_main("pub", channel, "--count", "1200", "--template", template, env=gateway.env)
    stored = messages_in(redis_server, channel)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [stream_id for stream_id, _ in stored], "")
    made = [json.loads(data) for _, data in stored]
    assert [each["a"]["n"] for each in made] == list(range(1, 1201))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made[0]["at"])
    assert len({UUID(each["id"]) for each in made}) == 1200
    assert all(0 <= each["r"] < 1_000_000 for each in made)


@pytest.mark.parametrize(
    ("arguments", "stored"),
    [
        (("--count", "2", '{"a" : 1}'), ['{"a" : 1}'] * 2),
        (("--count", "2", "--rate", "1000", "--text", "hi"), ['{"text":"hi"}'] * 2),
        (("--count", "2", "--text", "--template", "{ {{n}}"), ['{"text":"{ 1"}', '{"text":"{ 2"}']),
        (("--template", "[{{n}}]"), ["[1]"]),
        (("--lines", "--rate", "1000"), ["7", "8"]),
    ],
)
def test_what_is_repeated(
    gateway: Gateway, redis_server: RedisServer, channel: str, arguments: tuple[str, ...], stored: list[str]
) -> None:
    done = run_main("pub", channel, *arguments, input="7\n8\n", env=gateway.env)
    assert (done.returncode, done.stderr) == (0, "")
    assert [data for _, data in messages_in(redis_server, channel)] == stored


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--template", "{{nn}}"), "--template: there is no {{nn}}; there are {{n}}, {{time}}, {{uuid}}, {{random}}"),
        (("--template", "{{uuid}}!"), "--template makes no message: not JSON: "),
        (("--template", "1", "1"), "--template makes the messages: leave DATA out"),
        (("--lines", "--count", "2"), "--lines sends what it reads: leave --count and --template out"),
        (("--count", "0"), "--count is '0': it must be 1 or more"),
        (("--rate", "inf"), "--rate: it must be a finite number"),
    ],
)
def test_what_can_not_be_made(channel: str, arguments: tuple[str, ...], said: str) -> None:
    refused = run_main("pub", channel, *arguments)  # before a gateway is looked for
    assert refused.returncode == ExitCode.USAGE
    assert refused.stderr.startswith(f"rsws: {said}")


def test_without_a_count_it_ends_with_its_reader(gateway: Gateway, channel: str) -> None:
    script = f'"{sys.executable}" -m rsws pub {channel} --rate 100 1 | head -2; exit ${{PIPESTATUS[0]}}'
    environment = {name: value for name, value in (os.environ | gateway.env).items() if value is not None}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr, len(done.stdout.split())) == (ExitCode.DONE, "", 2)


def test_ctrl_c_says_how_many_were_made(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    with RswsProcess("pub", channel, "--rate", "0.01", "1", env=gateway.env) as process:
        process.wait_lines(1)
        assert process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
    assert process.stderr == ["rsws: interrupted: 1 stored, message 2 on not sent"]


def test_a_rate_is_kept_in_the_long_run() -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += max(0, seconds)

    async def run() -> None:
        nonlocal now
        pace = Pace(8, lambda: now, sleep)
        assert [await pace.due(100), now] == [1, 0]
        assert [await pace.due(100), now] == [1, 0.125]
        now = 1.1  # an answer took long: what was late is made up for
        assert await pace.due(100) == 7
        assert [await pace.due(100), now] == [1, 1.125]
        now = 100
        assert await pace.due(5) == 5

    asyncio.run(run())


# --- what is refused ---


def test_what_is_no_json_is_refused_with_a_hint(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    refused = run_main("pub", channel, "{text:hi}", env=gateway.env)
    assert refused.returncode == ExitCode.USAGE
    assert refused.stderr == (
        "rsws: not JSON: {text:hi} - send plain text with --text, or quote JSON for the shell: "
        """'{"text":"hi"}'\n"""
    )
    assert messages_in(redis_server, channel) == []


@pytest.mark.parametrize("raw", [b"hello", b"NaN", b'{"a":1', b'"\\ud800"', b"'1'", b'"\xff"', b"", b" \n"])
def test_what_is_no_json(raw: bytes) -> None:
    with pytest.raises(UsageError, match="not JSON"):
        as_message(raw, text=False)


def test_text_that_is_no_text() -> None:
    with pytest.raises(UsageError, match="not valid UTF-8"):
        as_message(b"\xff", text=True)


def test_nothing_is_no_message(gateway: Gateway, channel: str) -> None:
    refused = run_main("pub", channel, input="  \n", env=gateway.env)
    assert (refused.returncode, refused.stderr) == (2, "rsws: nothing to send: standard input is empty\n")


def test_lines_of_json_without_lines_are_told_of_it(gateway: Gateway, channel: str) -> None:
    refused = run_main("pub", channel, input='{"a":1}\n\n{"a":2}\n', env=gateway.env)
    assert refused.returncode == ExitCode.USAGE
    assert refused.stderr == "rsws: not JSON, but lines of it: with --lines each line is a message\n"


def test_a_bad_line_is_named_and_ends_it(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    refused = run_main("pub", channel, "--lines", input="1\n\n2\noops\n3\n", env=gateway.env)
    stored = messages_in(redis_server, channel)
    assert refused.returncode == ExitCode.USAGE
    assert refused.stderr.startswith("rsws: line 4: not JSON: oops")
    assert [data for _, data in stored] == ["1", "2"]
    assert refused.stdout.split() == [stream_id for stream_id, _ in stored]


def test_a_message_that_is_too_big(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    lines = ["1", json.dumps("x" * 2_000_000), "2"]
    refused = run_main("pub", channel, "-", input=lines[1], env=gateway.env)
    assert refused.returncode == ExitCode.ERROR
    assert refused.stderr.splitlines()[-1].startswith("rsws: not stored: too big for the gateway")
    refused = run_main("pub", channel, "--lines", input="\n".join(lines), env=gateway.env)
    assert refused.returncode == ExitCode.ERROR
    assert "line 2: not stored: too big for the gateway" in refused.stderr
    assert refused.stdout.split() == [messages_in(redis_server, channel)[0][0]]


def test_a_redis_that_has_gone(own_redis: RedisServer, channel: str) -> None:
    with serving(own_redis.url) as gateway:
        own_redis.kill()
        refused = run_main("pub", channel, "1", env=gateway.env)
    assert refused.returncode == ExitCode.NOT_CONNECTED
    assert refused.stderr == "rsws: not stored: Redis can't be reached (Server Redis tidak siap)\n"


def test_no_ack_in_time() -> None:
    with fake_gateway() as env:
        refused = run_main("pub", "c", "1", "--timeout", "0.3", env=env)
    assert refused.returncode == ExitCode.TIMEOUT
    assert refused.stderr == "rsws: no ack within 0.3 s; the message may be stored all the same\n"


def test_a_right_that_is_missing() -> None:
    with fake_gateway({"status": "error_ack", "error": "no", "code": "not_allowed", "outcome": "not_stored"}) as env:
        refused = run_main("pub", "c", "1", env=env)
    assert (refused.returncode, refused.stderr) == (ExitCode.REFUSED, "rsws: not stored: no\n")


def test_lines_that_are_not_stored_are_counted() -> None:
    refusal = {"status": "error_ack", "error": "OOM", "code": "redis_refused", "outcome": "not_stored"}
    with fake_gateway(refusal) as env:
        refused = run_main("pub", "c", "--lines", "--timeout", "0.5", input="1\n2\n3\n", env=env)
    assert refused.returncode == ExitCode.ERROR
    assert refused.stderr == (
        "rsws: line 1: not stored: OOM; of those after it 2 may be stored; 0 stored in all, line 4 on not sent\n"
    )


def test_a_gateway_that_falls_silent_leaves_it_said_how_to_go_on() -> None:
    with acking(1, 3) as (env, all_came), RswsProcess("pub", "c", "--lines", "--timeout", "1", env=env) as process:
        process.send("1\n")
        process.wait_lines(1)
        process.send("2\n3\n")
        assert all_came.wait(10)
        assert process.wait() == ExitCode.TIMEOUT
    said = "line 2: no ack within 1 s; 1 stored, 2 may be stored (from line 2 on), line 4 on not sent"
    assert process.stderr == [f"rsws: {said}; {GO_ON.format(4, 'c')}"]


def test_a_gateway_that_goes_for_good_leaves_it_said_how_to_go_on() -> None:
    with acking(1, 3, close=True) as (env, _):
        ended = run_main("pub", "c", "--lines", input="1\n2\n3\n", env=env)
    assert ended.returncode == ExitCode.NOT_CONNECTED
    assert re.match(r"rsws: line 2: no ack came before the connection ended \(.*enough.*\)", ended.stderr)
    said = "; 1 stored, 2 may be stored (from line 2 on), line 4 on not sent; "
    assert ended.stderr.endswith(f"{said}{GO_ON.format(4, 'c')}\n")


def test_what_would_be_sent_twice_is_not_gone_on_with() -> None:
    refused = {"status": "error_ack", "error": "too big", "code": "too_big", "outcome": "not_stored"}
    with fake_gateway(refused) as env:
        ended = run_main("pub", "c", "--lines", "--timeout", "0.3", input="1\n2\n", env=env)
    assert "tail -n" not in ended.stderr


def test_the_prompt_needs_a_terminal_to_write_to(gateway: Gateway, channel: str) -> None:
    with open("output", "wb") as file, Terminal("pub", channel, env=gateway.env, stdout=file.fileno()) as terminal:
        assert terminal.wait() == ExitCode.USAGE
    assert "the prompt needs a terminal: give DATA" in terminal.text

"""``rsws xadd``, run for real."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit.cli import call_main, messages_in, run_main
from kit.streams import PRIMARY_SAYS
from kit.support import RedisServer, RswsProcess
from kit.tls import Authority
from rsws.cli.exits import ExitCode


@pytest.fixture
def env(redis_server: RedisServer) -> dict[str, str | None]:
    return {"REDIS_URL": redis_server.url}


def test_one_message(redis_server: RedisServer, env: dict[str, str | None], channel: str) -> None:
    done = run_main("xadd", channel, '{"n" : 1e400}', env=env)
    [(stream_id, data)] = messages_in(redis_server, channel)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{stream_id}\n", "")
    assert data == '{"n" : 1e400}'


def test_from_standard_input_and_as_text(redis_server: RedisServer, env: dict[str, str | None], channel: str) -> None:
    assert run_main("xadd", channel, input="[1,\n2]\n", env=env).returncode == 0
    assert run_main("xadd", channel, "-", "--text", input="hi\n", env=env).returncode == 0
    assert [data for _, data in messages_in(redis_server, channel)] == ["[1,\n2]", '{"text":"hi"}']


def test_lines(redis_server: RedisServer, env: dict[str, str | None], channel: str) -> None:
    lines = [json.dumps({"n": number, "text": "x" * 100}) for number in range(3000)]
    done = run_main("xadd", channel, "--lines", input="\n".join(lines), env=env)
    stored = messages_in(redis_server, channel)
    assert [data for _, data in stored] == lines
    assert (done.returncode, done.stdout.split()) == (0, [stream_id for stream_id, _ in stored])


def test_the_end_of_a_channel(redis_server: RedisServer, env: dict[str, str | None], channel: str) -> None:
    assert run_main("xadd", channel, "1", "--end", env=env).returncode == 0
    alone = run_main("xadd", channel, "--end", env=env)  # standard input is not read
    assert run_main("xadd", channel, "-", "--end", input="2", env=env).returncode == 0
    lines = run_main("xadd", channel, "--lines", "--end", input="3\n4\n", env=env)
    stored = redis_server.call("XRANGE", channel, "-", "+")
    end, data = [b"end", b"1"], b"messageData"
    assert [fields for _, fields in stored] == [
        [data, b"1", *end], end, [data, b"2", *end], [data, b"3"], [data, b"4"], end,
    ]  # fmt: skip
    assert [*alone.stdout.split(), *lines.stdout.split()] == [stored[index][0].decode() for index in (1, 3, 4, 5)]
    printed = run_main("xadd", channel, "--end", "--print-command", env=env)
    assert printed.stdout.endswith(f"XADD {channel} '*' end 1\n")


def test_another_field(redis_server: RedisServer, env: dict[str, str | None], channel: str) -> None:
    assert run_main("xadd", channel, "1", "--field", "payload", env=env).returncode == 0
    assert run_main("xadd", channel, "--lines", "--field", "é x", input="2\n", env=env).returncode == 0
    fields = [flat for _, flat in redis_server.call("XRANGE", channel, "-", "+")]
    assert fields == [[b"payload", b"1"], ["é x".encode(), b"2"]]
    for field in ("", "end", "*", "orders.*=payload", "\udcff"):
        refused = run_main("xadd", channel, "1", "--field", field, env=env)
        assert (refused.returncode, refused.stderr.startswith("rsws: --field: ")) == (ExitCode.USAGE, True)


def test_the_channel_is_trimmed(redis_server: RedisServer, env: dict[str, str | None], channel: str) -> None:
    run_main("xadd", channel, "--lines", "--maxlen", "10", input="1\n" * 1000, env=env)
    assert 10 <= redis_server.call("XLEN", channel) < 200


def test_the_local_redis_is_where_it_looks_first(redis_server: RedisServer, channel: str) -> None:
    env: dict[str, str | None] = {"RSWS_LOCAL_REDIS_PORT": str(redis_server.port)}
    assert run_main("xadd", channel, "1", env=env).returncode == 0
    assert len(messages_in(redis_server, channel)) == 1


@pytest.mark.parametrize("arguments", [(), ("--maxlen", "5")])
def test_the_printed_command_does_the_same(redis_server: RedisServer, channel: str, arguments: tuple[str, ...]) -> None:
    data = """{"it's": "a \\"test\\" $HOME"}"""
    url = f"redis://127.0.0.1:{redis_server.port}/3"
    done = run_main("xadd", channel, data, *arguments, "--print-command", "--redis-url", url)
    assert done.returncode == 0
    assert messages_in(redis_server, channel) == []
    words = shlex.split(done.stdout)
    assert words[:5] == ["redis-cli", "-p", str(redis_server.port), "-n", "3"]
    redis_server.call(*words[5:])
    assert [stored for _, stored in messages_in(redis_server, channel)] == [data]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://localhost", "redis-cli"),
        ("redis://cache:7000", "redis-cli -h cache -p 7000"),
        ("rediss://ann:secret@cache/0", "redis-cli -h cache --tls --user ann"),
        ("unix:///run/redis.sock?db=2", "redis-cli -s /run/redis.sock -n 2"),
        ("valkey://cache?db=4", "redis-cli -h cache -n 4"),
        ("rediss://cache?ssl_cert_reqs=none", "redis-cli -h cache --tls --insecure"),
    ],
)
def test_the_printed_command_leads_to_the_same_redis_but_shows_no_password(
    capfd: pytest.CaptureFixture[str], url: str, words: str
) -> None:
    assert call_main("xadd", "c", "1", "--print-command", "--redis-url", url) == ExitCode.DONE
    shown = capfd.readouterr()
    assert shown.out == f"{words} XADD c '*' messageData 1\n"
    assert "secret" not in shown.err
    assert ("REDISCLI_AUTH" in shown.err) is ("secret" in url)


def test_the_printed_command_has_what_tls_needs(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = [authority.ca, *authority.issue("client")]
    flags = ["--redis-tls-ca", "--redis-tls-cert", "--redis-tls-key"]
    options = [word for flag, file in zip(flags, files, strict=True) for word in (flag, str(file))]
    assert call_main("xadd", "c", "1", "--print-command", "--redis-url", "rediss://cache", *options) == ExitCode.DONE
    said = capfd.readouterr().out
    assert said.startswith(f"redis-cli -h cache --tls --cacert {files[0]} --cert {files[1]} --key {files[2]} XADD c ")


def test_there_is_no_printed_command_for_sentinels(capfd: pytest.CaptureFixture[str]) -> None:
    url = "redis+sentinel://a:1,b:2/main"
    assert call_main("xadd", "c", "1", "--print-command", "--redis-url", url) == ExitCode.USAGE
    assert "redis-cli -h a -p 1 SENTINEL GET-MASTER-ADDR-BY-NAME main" in capfd.readouterr().err
    assert call_main("xadd", "c", "1", "--print-command", "--redis-url", f"rediss{url[5:]}") == ExitCode.USAGE
    assert "redis-cli -h a -p 1 --tls SENTINEL" in capfd.readouterr().err


def test_all_is_added_whoever_reads_the_ids(
    redis_server: RedisServer, env: dict[str, str | None], channel: str
) -> None:
    script = f'"{sys.executable}" -m rsws xadd {channel} --lines | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", script],
        input="1\n" * 5_000,
        env={**os.environ, "REDIS_URL": str(env["REDIS_URL"])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (ExitCode.DONE, 1, "")
    assert redis_server.call("XLEN", channel) == 5_000  # ids for more than a pipe holds


# --- what goes wrong ---


def test_no_redis(capfd: pytest.CaptureFixture[str]) -> None:
    assert call_main("xadd", "c", "1", "--redis-url", "redis://127.0.0.1:1") == ExitCode.NOT_CONNECTED
    said = capfd.readouterr().err
    assert said.startswith("rsws: not stored: Redis can't be reached (redis://127.0.0.1:1: ")
    assert "start one with `rsws serve`, or say where it is with --redis-url or REDIS_URL" in said


def test_what_is_no_json_never_gets_there(redis_server: RedisServer, env: dict[str, str | None], channel: str) -> None:
    refused = run_main("xadd", channel, "hello", env=env)
    assert refused.returncode == ExitCode.USAGE
    assert "not JSON: hello" in refused.stderr
    refused = run_main("xadd", channel, "--lines", input="1\nhello\n2\n", env=env)
    assert refused.returncode == ExitCode.USAGE
    assert "line 2: not JSON: hello" in refused.stderr
    assert [data for _, data in messages_in(redis_server, channel)] == ["1"]


def test_a_password_that_is_missing_or_wrong() -> None:
    with RedisServer(requirepass="secret") as server:
        for url in (f"redis://127.0.0.1:{server.port}", server.url.replace("secret", "hunter2")):
            refused = run_main("xadd", "c", "1", "--redis-url", url)
            assert refused.returncode == ExitCode.REFUSED, refused.stderr
            assert "hunter2" not in refused.stderr


def test_a_right_that_is_missing(own_redis: RedisServer) -> None:
    own_redis.call("ACL", "SETUSER", "ann", "on", ">secret", "~news:*", "+xadd", "+client", "+ping", "+select")
    url = f"redis://ann:secret@127.0.0.1:{own_redis.port}"
    assert run_main("xadd", "news:1", "1", "--redis-url", url).returncode == 0
    refused = run_main("xadd", "other", "1", "--redis-url", url)
    assert refused.returncode == ExitCode.REFUSED
    assert "NOPERM" in refused.stderr


def test_a_key_that_is_no_stream(redis_server: RedisServer, env: dict[str, str | None], channel: str) -> None:
    redis_server.call("SET", channel, "1")
    refused = run_main("xadd", channel, "1", env=env)
    assert refused.returncode == ExitCode.ERROR
    assert "not a stream" in refused.stderr


def test_lines_that_redis_refuses_are_counted(own_redis: RedisServer) -> None:
    own_redis.call("CONFIG", "SET", "maxmemory", "1")
    refused = run_main("xadd", "c", "--lines", "--redis-url", own_redis.url, input="1\n2\n")
    assert refused.returncode == ExitCode.ERROR
    assert refused.stdout == ""
    assert refused.stderr.startswith("rsws: line 1: ")
    assert "OOM" in refused.stderr


def test_redis_goes_while_it_waits(own_redis: RedisServer) -> None:
    with RswsProcess("xadd", "c", "--lines", "--redis-url", own_redis.url) as process:
        process.send("1\n")
        process.wait_lines(1)
        own_redis.kill()
        process.send("2\n3\n")
        assert process.wait() == ExitCode.NOT_CONNECTED
    assert process.stderr[0].startswith(
        f"rsws: line 2: Redis can't be reached (lost Redis at redis://127.0.0.1:{own_redis.port}: "
    )
    said = "; 1 stored, 2 may be stored (from line 2 on), line 4 on not sent"
    assert process.stderr[0].endswith(said + to_go_on(4, "c"))


def to_go_on(line: int, channel: str) -> str:
    return f"; to go on, with the same options: tail -n +{line} FILE | rsws xadd --lines {channel}"


def test_ctrl_c_while_it_waits_for_a_line(env: dict[str, str | None], channel: str) -> None:
    with RswsProcess("xadd", channel, "--lines", env=env) as process:
        process.send("1\n")
        process.wait_lines(1)
        assert process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
    assert process.stderr == ["rsws: interrupted: 1 stored, line 2 on not sent" + to_go_on(2, channel)]


@contextmanager
def answering_once() -> Iterator[tuple[str, threading.Event]]:
    """A Redis that answers until it has added one message; its URL, and what is set once three have come."""
    all_came = threading.Event()

    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            came = 0
            while data := connection.recv(65536):
                came += data.count(b"XADD")
                if came <= 1:
                    connection.sendall(PRIMARY_SAYS if came == 0 else b"$3\r\n1-0\r\n")
                elif came == 3:
                    all_came.set()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer)
        thread.start()
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}", all_came
        thread.join(10)


def test_ctrl_c_while_redis_does_not_answer_says_how_far_it_came() -> None:
    with answering_once() as (url, all_came), RswsProcess("xadd", "c", "--lines", "--redis-url", url) as process:
        process.send("1\n")
        process.wait_lines(1)
        process.send("2\n\n3\n")
        assert all_came.wait(10)
        assert process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
    assert process.stderr == [
        "rsws: interrupted: 1 stored, 2 may be stored (from line 2 on), line 5 on not sent" + to_go_on(5, "c")
    ]


SOMEBODY_ELSE = """
import os, sys
me = os.geteuid()
os.geteuid = lambda: me + 1
sys.argv = ["rsws", "xadd", "news", "1", "--local-redis-port", sys.argv[1]]
from rsws.cli.app import main
main()
"""


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the system does not tell")
def test_a_local_redis_of_somebody_else_is_named(own_redis: RedisServer) -> None:
    command = [sys.executable, "-c", SOMEBODY_ELSE, str(own_redis.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert re.fullmatch(r"\d+-\d+\n", done.stdout)
    assert "is not yours: it belongs to" in done.stderr

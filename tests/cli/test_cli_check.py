"""``rsws check``, run for real."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from unittest import mock
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from kit.cli import Gateway, Terminal, call_main, run_main, serving
from kit.support import RedisServer, eventually, free_port

Env = dict[str, str | None]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer(appendonly="yes") as server:
        yield server


def is_ready(url: str) -> bool:
    try:
        with urlopen(f"http{url.removeprefix('ws')}/readyz"):
            return True
    except HTTPError:  # 503: it has not reached its Redis yet
        return False


@pytest.fixture(scope="module")
def served(redis: RedisServer) -> Iterator[Gateway]:
    with serving(redis.url) as running:
        eventually(lambda: is_ready(running.url), what="readiness")
        yield running


@pytest.fixture
def env(redis: RedisServer, served: Gateway) -> Env:
    return {**served.env, "REDIS_URL": redis.url}


def test_all_is_well_in_each_format(env: Env, redis: RedisServer, capfd: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        with mock.patch.dict(os.environ, {name: str(value) for name, value in env.items()}):
            assert call_main(*arguments) == 0
        return capfd.readouterr().out

    skip = ["--skip", "version"]
    text = run_main("check", *skip, env=env)
    assert (text.returncode, text.stderr) == (0, ""), text.stdout
    assert text.stdout.splitlines()[0] == f"gateway   {env['RSWS_URL']}"
    assert re.search(r"^fine      .*\bround-trip\b", text.stdout, re.MULTILINE)
    assert re.search(r"^ok        1 note, \d\d checks fine$", text.stdout.splitlines()[-1])
    said = json.loads(run("check", *skip, "--format", "json"))
    assert (said["status"], said["exit_code"]) == ("ok", 0)
    assert [(each["check"], each["severity"]) for each in said["findings"]] == [("role", "note")]
    assert 0 < said["round_trip_s"] < 1
    nagios = run("check", *skip, "--format", "nagios")
    wanted = r"RSWS OK - 1 note, \d\d checks fine \| rtt=[\d.]+ms critical=0 warning=0 unknown=0 note=1 time=[\d.]+s"
    assert re.fullmatch(wanted, nagios.splitlines()[0])
    prometheus = run("check", *skip, "--format", "prometheus")
    for line in prometheus.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) rsws_check_\w+ .*|rsws_check_\w+(\{(\w+=\"[\w-]+\",?)+\})? [\d.]+", line)
    assert 'rsws_check_findings{severity="critical"} 0\n' in prometheus
    assert "rsws_check_status 0\n" in prometheus
    assert "rsws_check_round_trip_seconds 0.0" in prometheus
    assert redis.call("KEYS", "rsws-check*") == []


def test_on_a_terminal(env: Env) -> None:
    with Terminal("check", "--no-gateway", "--skip", "version", env=env, columns=60) as terminal:
        assert terminal.wait() == 0
        shown = terminal.text
    assert "note      role: Redis has no replica\n" in shown
    assert all(len(line) <= 60 for line in shown.splitlines() if "->" not in line)


def test_the_exit_code_is_that_of_the_worst(env: Env, redis: RedisServer) -> None:
    only = ["--no-gateway", "--format", "nagios", "--skip", "version", "--skip", "tracking"]
    redis.call("ACL", "SETUSER", "limited", "on", ">topsecret", "~*", "&*", "+@all", "-config", "-time")
    limited = env | {"REDIS_URL": f"redis://limited:topsecret@127.0.0.1:{redis.port}"}
    unknown = run_main("check", *only, env=limited)
    assert unknown.returncode == 3
    assert unknown.stdout.startswith("RSWS UNKNOWN - 1 unknown, 1 note, ")
    redis.call("CONFIG", "SET", "appendfsync", "no")
    warning = run_main("check", *only, env=env)
    redis.call("CONFIG", "SET", "appendfsync", "everysec")
    assert warning.returncode == 1
    assert "WARNING persistence: appendfsync is no; CONFIG SET appendfsync everysec\n" in warning.stdout
    redis.call("ACL", "SETUSER", "limited", "-xadd", "-xinfo")
    critical = run_main("check", *only, env=limited)
    assert critical.returncode == 2
    assert re.findall(r"^(\w+) [a-z-]+:", critical.stdout, re.MULTILINE) == [
        "CRITICAL", "CRITICAL", "WARNING", "UNKNOWN", "NOTE",
    ]  # fmt: skip
    assert "topsecret" not in critical.stdout + critical.stderr


def test_what_does_not_answer() -> None:
    port, redis_port = free_port(), free_port()
    env: Env = {"PORT": str(port), "RSWS_LOCAL_REDIS_PORT": str(redis_port)}
    done = run_main("check", env=env)  # it looks where the other commands look
    assert (done.returncode, done.stderr) == (2, "")
    assert f"No gateway answers at ws://127.0.0.1:{port}: connection refused" in done.stdout
    assert f"Redis can't be used: redis://127.0.0.1:{redis_port}: " in done.stdout
    assert "-> start it (`rsws serve`), or say where it is with --url or RSWS_URL" in done.stdout


def test_one_side_alone(env: Env, served: Gateway) -> None:
    gateway = json.loads(run_main("check", "--no-redis", "--format", "json", env=served.env).stdout)
    assert gateway["redis"] == ""
    assert "health" in gateway["fine"]
    redis = json.loads(
        run_main("check", "--no-gateway", "--format", "json", env={"REDIS_URL": env["REDIS_URL"]}).stdout
    )
    assert redis["gateway"] == ""
    assert "round-trip" in redis["fine"]


def test_the_token_is_not_shown(served: Gateway) -> None:
    done = run_main("check", "--no-redis", env=served.env | {"RSWS_TOKEN": "kunci_rahasia_lokal_123"})
    assert done.returncode == 2
    assert "The token is one that anybody would try first" in done.stdout
    assert "refuses the token" in done.stdout
    assert "kunci_rahasia" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--no-gateway", "--no-redis"), "leave nothing to look at"),
        (("--skip", "nothing"), "there is no check 'nothing'; they are health, "),
        (("--format", "xml"), "--format"),
        (("--timeout", "0"), "--timeout is '0': it must be 0.1 or more"),
        (("--channel", "rsws:x"), "rsws:"),
        (("--retain", "x"), "not a retention rule: 'x'"),
        (("--url", "ftp://x"), "not a gateway's URL"),
        (("--redis-url", "http://x"), "redis://"),
    ],
)
def test_a_wrong_command_line(arguments: tuple[str, ...], text: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert call_main("check", *arguments) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert text in shown.err

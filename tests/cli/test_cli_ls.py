"""``rsws ls`` and ``rsws info``, run for real."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kit.cli import Gateway, Terminal, run_main, serving
from kit.gateway import add
from kit.support import RedisServer, RswsProcess, free_port
from kit.tokens import SECRET, token
from rsws.cli.exits import ExitCode

Env = dict[str, str | None]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def served(redis: RedisServer) -> Iterator[Gateway]:
    with serving(redis.url, RSWS_JWT_KEY=SECRET) as running:
        yield running


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsws.cli.ls.RATE_S", 0.1)


@pytest.fixture
def env(redis: RedisServer) -> Env:
    return {"REDIS_URL": redis.url}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def ls(*arguments: str, env: Env) -> list[dict[str, Any]]:
    done = run_main("ls", *arguments, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return lines(done.stdout)


# --- ls ---


def test_what_is_said_of_each(redis: RedisServer, channel: str, env: Env) -> None:
    ids = add(redis, channel, "1", "2", "3")
    redis.call("XDEL", channel, ids[0], ids[2])
    redis.call("XGROUP", "CREATE", channel, "g", "0")
    [said] = ls(channel, env=env)
    assert 0 <= said.pop("age") < 60
    assert said.pop("bytes") == redis.call("MEMORY", "USAGE", channel, "SAMPLES", 5)
    assert said == {"channel": channel, "entries": 1, "firstId": ids[1], "lastId": ids[2], "groups": 1}
    assert ls(f"{channel}-none", env=env) == []


def test_patterns_and_what_is_no_channel(redis: RedisServer, channel: str, env: Env) -> None:
    for name in ("a", "b?", "b[1]", "é"):
        add(redis, f"{channel}.{name}", "1")
    redis.call("SET", f"{channel}.string", "x")
    redis.call("XADD", f"{channel}.\udcff".encode(errors="surrogateescape"), "*", "a", "b")
    redis.call("XADD", f"rsws:{channel}", "*", "a", "b")
    assert [each["channel"] for each in ls(f"{channel}.*", env=env)] == [
        f"{channel}.{name}" for name in ("a", "b?", "b[1]", "é")
    ]
    for pattern, names in {
        ".b?": ["b?"],
        ".b[1]": ["b[1]"],
        ".b*]": ["b[1]"],
        ".string": [],
        ".*b*": ["b?", "b[1]"],
    }.items():
        assert [each["channel"] for each in ls(channel + pattern, env=env)] == [f"{channel}.{name}" for name in names]
    assert ls(f"*{channel}", env=env) == []  # the gateway's own
    assert [each["channel"] for each in ls(f"{channel}*", env=env | {"RSWS_CHANNELS": f"{channel}.a"})] == [
        f"{channel}.a"
    ]


def test_order_and_limit(redis: RedisServer, channel: str, env: Env) -> None:
    now_ms = int(time.time() * 1000)
    add(redis, f"{channel}.few", "1", id=f"{now_ms - 1000}-0")
    add(redis, f"{channel}.many", *["1"] * 5, id=f"{now_ms - 9000}-*")
    add(redis, f"{channel}.odd", json.dumps("x" * 50_000), "2", id="5-*")  # its ids are no times

    def order(*arguments: str) -> str:
        return " ".join(each["channel"].rpartition(".")[2] for each in ls(f"{channel}.*", *arguments, env=env))

    assert order() == "few many odd"
    assert order("--reverse") == "odd many few"
    assert order("--sort", "entries") == "many odd few"
    assert order("--sort", "entries", "--reverse", "--limit", "2") == "few odd"
    assert order("--sort", "bytes", "--limit", "1") == "odd"
    assert order("--sort", "age") == "few many odd"
    assert order("--sort", "age", "--reverse") == "many few odd"  # what is not known comes last all the same
    assert [each["age"] is None for each in ls(f"{channel}.*", env=env)] == [False, False, True]


def test_rates(redis: RedisServer, channel: str, env: Env) -> None:
    add(redis, f"{channel}.quiet", "1")
    add(redis, f"{channel}.busy", "1")
    with RswsProcess("ls", f"{channel}.*", "--watch", "--every", "0.2", env=env) as process:
        process.wait_for(r'busy.*"rate":null', stream="stdout")
        redis.client.xadd(f"{channel}.busy", {"messageData": "1"}, maxlen=1, approximate=False)  # as many as before
        process.wait_for(r'busy.*"rate":[1-9.]', stream="stdout")
        assert {each["rate"] for each in lines("\n".join(process.stdout)) if "quiet" in each["channel"]} == {None, 0}
        assert process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
    busy, quiet = ls(f"{channel}.*", "--sort", "rate", env=env)
    assert (busy["rate"], quiet["rate"]) == (0, 0)


def test_whoever_watches_waits_for_redis(own_redis: RedisServer, channel: str) -> None:
    env: Env = {"REDIS_URL": own_redis.url}
    add(own_redis, channel, "1")
    with RswsProcess("ls", "--watch", "--every", "0.2", env=env) as process:
        with Terminal("ls", "--watch", "--every", "0.2", env=env) as terminal:
            process.wait_for(channel, stream="stdout")
            terminal.wait_for(f"{channel} +1 ")
            own_redis.kill()
            process.wait_for("; trying again")
            terminal.wait_for("Redis can't be reached")
            own_redis.start()
            add(own_redis, f"{channel}.later", "1")
            process.wait_for(f"{channel}.later", stream="stdout")
            terminal.wait_for(f"{channel}.later +1 ")
        assert process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
        assert len([line for line in process.stderr if "trying again" in line]) == 1


def test_through_a_gateway(served: Gateway, redis: RedisServer, channel: str) -> None:
    ids = add(redis, channel, "1", "2")
    add(redis, f"{channel}.b", "1")
    with RswsProcess("sub", channel, "--from", "0", env=served.env) as subscriber:
        subscriber.wait_for(ids[-1], stream="stdout")
        first, second = ls(f"{channel}*", "--sort", "subscribers", env=served.env)
        assert 0 <= first.pop("age") < 60
        assert first == {
            "channel": channel, "entries": 2, "firstId": ids[0], "lastId": ids[1], "subscribers": 1,
        }  # fmt: skip
        assert (second["channel"], second["subscribers"]) == (f"{channel}.b", 0)
        [both] = ls(channel, env=served.env | {"REDIS_URL": redis.url})
        assert (both["subscribers"], both["bytes"] > 0) == (1, True)


def test_a_flag_overrules_the_environment(served: Gateway, redis: RedisServer, channel: str) -> None:
    add(redis, channel, "1")
    nowhere = f"redis://127.0.0.1:{free_port()}"
    [said] = ls(channel, "--url", served.url, env={"RSWS_TOKEN": served.env["RSWS_TOKEN"], "REDIS_URL": nowhere})
    assert "subscribers" in said
    assert "bytes" not in said
    [said] = ls(channel, "--redis-url", redis.url, env={"RSWS_URL": "ws://127.0.0.1:1"})
    assert "subscribers" not in said


def test_refusals(served: Gateway, redis: RedisServer, env: Env) -> None:
    nowhere = free_port()
    for arguments, changes, code, text in (
        ((), {"REDIS_URL": f"redis://127.0.0.1:{nowhere}"}, ExitCode.NOT_CONNECTED, "rsws: Redis can't be reached ("),
        (("--url", f"ws://127.0.0.1:{nowhere}", "--token", "x"), {}, ExitCode.NOT_CONNECTED, "connection refused"),
        (("--url", redis.url.replace("redis", "ws"), "--token", "x"), {}, ExitCode.ERROR, "does not speak HTTP"),
        ((), {**served.env, "REDIS_URL": None, "RSWS_TOKEN": "x"}, ExitCode.REFUSED, "came from RSWS_TOKEN)\n"),
        (("--sort", "subscribers"), env, ExitCode.USAGE, "name it with --url"),
        (("--sort", "bytes"), {**served.env, "REDIS_URL": None}, ExitCode.USAGE, "--sort bytes"),
        (("",), env, ExitCode.USAGE, "empty"),
    ):  # fmt: skip
        done = run_main("ls", *arguments, env=changes)
        assert (done.returncode, done.stdout) == (code, "")
        assert text in done.stderr
        assert done.stderr.count("the token came from") <= 1
        assert "stored" not in done.stderr


def test_a_user_who_may_not_ask_for_sizes(own_redis: RedisServer, channel: str) -> None:
    add(own_redis, channel, *["1"] * 3)
    own_redis.call("ACL", "SETUSER", "few", "on", ">pw", "~*", "+@all", "-memory", "-xinfo", "+xinfo|stream")
    own_redis.call("ACL", "SETUSER", "none", "on", ">pw", "~*", "+@all", "-xinfo")
    done = run_main("ls", "*", env={"REDIS_URL": own_redis.url.replace("//", "//few:pw@")})
    assert [(each["entries"], each["bytes"]) for each in lines(done.stdout)] == [(3, None)]
    assert re.fullmatch("rsws: no sizes: Redis refuses MEMORY USAGE: NOPERM .*\n", done.stderr)
    done = run_main("info", channel, env={"REDIS_URL": own_redis.url.replace("//", "//few:pw@")})
    assert [each["groups"] for each in lines(done.stdout)] == [None]
    assert done.stderr.startswith("rsws: no size: Redis refuses MEMORY USAGE")
    done = run_main("ls", "*", env={"REDIS_URL": own_redis.url.replace("//", "//none:pw@")})
    assert (done.returncode, "refuses XINFO STREAM: NOPERM" in done.stderr) == (ExitCode.REFUSED, True)


def test_the_table_fits(redis: RedisServer, channel: str, env: Env) -> None:
    add(redis, f"{channel}.{'n' * 60}.\u202ez", *["1"] * 1500)
    for columns, arguments in ((60, ()), (80, ("--rate",)), (120, ())):
        with Terminal("ls", f"{channel}.*", *arguments, env=env, columns=columns) as terminal:
            assert terminal.wait() == 0
            shown = terminal.text.splitlines()
            assert max(map(len, shown)) <= columns
            assert re.match("channel +entries +bytes .*age" + " +per s" * len(arguments) + "$", shown[0])
            assert re.match(r"test-.*202ez +1500 ", shown[1])
            assert shown[2] == f"1 channel of {redis.url}"
            assert "\u202e" not in terminal.shown
            assert ("last id" in shown[0], "first id" in shown[0]) == (True, columns == 120)


def test_a_table_that_changes(redis: RedisServer, channel: str, env: Env) -> None:
    add(redis, channel, "1")
    with Terminal("ls", f"{channel}*", "--watch", "--every", "0.2", env=env) as terminal:
        terminal.wait_for(f"{channel} +1 ")
        add(redis, channel, "1")
        terminal.wait_for(f"{channel} +2 ")
        assert "\x1b[?1049h" not in terminal.shown  # what was shown stays
        assert terminal.stop(signal.SIGINT) == ExitCode.INTERRUPTED
        assert terminal.shown.rstrip().endswith("\x1b[?25h")


# --- info ---


def info(*arguments: str, env: Env) -> dict[str, Any]:
    done = run_main("info", *arguments, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    [said] = lines(done.stdout)
    return said


def test_all_of_a_channel(redis: RedisServer, channel: str, env: Env) -> None:
    ids = add(redis, channel, "1", '{"a" :\n1e400}', "3")
    redis.call("XDEL", channel, ids[0])
    redis.call("XGROUP", "CREATE", channel, "workers", "0")
    redis.call("XREADGROUP", "GROUP", "workers", "c", "COUNT", "1", "STREAMS", channel, ">")
    redis.call("XADD", channel, "9999999999999-1", "other", b"\xff", "end", "1")
    done = run_main("info", channel, "--retain", f"{channel[:6]}*=9,7d", "--retain", "x=1", env=env)
    assert '"data":{"a" : 1e400}' in done.stdout  # byte for byte, but for line breaks
    [said] = lines(done.stdout)
    version = redis.client.info("server")
    has_counts = "valkey_version" in version or int(str(version["redis_version"]).partition(".")[0]) >= 7
    assert said.pop("bytes") > 0
    assert said.pop("entriesAdded") == (4 if has_counts else None)
    assert said.pop("maxDeletedId") == (ids[0] if has_counts else None)
    assert said["groups"][0].pop("lag") == (2 if has_counts else None)
    first = said.pop("first")
    assert (first["id"], re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", first["time"]) is not None) == (ids[1], True)
    assert said == {
        "channel": channel,
        "exists": True,
        "entries": 3,
        "firstId": ids[1],
        "lastId": "9999999999999-1",
        "age": None,
        "ended": True,
        "last": {"id": "9999999999999-1", "time": None, "fields": {"other": {"base64": "/w=="}, "end": "1"}},
        "groups": [{"name": "workers", "consumers": 1, "pending": 1, "lastId": ids[1]}],
        "field": "messageData",
        "retain": [f"{channel[:6]}*=9,7d"],
    }


def test_a_channel_that_is_not_there(redis: RedisServer, served: Gateway, channel: str, env: Env) -> None:
    assert info(channel, env=env) == {"channel": channel, "exists": False, "field": "messageData", "retain": []}
    said = info(channel, env=served.env)
    assert (said["exists"], said["subscribers"], said["subscriptions"]) == (False, 0, [])
    redis.call("SET", channel, "x")
    done = run_main("info", channel, env=env)
    assert (done.returncode, done.stderr) == (ExitCode.ERROR, f"rsws: {channel!r} is no stream, it is a string\n")


def test_who_subscribes(redis: RedisServer, served: Gateway, channel: str) -> None:
    ids = add(redis, channel, "1")
    redis.call("XGROUP", "CREATE", channel, "workers", "0")
    redis.call("XREADGROUP", "GROUP", "workers", "c", "STREAMS", channel, ">")
    with RswsProcess("sub", channel, "--from", "0", env=served.env) as subscriber:
        subscriber.wait_for(ids[0], stream="stdout")
        said = info(channel, env=served.env)
        assert (said["entries"], said["lastId"], said["subscribers"], said["gaps"]) == (1, ids[0], 1, 0)
        [one] = said["subscriptions"]
        assert (one["state"], one["lastId"], one["lag"]) == ("live", ids[0], 0)
        said = info(channel, env=served.env | {"RSWS_TOKEN": token(channels={"*": "r"})})
        assert (said["subscribers"], "subscriptions" in said) == (1, False)  # a JWT is not told who
        with Terminal("info", channel, env=served.env | {"REDIS_URL": redis.url}) as terminal:
            assert terminal.wait() == 0
            shown = terminal.text
            assert max(map(len, shown.splitlines())) <= 80
            assert re.search(r"^entries +1$", shown, re.MULTILINE)
            assert re.search(rf"^first +{ids[0]}  [\d:.]+  1$", shown, re.MULTILINE)
            assert re.search(r"^groups +workers: 1 pending at 1 consumer,", shown, re.MULTILINE)
            assert re.search(r"^subscribers +1, 0 behind; 0 gaps told", shown, re.MULTILINE)
            assert re.search(rf"^ +{one['client']}: live, after {ids[0]}, 0B queued$", shown, re.MULTILINE)

"""Errors: the same cause has the same exit code in every command, and a setting is named by where it came from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cli import KEY, Gateway, run_main, serving
from kit.support import RedisServer, free_port
from rsws.cli.exits import ExitCode
from rsws.profiles import Profiles, write_profiles

CLIENTS = {
    "sub": ("sub", "news", "--count", "1", "--timeout", "5"),
    "pub": ("pub", "news", "1"),
    "pub --lines": ("pub", "news", "--lines"),
    "pub --count": ("pub", "news", "1", "--count", "2"),
    "bench": ("bench", "fanout", "--messages", "1", "--clients", "1", "--processes", "1"),
}


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer) -> Iterator[Gateway]:
    """Its key may next to nothing."""
    with serving(redis_server.url, RSWS_KEY_MAY="allowed=rw") as gateway:
        yield gateway


# --- what the exit code says ---


@pytest.mark.parametrize("command", CLIENTS.values(), ids=CLIENTS)
def test_no_gateway_a_wrong_token_no_token_and_no_right(gateway: Gateway, command: tuple[str, ...]) -> None:
    nowhere = f"ws://127.0.0.1:{free_port()}"
    for env, code, said in (
        ({"RSWS_URL": nowhere, "RSWS_TOKEN": KEY}, ExitCode.NOT_CONNECTED, "can't connect to ws://"),
        ({"RSWS_URL": gateway.url, "RSWS_TOKEN": "wrong"}, ExitCode.REFUSED, "(the token came from RSWS_TOKEN)"),
        ({"RSWS_URL": "ws://elsewhere.example"}, ExitCode.REFUSED, "no token for ws://elsewhere.example: give it with"),
        (gateway.env, ExitCode.REFUSED, ""),
    ):
        done = run_main(*command, input="1\n", env=env)
        assert (done.returncode, done.stdout) == (code, ""), env
        assert said in done.stderr


@pytest.mark.parametrize("command", [("xadd", "news", "1"), ("xadd", "news", "--lines"), ("xadd", "news", "--end")])
def test_no_redis(command: tuple[str, ...]) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    done = run_main(*command, input="1\n", env={"REDIS_URL": url})
    assert done.returncode == ExitCode.NOT_CONNECTED
    assert f"not stored: Redis can't be reached ({url}: " in done.stderr
    assert "--redis-url or REDIS_URL" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        *[((command, name), "is no channel|it must") for command in ("sub", "pub", "xadd") for name in ("", "rsws:x")],
        *[((command, "news", *lines), "not JSON: oops") for command in ("pub", "xadd") for lines in ((), ("--lines",))],
        (("check", "--no-gateway", "--channel", "rsws:x"), "rsws:"),
    ],
)
def test_a_bad_channel_and_bad_json(
    gateway: Gateway, redis_server: RedisServer, arguments: tuple[str, ...], said: str
) -> None:
    done = run_main(*arguments, input="oops\n", env=gateway.env | {"REDIS_URL": redis_server.url})
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    if said.startswith("not"):
        assert said in done.stderr
    assert done.stderr.count("\n") == 1


# --- whose value it is ---

PUB, XADD = ("pub", "news", "1"), ("xadd", "news", "1")
SERVE, CHECK, TOKEN = ("serve", "--port", "0"), ("check", "--no-gateway"), ("token", "a=r")
INFO = ("info", "news")
BAD = [
    (PUB, "--url", "RSWS_URL", "http://x"),
    (PUB, "--token-file", "RSWS_TOKEN_FILE", "none"),
    (PUB, "--ca", "RSWS_CA", "none"),
    (XADD, "--redis-url", "REDIS_URL", "http://x"),
    (XADD, "--redis-url-file", "REDIS_URL_FILE", "none"),
    (XADD, "--redis-timeout", "RSWS_REDIS_TIMEOUT", "x"),
    (XADD, "--redis-tls-ca", "RSWS_REDIS_TLS_CA", "none"),
    (INFO, "--retain", "RSWS_RETAIN", "x"),
    (INFO, "--field", "RSWS_FIELD", "x"),
    (CHECK, "--retain", "RSWS_RETAIN", "x"),
    (CHECK, "--field", "RSWS_FIELD", "x"),
    (CHECK, "--admin", "RSWS_ADMIN", "x"),
    (TOKEN, "--jwt-key", "RSWS_JWT_KEY", "short"),
    (TOKEN, "--jwt-key-file", "RSWS_JWT_KEY_FILE", "none"),
    (SERVE, "--redis-url", "REDIS_URL", "http://x"),
    (SERVE, "--secret-key-file", "WEBSOCKET_SECRET_KEY_FILE", "none"),
    (SERVE, "--previous-secret-key-file", "RSWS_PREVIOUS_SECRET_KEY_FILE", "none"),
    (SERVE, "--jwt-key", "RSWS_JWT_KEY", "short"),
    (SERVE, "--jwt-key-file", "RSWS_JWT_KEY_FILE", "none"),
    (SERVE, "--tls-cert", "RSWS_TLS_CERT", "none"),
    (SERVE, "--tls-key", "RSWS_TLS_KEY", "none"),
    (SERVE, "--key-may", "RSWS_KEY_MAY", "x"),
    (SERVE, "--retain", "RSWS_RETAIN", "x"),
    (SERVE, "--publish-rate", "RSWS_PUBLISH_RATE", "x"),
    (SERVE, "--workers", "RSWS_WORKERS", "0"),
    (SERVE, "--log-level", "RSWS_LOG_LEVEL", "x"),
]


@pytest.mark.parametrize("where", ["flag", "environment", ".env"])
@pytest.mark.parametrize(("command", "flag", "variable", "value"), BAD)
def test_a_setting_that_can_not_be_used_is_named_by_its_source(
    redis_server: RedisServer, where: str, command: tuple[str, ...], flag: str, variable: str, value: str
) -> None:
    if command == SERVE and variable != "REDIS_URL":
        os.environ["REDIS_URL"] = redis_server.url
    if variable == "RSWS_CA":
        os.environ |= {"RSWS_URL": "wss://localhost", "RSWS_TOKEN": "x"}
    os.environ.pop(variable, None)
    env = {variable: value} if where == "environment" else {}
    if where == ".env":
        Path(".env").write_text(f"{variable}={value}\n")
    done = run_main(*command, *([flag, value] if where == "flag" else []), env=env)
    source = {"flag": flag, "environment": variable, ".env": rf"{variable} in \.env"}[where]
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert re.match(rf"rsws: {source}(:| is | needs )", done.stderr.splitlines()[-1])
    assert "short" not in done.stderr, "it may be a secret"


@pytest.mark.parametrize(
    ("command", "settings", "said"),
    [
        (PUB, {"url": "http://x"}, "not a gateway's URL"),
        (PUB, {"url": "ws://x", "token_file": "none"}, "the file of the token"),
        (PUB, {"url": "wss://x", "ca": "none"}, "the file of the TLS authorities"),
        (XADD, {"redis_url": "http://x"}, "the Redis URL http://x can't be used"),
        (XADD, {"redis_url_file": "none"}, "the file of the Redis URL"),
        (XADD, {"redis_url": "rediss://x", "redis_tls_ca": "none"}, "the file for Redis' TLS can't be read"),
    ],
)
def test_a_profile_that_can_not_be_used_is_named(command: tuple[str, ...], settings: dict[str, str], said: str) -> None:
    write_profiles(Profiles({"prod": settings}))
    done = run_main(*command, "--profile", "prod")
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith(f"rsws: profile prod (~/.config/rsws/profiles.toml): {said}")


@pytest.mark.parametrize("variable", ["REDIS_URL_FILE", "WEBSOCKET_SECRET_KEY_FILE"])
def test_what_a_file_says_is_named_by_the_file_s_setting(variable: str) -> None:
    Path("file").write_text("http://x" if variable == "REDIS_URL_FILE" else "\n")
    done = run_main(*(XADD if variable == "REDIS_URL_FILE" else PUB), env={variable: "file"})
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith(f"rsws: {variable}: ")

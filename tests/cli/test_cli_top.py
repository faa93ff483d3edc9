"""``rsws top``, run for real."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from kit.cli import Gateway, Terminal, run_main, serving
from kit.gateway import add
from kit.support import RedisServer, RswsProcess, free_port
from kit.tokens import SECRET, token
from rsws.cli.exits import ExitCode
from rsws.cli.top_display import spark


@pytest.fixture(scope="module")
def served() -> Iterator[Gateway]:
    with RedisServer() as redis, serving(redis.url, RSWS_JWT_KEY=SECRET) as running:
        yield running


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsws.cli.top.ONCE_S", 0.1)


def once(*arguments: str, env: dict[str, str | None]) -> dict[str, Any]:
    done = run_main("top", "--once", *arguments, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_once(served: Gateway, channel: str) -> None:
    with RswsProcess("sub", channel, "--from", "0", env=served.env) as subscriber:
        done = run_main("pub", channel, "1", env=served.env)
        subscriber.wait_for(done.stdout.strip(), stream="stdout")
        said = once(env=served.env)
    assert (said["url"], said["redisUp"], said["workers"], said["workersTold"]) == (served.url, True, 1, 1)
    assert (said["clients"], said["channels"], said["subscriptions"], said["behind"]) == (1, 1, 1, 0)
    assert said["upSeconds"] > 0
    assert 0 <= said["cpu"] < 5
    assert set(said["perSecond"]) == {
        "published", "read", "historyRead", "delivered", "deliveredBytes", "lagged", "gaps", "notStored", "refused",
    }  # fmt: skip
    [busiest], [slowest] = said["busiest"], said["slowest"]
    assert (busiest["channel"], busiest["subscribers"], slowest["subscriptions"]) == (channel, 1, 1)


def test_workers_are_asked_until_all_have_told(own_redis: RedisServer) -> None:
    with serving(own_redis.url, RSWS_WORKERS="2", RSWS_ADMIN=str(admin := free_port())) as served:
        said = once("--admin", str(admin), env=served.env)
        assert said["workers"] == 2
        assert 1 <= said["workersTold"] <= 2


def test_refusals(served: Gateway) -> None:
    nowhere = {"RSWS_URL": f"ws://127.0.0.1:{free_port()}"}
    for changes, code, text in (
        ({"RSWS_TOKEN": "wrong"}, ExitCode.REFUSED, "refuses the token"),
        ({"RSWS_TOKEN": token(channels={"*": "rw"})}, ExitCode.REFUSED, "secret key"),
        (nowhere, ExitCode.NOT_CONNECTED, "does not tell what it does: connection refused"),
        ({"RSWS_ADMIN": urlsplit(served.url).netloc}, ExitCode.DONE, ""),  # on loopback both ports have the metrics
        ({"RSWS_ADMIN": str(free_port())}, ExitCode.NOT_CONNECTED, "http://127.0.0.1:"),
    ):
        done = run_main("top", "--once", env=served.env | changes)
        assert (done.returncode, text in done.stderr) == (code, True)
    done = run_main("top", env=served.env)
    assert (done.returncode, done.stdout, "--once" in done.stderr) == (ExitCode.USAGE, "", True)


@contextmanager
def answering(page: bytes) -> Iterator[str]:
    """A server that answers one request, whatever it is."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(page)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(("status", "kind"), [(403, "text/html"), (404, "text/plain"), (426, "text/plain")])
def test_metrics_that_are_hidden(status: int, kind: str) -> None:
    """A proxy of deploy/ says 403 or 404, and the gateway 426 where they are at --admin."""
    page = f"HTTP/1.0 {status} No\r\nContent-Type: {kind}\r\n\nno such page".encode()
    with answering(page) as url:
        done = run_main("top", "--once", "--url", url, "--token", "x")
    assert f"does not tell what it does: HTTP status {status}; its metrics are not there: " in done.stderr
    assert done.stderr.endswith("with --url, or that of its --admin with --admin\n")


def test_the_screen(own_redis: RedisServer, channel: str) -> None:
    with serving(own_redis.url) as gateway:
        port = urlsplit(gateway.url).port
        env = gateway.env
        with (
            RswsProcess("sub", channel, env=env) as subscriber,
            Terminal("top", "--every", "0.2", env=env) as terminal,
        ):
            terminal.wait_for(rf"rsws [\d.]+ {gateway.url}  up .*  Redis up  workers 1  CPU ")
            terminal.wait_for(rf"{channel} +0 +1 +0 +0")
            add(own_redis, channel, *["1"] * 20)
            terminal.wait_for(r"delivered +[1-9][\d.]*/s +.*[▁▂▃▄▅▆▇█]")
            gateway.process.stop()
            terminal.wait_for("trying again: the gateway at ")
            with serving(own_redis.url, port=port or 0):
                seen = len(terminal.text)
                terminal.wait_for(rf"{gateway.url}  up .*  Redis up", after=seen)
                terminal.type("q")
                assert terminal.wait() == 0
            assert terminal.is_cooked
            assert terminal.shown.rstrip().endswith(("\x1b[?1049l", "\x1b[?25h"))
            subscriber.stop(signal.SIGINT)


def test_ctrl_c(served: Gateway) -> None:
    with Terminal("top", env=served.env, columns=120) as terminal:
        terminal.wait_for("busiest channels .* slowest clients ")
        assert max(map(len, re.split("\n", terminal.text))) <= 120
        terminal.type("\x03")
        assert terminal.wait() == ExitCode.INTERRUPTED
        assert terminal.is_cooked


def test_a_line_of_blocks() -> None:
    assert spark([0, 1, 4, 8]) == " ▁▄█"
    assert spark([0, 0.001, 1000]) == " ▁█"
    assert spark([0, 0]) == "  "
    assert spark([]) == ""

"""``rsws serve``: the banner, and how it ends. What it serves has tests of its own."""

from __future__ import annotations

import re
import shlex
import signal
import socket
from pathlib import Path

import pytest

from cli_kit import KEY, serving
from gateway_kit import async_test, connect
from metrics_kit import scrape
from rsws.cli.exits import ExitCode
from support import RedisServer, RswsProcess, free_port, run_python, run_rsws

INVITATION = r"Try in another terminal:"


def test_the_banner_says_where_it_is(redis_server: RedisServer, tmp_path: Path) -> None:
    env = {"REDIS_URL": redis_server.url}
    with RswsProcess("serve", "--port", "0", env=env) as serve:
        serve.wait_for(INVITATION)
        serve.wait_for("rsws xadd")
        assert serve.stop(signal.SIGINT) == ExitCode.DONE
    shown = "\n".join(serve.stderr)
    assert re.search(r"^rsws \d+\.\d+", shown, flags=re.MULTILINE)
    assert re.search(r"^  URL +ws://127\.0\.0\.1:\d+$", shown, flags=re.MULTILINE)
    assert f"Redis  {redis_server.url}" in shown
    key_file = tmp_path / "data" / "key"
    assert f"Token  kept in {key_file}" in shown
    assert key_file.read_text().strip() not in shown
    assert serve.stdout == []
    assert "\x1b" not in shown


def test_a_key_that_was_given_is_not_shown(redis_server: RedisServer) -> None:
    with serving(redis_server.url) as gateway:
        gateway.process.wait_for("Token  the one of WEBSOCKET_SECRET_KEY")
    assert KEY not in gateway.process.output()


def test_the_three_lines_of_the_banner_work() -> None:
    port, redis_port = str(free_port()), str(free_port())
    with RswsProcess("serve", "--port", port, "--local-redis-port", redis_port) as serve:
        lines = [serve.wait_for(rf"^    (rsws {command} .*)")[1] for command in ("sub", "pub", "xadd")]
        sub, pub, xadd = (shlex.split(line)[1:] for line in lines)
        assert xadd[:4] == ["xadd", "news", "--local-redis-port", redis_port]
        with RswsProcess(*sub, "--from", "0", "--output", "raw") as subscriber:
            assert run_rsws(*pub).returncode == 0
            assert run_rsws(*xadd).returncode == 0
            assert subscriber.wait_lines(2) == ['{"text":"hi"}'] * 2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_well(redis_server: RedisServer, how: signal.Signals) -> None:
    with serving(redis_server.url) as gateway:
        gateway.process.wait_for(INVITATION)
        assert gateway.process.stop(how) == ExitCode.DONE


@async_test
async def test_a_terminal_that_closes_ends_it_in_good_order(redis_server: RedisServer) -> None:
    with serving(redis_server.url, RSWS_DRAIN="0.3", RSWS_SHUTDOWN_TIMEOUT="10") as gateway:
        async with connect(gateway, f"/?token={KEY}") as client:
            gateway.process.process.send_signal(signal.SIGHUP)
            gateway.process.wait_for("stopping clients=1")
            gateway.process.process.send_signal(signal.SIGHUP)  # the shell's, after the kernel's
            assert await client.closed() == (1012, "the gateway stops")
        assert gateway.process.wait() == ExitCode.DONE


IGNORING = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from rsws.cli.app import main
sys.argv = ["rsws", "serve", "--port", "0", "--redis-url", sys.argv[1]]
sys.stderr = sys.stdout
main()
"""


def test_nohup_keeps_it_from_that(redis_server: RedisServer) -> None:
    with run_python(IGNORING, redis_server.url) as process:
        assert process.stdout is not None
        url = next(match[1] for match in map(re.compile(r"url=(ws://\S+)").search, process.stdout) if match)
        process.send_signal(signal.SIGHUP)
        assert scrape(url)["rsws_workers"] == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == ExitCode.DONE


def test_all_addresses_are_those_of_ipv4_as_well(redis_server: RedisServer) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    for workers in ("1", "2"):
        with serving(redis_server.url, HOST="::", RSWS_WORKERS=workers) as gateway:
            port = int(gateway.url.rpartition(":")[2])
            assert gateway.url == f"ws://[::]:{port}"
            for host in ("127.0.0.1", "[::1]"):
                assert scrape(f"ws://{host}:{port}")["rsws_workers"] >= 1
            env = gateway.env | {"RSWS_URL": f"ws://127.0.0.1:{port}"}
            assert run_rsws("pub", "news", "1", env=env).returncode == ExitCode.DONE
            gateway.process.wait_for(r"client connected client=127\.0\.0\.1:\d+ ")


@pytest.mark.parametrize("host", [".example", "a..b"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_host_that_is_none(redis_server: RedisServer, host: str, workers: str) -> None:
    env = {"REDIS_URL": redis_server.url, "WEBSOCKET_SECRET_KEY": "k", "HOST": host, "RSWS_WORKERS": workers}
    refused = run_rsws("serve", "--port", "0", env=env)
    assert refused.returncode == ExitCode.ERROR
    assert "Traceback" not in refused.stderr
    assert refused.stderr.splitlines()[-1].startswith(f"rsws: can't listen on {host}:0: ")


def test_a_port_that_is_in_use(redis_server: RedisServer) -> None:
    with serving(redis_server.url) as gateway:
        port = gateway.url.rpartition(":")[2]
        refused = run_rsws("serve", "--port", port, env={"REDIS_URL": redis_server.url, "WEBSOCKET_SECRET_KEY": "k"})
    assert refused.returncode == ExitCode.ERROR
    assert refused.stderr.splitlines()[-1] == f"rsws: port {port} is in use; choose another with --port or PORT"


def test_a_key_is_needed_where_others_can_connect(redis_server: RedisServer) -> None:
    refused = run_rsws("serve", "--port", "0", "--host", "0.0.0.0", env={"REDIS_URL": redis_server.url})
    assert refused.returncode == ExitCode.ERROR
    assert "WEBSOCKET_SECRET_KEY must be set" in refused.stderr


def test_a_data_directory_that_can_not_be_written(redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = run_rsws("serve", "--port", "0", "--data-dir", tmp_path / "file", env={"REDIS_URL": redis_server.url})
    assert refused.returncode == ExitCode.ERROR
    assert "can't be written" in refused.stderr
    assert "Traceback" not in refused.stderr

"""``rsws serve``: the banner, and how it ends. What it serves has tests of its own."""

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
from collections.abc import Callable, Mapping
from contextlib import ExitStack, chdir
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
from websockets.sync.server import Server, ServerConnection
from websockets.sync.server import serve as websocket_serve

from kit.cli import KEY, run_main, serving
from kit.gateway import async_test, connect
from kit.metrics import scrape
from kit.support import RedisServer, RswsProcess, eventually, free_port, run_python, run_rsws
from kit.tokens import SECRET as SECRET_OF_JWTS
from kit.tokens import token
from rsws.cli.exits import ExitCode

T = TypeVar("T")
INVITATION = r"Try in another terminal"


def test_the_banner_says_where_it_is(redis_server: RedisServer, tmp_path: Path) -> None:
    env = {"REDIS_URL": redis_server.url}
    with RswsProcess("serve", "--port", "0", env=env) as serve:
        serve.wait_for(INVITATION)
        serve.wait_for("rsws xadd")
        assert serve.stop(signal.SIGINT) == ExitCode.DONE
    shown = "\n".join(serve.stderr)
    assert re.search(r"^rsws \d+\.\d+", shown, flags=re.MULTILINE)
    assert re.search(r"^  URL +ws://127\.0\.0\.1:\d+$", shown, flags=re.MULTILINE)
    assert f"Redis    {redis_server.url}" in shown
    key_file = tmp_path / "data" / "key"
    assert f"Token    kept in {key_file}" in shown
    assert re.search(r"^  Console  http://127\.0\.0\.1:\d+/$", shown, flags=re.MULTILINE)
    assert key_file.read_text().strip() not in shown
    assert serve.stdout == []
    assert "\x1b" not in shown


def test_a_key_that_was_given_is_not_shown(redis_server: RedisServer) -> None:
    with serving(redis_server.url) as gateway:
        gateway.process.wait_for("Token +the one of WEBSOCKET_SECRET_KEY")
    assert KEY not in gateway.process.output()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_keys_that_come_from_pipes(redis_server: RedisServer, channel: str, workers: str) -> None:
    env: dict[str, str | None] = {"WEBSOCKET_SECRET_KEY": None, "REDIS_URL": redis_server.url}
    tokens = {"WEBSOCKET_SECRET_KEY": KEY, "RSWS_PREVIOUS_SECRET_KEY": f"before-{KEY}", "RSWS_JWT_KEY": token()}
    with ExitStack() as stack:
        for name, text in (tokens | {"RSWS_JWT_KEY": SECRET_OF_JWTS}).items():
            reading, writing = os.pipe()
            stack.callback(os.close, reading)
            os.write(writing, text.encode())
            os.close(writing)
            env[f"{name}_FILE"] = f"/proc/{os.getpid()}/fd/{reading}"
        with RswsProcess("serve", "--port", "0", "--workers", workers, env=env) as serve:
            url = serve.wait_for(r"url=(ws://\S+)")[1]
            for each in tokens.values():
                done = run_main("pub", channel, "1", "--url", url, "--token", each)
                assert (done.returncode, done.stderr) == (ExitCode.DONE, "")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_as_json_there_is_nothing_but_log_lines(redis_server: RedisServer, workers: str) -> None:
    options = ("serve", "--log-format", "json", "--workers", workers)
    with RswsProcess(*options, "--port", "0", env={"REDIS_URL": redis_server.url}) as serve:
        serve.wait_for('"listening"')
        assert serve.stop(signal.SIGINT) == ExitCode.DONE
    assert {"listening", "stopped"} <= {json.loads(line)["message"] for line in serve.stderr}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = run_rsws(*options, "--port", port, env={"REDIS_URL": redis_server.url})
    assert refused.returncode == ExitCode.ERROR
    said = json.loads(refused.stderr)
    assert (said["level"], said["message"].split(";")[0]) == ("critical", f"port {port} is in use")


SECRET = "the-key-of-this-test"


class Way(NamedTuple):
    """A way to start the gateway, and what the other terminal then needs."""

    arguments: tuple[str, ...] = ()
    env: dict[str, str] = {}  # noqa: RUF012
    env_file: str = ""
    other_env: dict[str, str] = {}  # noqa: RUF012
    heading: str = "Try in another terminal:"
    embedded: bool = False


WITH_KEY = {"WEBSOCKET_SECRET_KEY": SECRET}
KEY_IS_NEEDED = "Try in another terminal, with the same WEBSOCKET_SECRET_KEY in its environment:"
WAYS = {
    "nothing said": Way(embedded=True),
    "a data directory": Way(("--data-dir", "my data"), embedded=True),
    "a data directory of the environment": Way(env={"RSWS_DATA_DIR": "my data"}, embedded=True),
    "a port of the local Redis": Way(env={"RSWS_LOCAL_REDIS_PORT": "REDIS_PORT"}),
    "a Redis as a flag": Way(("--redis-url", "redis://127.0.0.1:REDIS_PORT")),
    "a Redis with a secret": Way(
        ("--redis-url", "redis://127.0.0.1:REDIS_PORT?db=3"),
        other_env={"REDIS_URL": "redis://127.0.0.1:REDIS_PORT?db=3"},
        heading="Try in another terminal, with the same REDIS_URL in its environment:",
    ),
    "a key as a flag": Way(
        ("--secret-key", SECRET), {"REDIS_URL": "redis://127.0.0.1:REDIS_PORT"}, "", WITH_KEY, KEY_IS_NEEDED
    ),
    "a key of the environment": Way(
        (), {"REDIS_URL": "redis://127.0.0.1:REDIS_PORT"} | WITH_KEY, "", WITH_KEY, KEY_IS_NEEDED
    ),
    "a Redis and a key of files": Way(("--redis-url-file", "redis url", "--secret-key-file", "key")),
    "all of .env": Way(
        env_file=f"REDIS_URL=redis://127.0.0.1:REDIS_PORT?db=3\nWEBSOCKET_SECRET_KEY={SECRET}\nHOST=0.0.0.0\n",
        heading="Try in another terminal, in this directory:",
    ),
    "another address": Way(("--host", "::1"), {"REDIS_URL": "redis://127.0.0.1:REDIS_PORT"}),
    "workers": Way(("--workers", "2"), {"REDIS_URL": "redis://127.0.0.1:REDIS_PORT"}),
}
IN_A_SHELL = {"a data directory", "all of .env"}


@pytest.mark.parametrize("name", WAYS)
def test_the_three_lines_of_the_banner_work(name: str, redis_server: RedisServer, tmp_path: Path) -> None:
    way = WAYS[name]
    redis_server.call("DEL", "news")  # in which other tests have written
    redis_port = str(free_port()) if way.embedded else str(redis_server.port)
    (tmp_path / "key").write_text(f"{SECRET}\n")
    (tmp_path / "redis url").write_text(f"redis://127.0.0.1:{redis_port}\n")
    (tmp_path / ".env").write_text(way.env_file.replace("REDIS_PORT", redis_port))
    if way.embedded:
        os.environ["RSWS_LOCAL_REDIS_PORT"] = redis_port
    env = {variable: value.replace("REDIS_PORT", redis_port) for variable, value in way.env.items()}
    arguments = [argument.replace("REDIS_PORT", redis_port) for argument in way.arguments]
    # The terminal of another day: nothing there that was said to the gateway, but for what the banner names.
    other = {variable: value.replace("REDIS_PORT", redis_port) for variable, value in way.other_env.items()}
    other_env = dict.fromkeys(("RSWS_DATA_DIR", "RSWS_LOCAL_REDIS_PORT"), None) | other
    with RswsProcess("serve", "--port", str(free_port()), *arguments, env=env) as serve:
        serve.wait_for(f"^  {re.escape(way.heading)}$")
        lines = [serve.wait_for(rf"^    (rsws {command} .*)")[1] for command in ("sub", "pub", "xadd")]
        assert SECRET not in serve.output()
        # The lines as they stand there, and the end of what they are to do.
        lines[0] += " --from 0 --output raw --count 2"
        with chdir(tmp_path if way.env_file else "/"):
            for line in lines[1:]:
                in_this_process(line, other_env)
            shown = (in_shell if name in IN_A_SHELL else in_this_process)(lines[0], other_env)
        assert shown.splitlines() == ['{"text":"hi"}'] * 2


def in_shell(line: str, env: Mapping[str, str | None]) -> str:
    """What it prints when a person's shell runs it."""
    environment = {**os.environ, **env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", f"exec {line}"],
        env={name: value for name, value in environment.items() if value is not None},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.returncode == ExitCode.DONE, done.stderr
    return done.stdout


def in_this_process(line: str, env: Mapping[str, str | None]) -> str:
    command, *arguments = shlex.split(line)
    assert command == "rsws"
    done = run_main(*arguments, env=env)
    assert done.returncode == ExitCode.DONE, done.stderr
    return done.stdout


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_user_s_key_is_not_sent_to_another_gateway(redis_server: RedisServer, workers: str) -> None:
    """One that was killed leaves its record behind, and somebody else takes its port."""
    port = str(free_port())
    env = {"REDIS_URL": redis_server.url}
    with RswsProcess("serve", "--port", port, "--workers", workers, env=env) as serve:
        serve.wait_for(INVITATION)
        assert run_main("pub", "news", "1", "--url", f"ws://127.0.0.1:{port}").returncode == 0
        assert run_main("pub", "news", "1", "--url", f"ws://localhost:{port}").returncode == 0
        serve.kill()
    requests: list[str] = []

    def refuse(connection: ServerConnection) -> None:
        requests.append(connection.request.path if connection.request else "")
        connection.close(1008)

    def taken() -> Server:
        return websocket_serve(refuse, "127.0.0.1", int(port))

    server = eventually(lambda: without_error(taken), what="the port")
    assert server is not None
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        done = run_main("pub", "news", "1", "--url", f"ws://127.0.0.1:{port}")
        server.shutdown()
        thread.join()
    assert done.returncode == ExitCode.REFUSED
    assert "was not sent" in done.stderr
    assert "--token-file" in done.stderr
    assert requests == ["/"]


def without_error(make: Callable[[], T]) -> T | None:
    try:
        return make()
    except OSError:
        return None


def test_what_a_flag_shows_in_the_list_of_processes_can_come_from_a_file(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    (tmp_path / "redis").write_text(f"{redis_server.url}\n")
    files = ("--secret-key-file", tmp_path / "key", "--redis-url-file", tmp_path / "redis")
    with RswsProcess("serve", "--port", "0", "--host", "0.0.0.0", *files) as serve:
        url = serve.wait_for(r"url=ws://0\.0\.0\.0:(\d+)")[1]
        sent = run_main("pub", "news", "1", "--url", f"127.0.0.1:{url}", "--token-file", tmp_path / "key")
    assert sent.returncode == 0


@pytest.mark.parametrize("key", ["x", "1234567"])
def test_a_key_that_is_easily_guessed_is_refused_where_others_can_connect(redis_server: RedisServer, key: str) -> None:
    env = {"REDIS_URL": redis_server.url, "WEBSOCKET_SECRET_KEY": key}
    refused = run_main("serve", "--port", "0", "--host", "0.0.0.0", env=env)
    assert refused.returncode == ExitCode.ERROR
    assert "must have 8 characters or more" in refused.stderr
    assert "token_urlsafe" in refused.stderr


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
                assert scrape(f"ws://{host}:{port}", KEY)["rsws_workers"] >= 1
            env = gateway.env | {"RSWS_URL": f"ws://127.0.0.1:{port}"}
            assert run_main("pub", "news", "1", env=env).returncode == ExitCode.DONE
            gateway.process.wait_for(r"client connected client=127\.0\.0\.1:\d+ ")


@pytest.mark.parametrize("host", [".example", "a..b"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_host_that_is_none(redis_server: RedisServer, host: str, workers: str) -> None:
    env = {"REDIS_URL": redis_server.url, "WEBSOCKET_SECRET_KEY": "k", "HOST": host, "RSWS_WORKERS": workers}
    refused = run_main("serve", "--port", "0", env=env)
    assert refused.returncode == ExitCode.USAGE
    assert "Traceback" not in refused.stderr
    assert refused.stderr.splitlines()[-1] == "rsws: HOST: it is not a valid host name"


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--key-may", "news"),
        ("--jwt-key", "short"),
        ("--jwt-key-file", "gone"),
        ("--previous-secret-key-file", "gone"),
        ("--retain", "news"),
        ("--field", "news"),
    ],
)
def test_what_can_not_be_used_is_said_before_a_server_is_started(flag: str, value: str, workers: str) -> None:
    refused = run_main("serve", "--port", "0", "--workers", workers, flag, value)
    assert refused.returncode == ExitCode.USAGE
    [said] = refused.stderr.splitlines()
    assert said.startswith(f"rsws: {flag}: ")
    assert not Path(os.environ["RSWS_DATA_DIR"]).exists()


def test_a_port_that_is_in_use(redis_server: RedisServer) -> None:
    with serving(redis_server.url) as gateway:
        port = gateway.url.rpartition(":")[2]
        refused = run_rsws("serve", "--port", port, env={"REDIS_URL": redis_server.url, "WEBSOCKET_SECRET_KEY": "k"})
    assert refused.returncode == ExitCode.ERROR
    assert refused.stderr.splitlines()[-1] == f"rsws: port {port} is in use; choose another with --port or PORT"


def test_a_key_is_needed_where_others_can_connect(redis_server: RedisServer) -> None:
    refused = run_main("serve", "--port", "0", "--host", "0.0.0.0", env={"REDIS_URL": redis_server.url})
    assert refused.returncode == ExitCode.ERROR
    assert "WEBSOCKET_SECRET_KEY must be set" in refused.stderr


def test_a_data_directory_that_can_not_be_written(redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = run_main("serve", "--port", "0", "--data-dir", tmp_path / "file", env={"REDIS_URL": redis_server.url})
    assert refused.returncode == ExitCode.ERROR
    assert "can't be written" in refused.stderr
    assert "Traceback" not in refused.stderr

"""``rsws serve --workers N``: several processes on one port, which are one gateway to whoever looks from outside."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kit.cli import KEY, Gateway, run_main, serving
from kit.gateway import PATIENCE_S, Client, add, async_test, connect, until
from kit.metrics import scrape
from kit.support import RedisServer, RswsProcess, eventually, free_port, is_running, run_python, run_rsws
from rsws.cli.exits import ExitCode

WORKERS = 2


@contextmanager
def workers(redis_url: str, **env: str) -> Iterator[Gateway]:
    with serving(redis_url, 0, RSWS_WORKERS=str(WORKERS), **env) as gateway:
        yield gateway


def pids(gateway: Gateway) -> list[int]:
    """Of the workers: the newest of each."""
    found = re.findall(r"worker started worker=(\d) pid=(\d+)", "\n".join(gateway.process.stderr))
    return [int(pid) for _, pid in sorted(dict(found).items())]


def open_client(gateway: Gateway) -> AbstractAsyncContextManager[Client]:
    return connect(gateway, f"/?token={KEY}")


def worker_of(gateway: Gateway, client: Client) -> int:
    port = client.websocket.local_address[1]
    return int(gateway.process.wait_for(rf" worker=(\d) client connected client=127\.0\.0\.1:{port} ")[1])


@asynccontextmanager
async def a_client_of_each(gateway: Gateway) -> AsyncIterator[list[Client]]:
    """One client of the first worker, and one of the second."""
    async with AsyncExitStack() as stack:
        found: dict[int, Client] = {}
        while len(found) < WORKERS:
            client = await stack.enter_async_context(open_client(gateway))
            if found.setdefault(worker_of(gateway, client), client) is not client:
                await client.websocket.close()
        await until(lambda: scrape(gateway.url)["rsws_clients"] == WORKERS)
        yield [client for _, client in sorted(found.items())]


def gone_backwards(before: dict[str, float], after: dict[str, float]) -> set[str]:
    return {name for name, value in before.items() if name.endswith("_total") and after[name] < value}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- one gateway ---


@async_test
async def test_what_one_worker_gets_all_deliver_in_order(redis_server: RedisServer, channel: str) -> None:
    with workers(redis_server.url) as gateway:
        async with a_client_of_each(gateway) as clients:
            for client in clients:
                await client.subscribe(channel, lastMessageId="$")
            for number in range(50):
                for client in clients:
                    await client.send(action="publish", channel=channel, data=number, messageId="m")
            seen = []
            for client in clients:
                frames = [await client.next() for _ in range(150)]
                assert sum([frame.get("status") == "ack" for frame in frames]) == 50
                seen.append([frame["streamId"] for frame in frames if frame.get("event") == "message"])
            stored = [id_.decode() for id_, _ in redis_server.call("XRANGE", channel, "-", "+")]
            assert seen == [stored] * 2
            await until(lambda: scrape(gateway.url)["rsws_messages_delivered_total"] == 200)
            await until(lambda: scrape(gateway.url)["rsws_publishes_acked_total"] == 100)
            await until(lambda: scrape(gateway.url)["rsws_subscriptions"] == 2)
            found = scrape(gateway.url)
            assert (found["rsws_workers"], found["rsws_redis_up"], found["rsws_clients"]) == (2, 1, 2)


def test_the_url_of_redis_comes_from_a_pipe(redis_server: RedisServer, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_text, args=(redis_server.url,), daemon=True).start()
    env = {"REDIS_URL": None, "WEBSOCKET_SECRET_KEY": KEY}
    with RswsProcess("serve", "--port", "0", "--workers", "2", "--redis-url-file", pipe, env=env, cwd=tmp_path) as it:
        it.wait_for("redis connected", timeout=15)
        it.wait_for(r"rsws xadd news '")  # and not with the name of a pipe that nobody writes to any more
        assert it.stop() == ExitCode.DONE


@async_test
async def test_the_limit_of_clients_is_for_all_together(redis_server: RedisServer) -> None:
    with workers(redis_server.url, RSWS_MAX_CLIENTS="5") as gateway:
        async with AsyncExitStack() as stack:
            inside = [await stack.enter_async_context(open_client(gateway)) for _ in range(5)]
            for _ in range(5):
                async with connect(gateway, f"/?token={KEY}", welcome=False) as refused:
                    assert await refused.closed() == (1013, "too many clients")
            for client in inside:
                await client.nothing_more()
        # They come to different workers, and one that has gone makes room for another anywhere.
        await until(lambda: scrape(gateway.url)["rsws_clients"] == 0)
        async with open_client(gateway):
            pass


@async_test
async def test_one_trims_for_all(own_redis: RedisServer, channel: str) -> None:
    with workers(own_redis.url, RSWS_RETAIN="*=10") as gateway:
        async with a_client_of_each(gateway) as clients:
            for client in clients:  # what the trimmer asks goes over the same link, and before this
                await client.subscribe(channel, lastMessageId="5", marker=True)
                await client.next()
            assert own_redis.client.info("commandstats")["cmdstat_scan"]["calls"] == 1


def test_the_log_is_that_of_one_gateway(redis_server: RedisServer) -> None:
    with workers(redis_server.url) as gateway:
        process = gateway.process
        process.wait_for("rsws xadd")
        assert process.stop() == ExitCode.DONE
    log = [line for line in process.stderr if re.match(r"\d{4}-\d\d-\d\dT", line)]
    life = [re.sub(r"\b(\w+)=\S+", r"\1", line.split(maxsplit=2)[2]) for line in log if " worker=" not in line]
    assert life == ["rsws.gateway listening url redis", "rsws.gateway stopping clients", "rsws.gateway stopped"]
    assert sorted(re.findall(r"gateway worker started worker=(\d) ", "\n".join(log))) == ["1", "2"]
    assert sum(line.startswith("rsws 0.") for line in process.stderr) == 1
    assert "  Workers  2" in process.stderr


# --- a worker ends ---


@async_test
async def test_a_worker_that_is_killed_is_replaced(redis_server: RedisServer, channel: str) -> None:
    with workers(redis_server.url) as gateway:
        async with a_client_of_each(gateway) as (first, second):
            for client in (first, second):
                await client.subscribe(channel, lastMessageId="$")
            [last] = add(redis_server, channel, "1")
            for client in (first, second):
                await client.message(channel)
            await until(lambda: scrape(gateway.url)["rsws_messages_delivered_total"] == 2)
            before = scrape(gateway.url)
            victim, other = pids(gateway)
            os.kill(victim, signal.SIGKILL)
            gateway.process.wait_for(rf'worker ended worker=1 pid={victim} how="killed by SIGKILL" another_in_s=0\.1')
            assert not gone_backwards(before, scrape(gateway.url))
            assert (await first.closed())[0] == 1006
            missed = add(redis_server, channel, "2", "3")
            async with open_client(gateway) as again:
                await again.subscribe(channel, lastMessageId=last)
                assert [id_ for id_, _ in await again.messages(channel, 2)] == missed
                assert [id_ for id_, _ in await second.messages(channel, 2)] == missed
                gateway.process.wait_for(rf"worker started worker=1 pid=(?!{victim}\b)")
                assert pids(gateway)[1] == other
                await until(lambda: scrape(gateway.url)["rsws_workers"] == 2)
                after = scrape(gateway.url)
                assert after["rsws_clients"] == 2
                assert after["rsws_worker_restarts_total"] == 1
                assert not gone_backwards(before, after)


def test_one_that_dies_again_and_again_is_started_less_often(redis_server: RedisServer) -> None:
    with workers(redis_server.url) as gateway:
        for delay_s in ("0.1", "0.2", "0.4"):
            started = len(gateway.process.stderr)
            os.kill(pids(gateway)[1], signal.SIGKILL)
            gateway.process.wait_for(rf"worker ended worker=2 .* another_in_s={delay_s}$", after=started)
            gateway.process.wait_for("worker started worker=2", after=started)


def test_a_hangup_ends_no_worker_that_starts(redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "previous").write_text("the key before")
    with workers(redis_server.url, RSWS_PREVIOUS_SECRET_KEY_FILE=str(tmp_path / "previous")) as gateway:
        process, started = gateway.process, len(gateway.process.stderr)

        def is_replaced() -> bool:
            process.process.send_signal(signal.SIGHUP)
            return any("worker started" in line for line in process.stderr[started:])

        os.kill(pids(gateway)[0], signal.SIGKILL)
        eventually(is_replaced, timeout=15)
    assert "SIGHUP" not in gateway.process.output()


@async_test
async def test_who_waits_for_a_worker_that_dies_is_served_by_the_next(redis_server: RedisServer) -> None:
    with workers(redis_server.url) as gateway, ExitStack() as waiting:
        for pid in pids(gateway):
            os.kill(pid, signal.SIGSTOP)
        url = urlsplit(gateway.url)
        crowd = [waiting.enter_context(socket.create_connection((url.hostname, url.port))) for _ in range(20)]
        for each in crowd:
            each.sendall(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")
            each.settimeout(PATIENCE_S)
        for pid in pids(gateway):
            os.kill(pid, signal.SIGKILL)
        assert {each.recv(12) for each in crowd} == {b"HTTP/1.1 200"}


HASTY_SUPERVISOR = """
import os, sys
from dataclasses import replace
os.dup2(1, 2)
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.process.lifecycle import run
from rsws.gateway.process.supervisor import Supervisor
from rsws.settings import Settings
settings = Settings(port=0, redis_url=sys.argv[1], secret_key="k", workers=2)
limits = replace(DEFAULTS, publish_s=0.1, silent_checks=20)
sys.exit(run(Supervisor(settings, limits=limits), lambda it: None))
"""


def test_a_worker_that_hangs_is_replaced(redis_server: RedisServer) -> None:
    with run_python(HASTY_SUPERVISOR, redis_server.url) as process:
        assert process.stdout is not None
        started = re.compile(r"worker started worker=2 pid=(\d+)")
        victim = next(match[1] for match in map(started.search, process.stdout) if match)
        os.kill(int(victim), signal.SIGSTOP)
        try:
            rest = iter(process.stdout)
            assert any(f"worker hangs, killing it worker=2 pid={victim}" in line for line in rest)
            assert any(f'worker ended worker=2 pid={victim} how="killed by SIGKILL"' in line for line in rest)
            assert any(map(started.search, rest))
            process.terminate()
            assert process.wait(10) == 0
        finally:
            with suppress(ProcessLookupError):
                os.kill(int(victim), signal.SIGKILL)


def test_a_worker_that_can_not_start_ends_the_start(redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "websockets.py").write_text("raise ZeroDivisionError('a bug')")  # which the supervisor has no use for
    env = {"REDIS_URL": redis_server.url, "PYTHONPATH": str(tmp_path)}
    failed = run_rsws("serve", "--workers", "2", "--port", "0", env=env)
    assert failed.returncode == ExitCode.ERROR
    assert re.fullmatch(r"rsws: worker \d can't start: exit code 1", failed.stderr.splitlines()[-1])
    assert "ZeroDivisionError: a bug" in failed.stderr
    assert "listening" not in failed.stderr


# --- the gateway ends ---


@pytest.mark.parametrize(
    ("drain_s", "code", "how"), [(0, 1001, signal.SIGTERM), (0.3, 1012, signal.SIGTERM), (0.3, 1012, signal.SIGHUP)]
)
@async_test
async def test_a_signal_ends_all_at_once(
    redis_server: RedisServer, drain_s: float, code: int, how: signal.Signals
) -> None:
    with workers(redis_server.url, RSWS_DRAIN=str(drain_s)) as gateway:
        async with a_client_of_each(gateway) as clients:
            workers_were = pids(gateway)
            gateway.process.process.send_signal(how)
            gateway.process.wait_for("stopping clients=2")
            for pid in workers_were:  # as a service manager does that tells all processes
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
            assert [await client.closed() for client in clients] == [(code, "the gateway stops")] * 2
        assert gateway.process.wait() == ExitCode.DONE
        assert not any(map(is_running, workers_were))
        assert "worker ended" not in gateway.process.output()


@async_test
async def test_nobody_can_connect_while_the_workers_stop(redis_server: RedisServer) -> None:
    with workers(redis_server.url, RSWS_SHUTDOWN_TIMEOUT="2") as gateway:
        async with a_client_of_each(gateway):  # which do not see that they are to leave, as nothing runs here meanwhile
            port = int(gateway.url.rpartition(":")[2])
            gateway.process.process.send_signal(signal.SIGTERM)
            eventually(lambda: not listens(port))
            assert all(map(is_running, pids(gateway)))


def test_ctrl_c_is_for_the_supervisor(redis_server: RedisServer) -> None:
    with workers(redis_server.url) as gateway:
        groups = {os.getpgid(pid) for pid in (*pids(gateway), gateway.process.process.pid)}
        assert len(groups) == WORKERS + 1


@async_test
async def test_a_second_signal_ends_all_at_once(redis_server: RedisServer) -> None:
    with workers(redis_server.url, RSWS_DRAIN="30") as gateway:
        async with a_client_of_each(gateway) as clients:
            workers_were = pids(gateway)
            gateway.process.process.send_signal(signal.SIGINT)
            gateway.process.wait_for("stopping clients=2")
            assert gateway.process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
            for client in clients:
                await client.closed()
        eventually(lambda: not any(map(is_running, workers_were)), what="the end of the workers")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_it(how: signal.Signals) -> None:
    redis_port = free_port()
    settings = {"RSWS_WORKERS": "2", "RSWS_LOCAL_REDIS_PORT": str(redis_port)}
    with RswsProcess("serve", "--port", "0", env=settings) as serve:
        url = serve.wait_for(r"url=(ws://\S+)")[1]
        sent = run_main("pub", "news", "1", env={"RSWS_URL": url})
        assert sent.returncode == ExitCode.DONE
        workers_were = pids(Gateway(serve, url))
        assert len(workers_were) == WORKERS
        assert serve.stop(how) == (ExitCode.DONE if how is signal.SIGTERM else -how)
    eventually(lambda: not any(map(is_running, workers_were)), what="the end of the workers")
    ports = (int(url.rpartition(":")[2]), redis_port)
    eventually(lambda: not any(map(listens, ports)), what="the end of those who listen")


# --- the port ---


@pytest.mark.parametrize(("first", "second"), [("2", "2"), ("1", "2"), ("2", "1")])
def test_a_port_that_is_in_use(redis_server: RedisServer, first: str, second: str) -> None:
    with serving(redis_server.url, RSWS_WORKERS=first) as gateway:
        port = gateway.url.rpartition(":")[2]
        env = {"REDIS_URL": redis_server.url, "WEBSOCKET_SECRET_KEY": KEY}
        refused = run_rsws("serve", "--port", port, "--workers", second, env=env)
    assert refused.returncode == ExitCode.ERROR
    assert refused.stderr.splitlines()[-1] == f"rsws: port {port} is in use; choose another with --port or PORT"


def test_the_port_can_be_taken_again_at_once(redis_server: RedisServer) -> None:
    port = free_port()
    for number in ("2", "1", "2"):
        with serving(redis_server.url, port, RSWS_WORKERS=number) as gateway:
            assert run_main("pub", "again", "1", env=gateway.env).returncode == ExitCode.DONE

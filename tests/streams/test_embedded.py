"""LocalRedis with real servers: whose Redis it is, what survives, what ends with what."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from redis.backoff import NoBackoff
from redis.retry import Retry

from kit.support import (
    RedisServer,
    eventually,
    find_server_binary,
    free_port,
    is_running,
    run_python,
    unprivileged,
)
from rsws.datadir import DataDir
from rsws.errors import SetupError
from rsws.ownership import user_name
from rsws.streams import embedded, valkey
from rsws.streams.embedded import LocalRedis
from rsws.streams.link import RedisTarget, probe

Run = Callable[[Coroutine[Any, Any, None]], None]

GATEWAY = """
import asyncio, sys
from pathlib import Path
from rsws.datadir import DataDir
from rsws.streams.embedded import LocalRedis

async def main():
    async with LocalRedis(DataDir(Path(sys.argv[1])), int(sys.argv[2])) as local:
        print(local._server.pid, local._server._watchdog.pid, flush=True)
        await local.watch()

asyncio.run(main())
"""
"""What of a gateway matters here, as a process that can be killed; prints the pids of server and watchdog."""


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data")


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """The event loop that rsws uses where there is no uvloop, and uvloop: they start processes differently."""
    runner: Run = request.param
    return runner


@asynccontextmanager
async def watched(local: LocalRedis) -> AsyncIterator[LocalRedis]:
    """Entered and watched, as the gateway does it."""
    async with local:
        watch = asyncio.create_task(local.watch())
        try:
            yield local
            assert not watch.done(), watch
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch


async def until(condition: Callable[[], Any], what: str) -> None:
    await asyncio.to_thread(eventually, condition, 10, what)


def call(port: int, *command: str | int) -> Any:
    with redis.Redis(port=port, protocol=2, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
        return client.execute_command(*command)


def answers(port: int) -> bool:
    try:
        return bool(call(port, "PING"))
    except redis.ConnectionError:
        return False


def server_pid(port: int) -> int:
    return int(call(port, "INFO", "server")["process_id"])


def add(port: int, data: str) -> None:
    call(port, "XADD", "history", "*", "messageData", data)


def history(port: int) -> list[str]:
    return [fields[b"messageData"].decode() for _, fields in call(port, "XRANGE", "history", "-", "+")]


def enter(data_dir: DataDir, port: int) -> None:
    """Start and stop."""

    async def main() -> None:
        async with LocalRedis(data_dir, port):
            pass

    asyncio.run(main())


@dataclass
class Gateway:
    """A gateway in a process of its own: the pids of its server and of the watchdog."""

    process: subprocess.Popen[str]
    server: int
    watchdog: int

    def kill_9(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def gateway(data_dir: DataDir, port: int) -> Iterator[Gateway]:
    with run_python(GATEWAY, data_dir.path, str(port)) as process:
        assert process.stdout is not None
        server, watchdog = map(int, process.stdout.readline().split())
        yield Gateway(process, server, watchdog)


def test_a_server_is_started_and_its_history_survives(data_dir: DataDir, port: int, run: Run) -> None:
    async def main() -> None:
        async with LocalRedis(data_dir, port) as local:
            assert local.url == f"unix://{data_dir.redis}/redis.sock"
            assert local.embedded
            assert local.directory == data_dir.redis
            assert str(data_dir.redis) in local.description
            add(port, "1")
        assert not answers(port)
        async with LocalRedis(data_dir, port):
            add(port, "2")
            assert history(port) == ["1", "2"]

    run(main())


def test_the_server_is_for_this_machine_and_keeps_everything(data_dir: DataDir, port: int) -> None:
    async def main() -> None:
        async with LocalRedis(data_dir, port):
            for name, value in {
                "bind": "127.0.0.1",
                "protected-mode": "yes",
                "appendonly": "yes",
                "appendfsync": "everysec",
                "save": "",
                "dir": str(data_dir.redis),
            }.items():
                assert call(port, "CONFIG", "GET", name) == [name.encode(), value.encode()]
            assert data_dir.redis.stat().st_mode & 0o777 == 0o700

    asyncio.run(main())


@pytest.fixture(params=["valkey-server", "redis-server"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of server that is installed."""
    path = find_server_binary() if request.param == "valkey-server" else shutil.which(request.param)
    if path is None:
        pytest.skip(f"there is no {request.param}")
    monkeypatch.setattr(valkey, "_candidates", lambda: iter([path]))


DANGEROUS = (
    "CONFIG SET bind 0.0.0.0", "CONFIG SET dir /tmp", "CONFIG REWRITE", "REPLICAOF 127.0.0.1 1", "SLAVEOF 127.0.0.1 1",
    "DEBUG SLEEP 0", "MODULE LOAD /tmp/module.so", "ACL SETUSER default +@all", "ACL SETUSER other on nopass +@all",
    "MIGRATE 127.0.0.1 1 key 0 10", "FAILOVER", "CLUSTER RESET", "SYNC",
)  # fmt: skip
HARMLESS = (
    "XADD s * messageData 1", "XRANGE s - +", "XREAD STREAMS s 0", "XTRIM s MAXLEN 5", "INFO server", "KEYS *",
    "CONFIG GET maxmemory", "CLIENT LIST", "MEMORY USAGE s", "PUBLISH channel text", "SET key value", "DBSIZE",
    "ACL WHOAMI", "MODULE LIST", "SLOWLOG GET", "SCAN 0", "FLUSHALL",
)  # fmt: skip


def test_what_the_local_port_is_good_for(data_dir: DataDir, port: int, engine: None) -> None:
    async def main() -> None:
        async with LocalRedis(data_dir, port) as local:
            socket_path = local.url.removeprefix("unix://")
            for client in (
                redis.Redis(port=port, protocol=2, retry=Retry(NoBackoff(), 0)),
                redis.Redis(unix_socket_path=socket_path, protocol=2, retry=Retry(NoBackoff(), 0)),
            ):
                with client:
                    for command in DANGEROUS:
                        with pytest.raises(redis.ResponseError, match=r"(?i)permission|not allowed"):
                            client.execute_command(*command.split())  # type: ignore[no-untyped-call]
                    for command in HARMLESS:
                        client.execute_command(*command.split())  # type: ignore[no-untyped-call]

    asyncio.run(main())


def test_gateways_have_a_socket_that_nobody_else_can_reach(data_dir: DataDir, port: int, engine: None) -> None:
    async def main() -> None:
        async with LocalRedis(data_dir, port) as local:
            add(port, "1")
            await probe(RedisTarget(local.url, 1))
            for path in [data_dir.path, *data_dir.path.rglob("*")]:
                assert path.stat().st_mode & 0o077 == 0, path

    before = os.umask(0)
    try:
        asyncio.run(main())
    finally:
        os.umask(before)


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path, port: int) -> None:
    data_dir = DataDir(tmp_path / ("x" * 100))

    async def main() -> None:
        async with LocalRedis(data_dir, port) as local, LocalRedis(data_dir, port) as second:
            assert local.url == second.url == f"redis://127.0.0.1:{port}"
            assert local.embedded
            assert second.embedded

    asyncio.run(main())


@pytest.mark.parametrize("given", [None, 8 << 20])
def test_the_memory_of_the_server(data_dir: DataDir, port: int, given: int | None, engine: None) -> None:
    async def main() -> None:
        async with LocalRedis(data_dir, port, given):
            assert call(port, "CONFIG", "GET", "maxmemory") == [b"maxmemory", str(given or 0).encode()]
            assert call(port, "CONFIG", "GET", "maxmemory-policy") == [b"maxmemory-policy", b"noeviction"]
            if given is not None:
                add(port, "first")
                with suppress(redis.OutOfMemoryError):
                    for _ in range(16):
                        add(port, "x" * (1 << 20))
                assert 1 < len(history(port)) < 10
                assert history(port)[0] == "first"

    asyncio.run(main())


def test_the_server_gets_no_secret(data_dir: DataDir, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBSOCKET_SECRET_KEY", "Secret")
    monkeypatch.setenv("RSWS_TOKEN", "Secret")

    async def main() -> None:
        async with LocalRedis(data_dir, port) as local:
            assert local._server is not None
            assert local._server._watchdog is not None
            read = os.open(f"/proc/{local._server._watchdog.pid}/environ", os.O_RDONLY)  # the server wipes its own
            environment = os.read(read, 1 << 20)
            os.close(read)
            assert b"PATH=" in environment
            assert b"Secret" not in environment

    if not Path("/proc/self/environ").exists():
        pytest.skip("no /proc")
    asyncio.run(main())


def test_a_planted_link_is_not_written_through(data_dir: DataDir, port: int, tmp_path: Path) -> None:
    (target := tmp_path / "target").write_text("mine")
    enter(data_dir, port)
    for name in ("server.log", "server.lock", "gateway.lock", "engine.json.new"):
        (data_dir.redis / name).unlink(missing_ok=True)
        (data_dir.redis / name).symlink_to(target)
        with pytest.raises(SetupError, match=rf"{data_dir.redis / name} is a symbolic link"):
            enter(data_dir, port)
        (data_dir.redis / name).unlink()
    assert target.read_text() == "mine"
    enter(data_dir, port)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the system does not tell")
def test_a_redis_of_somebody_else_is_named(
    data_dir: DataDir, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def description() -> str:
        async def main() -> str:
            async with LocalRedis(data_dir, own_redis.port) as local:
                return local.description

        return asyncio.run(main())

    me = os.geteuid()
    assert description() == f"the Redis on 127.0.0.1:{own_redis.port}"
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert description() == (
        f"the Redis on 127.0.0.1:{own_redis.port}, which is not yours: it belongs to {user_name(me)}"
    )


def test_a_path_with_spaces_and_beyond_ascii(public_path: Path, port: int) -> None:
    async def main() -> None:
        async with LocalRedis(DataDir(public_path / 'Da "of" Zoë?%#'), port) as local:
            assert local.url.startswith("unix:")
            await probe(RedisTarget(local.url, 1))

    asyncio.run(main())


def test_ctrl_c_in_the_terminal_does_not_reach_it(gateway: Gateway) -> None:
    assert len({os.getpgid(gateway.process.pid), os.getpgid(gateway.server), os.getpgid(gateway.watchdog)}) == 3
    assert os.getsid(gateway.server) != os.getsid(gateway.process.pid)
    assert os.getsid(gateway.watchdog) != os.getsid(gateway.process.pid)


def test_kill_9_of_the_gateway_leaves_no_process(gateway: Gateway) -> None:
    gateway.kill_9()
    eventually(lambda: not is_running(gateway.server), 3, "end of the server")  # it is killed after 5 s
    eventually(lambda: not is_running(gateway.watchdog), what="end of the watchdog")


def test_kill_9_of_the_gateway_loses_nothing(gateway: Gateway, data_dir: DataDir, port: int) -> None:

    async def main() -> None:
        for number in range(100):
            add(port, str(number))
        gateway.kill_9()
        async with watched(LocalRedis(data_dir, port)) as local:
            assert "of the gateway with pid" not in local.description, "it runs its own"
            assert server_pid(port) != gateway.server
            assert history(port) == list(map(str, range(100)))

    asyncio.run(main())


def test_a_dying_server_is_not_taken_for_the_users(
    gateway: Gateway, data_dir: DataDir, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    os.kill(gateway.server, signal.SIGSTOP)
    gateway.kill_9()

    async def main() -> None:
        starting = asyncio.create_task(LocalRedis(data_dir, port).__aenter__())
        await until(lambda: "waiting for the end" in caplog.text, "the wait for the dying server")
        assert not starting.done()
        os.kill(gateway.server, signal.SIGCONT)
        local = await starting
        assert server_pid(port) != gateway.server
        await local.__aexit__(None, None, None)

    asyncio.run(main())


def test_a_server_that_does_not_end_is_named(
    gateway: Gateway, data_dir: DataDir, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "TAKEOVER_TIMEOUT_S", 0.1)
    os.kill(gateway.watchdog, signal.SIGSTOP)
    gateway.kill_9()
    try:
        with pytest.raises(SetupError, match=rf"{data_dir.redis} does not end; end it \(kill {gateway.server}\)"):
            enter(data_dir, port)
    finally:
        os.kill(gateway.server, signal.SIGKILL)
        os.kill(gateway.watchdog, signal.SIGCONT)
    enter(data_dir, port)


def test_a_second_gateway_shares_the_server(gateway: Gateway, data_dir: DataDir, port: int) -> None:

    async def main() -> None:
        async with watched(LocalRedis(data_dir, port)) as local:
            assert local.embedded
            assert local.directory == data_dir.redis
            assert f"pid {gateway.process.pid}" in local.description
        assert server_pid(port) == gateway.server

    asyncio.run(main())


def test_gateways_that_start_at_once_share_one_server(data_dir: DataDir, port: int, run: Run) -> None:
    async def main() -> None:
        gateways = [LocalRedis(data_dir, port) for _ in range(8)]
        await asyncio.gather(*(gateway.__aenter__() for gateway in gateways))
        assert all(gateway.embedded for gateway in gateways)
        assert len([gateway for gateway in gateways if "of the gateway with pid" not in gateway.description]) == 1
        for gateway in gateways:
            await gateway.__aexit__(None, None, None)
        assert not answers(port)

    run(main())


def test_a_shared_server_is_taken_over(data_dir: DataDir, port: int) -> None:
    async def main() -> None:
        async with watched(LocalRedis(data_dir, port)):
            add(port, "1")
            first = server_pid(port)
            second = LocalRedis(data_dir, port)
            third = LocalRedis(data_dir, port)
            await asyncio.gather(second.__aenter__(), third.__aenter__())
            watches = [asyncio.create_task(local.watch()) for local in (second, third)]
        await until(lambda: answers(port) and server_pid(port) != first, "the take-over")
        assert history(port) == ["1"]
        await until(
            lambda: (
                sorted("of the gateway with pid" in local.description for local in (second, third)) == [False, True]
            ),
            "one owner, one guest",
        )
        for local, watch in zip((second, third), watches, strict=True):
            assert not watch.done()
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
            await local.__aexit__(None, None, None)
        assert not answers(port)

    asyncio.run(main())


def test_a_shared_server_is_not_exchanged_for_another_redis(
    gateway: Gateway,
    data_dir: DataDir,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(embedded, "RESTART_DELAY_S", 0.5)

    async def main() -> None:
        async with watched(LocalRedis(data_dir, port)) as local:
            add(port, "1")
            gateway.process.kill()
            await until(lambda: not answers(port), "end of the shared server")
            with RedisServer(port):
                await until(lambda: "is not the embedded server" in caplog.text, "the complaint")
                assert local.embedded
            await until(lambda: answers(port), "the take-over")
            assert history(port) == ["1"]

    asyncio.run(main())


def test_a_gateway_that_was_first_by_a_moment_is_found(
    data_dir: DataDir, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = LocalRedis(data_dir, port), LocalRedis(data_dir, port)

    async def ping_after_the_first(port: int) -> bytes | None:
        monkeypatch.setattr(embedded, "ping", valkey.ping)
        await first.__aenter__()
        return await valkey.ping(port)

    async def main() -> None:
        monkeypatch.setattr(embedded, "ping", ping_after_the_first)
        async with second:
            assert second.embedded
        await first.__aexit__(None, None, None)

    asyncio.run(main())


def test_two_servers_on_one_directory_are_refused(gateway: Gateway, data_dir: DataDir, port: int) -> None:
    with pytest.raises(SetupError, match=rf"pid {gateway.process.pid} .*{data_dir.redis} on port {port}") as refused:
        enter(data_dir, free_port())
    assert "--data-dir" in str(refused.value)


def test_a_gateway_whose_server_does_not_answer_is_named(
    gateway: Gateway, data_dir: DataDir, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "TAKEOVER_TIMEOUT_S", 0.1)
    monkeypatch.setattr(valkey, "PROBE_TIMEOUT_S", 0.1)
    os.kill(gateway.server, signal.SIGSTOP)
    with pytest.raises(
        SetupError, match=rf"pid {gateway.process.pid} .*{data_dir.redis}.* does not answer on 127.0.0.1:{port}"
    ):
        enter(data_dir, port)
    os.kill(gateway.server, signal.SIGCONT)


def test_the_users_own_redis_is_used_and_nothing_started_in_its_place(
    data_dir: DataDir, own_redis: RedisServer
) -> None:
    async def main() -> None:
        async with watched(LocalRedis(data_dir, own_redis.port)) as local:
            assert local.url == own_redis.url
            assert not local.embedded
            assert local.directory is None
            own_redis.stop()
            await asyncio.sleep(5 * embedded.RESTART_DELAY_S)
            assert not answers(own_redis.port)
        assert not data_dir.path.exists()

    asyncio.run(main())


def test_the_users_own_redis_goes_before_the_servers_of_earlier_days(data_dir: DataDir, own_redis: RedisServer) -> None:
    enter(data_dir, free_port())

    async def main() -> None:
        async with LocalRedis(data_dir, own_redis.port) as local:
            assert not local.embedded
            assert server_pid(own_redis.port) == own_redis.process.pid  # type: ignore[union-attr]

    asyncio.run(main())
    enter(data_dir, free_port())


def test_the_users_own_redis_beside_another_gateways_server(
    gateway: Gateway, data_dir: DataDir, own_redis: RedisServer
) -> None:
    async def main() -> None:
        async with LocalRedis(data_dir, own_redis.port) as local:
            assert not local.embedded

    asyncio.run(main())


def test_a_redis_that_is_loading_is_a_redis(data_dir: DataDir) -> None:
    with RedisServer(loading_process_events_interval_bytes="1024") as server:
        server.client.mset({f"key-{number}": "x" * 100 for number in range(300)})
        server.call("SAVE")
        server.kill()
        server.options["key-load-delay"] = "10000"  # microseconds
        server.start(wait=False)
        eventually(lambda: "Loading" in server.log)

        async def main() -> None:
            async with LocalRedis(data_dir, server.port) as local:
                assert not local.embedded
                assert (await valkey.ping(server.port) or b"").startswith(b"-LOADING")

        asyncio.run(main())


def test_a_redis_that_wants_a_password(data_dir: DataDir) -> None:
    with (
        RedisServer(requirepass="secret") as server,
        pytest.raises(SetupError, match=f"REDIS_URL=redis://:PASSWORD@127.0.0.1:{server.port}"),
    ):
        enter(data_dir, server.port)


@pytest.mark.parametrize("known", [False, True], ids=["first start", "later"])
def test_what_is_no_redis_is_named(data_dir: DataDir, port: int, known: bool) -> None:
    if known:
        enter(data_dir, port)

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection = listener.accept()[0]
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            with pytest.raises(SetupError, match=rf"127.0.0.1:{port} is no Redis .*HTTP/1.1 400") as refused:
                enter(data_dir, port)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert "RSWS_LOCAL_REDIS_PORT" in str(refused.value)
    assert "REDIS_URL" in str(refused.value)


def test_what_never_answers_is_no_redis(data_dir: DataDir, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey, "PROBE_TIMEOUT_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(SetupError, match=rf"127.0.0.1:{port} is no Redis \(it did not answer"),
    ):
        enter(data_dir, port)


@pytest.mark.parametrize("where", ["data", "data/redis"])
def test_a_directory_that_cannot_be_made(tmp_path: Path, where: str, port: int) -> None:
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_text("a file in its place")
    with pytest.raises(SetupError, match=rf"{tmp_path / where} can't be written .*--data-dir"):
        enter(DataDir(tmp_path / "data"), port)


def test_a_directory_that_cannot_be_written(public_path: Path, port: int) -> None:
    data_dir = DataDir(public_path)
    enter(data_dir, port)
    data_dir.redis.chmod(0o555)
    if os.geteuid() == 0:
        os.chown(data_dir.path, 65534, -1)
    with unprivileged(), pytest.raises(SetupError, match=rf"{data_dir.redis} belongs to .*--data-dir"):
        enter(data_dir, port)


def test_a_directory_of_somebody_else(public_path: Path, port: int, own_redis: RedisServer) -> None:
    data_dir = DataDir(public_path / "data")
    enter(data_dir, port)
    data_dir.path.chmod(0)
    with unprivileged():
        with pytest.raises(SetupError, match=rf"{data_dir.path} (can't be written|belongs to) .*--data-dir"):
            enter(data_dir, port)
        enter(data_dir, own_redis.port)
    data_dir.path.chmod(0o700)


def test_the_death_of_the_server_restarts_it(
    data_dir: DataDir, port: int, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def has_started(times: int) -> bool:
        return caplog.text.count("started valkey") == times

    async def main() -> None:
        async with watched(LocalRedis(data_dir, port)):
            for number in range(3):
                add(port, str(number))
                os.kill(server_pid(port), signal.SIGKILL)
                await until(partial(has_started, number + 2), "the restart")
                assert history(port) == list(map(str, range(number + 1)))
        assert not answers(port)

    run(main())
    assert caplog.text.count("the embedded server has ended (exit code -9)") == 3


def test_a_restart_that_fails_is_tried_again(
    data_dir: DataDir, port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with watched(LocalRedis(data_dir, port)):
            candidates = valkey._candidates
            monkeypatch.setattr(valkey, "_candidates", lambda: iter(()))
            os.kill(server_pid(port), signal.SIGKILL)
            await until(lambda: "pip install" in caplog.text, "the failure")
            monkeypatch.setattr(valkey, "_candidates", candidates)
            await until(lambda: answers(port), "the restart")

    asyncio.run(main())


def test_the_death_of_the_watchdog_brings_another(data_dir: DataDir, port: int) -> None:
    async def main() -> None:
        async with watched(LocalRedis(data_dir, port)) as local:
            server = local._server
            assert server is not None
            assert server._watchdog is not None
            before = server._watchdog.pid
            os.kill(before, signal.SIGKILL)
            await until(lambda: server._watchdog and server._watchdog.pid != before, "another watchdog")
            assert is_running(server._watchdog.pid)
            assert server_pid(port) == server.pid

    asyncio.run(main())


def test_a_hung_server_is_killed(
    data_dir: DataDir, port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(valkey, "STOP_TIMEOUT_S", 0.1)

    async def main() -> None:
        async with LocalRedis(data_dir, port):
            add(port, "1")
            os.kill(server_pid(port), signal.SIGSTOP)
        assert not answers(port)
        async with LocalRedis(data_dir, port):
            assert history(port) == ["1"]

    asyncio.run(main())
    assert "killing it" in caplog.text

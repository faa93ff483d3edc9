"""LocalRedis with real servers: what is started, for whom, with what, and where it can't be."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from redis.backoff import NoBackoff
from redis.retry import Retry

import redis
from kit.local_redis import Run, add, answers, call, enter, history
from kit.support import (
    RedisServer,
    find_server_binary,
    unprivileged,
)
from rsws.datadir import DataDir
from rsws.embedded import valkey
from rsws.embedded.local import LocalRedis
from rsws.errors import SetupError
from rsws.ownership import user_name
from rsws.redis.target import RedisTarget, probe


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
    monkeypatch.setattr(valkey, "candidates", lambda: iter([path]))


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
            assert local.server is not None
            read = os.open(f"/proc/{local.server.watchdog_pid}/environ", os.O_RDONLY)  # the server wipes its own
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

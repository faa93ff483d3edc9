"""What ``rsws check`` finds in Redis: each finding where it is due, and none where all is well."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kit.checking import check_redis, checked, finding, found
from kit.cluster import Cluster
from kit.faults import link_is_up
from kit.gateway import async_test
from kit.support import RedisServer, RenamedServer, eventually, free_port
from rsws.check.findings import Found, Severity
from rsws.check.redis_checks import REDIS_CHECKS, clock_findings, exposure, version
from rsws.check.redis_server import Plan, Server, open_servers
from rsws.redis.target import RedisTarget, ServerFacts
from rsws.streams.retention import Rule

CRITICAL, WARNING, UNKNOWN, NOTE = Severity
NO_REPLICA = [(NOTE, "Redis has no replica")]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A server as it should be."""
    with RedisServer(appendonly="yes", repl_diskless_sync_delay="0") as server:
        yield server


@pytest.fixture(scope="module")
def replica(redis: RedisServer) -> Iterator[RedisServer]:
    with RedisServer(replicaof=f"127.0.0.1 {redis.port}", repl_diskless_sync_delay="0") as server:
        link_is_up(server)
        yield server


@contextmanager
def configured(redis: RedisServer, **settings: str) -> Iterator[None]:
    """Settings that are as before afterwards."""
    named = {name.replace("_", "-"): value for name, value in settings.items()}
    before = {name: redis.call("CONFIG", "GET", name)[1] for name in named}
    for name, value in named.items():
        redis.call("CONFIG", "SET", name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            redis.call("CONFIG", "SET", name, value)


@asynccontextmanager
async def opened(redis: RedisServer) -> AsyncIterator[Server]:
    [server], _ = await open_servers(RedisTarget(redis.url, 2), Plan())
    try:
        yield server
    finally:
        await server.connection.close()


def user(redis: RedisServer, *rules: str) -> str:
    """The URL for a user with these rights."""
    redis.call("ACL", "SETUSER", "limited", "reset", "on", ">pass-word", "~*", "&*", *rules)
    return f"redis://limited:pass-word@127.0.0.1:{redis.port}"


def test_all_is_well(redis: RedisServer) -> None:
    report = check_redis(redis.url)
    assert [each for each in report.findings if each.check != "version"] == [
        replace(finding(report, "role", NOTE)),
    ]
    looked = {each.name for each in REDIS_CHECKS} - {"cluster", "role", "version"} | {"round-trip"}
    assert looked <= set(report.fine)
    assert report.round_trip_s is not None
    assert redis.call("KEYS", "*") == []


@pytest.mark.parametrize(
    ("check", "settings", "wanted"),
    [
        ("eviction", {"maxmemory": "1gb", "maxmemory_policy": "allkeys-lru"}, (CRITICAL, "drop whole streams")),
        ("eviction", {"maxmemory_policy": "allkeys-lru"}, (NOTE, "if maxmemory were set")),
        ("eviction", {"maxmemory": "1gb", "maxmemory_policy": "volatile-ttl"}, (NOTE, "forget producers")),
        ("persistence", {"appendonly": "no", "save": ""}, (CRITICAL, "loses everything")),
        ("persistence", {"appendonly": "no", "save": "60 1000"}, (WARNING, "snapshots only")),
        ("persistence", {"appendfsync": "no"}, (WARNING, "appendfsync is no")),
        ("connections", {"timeout": "300"}, (NOTE, "idle for 300 s")),
        ("connections", {"maxclients": "2"}, (WARNING, "2 of 2 connections")),
    ],
)
def test_a_setting(redis: RedisServer, check: str, settings: dict[str, str], wanted: tuple[Severity, str]) -> None:
    with configured(redis, **settings):
        [(severity, title)] = found(check_redis(redis.url, skip=["tracking", "round-trip"]), check)
    assert severity is wanted[0]
    assert wanted[1] in title


def test_memory_that_is_nearly_full(redis: RedisServer) -> None:
    used = int(re.findall(rb"used_memory:([0-9]+)", redis.call("INFO", "memory"))[0])
    with configured(redis, maxmemory=str(used + 20_000)):
        [(severity, title)] = found(check_redis(redis.url), "memory")
    assert severity is WARNING
    assert re.fullmatch(r"Redis' memory is 1?\d\d % full", title)


def test_a_snapshot_that_fails(redis: RedisServer) -> None:
    directory = redis.call("CONFIG", "GET", "dir")[1]
    redis.directory.joinpath("dump.rdb").mkdir()
    try:
        redis.call("BGSAVE", "SCHEDULE")  # a rewrite of the AOF may still run
        eventually(lambda: b"rdb_last_bgsave_status:err" in redis.call("INFO", "persistence"), what="a failure")
        assert (CRITICAL, "Redis' last snapshot failed") in found(check_redis(redis.url), "persistence")
    finally:
        redis.directory.joinpath("dump.rdb").rmdir()
        redis.call("SAVE")
    assert directory
    assert found(check_redis(redis.url), "persistence") == []


def test_a_replica_and_its_primary(redis: RedisServer, replica: RedisServer) -> None:
    report = check_redis(replica.url)
    assert found(report, "role") == [(CRITICAL, f"Redis is a replica of 127.0.0.1:{redis.port}")]
    assert found(report, "round-trip")[0][0] is CRITICAL
    assert found(check_redis(redis.url, Plan(wait_replicas=1)), "role") == []
    [(severity, title)] = found(check_redis(redis.url, Plan(wait_replicas=2)), "role")
    assert (severity, title) == (CRITICAL, "Replicas of Redis: 1, and --wait-replicas wants 2")
    with configured(redis, appendonly="no", save=""):
        [(severity, _)] = found(check_redis(redis.url), "persistence")
    assert severity is WARNING


def test_streams_that_grow(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsws.check.growth.MANY_ENTRIES", 100)
    try:
        hour_ago = int(time.time() * 1000) - 3_600_000
        for number in range(200):
            for name in ("it's", "kept.1", "trimmed", "quiet"):
                ms = number + 1 if name == "quiet" else hour_ago + number * 18_000
                trim = ["MAXLEN", "110"] if name == "trimmed" else []
                redis.call("XADD", name, *trim, f"{ms}-1", "messageData", "1")
        report = check_redis(redis.url, Plan([Rule.parse("kept.[^2]=1")]))
        one = finding(report, "retention", WARNING)
        assert re.fullmatch(r"Nothing trims it's \(200 entries, \d+ MiB, 2\d\d an hour\)", one.title)
        assert one.action == "rsws serve --retain 'it'\"'\"'s=100,7d'"
        assert found(check_redis(redis.url, Plan([Rule.parse("[ik]*=1")])), "retention") == []
    finally:
        redis.call("FLUSHALL")


RIGHTS = "+ping +hello +role +select +client|id +client|setname +client|tracking +client|unblock +xadd +xread +xrange \
+xrevrange +xinfo|stream +script|load +evalsha +eval +get +set +del"


def test_what_the_document_says_lets_everything_be_seen(redis: RedisServer) -> None:
    document = Path(__file__).parents[2].joinpath("docs", "check.md").read_text()
    [more] = re.findall(r"^ACL SETUSER gateway (.*)$", document, flags=re.MULTILINE)
    redis.call("XADD", "some", "*", "messageData", "1")
    report = check_redis(user(redis, "-@all", *RIGHTS.split(), *more.split()))
    redis.call("DEL", "some")
    assert {"access", "rights", "retention", "memory"} <= set(report.fine)


def test_the_rights_of_the_document_are_enough(redis: RedisServer) -> None:
    url = user(redis, "-@all", *RIGHTS.split())
    report = check_redis(url)
    assert {"rights", "tracking", "round-trip"} <= set(report.fine)
    one = finding(report, "access", UNKNOWN)
    assert "INFO" in one.meaning
    assert "CONFIG GET maxmemory-policy" in one.meaning
    assert report.exit_code in (1, 3)  # the version may be a warning


@pytest.mark.parametrize("right", [each for each in RIGHTS.split() if each not in ("+client|tracking", "+hello")])
def test_each_right_is_tried(redis: RedisServer, right: str) -> None:
    url = user(redis, "+@all", right.replace("+", "-"))
    report = check_redis(url, skip=[each.name for each in REDIS_CHECKS if each.name != "rights"] + ["round-trip"])
    if right == "+select":
        assert found(report, "rights") == []  # nothing but database 0 is used
        report = check_redis(f"{url}/3")
        assert [each.check for each in report.findings] == ["redis"]
        return
    [one] = [each for each in report.findings if each.check == "rights"]
    assert one.action == f"ACL SETUSER limited {right}"
    assert one.meaning


def test_rights_for_what_the_settings_want(redis: RedisServer) -> None:
    url = user(redis, "+@all", "-scan", "-wait")
    assert found(check_redis(url), "rights") == []
    report = check_redis(url, Plan([Rule.parse("a=1")], wait_replicas=1))
    assert finding(report, "rights", CRITICAL).title == "Redis refuses SCAN, WAIT"
    assert "SCAN" in finding(report, "access", UNKNOWN).meaning


def test_keys_that_are_forbidden(redis: RedisServer) -> None:
    url = user(redis, "+@all", "resetkeys", "~rsws-check-*")
    one = finding(check_redis(url), "rights", WARNING)
    assert one.title == "Redis refuses GET, SET, DEL"
    assert one.action == "ACL SETUSER limited ~rsws:once:*"
    url = user(redis, "+@all", "resetkeys", "~news.*", "~rsws:once:*")
    report = check_redis(url, channel="news.1")
    assert found(report, "rights") == [(NOTE, "This user of Redis may not use every channel")]
    assert "round-trip" in report.fine


def test_tracking_that_is_forbidden_and_its_table(redis: RedisServer) -> None:
    url = user(redis, "+@all", "-client|tracking")
    assert finding(check_redis(url), "tracking", WARNING).action.startswith("ACL SETUSER limited +hello +client|track")
    with configured(redis, tracking_table_max_keys="1"), redis.client.client() as reading:  # type: ignore[no-untyped-call]
        reading.execute_command("CLIENT", "TRACKING", "ON")
        reading.get("a")
        [(severity, title)] = found(check_redis(redis.url), "tracking")
    assert (severity, title[:26]) == (WARNING, "Redis remembers 1 of 1 key")


def test_commands_that_are_renamed() -> None:
    with RenamedServer("CONFIG", "EVAL") as server:
        report = check_redis(server.url)
    one = finding(report, "access", UNKNOWN)
    assert "INFO" not in one.meaning
    assert "CONFIG GET appendfsync" in one.meaning or "CONFIG GET save" in one.meaning
    assert "EVAL: not there, or renamed" in finding(report, "rights", WARNING).action
    assert {"eviction", "memory", "round-trip"} <= set(report.fine)  # INFO has what they want


def test_nothing_answers_and_a_wrong_password(redis: RedisServer) -> None:
    port = free_port()
    report = check_redis(f"redis://:topsecret@127.0.0.1:{port}")
    [one] = report.findings
    assert (one.severity, one.check) == (CRITICAL, "redis")
    assert one.title.startswith(f"Redis can't be used: redis://***@127.0.0.1:{port}: Connect call failed")
    [one] = check_redis(f"redis://limited:topsecret@127.0.0.1:{redis.port}").findings
    assert ("refused the login" in one.title, one.action.startswith("give the user and password")) == (True, True)
    assert "topsecret" not in repr(report)


def test_a_server_that_stops_answering(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stop(server: Server) -> Found:
        redis.pause()
        await server.ask([b"PING"])
        return []

    monkeypatch.setattr("rsws.check.run.REDIS_CHECKS", [replace(REDIS_CHECKS[0], run=stop), *REDIS_CHECKS[1:]])
    try:
        report = check_redis(redis.url, Plan(timeout_s=0.2))
    finally:
        redis.resume()
    [one] = report.findings
    assert (one.severity, one.check) == (CRITICAL, "eviction")
    assert "has stopped answering: no answer within 0.2 s" in one.title


def test_a_check_that_fails_disturbs_no_other(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(server: Server) -> Found:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("rsws.check.run.REDIS_CHECKS", [replace(REDIS_CHECKS[0], run=fail), *REDIS_CHECKS[1:]])
    report = check_redis(redis.url)
    assert "ZeroDivisionError: oh" in finding(report, "eviction", UNKNOWN).title
    assert {"memory", "rights", "round-trip"} <= set(report.fine)


def test_skip(redis: RedisServer) -> None:
    report = check_redis(redis.url, skip=["role", "version"])
    assert (report.findings, report.exit_code, report.status) == ([], 0, "ok")


@pytest.mark.parametrize(
    ("facts", "severities"),
    [
        (ServerFacts("redis", "5.0.14"), [CRITICAL]),
        (ServerFacts("redis", "6.2.14"), [WARNING]),
        (ServerFacts("redis", "7.2.4"), []),
        (ServerFacts("redis", "10.0.0"), []),
        (ServerFacts("valkey", "7.2.0"), []),
        (ServerFacts(), [UNKNOWN]),
    ],
)
@async_test
async def test_versions(redis: RedisServer, facts: ServerFacts, severities: list[Severity]) -> None:
    async with opened(redis) as server:
        server.target.facts = facts
        assert [each.severity for each in await version(server) or []] == severities


@pytest.mark.parametrize(("ahead_s", "severities"), [(0.9, []), (-5, [WARNING]), (40, [CRITICAL]), (1.4, [])])
def test_clocks(ahead_s: float, severities: list[Severity]) -> None:
    assert [each.severity for each in clock_findings("It", ahead_s, 0.5)] == severities


@pytest.mark.parametrize(
    ("url", "titles"),
    [
        ("redis://10.1.2.3", ["Redis takes everybody on its network: it wants no password"]),
        ("redis://:pass-word@10.1.2.3", ["Redis' password goes over the network as it is"]),
        ("rediss://:pass-word@10.1.2.3", []),
        ("rediss://:foobared@10.1.2.3", ["Redis' password is one that anybody would try first"]),
        ("redis://localhost", []),
        ("unix:///run/redis.sock", []),
    ],
)
@async_test
async def test_exposure(redis: RedisServer, url: str, titles: list[str]) -> None:
    async with opened(redis) as server:
        server.target = RedisTarget(url, 2)
        assert [each.title for each in await exposure(server) or []] == titles


def test_a_server_that_is_open_to_all() -> None:
    with RedisServer(protected_mode="no", bind="0.0.0.0", appendonly="yes") as server:
        assert found(check_redis(server.url), "exposure") == [
            (WARNING, "Redis wants no password, and other machines can connect to it")
        ]


def test_a_cluster_and_a_node_that_is_gone() -> None:
    with Cluster(3, replicas=0) as cluster:
        report = asyncio.run(checked(cluster.url))
        assert "cluster" in report.fine
        assert "round-trip" in report.fine
        one = finding(report, "role", NOTE)
        assert sorted(one.places) == sorted(f"redis://127.0.0.1:{each.port}" for each in cluster.servers)
        cluster.servers[2].kill()
        report = asyncio.run(checked(cluster.url))
        assert finding(report, "redis", CRITICAL).title.startswith("Redis can't be used: redis://127.0.0.1:")

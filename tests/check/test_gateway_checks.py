"""What ``rsws check`` finds in a gateway, and the round trip through it."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from kit.checking import checked, finding, found, gateway_at
from kit.gateway import async_test, entries, gateway, until_status
from kit.support import RedisServer, free_port
from kit.tls import Authority
from rsws.check.findings import Finding, Severity
from rsws.check.gateway_checks import clock, counters, files, health, secret, tls
from rsws.check.redis_server import Plan
from rsws.check.round_trip import Failed, RoundTrip
from rsws.check.run import look
from rsws.gateway.process.single import SingleProcess
from rsws.patterns import Patterns
from rsws.protocol import StreamId
from rsws.redis.target import RedisTarget
from rsws.streams.fields import MessageFields

CRITICAL, WARNING, UNKNOWN, NOTE = Severity
SECRET = "a-key-that-is-in-no-example"


@asynccontextmanager
async def ready(redis_url: str, **settings: Any) -> AsyncIterator[SingleProcess]:
    async with gateway(redis_url, **settings) as server:
        await until_status(server, "/readyz", 200)
        yield server


@asynccontextmanager
async def answering(text: str) -> AsyncIterator[str]:
    """A server that says the same to everybody; its URL as a gateway's."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text.encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def page(body: str = "ok\n", status: str = "200 OK", date: float | None = None) -> str:
    head = "" if date is None else f"Date: {formatdate(date, usegmt=True)}\r\n"
    return f"HTTP/1.1 {status}\r\n{head}\r\n{body}"


def _what(found: list[Finding] | None) -> list[tuple[Severity, str]]:
    """How bad each finding is, and the end of its title."""
    return [(each.severity, each.title.rpartition(": ")[2]) for each in found or []]


# --- the round trip ---


@async_test
async def test_all_is_well(redis_server: RedisServer) -> None:
    async with ready(redis_server.url, secret_key=SECRET) as server:
        report = await look(gateway_at(server.url, SECRET), None, Plan(timeout_s=2))
        assert {"health", "counters", "gateway-clock", "tls", "secret", "round-trip"} - {*report.fine} == {"round-trip"}
        [left] = found(report, "round-trip")
        name = left[1].rpartition(" ")[2]
        assert left == (NOTE, f"The messages of this check stay in {name}")
        assert len(entries(redis_server, name)) == 3
        assert report.exit_code == 0
        assert report.round_trip_s is not None
        redis_server.call("DEL", name)


@async_test
async def test_where_the_metrics_are(redis_server: RedisServer) -> None:
    async with ready(redis_server.url, secret_key=SECRET, admin="0") as server:
        assert server.admin_url is not None
        assert _what(await counters(gateway_at(server.url, SECRET))) == [(UNKNOWN, "HTTP status 404")]
        place = "127.0.0.1", urlsplit(server.admin_url).port or 0
        assert await counters(replace(gateway_at(server.url, SECRET), admin=place)) == []
        nowhere = replace(gateway_at(server.url, SECRET), admin=("127.0.0.1", free_port()))
        [(severity, why)] = _what(await counters(nowhere))
        assert (severity, why.startswith("connection refused")) == (UNKNOWN, True)
    async with ready(redis_server.url, secret_key=SECRET, host="0.0.0.0") as server:
        [one] = await counters(gateway_at(server.url)) or []
        assert (_what([one]), "the secret key" in one.action) == ([(UNKNOWN, "HTTP status 401")], True)
        assert await counters(gateway_at(server.url, SECRET)) == []


@async_test
async def test_a_channel_of_its_own_is_one_of_the_gateway(redis_server: RedisServer) -> None:
    async with ready(redis_server.url, secret_key=SECRET, channels=("chat.*.log",)) as server:
        plan = Plan(timeout_s=2, channels=Patterns(("chat.*.log",)))
        report = await look(gateway_at(server.url, SECRET), RedisTarget(redis_server.url, 2), plan)
    assert "round-trip" in report.fine


@async_test
async def test_messages_in_another_field(redis_server: RedisServer) -> None:
    target = RedisTarget(redis_server.url, 2)
    for rule, is_fine in (("*=payload", True), ("*=*", False)):
        async with ready(redis_server.url, secret_key=SECRET, field=(rule,)) as server:
            plan = Plan(timeout_s=2, fields=MessageFields([rule]))
            report = await look(gateway_at(server.url, SECRET), target, plan)
            assert ("round-trip" in report.fine) is is_fine
    assert "that takes publishes (--field)" in next(each.action for each in report.findings if "--field" in each.title)


@async_test
async def test_a_channel_of_others(redis_server: RedisServer, channel: str) -> None:
    redis_server.call("XADD", channel, "1-1", "messageData", "1")
    async with ready(redis_server.url) as server:
        report = await checked(redis_server.url, server, channel=channel)
    assert "round-trip" in report.fine
    assert [stream_id for stream_id, _ in entries(redis_server, channel)] == ["1-1"]


@async_test
async def test_a_token_that_is_refused(redis_server: RedisServer) -> None:
    async with ready(redis_server.url) as server:
        report = await look(gateway_at(server.url, "topsecret"), None, Plan(timeout_s=2))
        one = finding(report, "round-trip", CRITICAL)
        assert "refuses the token" in one.title
        assert one.action.startswith("give the gateway's token")
        assert "topsecret" not in repr(report)
        report = await look(gateway_at(server.url, None), None, Plan(timeout_s=2))
        assert finding(report, "token", CRITICAL).title == "The gateway can't be asked: no token"


@async_test
async def test_a_channel_that_the_token_does_not_allow(redis_server: RedisServer, channel: str) -> None:
    async with ready(redis_server.url, key_may=(f"{channel}=rw",)) as server:
        one = finding(await checked(redis_server.url, server), "round-trip", CRITICAL)
        assert (one.title.startswith("The round trip failed: not subscribed: "), "--channel" in one.action) == (
            True,
            True,
        )
    async with ready(redis_server.url, key_may=(f"{channel}=rw", "rsws-check-*=r")) as server:
        one = finding(await checked(redis_server.url, server), "round-trip", CRITICAL)
        assert "--channel" in one.action
        assert "round-trip" in (await checked(redis_server.url, server, channel=channel)).fine


@pytest.mark.parametrize("received", [[1], [1, 2, 2], [2, 1], []])
def test_what_is_lost_doubled_or_reordered(received: list[int]) -> None:
    trip = RoundTrip("c", "mark", True, None, [], 1, ids=[StreamId(1, 0), StreamId(2, 0)])
    trip.compare([StreamId(1, 0), StreamId(2, 0)])
    with pytest.raises(Failed, match="published 1-0 2-0, received"):
        trip.compare([StreamId(ms, 0) for ms in received])


@async_test
async def test_another_redis(redis_server: RedisServer) -> None:
    async with ready(redis_server.url) as server:
        report = await checked(f"{redis_server.url}/5", server)
    assert "it uses another Redis, or another database" in finding(report, "round-trip", CRITICAL).title


@async_test
async def test_a_redis_that_may_only_be_read(redis_server: RedisServer) -> None:
    redis_server.call(
        "ACL", "SETUSER", "looking", "on", ">pass-word", "~*", "+@read", "+ping", "+hello", "+role", "+info"
    )
    async with ready(redis_server.url) as server:
        report = await checked(f"redis://looking:pass-word@127.0.0.1:{redis_server.port}", server)
    [(severity, _)] = found(report, "round-trip")
    assert severity is NOTE  # all came, over a second connection, and can't be deleted
    assert finding(report, "rights", CRITICAL).title == "Redis refuses XADD"


@async_test
async def test_a_gateway_without_redis() -> None:
    async with gateway(f"redis://127.0.0.1:{free_port()}") as server:
        report = await checked(None, server, Plan(timeout_s=0.5))
    assert found(report, "health") == [(CRITICAL, "The gateway is not ready: Redis can't be reached")]
    assert found(report, "round-trip")[0][0] is CRITICAL


@async_test
async def test_nothing_answers(redis_server: RedisServer) -> None:
    url = f"ws://127.0.0.1:{free_port()}"
    report = await look(gateway_at(url, None), None, Plan(timeout_s=1))
    assert [(each.check, each.severity) for each in report.findings] == [("health", CRITICAL)]
    assert report.findings[0].title.startswith(f"No gateway answers at {url}: connection refused")


# --- each check ---


@async_test
async def test_pages_that_are_none() -> None:
    for text, severity in (
        (page("<html>", "404 Not Found"), UNKNOWN),
        ("SSH-2.0-OpenSSH\r\n", CRITICAL),
        ("", CRITICAL),
    ):
        async with answering(text) as url:
            assert [each.severity for each in await health(gateway_at(url)) or []] == [severity]


@async_test
async def test_a_gateway_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        at = gateway_at(f"ws://127.0.0.1:{hanging.getsockname()[1]}", timeout_s=0.1)
        [one] = await health(at) or []
    assert one.title.endswith("no answer within 0.1 s")
    assert not at.is_there


@async_test
async def test_an_authority_that_is_not_known(tmp_path: Path, redis_server: RedisServer) -> None:
    certificate, key = Authority(tmp_path).issue("localhost")
    async with gateway(redis_server.url, tls_cert=certificate, tls_key=key) as server:
        [one] = await health(gateway_at(f"wss://localhost:{urlsplit(server.url).port}")) or []
    assert (one.severity, "--ca" in one.title) == (CRITICAL, True)


@async_test
async def test_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    at = gateway_at("ws://gateway.example")
    assert [each.severity for each in await health(at) or []] == [UNKNOWN]
    assert await counters(at) is None
    assert await clock(at) is None


@async_test
async def test_counters() -> None:
    body = "\n".join(
        [
            "rsws_clients 3",
            "rsws_publishes_acked_total 100",
            "rsws_publishes_not_stored_total 2",
            "rsws_entries_skipped_total 7",
            "rsws_clients_turned_away_total 1",
            "rsws_worker_restarts_total 4",
            "rsws_redis_outages_total 5",
        ]
    )
    async with answering(page(body)) as url:
        said = await counters(gateway_at(url)) or []
    assert [(each.severity, int(each.title.split()[0])) for each in said] == [
        (WARNING, 2), (WARNING, 7), (WARNING, 1), (WARNING, 4), (NOTE, 5),
    ]  # fmt: skip
    async with answering(page(body.replace("total 100", "total 1000"))) as url:
        assert (await counters(gateway_at(url)) or [])[0].severity is NOTE


@async_test
async def test_the_clock_of_the_gateway() -> None:
    for ahead_s, severities in ((0, []), (-10, [WARNING]), (60, [CRITICAL])):
        async with answering(page(date=time.time() + ahead_s)) as url:
            assert [each.severity for each in await clock(gateway_at(url)) or []] == severities
    async with answering(page()) as url:
        assert await clock(gateway_at(url)) is None


@pytest.mark.parametrize(
    ("url", "severities"),
    [
        ("ws://127.0.0.1:8080", []),
        ("wss://gateway.example", []),
        ("ws://gateway.example", [WARNING]),
        ("ws://10.0.0.1", [WARNING]),
        ("ws://8.8.8.8", [CRITICAL]),
    ],
)
@async_test
async def test_tls(url: str, severities: list[Severity]) -> None:
    assert [each.severity for each in await tls(gateway_at(url)) or []] == severities


@pytest.mark.parametrize(
    ("token", "host", "severities"),
    [
        ("kunci_rahasia_lokal_123", "127.0.0.1", [CRITICAL]),
        ("ChangeMe", "127.0.0.1", [CRITICAL]),
        ("aaaaaaaaaaaa", "127.0.0.1", [CRITICAL]),
        ("s3cr!t", "127.0.0.1", [WARNING]),
        ("s3cr!t", "10.0.0.1", [CRITICAL]),
        (SECRET, "10.0.0.1", []),
    ],
)
@async_test
async def test_secrets(token: str, host: str, severities: list[Severity]) -> None:
    said = await secret(gateway_at(f"ws://{host}", token)) or []
    assert [each.severity for each in said] == severities
    assert token not in repr(said)


@async_test
async def test_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(page("rsws_clients 95\n")) as url:
        at = gateway_at(url)
        assert await files(at) is None
        at.data_dir.path.mkdir(exist_ok=True)
        with at.data_dir.announce([("127.0.0.1", at.port)]):
            assert at.data_dir.gateway_pids(at.port) == {os.getpid()}
            for limit, severities in ((20_000, []), (1_000, [WARNING]), (100, [CRITICAL])):
                monkeypatch.setattr("rsws.check.gateway_checks._open_files", lambda pid, limit=limit: limit)
                assert [each.severity for each in await files(at) or []] == severities

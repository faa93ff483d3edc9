"""How a server is reached: TLS, logins that change, and what is said when it can't be."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from kit.gateway import async_test
from kit.support import RedisServer
from kit.tls import Authority
from rsws.errors import LoginRefused, RedisUnavailable
from rsws.redis.connection import connection_error_text
from rsws.redis.target import RedisTarget, probe
from rsws.redis.url import TlsFiles

LONG_AGO = datetime.datetime(2020, 1, 1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def cause(target: RedisTarget) -> str:
    """Why it can't be reached."""
    with pytest.raises(RedisUnavailable) as caught:
        await probe(target)
    return caught.value.cause


@async_test
async def test_tls_with_an_own_authority(redis_server: RedisServer, authority: Authority) -> None:
    async with authority.in_front_of(redis_server.port) as port:
        await probe(RedisTarget(f"rediss://localhost:{port}", 5, TlsFiles(ca=authority.ca)))
        said = await cause(RedisTarget(f"rediss://localhost:{port}", 5))
        assert "can't be trusted: unable to get local issuer" in said
        await probe(RedisTarget(f"rediss://localhost:{port}?ssl_cert_reqs=CERT_NONE", 5))


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        ({"name": "other.example"}, "Hostname mismatch, certificate is not valid for 'localhost'"),
        ({"not_before": LONG_AGO, "not_after": LONG_AGO + datetime.timedelta(1)}, "certificate has expired"),
    ],
    ids=["wrong", "expired"],
)
@async_test
async def test_a_certificate_that_is_wrong(
    redis_server: RedisServer, authority: Authority, certificate: dict[str, Any], said: str
) -> None:
    async with authority.in_front_of(redis_server.port, **certificate) as port:
        assert said in await cause(RedisTarget(f"rediss://localhost:{port}", 5, TlsFiles(ca=authority.ca)))


@async_test
async def test_a_server_that_wants_a_certificate(redis_server: RedisServer, authority: Authority) -> None:
    async with authority.in_front_of(redis_server.port, of_clients=True) as port:
        url = f"rediss://localhost:{port}"
        certificate, key = authority.issue("client")
        await probe(RedisTarget(url, 5, TlsFiles(authority.ca, certificate, key)))
        assert "--redis-tls-cert" in await cause(RedisTarget(url, 5, TlsFiles(ca=authority.ca)))


@async_test
async def test_a_server_without_tls(redis_server: RedisServer) -> None:
    assert "does it speak TLS" in await cause(RedisTarget(f"rediss://127.0.0.1:{redis_server.port}", 1))


@async_test
async def test_a_password_that_changes_in_its_file(own_redis: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(f"redis://:old@127.0.0.1:{own_redis.port}")
    own_redis.call("CONFIG", "SET", "requirepass", "old")
    target = RedisTarget(file.read_text, 5)
    await probe(target)
    own_redis.call("AUTH", "old")
    own_redis.call("CONFIG", "SET", "requirepass", "new")
    with pytest.raises(LoginRefused, match="WRONGPASS"):
        await probe(target)
    file.write_text("nonsense")
    assert "can't be used" in await cause(target)
    file.write_text(f"redis://:new@127.0.0.1:{own_redis.port}")
    await probe(target)


@async_test
async def test_what_a_server_says_of_itself(redis_server: RedisServer) -> None:
    target = RedisTarget(redis_server.url, 5)
    assert target.description == f"{redis_server.url} (Redis of an unknown version)"
    await probe(target)
    version = redis_server.call("INFO", "server")
    assert target.facts.version.encode() in version
    assert target.facts.kind in ("redis", "valkey")
    assert target.description == f"{redis_server.url} ({target.facts.kind.capitalize()} {target.facts.version})"


def test_a_server_that_quotes_the_password_is_not_quoted() -> None:
    error = ResponseError("unknown command 'AUTH', with args beginning with: 'hunter2' ")
    assert connection_error_text(error) == "unknown command 'AUTH'"

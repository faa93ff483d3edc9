"""Which Redis a URL says, and what is said of one that can't be used."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from kit.tls import Authority
from rsws.errors import UsageError
from rsws.redis.url import TlsFiles, parse_redis_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:7000/2", {"host": "h", "port": 7000, "db": 2}),
        ("valkey://ann:pass%2Fword@h", {"host": "h", "username": "ann", "password": "pass/word"}),
        ("unix:///run/redis.sock?db=4", {"path": "/run/redis.sock", "db": 4}),
        ("redis://h?max_connections=10&socket_timeout=3", {"host": "h"}),
        ("redis+sentinel://:pw@a:1,b/main/3", {"password": "pw", "db": 3}),
    ],
)
def test_what_it_says(url: str, expected: dict[str, Any]) -> None:
    arguments = parse_redis_url(url).arguments
    assert {name: arguments[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "is_tls"),
    [
        ("redis://h", False),
        ("rediss://h", True),
        ("valkeys://h", True),
        ("redis://h?ssl=true", True),
        ("redis://h?ssl=on", True),
        ("redis://h?ssl=false", False),
        ("rediss+sentinel://h/main", True),
    ],
)
def test_tls(url: str, is_tls: bool) -> None:
    assert (parse_redis_url(url).connection_class.__name__ == "SSLConnection") is is_tls


@pytest.mark.parametrize("requirement", ["CERT_NONE", "none", "cert_required"])
def test_how_people_write_what_certificates_are_required(requirement: str) -> None:
    assert parse_redis_url(f"rediss://h?ssl_cert_reqs={requirement}")


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSV1_2", "TLSv1.2", "1.2", "771"])
def test_how_people_write_the_oldest_version_of_tls(version: str) -> None:
    arguments = parse_redis_url(f"rediss://h?ssl_min_version={version}").arguments
    assert arguments["ssl_min_version"] == ssl.TLSVersion.TLSv1_2


def test_the_sentinels() -> None:
    url = parse_redis_url("redis+sentinel://ann:pw@a:1,[::1]:2,c/my%20name/1?sentinel_username=s&sentinel_password=t")
    assert url.sentinels == (("a", 1), ("::1", 2), ("c", 26379))
    assert url.service == "my name"
    assert url.sentinel_login == {"username": "s", "password": "t"}
    assert url.shown == "redis+sentinel://***@a:1,[::1]:2,c/my%20name/1"
    assert parse_redis_url("redis+sentinel://a/main").sentinel_login is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://h", "does not begin with redis://"),
        ("unix+sentinel://h/main", "does not begin with redis://"),
        ("redis+sentinel://h:1", "lacks the name"),
        ("redis+sentinel://h:1/", "lacks the name"),
        ("redis+sentinel://h:x/main", "no valid host and port"),
        ("redis+sentinel://a,,b/main", "not a valid name"),
        ("redis+sentinel://h/main/x", "the database is not a number"),
        ("redis://h?ssl_min_version=TLSv1.2", "its option ssl_min_version is not for this scheme"),
        ("redis://h?ssl_ca_certs=/ca.pem", "its option ssl_ca_certs is not for this scheme"),
        ("redis://h?nonsense=1", "Redis' client has no option nonsense"),
        ("redis://:pass?word=x@h", "does not take its options|no valid host and port"),
        ("rediss://h?ssl_min_version=SSLv3", "its option ssl_min_version has no valid value"),
        ("redis://h?ssl=require", "its option ssl has no valid value"),
        ("rediss://h?ssl=false", "its option ssl has no valid value"),
        ("redis://h?credential_provider=x", "its option credential_provider can't be written in a URL"),
        ("redis://h?retry=3", "its option retry can't be written in a URL"),
    ],
)
def test_what_can_not_be_used(url: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_redis_url(url)


@pytest.mark.parametrize("url", ["redis://:se\N{ACCOUNT OF}ret@h/0?db=1", "redis://:secret@[::1/0?db=1"])
def test_what_a_parser_quotes_is_not_said(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_redis_url(url)
    assert "ret" not in str(caught.value).replace("write redis", "").replace("[user]", "")
    assert caught.value.__suppress_context__


def test_files_for_tls(tmp_path: Path) -> None:
    missing, empty, made = tmp_path / "missing.pem", tmp_path / "empty.pem", Authority(tmp_path)
    empty.touch()
    with pytest.raises(UsageError, match=r"can't be read: .*missing\.pem: No such file"):
        parse_redis_url("rediss://h", TlsFiles(ca=missing))
    with pytest.raises(UsageError, match=r"can't be read: .*missing\.pem: No such file"):
        parse_redis_url(f"rediss://h?ssl_ca_certs={missing}")
    with pytest.raises(UsageError, match=r"no certificate in PEM format: .*empty\.pem"):
        parse_redis_url("rediss://h", TlsFiles(ca=empty))
    assert parse_redis_url("rediss://h", TlsFiles(ca=made.ca)).arguments["ssl_ca_certs"] == str(made.ca)
    with pytest.raises(UsageError, match="write rediss://"):
        parse_redis_url("redis://h", TlsFiles(ca=made.ca))


def test_certificates_and_keys_that_can_not_be_used(tmp_path: Path) -> None:
    made = Authority(tmp_path)
    cert, key = made.issue("one")
    _, other = made.issue("two")
    assert parse_redis_url("rediss://h", TlsFiles(cert=cert, key=key)).has_certificate
    with pytest.raises(UsageError, match="needs its certificate: --redis-tls-cert"):
        parse_redis_url("rediss://h", TlsFiles(key=key))
    with pytest.raises(UsageError, match="it takes both, in PEM format"):
        parse_redis_url("rediss://h", TlsFiles(cert=cert))
    with pytest.raises(UsageError, match="they are not of each other"):
        parse_redis_url("rediss://h", TlsFiles(cert=cert, key=other))

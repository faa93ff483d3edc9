"""The settings: what ``.env`` says, what is shown of a URL, and what the container files make of the defaults."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from rsws.errors import UsageError
from rsws.settings import Settings, load_env_file
from rsws.streams.link import RedisTarget
from rsws.urls import is_loopback, redact_url, websocket_url

# --- .env ---


def test_the_env_file_is_taken_literally(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WEBSOCKET_SECRET_KEY=pa${HOME}ss$X\nPORT='9000'\n")
    os.environ["X"] = "expanded"
    load_env_file()
    assert os.environ["WEBSOCKET_SECRET_KEY"] == "pa${HOME}ss$X"
    assert os.environ["PORT"] == "9000"


def test_the_environment_beats_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=9000\n")
    os.environ["PORT"] = "9001"
    load_env_file()
    assert os.environ["PORT"] == "9001"


def test_compose_waits_until_the_gateway_has_stopped() -> None:
    [service] = yaml.safe_load((Path(__file__).parent.parent / "docker-compose.yaml").read_text())["services"].values()
    grace = re.fullmatch(r"(\d+)s", service["stop_grace_period"])
    assert grace
    assert int(grace[1]) > Settings().shutdown_timeout_s + Settings().drain_s


# --- URLs ---


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "127.0.0.1.example.org"])
def test_no_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache", "redis://cache"),
        ("redis://cache:6379/3", "redis://cache:6379/3"),
        ("rediss://[::1]:6379", "rediss://[::1]:6379"),
        ("ws://[fe80::1%eth0]:8080", "ws://[fe80::1%eth0]:8080"),
        ("WS://Secret@host-1.example.org", "WS://***@host-1.example.org"),
        ("unix:///run/redis.sock?db=2&password=Secret", "unix:///run/redis.sock"),
        ("redis://ann:Secret@cache:6379/3", "redis://***@cache:6379/3"),
        ("redis://:Sec%2Fret@cache", "redis://***@cache"),
        ("redis://Secret@cache", "redis://***@cache"),
        ("unix://:Secret@/run/redis.sock", "unix://***@/run/redis.sock"),
        ("ws://cache:8080/ws?token=Secret#Secret", "ws://cache:8080/ws"),
        ("ws://cache:8080?token=Secret", "ws://cache:8080"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redact_url(url) == shown


UNENCODED = [
    "redis://:Sec/retPw@127.0.0.1:1",
    "redis://:Sec#retPw@127.0.0.1:1",
    "redis://:Sec?retPw@127.0.0.1:1",
    "redis://:Sec@ret/Pw@127.0.0.1:1",
    "redis://:Sec:ret/Pw@127.0.0.1:1",
    "redis://:Sec[retPw@127.0.0.1:1",
    "redis://:Sec]retPw/@[::1",
    "redis://:Sec\u2100retPw@127.0.0.1:1",
    "redis://ann:6/Sec@127.0.0.1:1",
    "redis://:Sec://retPw@127.0.0.1:1/x",
    "redis://:Sec ret@127.0.0.1:1",
    "redis://ann:SecretPw",
    "redis://:Sec/retPw",
    "rediss://[Sec]:6379",
    "unix://:Sec#ret@/run/redis.sock",
    ":Sec/retPw@127.0.0.1:1",
    "ann:SecretPw@127.0.0.1:1",
    "redis:SecretPw@127.0.0.1:1",
    "http://:SecretPw@127.0.0.1:1",
    "redis://:SecretPw@127.0.0.1:1/database",
    "redis://127.0.0.1:1/0?Secret=1",
    "rediss://127.0.0.1:1/0?ssl_cert_reqs=Secret",
    "redis://127.0.0.1:1/0?db=Secret",
]


@pytest.mark.parametrize("url", UNENCODED)
def test_a_redis_url_that_is_refused_gives_no_password_away(url: str) -> None:
    with pytest.raises(UsageError, match=r"REDIS_URL.*percent-encoded") as refused:
        RedisTarget(url, 1)
    assert not re.search("Sec|ret|Pw", str(refused.value))
    assert refused.value.__context__ is None or refused.value.__suppress_context__


@pytest.mark.parametrize(
    "url", ["ws://u:Sec/ret@h", "u:Sec/ret@h", "ws://u:Sec#ret@h", "ws://h:x/?token=Sec@ret", "ftp://:Sec@h"]
)
def test_a_gateway_s_url_that_is_refused_gives_no_password_away(url: str) -> None:
    with pytest.raises(UsageError, match=r"not a gateway's URL: .*write ws://HOST:PORT") as refused:
        websocket_url(url)
    assert not re.search("Sec|ret", str(refused.value))


@pytest.mark.parametrize("url", ["ws://h/?q=@&token=Secret", "ws://h/?token=p@Secret", "ws://h#@Secret"])
def test_an_at_sign_in_the_query_gives_no_token_away(url: str) -> None:
    assert "Sec" not in redact_url(url)

"""The settings: what ``.env`` says, what is shown of a URL, and what the container files make of the defaults."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from kit.cli import run_main
from kit.support import RedisServer, RswsProcess, run_rsws
from rsws.client.address import Address
from rsws.datadir import DataDir
from rsws.env_file import environment_of_others, is_from_env_file, load_env_file
from rsws.errors import SetupError, UsageError
from rsws.gateway.access.tokens import TokenCheck
from rsws.gateway.http import RequestReader
from rsws.gateway.process.setup import FoundRedis, choose_key
from rsws.gateway.process.supervisor import WorkerConfig
from rsws.options import options
from rsws.protocol import decode_request
from rsws.redis.target import RedisTarget, redis_target
from rsws.settings import ClientSettings, Settings
from rsws.urls import is_loopback, origin_fault, redact_url, websocket_url

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


def test_the_env_file_sets_nothing_but_settings(tmp_path: Path) -> None:
    foreign = ("LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "ALL_PROXY", "SSL_CERT_FILE", "HOME", "RSWS_ELSE")
    before = {name: os.environ.pop(name, None) for name in foreign}
    (tmp_path / ".env").write_text("".join(f"{name}=/evil\n" for name in (*foreign, "RSWS_WORKERS")))
    load_env_file()
    assert [name for name in foreign if name in os.environ] == []
    assert os.environ["RSWS_WORKERS"] == "/evil"
    os.environ |= {name: value for name, value in before.items() if value is not None}


def test_code_that_the_env_file_names_is_not_loaded(tmp_path: Path) -> None:
    """The embedded server is another program, which the dynamic linker starts."""
    (tmp_path / ".env").write_text("LD_PRELOAD=/evil.so\nRSWS_LOG_LEVEL=info\n")
    with RswsProcess("serve", "--port", "0") as serve:
        serve.wait_for("Try in another terminal")
        assert "evil" not in serve.output()
        assert "evil" not in (tmp_path / "data" / "redis" / "server.log").read_text()


def test_it_is_known_what_came_from_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=9000\nHOST=::1\n")
    os.environ["HOST"] = "127.0.0.1"
    load_env_file()
    assert is_from_env_file("PORT")
    assert not is_from_env_file("HOST")
    os.environ["PORT"] = "9001"
    assert not is_from_env_file("PORT")


def test_other_programs_get_no_setting() -> None:
    os.environ |= {"RSWS_TOKEN": "secret", "WEBSOCKET_SECRET_KEY": "secret", "REDIS_URL": "secret", "OTHER": "x"}
    assert "secret" not in environment_of_others().values()
    assert environment_of_others()["OTHER"] == "x"


# --- secrets ---

SENTINEL = "Sentinel"


def secret_settings(settings: type[Any]) -> dict[str, str]:
    """A value with the sentinel in it for each setting that may hold a secret, by the field's name."""
    names = [name for name, each in options(settings).items() if each.secret]
    return {name: f"redis://:{SENTINEL}@h" if "url" in name else SENTINEL for name in names}


@pytest.mark.parametrize("settings", [Settings, ClientSettings])
def test_no_text_of_the_settings_holds_a_secret(settings: type[Any]) -> None:
    hints = get_type_hints(settings)
    names = {name for name in options(settings) if re.search("key|token|url|password|secret", name)}
    secrets = secret_settings(settings)
    assert {name for name in names if hints[name] not in (Path | None, tuple[str, ...])} == secrets.keys()
    made = settings(**secrets)
    for text in (repr(made), str(made), f"{made}", repr([made]), f"{made!r}"):
        assert SENTINEL not in text


def test_no_text_of_what_is_made_of_them_holds_a_secret(tmp_path: Path) -> None:
    settings = Settings(secret_key=SENTINEL, redis_url=f"redis://:{SENTINEL}@127.0.0.1:1")
    key = choose_key(settings, DataDir(tmp_path / "data"))
    target = RedisTarget(settings.redis_url or "", 1)
    made: list[object] = [
        key,
        FoundRedis(target, "", None),
        WorkerConfig(settings, (), (), 0, 0),
        target,
        target.connection(),
        Address.of("ws://127.0.0.1", SENTINEL),
        TokenCheck(key.secret),
    ]
    for each in made:
        assert SENTINEL not in f"{each!r} {each}"


def test_no_text_of_what_clients_send_holds_a_token() -> None:
    head = f"GET /a?token={SENTINEL} HTTP/1.1\r\nAuthorization: Bearer {SENTINEL}\r\n\r\n"
    request = RequestReader(1000).read(head.encode())
    assert repr(request) == "Request(GET /a)"
    assert SENTINEL not in repr(decode_request(f'{{"action":"token","token":"{SENTINEL}"}}'))


FAILING = {
    "no Redis in time": ("serve", "--redis-url", "redis://127.0.0.1:1/x"),
    "no port": ("serve", "--port", "1", "--host", "192.0.2.1"),
    "no number": ("serve", "--workers", "many"),
    "no gateway": ("sub", "news", "--url", f"ws://127.0.0.1:1/?token={SENTINEL}"),
    "no URL": ("pub", "news", "1", "--url", f"ws://:{SENTINEL}/@h:x"),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_start_that_fails_gives_no_secret_away(name: str) -> None:
    env = {
        "WEBSOCKET_SECRET_KEY": SENTINEL,
        "RSWS_TOKEN": SENTINEL,
        "REDIS_URL": f"redis://:{SENTINEL}@127.0.0.1:1/",
        "RSWS_LOG_LEVEL": "debug",
        "PYTHONASYNCIODEBUG": "1",
    }
    done = run_rsws(*FAILING[name], env=env)
    assert done.returncode != 0
    assert SENTINEL not in done.stderr + done.stdout


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_log_line_holds_a_secret(redis_server: RedisServer, workers: str) -> None:
    env = {"WEBSOCKET_SECRET_KEY": SENTINEL, "RSWS_LOG_LEVEL": "debug", "PYTHONASYNCIODEBUG": "1"}
    redis_url = f"redis://127.0.0.1:{redis_server.port}/0"
    with RswsProcess("serve", "--port", "0", "--workers", workers, "--redis-url", redis_url, env=env) as serve:
        url = serve.wait_for(r"url=(ws://\S+)")[1]
        serve.wait_for("Try in another terminal")
        assert run_main("pub", "news", "1", "--url", url, env=env).returncode == 0
        assert run_main("pub", "news", "1", "--url", url, "--token", f"{SENTINEL}s").returncode != 0
        assert serve.stop() == 0
    assert SENTINEL not in serve.output()


@pytest.mark.parametrize("content", [None, b"", b"\xff"])
def test_a_file_of_a_secret_that_can_not_be_used(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"the file of the secret key, {path}, (can't be read|is empty)"):
        _ = Settings(secret_key_file=path).given_key
    with pytest.raises(UsageError, match=rf"the file of the Redis URL, {path}, (can't be read|is empty)"):
        redis_target(Settings(redis_url_file=path), "")


@pytest.mark.parametrize(("host", "key", "is_taken"), [
    ("127.0.0.1", "k", True), ("0.0.0.0", "1234567", False), ("0.0.0.0", "12345678", True),
    ("::", "kunci_rahasia_lokal_123", True), ("10.0.0.1", " ", False),
])  # fmt: skip
def test_which_keys_are_taken(host: str, key: str, is_taken: bool, tmp_path: Path) -> None:
    settings = Settings(host=host, secret_key=key)
    if is_taken:
        assert choose_key(settings, DataDir(tmp_path / "data")).secret == key
    else:
        with pytest.raises(SetupError, match=r"WEBSOCKET_SECRET_KEY must .*token_urlsafe"):
            choose_key(settings, DataDir(tmp_path / "data"))


def test_compose_waits_until_the_gateway_has_stopped() -> None:
    [service] = yaml.safe_load((Path(__file__).parent.parent / "docker-compose.yaml").read_text())["services"].values()
    grace = re.fullmatch(r"(\d+)s", service["stop_grace_period"])
    assert grace
    assert int(grace[1]) > Settings().stop_s


# --- URLs ---


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "127.0.0.1.example.org"])
def test_no_loopback(host: str) -> None:
    assert not is_loopback(host)


ORIGINS = (
    "https://example.com",
    "http://Example.com:3000",
    "https://h:80",
    "https://[::1]:80",
    "chrome-extension://a",
    "null",
)
NO_ORIGINS = (
    "*", "https://*.example.com", "https://ex\u00e4mple.com", "example.com", "https://h/", "https://h:443", "http://[::1]:",
    "https://u@h", "file://", "",
)  # fmt: skip


def test_origins_that_browsers_send_and_those_that_none_would_ever_match() -> None:
    assert [text for text in (*ORIGINS, *NO_ORIGINS) if origin_fault(text) is None] == [*ORIGINS]


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
    with pytest.raises(UsageError, match=r"Redis URL.*percent-encoded") as refused:
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

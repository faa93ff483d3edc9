"""Which gateway a command finds, and with which token."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import typer

from kit.cli import run_main, serving
from kit.support import RedisServer
from rsws.cli.endpoint import find_gateway
from rsws.cli.exits import ExitCode, Failure
from rsws.cli.options import FLAGS, flag, from_settings
from rsws.datadir import DataDir
from rsws.env_file import load_env_file
from rsws.errors import UsageError
from rsws.settings import ClientSettings, Settings


def settings(**flags: object) -> ClientSettings:
    """What flags and environment make of the settings, as typer would do it."""
    environment = {"url": "RSWS_URL", "token": "RSWS_TOKEN", "token_file": "RSWS_TOKEN_FILE"}
    FLAGS.set(frozenset(flags))
    values = {name: os.environ.get(variable) for name, variable in environment.items()} | flags
    if values["token_file"] is not None:
        values["token_file"] = Path(str(values["token_file"]))
    return ClientSettings(**values)  # type: ignore[arg-type]


@contextmanager
def own_gateway(data_dir: DataDir, host: str = "127.0.0.1") -> Iterator[str]:
    """What listens and says that it is a gateway of that data directory: its URL."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        port = listening.getsockname()[1]
        with data_dir.announce([(host, port)]):
            yield f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"


def test_flags() -> None:
    assert flag("port") == "--port"
    assert flag("redis_timeout_s") == "--redis-timeout"
    assert flag("high_water_bytes") == "--high-water-bytes"
    assert flag("max_subscriptions") == "--max-subscriptions"


def test_the_token_that_stands_nearest_wins(tmp_path: Path) -> None:
    data_dir = DataDir()
    data_dir.make_key()
    for name, content in {
        "token": "of a file\n",
        "other": "of the environment's file\n",
        "key": "of its file\n",
    }.items():
        (tmp_path / name).write_text(content)

    with own_gateway(data_dir) as url:
        os.environ["PORT"] = url.rpartition(":")[2]
        assert find_gateway(settings()).token == data_dir.read_key()
        assert find_gateway(settings()).source == f"the token came from {data_dir.key_file}"
    for name, value, token in (
        ("WEBSOCKET_SECRET_KEY_FILE", tmp_path / "key", "of its file"),
        ("WEBSOCKET_SECRET_KEY", "the gateway's", "the gateway's"),
        ("RSWS_URL", "ws://127.0.0.1/?token=of-the-environments-url", "of-the-environments-url"),
        ("RSWS_TOKEN_FILE", tmp_path / "other", "of the environment's file"),
        ("RSWS_TOKEN", "of the environment", "of the environment"),
    ):
        os.environ[name] = str(value)
        assert find_gateway(settings()).token == token
        assert find_gateway(settings()).source == f"the token came from {name}"
    for flags, token, source in (
        ({"url": "ws://127.0.0.1/?token=of-the-url"}, "of-the-url", "--url"),
        ({"token_file": tmp_path / "token"}, "of a file", "--token-file"),
        ({"token": "of a flag", "token_file": tmp_path / "token"}, "of a flag", "--token"),
    ):
        found = find_gateway(settings(**flags))
        assert (found.token, found.source) == (token, f"the token came from {source}")


def test_the_url() -> None:
    assert find_gateway(settings(token="x")).url == "ws://127.0.0.1:8080"
    os.environ["PORT"] = "9000"
    assert find_gateway(settings(token="x")).url == "ws://127.0.0.1:9000"
    os.environ["RSWS_URL"] = "gateway:1"
    assert find_gateway(settings(token="x")).url == "ws://gateway:1"
    assert find_gateway(settings(url="wss://other/ws?a=b&token=c")).url == "wss://other/ws?a=b"


def test_the_key_of_the_data_directory_is_for_this_machine_alone() -> None:
    DataDir().make_key()
    for url in ("ws://example.org", "ws://10.0.0.1", "ws://localhost.example.org"):
        with pytest.raises(Failure, match="no token for ws://") as failure:
            find_gateway(settings(url=url))
        assert failure.value.code == ExitCode.REFUSED


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "0.0.0.0", "::1"])
def test_the_key_of_the_data_directory_is_for_the_user_s_own_gateway(host: str) -> None:
    data_dir = DataDir()
    key = data_dir.make_key()
    with own_gateway(data_dir, host) as url:
        port = url.rpartition(":")[2]
        assert find_gateway(settings(url=url.replace("0.0.0.0", "127.0.0.1"))).token == key
        assert find_gateway(settings(url=f"localhost:{port}")).token == key
        with own_gateway(DataDir(data_dir.path.with_name("other"))) as other:
            assert find_gateway(settings(url=other)).token is None
    gone = find_gateway(settings(url=url.replace("0.0.0.0", "127.0.0.1")))
    assert gone.token is None
    assert gone.source.startswith(f"the key in {data_dir.key_file} was not sent")


def test_the_data_directory_that_is_named(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / "named")
    with own_gateway(data_dir) as url:
        assert find_gateway(settings(url=url, data_dir=data_dir.path, token="x")).token == "x"
        key = data_dir.make_key()
        assert find_gateway(settings(url=url, data_dir=data_dir.path)).token == key


# --- what .env says ---


def env_file(**said: str) -> None:
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in said.items()))
    load_env_file()


@pytest.mark.parametrize(
    "where", [{"RSWS_URL": "ws://elsewhere.example:1"}, {"RSWS_URL": "localhost:1"}, {"PORT": "1"}]
)
@pytest.mark.parametrize("name", ["RSWS_TOKEN", "WEBSOCKET_SECRET_KEY", "RSWS_TOKEN_FILE", "WEBSOCKET_SECRET_KEY_FILE"])
def test_no_token_goes_where_the_env_file_of_somebody_leads(where: dict[str, str], name: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    os.environ[name] = str(tmp_path / "token")
    env_file(**where)
    with pytest.raises(
        UsageError, match=rf"\.env .* leads to ws://.* {name}, .*take the address out of \.env, or .*--token-file"
    ):
        find_gateway(settings())
    assert find_gateway(settings(token="mine")).token == "mine"
    assert find_gateway(settings(url="ws://there:2")).url == "ws://there:2"


@pytest.mark.parametrize("name", ["RSWS_TOKEN_FILE", "WEBSOCKET_SECRET_KEY_FILE"])
def test_no_file_that_the_env_file_names_goes_where_it_leads(name: str, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("of the user")
    env_file(RSWS_URL="ws://elsewhere.example", **{name: str(tmp_path / "id")})
    with pytest.raises(UsageError, match=rf"{name} in \.env"):
        find_gateway(settings())


def test_the_key_of_the_data_directory_does_not_go_there_either() -> None:
    DataDir().make_key()
    env_file(RSWS_URL="ws://127.0.0.1:1")
    assert find_gateway(settings()).token is None


@pytest.mark.parametrize("name", ["RSWS_TOKEN", "WEBSOCKET_SECRET_KEY"])
def test_a_token_of_the_env_file_goes_where_that_leads(name: str) -> None:
    env_file(**{"RSWS_URL": "ws://elsewhere.example", name: "theirs"})
    found = find_gateway(settings())
    assert (found.url, found.token) == ("ws://elsewhere.example", "theirs")
    assert found.source == f"the token came from {name} in .env"


def test_a_token_of_the_environment_goes_to_the_user_s_own_gateway_wherever_the_port_is_said() -> None:
    os.environ["RSWS_TOKEN"] = "mine"
    with own_gateway(DataDir()) as url:
        env_file(PORT=url.rpartition(":")[2])
        assert find_gateway(settings()).token == "mine"


@pytest.mark.parametrize("command", ["sub", "pub"])
def test_whence_a_token_came_that_is_refused(command: str, redis_server: RedisServer) -> None:
    with serving(redis_server.url) as gateway:
        Path(".env").write_text(f"RSWS_URL={gateway.url}\nRSWS_TOKEN=wrong\n")
        done = run_main(*[command, "news", "1"][: 3 if command == "pub" else 2])
    assert done.returncode == ExitCode.REFUSED
    assert "refuses the token" in done.stderr
    assert "(the token came from RSWS_TOKEN in .env)" in done.stderr
    assert "wrong" not in done.stderr


# --- what holds a secret ---


@pytest.mark.parametrize(
    ("variable", "value", "arguments", "key"),
    [
        ("WEBSOCKET_SECRET_KEY", "given", ["--secret-key-file", "./key"], "of the file"),
        ("WEBSOCKET_SECRET_KEY_FILE", "./key", ["--secret-key", "given"], "given"),
        ("WEBSOCKET_SECRET_KEY_FILE", "./key", [], "of the file"),
    ],
)
def test_a_file_and_what_it_holds_are_overruled_by_a_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, arguments: list[str], key: str
) -> None:
    made: list[Settings] = []

    @from_settings(Settings)
    def command(settings: Settings) -> None:
        made.append(settings)

    (tmp_path / "key").write_text("of the file\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, value)
    app = typer.Typer()
    app.command()(command)
    app(arguments, standalone_mode=False)
    assert made[0].given_key == key


@pytest.mark.parametrize("spelled", ["{home}/{key}", "{home}//{key}", "{home}/./{key}", "{home}/{key}/"])
@pytest.mark.parametrize("where", ["the environment", ".env"])
def test_however_a_path_is_spelled_the_user_s_key_does_not_go_where_the_env_file_leads(
    tmp_path: Path, spelled: str, where: str
) -> None:
    key_file = DataDir().key_file
    key = DataDir().make_key()
    path = spelled.format(home=key_file.parent, key=key_file.name)
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as foreign:

        def listen() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = foreign.accept()
                    with connection:
                        received.append(connection.recv(4096))

        thread = threading.Thread(target=listen)
        thread.start()
        lines = [f"RSWS_URL=ws://127.0.0.1:{foreign.getsockname()[1]}"]
        if where == ".env":
            lines.append(f"RSWS_TOKEN_FILE={path}")
        (tmp_path / ".env").write_text("\n".join(lines))
        done = run_main("pub", "news", "1", env={"RSWS_TOKEN_FILE": path} if where == "the environment" else {})
        foreign.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert done.returncode != 0
    assert key.encode() not in b"".join(received)


def test_what_is_found_is_not_shown() -> None:
    assert "Secret" not in repr(find_gateway(settings(token="Secret")))


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_a_token_file_that_can_not_be_used(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=f"the file of the token, {path}, "):
        find_gateway(settings(token_file=path))


@pytest.mark.parametrize("port", ["abc", "0", "70000", "-1", "٣"])
def test_a_port_that_is_none(port: str) -> None:
    os.environ["PORT"] = port
    with pytest.raises(UsageError, match=f"PORT is '{port}', which is no port"):
        find_gateway(settings(token="x"))
    assert find_gateway(settings(token="x", url="ws://127.0.0.1:1")).url == "ws://127.0.0.1:1"

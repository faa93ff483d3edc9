"""Profiles: what is in their file, what they beat, and where their token goes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from kit.cli import KEY, Gateway, Terminal, messages_in, run_main, serving
from kit.support import RedisServer
from rsws.cli.exits import ExitCode
from rsws.errors import SetupError, UsageError
from rsws.profiles import Profiles, path, read_profiles, write_profiles

CLOSED = "ws://127.0.0.1:1"
SHOWN = r"profile prod \(~/\.config/rsws/profiles\.toml\)"


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer) -> Iterator[Gateway]:
    with serving(redis_server.url) as gateway:
        yield gateway


@pytest.fixture
def prod(gateway: Gateway, redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(KEY)
    write_profiles(
        Profiles({"prod": {"url": gateway.url, "token_file": str(tmp_path / "token"), "redis_url": redis_server.url}})
    )


def write(text: str) -> None:
    path().parent.mkdir(parents=True)
    path().write_text(text)


# --- rsws profile ---


def test_from_add_to_rm(tmp_path: Path) -> None:
    os.environ["RSWS_URL"] = CLOSED  # it is not the profile's
    (tmp_path / 'a "file"').write_text("x")
    for arguments in (
        ("add", "prod", "--url", "localhost:1", "--token-file", 'a "file"'),
        ("add", "dev", "--redis-url", "redis://127.0.0.1:1"),
        ("use", "prod"),
    ):
        done = run_main("profile", *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    token_file = str(tmp_path / 'a "file"')
    prod, dev = {"url": "ws://localhost:1", "token_file": token_file}, {"redis_url": "redis://127.0.0.1:1"}
    assert read_profiles() == Profiles({"prod": prod, "dev": dev}, "prod")
    assert path() == Path(os.environ["HOME"], ".config/rsws/profiles.toml")
    assert path().stat().st_mode & 0o777 == 0o600
    listed = [json.loads(line) for line in run_main("profile", "ls").stdout.splitlines()]
    assert listed == [{"name": "prod", "current": True, **prod}, {"name": "dev", "current": False, **dev}]
    done = run_main("profile", "rm", "prod")
    assert done.stderr == "rsws: prod was used where none is named; now none is\n"
    assert read_profiles() == Profiles({"dev": dev})


def test_on_a_terminal_the_one_in_use_is_marked() -> None:
    write_profiles(Profiles({"prod": {"url": "ws://a"}, "d": {"url": "ws://b", "ca": "/c\x9b"}}, "prod"))
    with Terminal("profile", "ls", env={"RSWS_PROFILE": "d"}) as terminal:
        assert terminal.wait() == ExitCode.DONE
    assert terminal.text == "  prod  url ws://a\n* d     url ws://b  ca /c\\u009b\n"


def test_use_without_a_name_uses_none() -> None:
    write_profiles(Profiles({"prod": {"url": CLOSED}}, "prod"))
    assert run_main("profile", "use").returncode == 0
    assert read_profiles().default is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--token", "s3cret", "--url", "h"), "--token: no secret is kept in a profile: write it into a file, and"),
        (("--url", "ws://h/?token=s3cret"), "url has a secret, and none is kept here: write the token into a file"),
        (("--redis-url", "redis://u:s3cret@h"), "redis_url has a secret, and none is kept here: write the URL into"),
        (("--token-file", "t"), "token_file without url: it would be for any server"),
        (("--redis-tls-ca", "t"), "redis_tls_ca without redis_url or redis_url_file"),
        (("--redis-url", "redis://h", "--redis-url-file", "f"), "redis_url and redis_url_file: give one of them"),
        (("--url", "http://h"), "not a gateway's URL: 'http://h'; write ws://HOST:PORT"),
        (("--redis-url", "http://h"), "can't be used"),
        ((), "say which gateway or which Redis it is"),
    ],
)
def test_what_is_no_profile(arguments: tuple[str, ...], said: str) -> None:
    refused = run_main("profile", "add", "new", *arguments)
    assert refused.returncode == ExitCode.USAGE
    assert said in refused.stderr
    assert "s3cret" not in refused.stderr
    assert not path().exists()


def test_names() -> None:
    for name in ("", "a b", "a.b", "é", "x" * 65):
        assert "is no name of a profile" in run_main("profile", "add", "--url", "h", "--", name).stderr
    run_main("profile", "add", "a", "--url", "h")
    assert "there is a profile 'a' already; `rsws profile rm a` removes it" in (
        run_main("profile", "add", "a", "--url", "h").stderr
    )
    for work in ("use", "rm"):
        assert f"there is no profile 'b' in {path()}: there are a" in run_main("profile", work, "b").stderr


# --- the file ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[", "is no TOML: "),
        ("\xff", "is no TOML: "),
        ("x = 1", "there is no 'x': write `default = NAME`"),
        ("default = []", r"`default` is \[\], and there is no such profile"),
        ("profile = 1", r"write \[profile.NAME\]"),
        ("profile.a = 1", r"write \[profile.NAME\]"),
        ("[profile.a]\nport = 1", "profile a: there is no 'port'; there are url, token_file"),
        ("[profile.a]\nurl = 1", "profile a: url is no text"),
        (
            "[profile.a]\ntoken = 'x'",
            "profile a: no secret is kept here: write it into a file, and name that token_file",
        ),
    ],
)
def test_a_file_that_can_not_be_used(text: str, said: str) -> None:
    path().parent.mkdir(parents=True)
    path().write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=rf"^{re.escape(str(path()))}.*{said}"):
        read_profiles()


def test_a_file_that_others_could_read_or_that_is_elsewhere(tmp_path: Path) -> None:
    write("[profile.a]\nurl = 'ws://h'\n")
    path().chmod(0o644)
    read_profiles()
    assert path().stat().st_mode & 0o777 == 0o600
    path().rename(tmp_path / "elsewhere")
    path().symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SetupError, match=r"symbolic link; what is kept in a directory of profiles .* XDG_CONFIG_HOME"):
        read_profiles()


def test_any_text_comes_back() -> None:
    text = "".join(map(chr, range(1, 256))) + "\u2028\U0001f600"
    write_profiles(Profiles({"a": {"url": "ws://h", "ca": text}}))
    assert read_profiles().of["a"]["ca"] == text


# --- what beats what ---


@pytest.mark.parametrize(
    ("flags", "env", "default"),
    [
        (("--profile", "prod"), {}, None),
        ((), {"RSWS_PROFILE": "prod"}, None),
        ((), {}, "prod"),
        (("--profile", "prod"), {"RSWS_URL": CLOSED, "RSWS_TOKEN": "wrong"}, None),
        (("--profile", "prod"), {"RSWS_PROFILE": "none"}, None),
        (("--profile", "prod"), {"REDIS_URL": "redis://127.0.0.1:1", "REDIS_URL_FILE": "none"}, None),
        ((), {"RSWS_URL": "", "RSWS_TOKEN": KEY}, "prod"),
    ],
)
@pytest.mark.usefixtures("prod")
def test_it_is_used(
    redis_server: RedisServer, channel: str, flags: tuple[str, ...], env: dict[str, str], default: str | None
) -> None:
    write_profiles(Profiles(read_profiles().of, default))
    for command in ("pub", "xadd"):
        done = run_main(command, channel, "1", *flags, env=env)
        assert (done.returncode, done.stderr) == (0, "")
    assert len(messages_in(redis_server, channel)) == 2


@pytest.mark.parametrize(
    ("flags", "env"),
    [
        (("--url", CLOSED, "--redis-url", "redis://127.0.0.1:1", "--token", "x"), {}),
        (("--profile", ""), {}),
        ((), {"RSWS_URL": CLOSED, "REDIS_URL": "redis://127.0.0.1:1", "RSWS_TOKEN": "x"}),
    ],
)
@pytest.mark.usefixtures("prod")
def test_it_is_not_used(channel: str, flags: tuple[str, ...], env: dict[str, str]) -> None:
    write_profiles(Profiles(read_profiles().of, "prod"))
    os.environ |= {"PORT": "1", "RSWS_TOKEN": "x"}
    for command in ("pub", "xadd"):
        pairs = zip(flags[::2], flags[1::2], strict=True)
        takes = {"pub": ("--url", "--token", "--profile"), "xadd": ("--redis-url", "--profile")}[command]
        given = [word for each in pairs if each[0] in takes for word in each]
        assert run_main(command, channel, "1", *given, env=env).returncode == ExitCode.NOT_CONNECTED


@pytest.mark.usefixtures("prod")
@pytest.mark.parametrize("where", ["flag", "environment", ".env"])
def test_its_token_goes_to_its_gateway_alone(channel: str, where: str) -> None:
    url = "ws://elsewhere.example"
    if where == ".env":
        Path(".env").write_text(f"RSWS_URL={url}\nRSWS_PROFILE=prod\n")
    write_profiles(Profiles(read_profiles().of, "prod"))
    flags = ("--url", url) if where == "flag" else ()
    profile = ("--profile", "prod") if where == "flag" else ()
    done = run_main("pub", channel, "1", *flags, *profile, env={"RSWS_URL": url} if where == "environment" else {})
    assert done.returncode == ExitCode.REFUSED
    assert f"no token for {url}: " in done.stderr


@pytest.mark.usefixtures("prod")
def test_it_beats_what_the_env_file_says_where_a_flag_names_it(
    redis_server: RedisServer, channel: str, tmp_path: Path
) -> None:
    (tmp_path / "redis").write_text(redis_server.url)
    settings = {name: value for name, value in read_profiles().of["prod"].items() if name != "redis_url"}
    write_profiles(Profiles({"prod": {**settings, "redis_url_file": str(tmp_path / "redis")}}))
    Path(".env").write_text(f"RSWS_URL={CLOSED}\nREDIS_URL=redis://127.0.0.1:1\n")
    for command in ("pub", "xadd"):
        assert run_main(command, channel, "1", "--profile", "prod").returncode == 0
    assert len(messages_in(redis_server, channel)) == 2


@pytest.mark.usefixtures("prod")
def test_env_file_chooses_none(channel: str) -> None:
    Path(".env").write_text("RSWS_PROFILE=prod\nPORT=1\n")
    assert "no token for ws://127.0.0.1:1: " in run_main("pub", channel, "1").stderr


@pytest.mark.usefixtures("prod")
def test_its_token_does_not_go_to_whom_the_env_file_trusts(channel: str, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca"))
    Path(".env").write_text("RSWS_CA=ca\n")
    write_profiles(Profiles({"prod": {**read_profiles().of["prod"], "url": "wss://127.0.0.1:1"}}))
    refused = run_main("pub", channel, "1", "--profile", "prod")
    assert refused.returncode == ExitCode.USAGE
    assert re.search(rf"says whom to trust as wss://.*, and the token came from {SHOWN}, which is not", refused.stderr)


@pytest.mark.usefixtures("prod")
def test_errors_name_it(channel: str, tmp_path: Path) -> None:
    flags = ("--profile", "prod")
    (tmp_path / "token").write_text("wrong")
    refused = run_main("pub", channel, "1", *flags)
    assert refused.returncode == ExitCode.REFUSED
    assert re.search(rf"refuses the token.* \(the token came from {SHOWN}\)$", refused.stderr.strip())
    (tmp_path / "token").unlink()
    assert re.match(rf"rsws: {SHOWN}: the file of the token, ", run_main("pub", channel, "1", *flags).stderr)
    for arguments, env, source in (
        (["--profile", "x"], {}, "--profile"),
        ([], {"RSWS_PROFILE": "x"}, "RSWS_PROFILE"),
    ):
        refused = run_main("pub", channel, "1", *arguments, env=env)
        assert refused.returncode == ExitCode.USAGE
        assert refused.stderr == f"rsws: {source}: there is no profile 'x' in {path()}: there are prod\n"


@pytest.mark.usefixtures("prod")
def test_the_gateway_uses_none() -> None:
    path().write_text("[[")
    assert "no TOML" in run_main("xadd", "c", "1").stderr
    assert "WEBSOCKET_SECRET_KEY must be set" in run_main("serve", "--host", "0.0.0.0").stderr

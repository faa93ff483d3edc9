"""The commands and TLS: a gateway that speaks it, and whom its clients trust."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from kit.cli import KEY, call_main, run_main, serving
from kit.gateway import add
from kit.support import RedisServer, RswsProcess, free_port
from kit.tls import Authority
from rsws.certificates import read_certificate
from rsws.errors import UsageError


def with_names(authority: Authority, *names: str) -> dict[str, str]:
    """The settings for a certificate of those names."""
    certificate, key = authority.issue(*names)
    return {"RSWS_TLS_CERT": str(certificate), "RSWS_TLS_KEY": str(key)}


def test_workers_speak_it_and_take_a_new_certificate(redis_server: RedisServer, tmp_path: Path, channel: str) -> None:
    authority = Authority(tmp_path)
    tls = with_names(authority, "127.0.0.1")
    add(redis_server, channel, "1")
    with serving(redis_server.url, 0, RSWS_WORKERS="2", **tls) as gateway:
        gateway.process.wait_for(r"URL +wss://127\.0\.0\.1:")
        gateway.process.wait_for(f"rsws sub news --url {gateway.url}$")
        with RswsProcess("sub", channel, "--from", "0", env=gateway.env | {"RSWS_CA": str(authority.ca)}) as sub:
            sub.wait_lines(1)
            (tmp_path / "next").mkdir()
            renewed = Authority(tmp_path / "next")
            for name, path in with_names(renewed, "127.0.0.1").items():
                os.replace(path, tls[name])
            gateway.process.process.send_signal(signal.SIGHUP)
            for worker in (1, 2):
                gateway.process.wait_for(f"worker={worker} the file of the TLS certificate was read again")
            trusting = ("--ca", renewed.ca)
            done = run_main("bench", "connect", "--clients", "20", "--processes", "1", *trusting, env=gateway.env)
            assert done.returncode == 0, done.stderr
            add(redis_server, channel, "2")
            sub.wait_lines(2)
            assert not sub.stderr  # its connection was not lost
        insecure = run_main("sub", channel, "--from", "0", "--count", "1", "--insecure", env=gateway.env)
        assert insecure.returncode == 0
        assert insecure.stderr.count("--insecure: the certificate is not checked") == 1
        quiet = run_main("sub", channel, "--from", "0", "--count", "1", "--insecure", "--quiet", env=gateway.env)
        assert (quiet.returncode, quiet.stderr) == (0, "")


def test_the_users_own_gateway_is_found_without_a_url(redis_server: RedisServer, tmp_path: Path, channel: str) -> None:
    authority = Authority(tmp_path)
    port = str(free_port())
    env = {"REDIS_URL": redis_server.url, "PORT": port}
    with RswsProcess("serve", env=env | with_names(authority, "localhost")) as serve:
        serve.wait_for(f"rsws pub news --url wss://localhost:{port} ")
        by_address = run_main("pub", channel, "1", "--ca", authority.ca, env=env)
        assert by_address.returncode == 3
        assert f"can't connect to wss://127.0.0.1:{port}" in by_address.stderr
        by_name = env | {"RSWS_URL": f"wss://localhost:{port}", "SSL_CERT_FILE": str(authority.ca)}
        assert run_main("pub", channel, "1", env=by_name).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "--trusted-proxies", "10.0.0.1/8"), "--trusted-proxies: it is no IP address"),
        (("serve", "--proxy-protocol"), "--proxy-protocol needs --trusted-proxies"),
        (("serve", "--tls-key", "x"), "--tls-key needs --tls-cert"),
        (("serve", "--tls-cert", "gone"), "the file of the TLS certificate, gone, can't be read: No such file"),
        (("serve", "--workers", "2", "--tls-cert", "gone"), "the file of the TLS certificate, gone, can't be read"),
        (("sub", "c", "--ca", "gone", "--url", "wss://h"), "the file of the TLS authorities, gone, can't be read"),
        (("sub", "c", "--ca", "x.pem", "--url", "wss://h"), "x.pem, has no certificate in PEM format"),
        (
            ("sub", "c", "--ca", "x.pem", "--url", "ws://h"),
            "--ca is of use with wss:// alone, and the gateway is ws://h",
        ),
        (("pub", "c", "1", "--insecure", "--url", "ws://h"), "--insecure is of use with wss:// alone"),
        (("bench", "connect", "--ca", "gone", "--url", "wss://h"), "the file of the TLS authorities, gone"),
    ],
)
def test_what_can_not_be_used(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.pem").write_text("nonsense")
    os.environ["RSWS_TOKEN"] = KEY
    assert call_main(*arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_token_goes_to_nobody_whom_the_env_file_says_to_trust(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = Authority(tmp_path)
    Path(".env").write_text(f"RSWS_CA={authority.ca}\n")
    os.environ |= {"RSWS_TOKEN": KEY, "RSWS_URL": "wss://127.0.0.1:1"}
    assert call_main("sub", "c") == 2
    assert ".env in the working directory says whom to trust as wss://127.0.0.1:1" in " ".join(
        capsys.readouterr().err.split()
    )
    assert call_main("sub", "c", "--ca", str(authority.ca)) == 3  # a flag is the user's own word


def test_no_variable_makes_a_client_insecure(capsys: pytest.CaptureFixture[str]) -> None:
    os.environ |= {"RSWS_INSECURE": "1", "RSWS_TOKEN": KEY}
    assert call_main("sub", "c", "--url", "wss://127.0.0.1:1") == 3
    assert "--insecure" not in capsys.readouterr().err


def test_what_a_certificate_says(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate = read_certificate(authority.issue("localhost")[0])
    assert certificate.names == ("localhost",)
    assert not certificate.is_self_signed
    assert certificate.time_fault() is None
    assert certificate._replace(begins_at=4e9).time_fault() == "is not valid before 2096-10-02 07:06:40 UTC"
    assert read_certificate(authority.ca).is_self_signed
    (tmp_path / "x").write_text("x")
    with pytest.raises(UsageError, match="has no certificate in PEM format"):
        read_certificate(tmp_path / "x")

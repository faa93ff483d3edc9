"""What docs/security.md says of changing secrets: its commands, one after the other, while a client is connected."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from kit.cli import KEY, run_main
from kit.fronts import DEPLOY
from kit.support import RedisServer, RswsProcess
from kit.tls import Authority
from kit.tokens import jwks

DOCUMENT = (DEPLOY.parent / "docs" / "security.md").read_text()
CHANGES = DOCUMENT[DOCUMENT.index("## Changing secrets") : DOCUMENT.index("### Where the files are")]
KEY_CHANGE, KEY_END, JWKS_CHANGE, JWKS_END, REDIS, CERTIFICATE = re.findall(r"^```sh\n(.*?)^```$", CHANGES, re.S | re.M)


def run(block: str, directory: Path) -> None:
    """What a reader does."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["bash", "-euc", block], cwd=directory, env=os.environ | {"PATH": path}, check=True, timeout=30)


def test_no_connection_is_lost(own_redis: RedisServer, channel: str, tmp_path: Path) -> None:
    own_redis.call("ACL", "SETUSER", "gateway", "on", ">OLD-PASSWORD", "~*", "+@all")
    address = f"127.0.0.1:{own_redis.port}"
    authority = Authority(tmp_path)
    certificate, key = authority.issue("127.0.0.1")
    certificate.rename(tmp_path / "fullchain.pem")
    key.rename(tmp_path / "privkey.pem")
    (tmp_path / "secret-key").write_text(KEY)
    (tmp_path / "previous-secret-key").write_text("the key before that")
    (tmp_path / "jwks.json").write_text(jwks("ES256"))
    (tmp_path / "redis-url").write_text(f"redis://gateway:OLD-PASSWORD@{address}")
    settings = {
        "WEBSOCKET_SECRET_KEY_FILE": "secret-key",
        "RSWS_PREVIOUS_SECRET_KEY_FILE": "previous-secret-key",
        "RSWS_JWT_KEY_FILE": "jwks.json",
        "REDIS_URL_FILE": "redis-url",
        "RSWS_TLS_CERT": "fullchain.pem",
        "RSWS_TLS_KEY": "privkey.pem",
    }
    trust = {"RSWS_CA": str(authority.ca)}

    with RswsProcess("serve", "--port", "0", env=settings, cwd=tmp_path) as gateway:
        url = gateway.wait_for(r"url=(wss://\S+)")[1]

        def change(block: str, *read_again: str) -> None:
            said = len(gateway.stderr)
            run(block, tmp_path)
            gateway.process.send_signal(signal.SIGHUP)
            for what in read_again:
                gateway.wait_for(f"the file of the {what} was read again", after=said)

        def publish(token: str) -> int:
            return run_main("pub", channel, "1", env=trust | {"RSWS_URL": url, "RSWS_TOKEN": token}).returncode

        with RswsProcess("sub", channel, env=trust | {"RSWS_URL": url, "RSWS_TOKEN": KEY}) as client:
            gateway.wait_for("client connected")
            change(KEY_CHANGE, "previous secret key", "secret key")
            new_key = (tmp_path / "secret-key").read_text().strip()
            assert new_key != KEY
            change(JWKS_CHANGE, "JWT key")
            [making] = re.findall(r"`rsws (token .*?)`", CHANGES)
            making = making.replace("news.*=r", "*=rw").replace("private-2.pem", str(tmp_path / "private-2.pem"))
            jwt = run_main(*shlex.split(making)).stdout.strip()
            change(JWKS_END, "JWT key")
            assert "ES256" not in (tmp_path / "jwks.json").read_text()
            for line in REDIS.replace("10.0.1.1", address).splitlines():
                if line.startswith("redis-cli "):
                    own_redis.call(*shlex.split(line)[1:])
                else:
                    run(line, tmp_path)
            own_redis.call("CLIENT", "KILL", "USER", "gateway")  # so that it has to log in again
            gateway.wait_for("redis connected", after=len(gateway.stderr))
            renewed = tmp_path / "renewed"
            renewed.mkdir()
            certificate, key = Authority(renewed).issue("127.0.0.1")
            certificate.rename(renewed / "fullchain.pem")
            key.rename(renewed / "privkey.pem")
            trust["RSWS_CA"] = str(renewed / "ca.pem")
            change(CERTIFICATE.replace("/etc/letsencrypt/live/example.com", str(renewed)), "TLS certificate")
            assert [publish(token) for token in (KEY, new_key, jwt)] == [0, 0, 0]
            change(KEY_END, "previous secret key")
            assert [publish(token) for token in (KEY, new_key)] == [4, 0]
            client.wait_lines(4)
            assert client.stderr == [f"rsws: {channel}: no such stream yet"]  # its connection was not lost

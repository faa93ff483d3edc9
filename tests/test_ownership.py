"""Whose a socket is, and a directory that is its owner's alone where it is used by itself."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from kit.support import free_port, run_python
from rsws.errors import SetupError
from rsws.ownership import PrivateDir, listeners, user_name

LISTEN = """
import os, socket, sys
os.setuid(65534)
with socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
@pytest.mark.parametrize(
    ("host", "reached", "not_reached"),
    [
        ("127.0.0.1", ["127.0.0.1", "localhost"], ["127.0.0.2", "::1"]),
        ("0.0.0.0", ["127.0.0.1", "127.0.0.2", "localhost"], []),
        ("::1", ["::1", "localhost"], ["127.0.0.1"]),
    ],
)
def test_who_listens(host: str, reached: list[str], not_reached: list[str]) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        port = listening.getsockname()[1]
        for each in reached:
            assert listeners(each, port) == {os.geteuid()}
        for each in not_reached:
            assert listeners(each, port) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_who_listens_beside_older_connections() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as older,
        socket.create_connection(older.getsockname()),
        older.accept()[0],
        socket.create_server(("127.0.0.1", 0)) as listening,
    ):
        assert listeners("127.0.0.1", listening.getsockname()[1]) == {os.geteuid()}


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="root alone can be somebody else")
def test_who_else_listens() -> None:
    port = free_port()
    with run_python(LISTEN, "::1", str(port)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert listeners("::1", port) == {65534}
        with socket.create_server(("127.0.0.1", port)):
            assert listeners("localhost", port) == {0, 65534}


def test_the_names_of_users() -> None:
    assert user_name(0) == "root"
    assert user_name(4_000_000_000) == "uid 4000000000"


def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    private = PrivateDir(tmp_path)
    os.mkfifo(tmp_path / "file")
    with pytest.raises(SetupError, match="file is not a plain file"):
        private.read("file")


def test_what_is_written_durably_replaces_what_was_there(tmp_path: Path) -> None:
    private = PrivateDir(tmp_path)
    for content in (b"one", b"two"):
        private.write_durably("file", content)
        assert private.read("file") == content
    assert sorted(private.names()) == ["file", "home"]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600

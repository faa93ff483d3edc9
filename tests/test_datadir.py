"""The data directory: its key, its place, its modes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kit.support import free_port, run_python, unprivileged
from rsws import datadir
from rsws.datadir import DataDir
from rsws.errors import SetupError


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_default_place_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert DataDir().path == Path(os.environ["XDG_DATA_HOME"]) / "rsws"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert DataDir().path == Path.home() / ".local" / "share" / "rsws"
    assert Path.home().is_relative_to(tmp_path)


def test_the_key_is_the_owners_alone_and_reused(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / "new" / "data")
    assert data_dir.read_key() is None
    before = os.umask(0)
    try:
        key = data_dir.make_key()
    finally:
        os.umask(before)
    assert len(key) >= 32
    assert mode(data_dir.key_file) == 0o600
    assert mode(data_dir.path) == 0o700
    assert data_dir.make_key() == data_dir.read_key() == DataDir(data_dir.path).make_key() == key
    assert [path.name for path in data_dir.path.iterdir()] == ["key"], "no draft is left"


def test_a_key_that_others_could_read_is_closed_to_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data_dir = DataDir(tmp_path)
    data_dir.key_file.write_text("copied\n")
    data_dir.key_file.chmod(0o644)
    assert data_dir.make_key() == "copied"
    assert mode(data_dir.key_file) == 0o600
    [said] = caplog.messages
    assert str(data_dir.key_file) in said
    assert "copied" not in said
    assert data_dir.make_key() == "copied"
    assert len(caplog.messages) == 1


def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir = DataDir(tmp_path)
    data_dir.key_file.write_text("planted\n")
    data_dir.key_file.chmod(0o644)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    for use in (data_dir.make_key, data_dir.read_key, data_dir.create_history, data_dir.create):
        with pytest.raises(SetupError, match=rf"{tmp_path} belongs to .*another directory with --data-dir"):
            use()
    assert mode(data_dir.key_file) == 0o644


def test_a_file_of_somebody_else_is_refused(public_path: Path) -> None:
    data_dir = DataDir(public_path)
    data_dir.key_file.write_text("planted\n")
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(data_dir.key_file, 65534, 65534)
    for use in (data_dir.make_key, data_dir.read_key):
        with pytest.raises(SetupError, match=rf"{data_dir.key_file} belongs to "):
            use()


def test_everything_in_it_is_made_private(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / "data")
    below = data_dir.redis / "appendonlydir" / "base.aof"
    below.parent.mkdir(parents=True)
    below.write_text("history")
    for path in (below, below.parent, data_dir.redis, data_dir.path):
        path.chmod(0o777)
    data_dir.make_key()
    assert [mode(path) for path in (below, below.parent, data_dir.redis, data_dir.path)] == [0o600] + [0o700] * 3


def test_a_directory_that_serves_something_else_too_is_left_as_it_is(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / "home")
    (other := tmp_path / "home" / "script").touch(mode=0o755)
    data_dir.path.chmod(0o755)
    data_dir.make_key()
    assert [mode(path) for path in (data_dir.path, other, data_dir.key_file)] == [0o755, 0o755, 0o600]
    data_dir.path.chmod(0o1777)
    with pytest.raises(SetupError, match=r"home can be written by others, and there is more in it"):
        data_dir.make_key()
    assert mode(data_dir.path) == 0o777


@pytest.mark.parametrize("name", ["key", "pub_history", "redis"])
def test_nothing_is_written_through_a_symbolic_link(tmp_path: Path, name: str) -> None:
    """As root, too: the tests may be run by it."""
    (target := tmp_path / "target").write_text("mine\n")
    data_dir = DataDir(tmp_path / "data")
    data_dir.create().joinpath(name).symlink_to(target)
    use = data_dir.create_history if name == "pub_history" else data_dir.make_key
    with pytest.raises(SetupError, match=rf"{data_dir.path / name} is a symbolic link.*remove it"):
        use()
    assert (target.read_text(), mode(target)) == ("mine\n", 0o644)


def test_a_symbolic_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (target := tmp_path / "target").mkdir(mode=0o755)
    (tmp_path / "data").symlink_to(target)
    for use in (DataDir(tmp_path / "data").make_key, DataDir(tmp_path / "data").create_history):
        with pytest.raises(SetupError, match=r"data is a symbolic link"):
            use()
    assert (list(target.iterdir()), mode(target)) == ([], 0o755)


def test_the_history_is_the_owners_alone(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    tmp_path.chmod(0o755)
    before = os.umask(0)
    try:
        assert data_dir.create_history() == data_dir.path / "pub_history"
    finally:
        os.umask(before)
    assert mode(data_dir.create_history()) == 0o600


def test_a_history_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    history = data_dir.create_history()
    history.write_text("+typed earlier\n")
    history.chmod(0o644)
    assert mode(data_dir.create_history()) == 0o600
    assert history.read_text() == "+typed earlier\n"


def test_a_history_that_can_not_be_made(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / "data")
    data_dir.create().joinpath("pub_history").mkdir()
    with pytest.raises(SetupError, match="can't be written"):
        data_dir.create_history()


def test_two_directories_have_two_keys(tmp_path: Path) -> None:
    assert DataDir(tmp_path / "a").make_key() != DataDir(tmp_path / "b").make_key()


def test_threads_that_start_at_once_agree_on_a_key(tmp_path: Path) -> None:
    for attempt in range(20):
        data_dir = DataDir(tmp_path / str(attempt))
        together = threading.Barrier(8)
        keys: list[str] = []

        def make(data_dir: DataDir = data_dir, together: threading.Barrier = together, keys: list[str] = keys) -> None:
            together.wait()
            keys.append(data_dir.make_key())

        threads = [threading.Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert keys == [data_dir.read_key()] * 8
        assert mode(data_dir.key_file) == 0o600
        assert [path.name for path in data_dir.path.iterdir()] == ["key"]


def test_processes_that_start_at_once_agree_on_a_key(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from rsws.datadir import DataDir; sys.stdin.read(); "
    script += "print(DataDir(Path(sys.argv[1])).make_key())"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "data")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    keys = {process.communicate(timeout=10)[0].strip() for process in processes}
    assert keys == {DataDir(tmp_path / "data").read_key()}


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"], ids=["empty", "blank", "no text"])
def test_a_key_file_that_holds_no_key(tmp_path: Path, content: bytes) -> None:
    data_dir = DataDir(tmp_path)
    data_dir.key_file.write_bytes(content)
    assert data_dir.read_key() is None
    with pytest.raises(SetupError, match=rf"{data_dir.key_file} can't be read; remove the file"):
        data_dir.make_key()


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_file_in_its_place(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    data_dir = DataDir(tmp_path / where)
    with pytest.raises(SetupError, match=rf"{data_dir.path} can't be written .*--data-dir"):
        data_dir.create()
    assert data_dir.read_key() is None


def test_a_directory_that_cannot_be_made(public_path: Path) -> None:
    public_path.chmod(0o555)
    data_dir = DataDir(public_path / "data")
    with (
        unprivileged(),
        pytest.raises(SetupError, match=rf"(?i){data_dir.path} can't be written \(permission denied\)"),
    ):
        data_dir.make_key()


# --- which gateways run ---

LISTEN_AND_ANNOUNCE = """
import socket, sys
from pathlib import Path
from rsws.datadir import DataDir

with socket.create_server((sys.argv[2], int(sys.argv[3]))), DataDir(Path(sys.argv[1])).announce([sys.argv[2:4]]):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_gateway_is_known_as_long_as_it_lives(tmp_path: Path) -> None:
    data_dir, port = DataDir(tmp_path / "data"), free_port()
    assert not data_dir.runs_gateway("127.0.0.1", port)
    for end in ("stop", "kill"):
        with run_python(LISTEN_AND_ANNOUNCE, data_dir.path, "127.0.0.1", str(port)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            assert data_dir.runs_gateway("127.0.0.1", port)
            assert data_dir.runs_gateway("localhost", port)
            assert not data_dir.runs_gateway("::1", port)
            assert not data_dir.runs_gateway("127.0.0.1", port + 1)
            assert not DataDir(tmp_path / "other").runs_gateway("127.0.0.1", port)
            assert [mode(path) for path in (data_dir.path / "gateways").iterdir()] == [0o600]
            if end == "stop":
                process.communicate("", 5)
                assert list((data_dir.path / "gateways").iterdir()) == []
        with socket.create_server(("127.0.0.1", port)):
            assert not data_dir.runs_gateway("127.0.0.1", port), "somebody has taken its place"
    [left] = (data_dir.path / "gateways").iterdir()
    with data_dir.announce([("127.0.0.1", port)]):
        assert not left.exists(), "what a killed one has left is cleared away"


def test_several_gateways_are_known_at_once(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("0.0.0.0", 0)) as two,
        data_dir.announce([one.getsockname()]),
        data_dir.announce([two.getsockname()]),
    ):
        for listening in (one, two):
            assert data_dir.runs_gateway("127.0.0.1", listening.getsockname()[1])
        assert not data_dir.runs_gateway("127.0.0.2", one.getsockname()[1])


def test_a_socket_of_somebody_else_is_no_gateway_of_mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir = DataDir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listening, data_dir.announce([listening.getsockname()]):
        port = listening.getsockname()[1]
        assert data_dir.runs_gateway("127.0.0.1", port)
        for told, is_proven in ((None, True), ({os.geteuid() + 1}, False), ({os.geteuid(), os.geteuid() + 1}, False)):
            monkeypatch.setattr(datadir, "listeners", lambda host, port, told=told: told)
            assert data_dir.runs_gateway("127.0.0.1", port) == is_proven


@pytest.mark.parametrize("name", [".DS_Store", "26487-abc-0", "new-", "1-2", "notes.txt~"])
def test_what_else_lies_among_the_announcements_is_left_alone(tmp_path: Path, name: str) -> None:
    data_dir = DataDir(tmp_path / "data")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with data_dir.announce([listening.getsockname()]):
            pass
        stray = data_dir.path / "gateways" / name
        stray.touch()
        with data_dir.announce([listening.getsockname()]):
            assert data_dir.runs_gateway(*listening.getsockname())
        assert stray.exists()


def test_a_key_that_is_refused_is_not_said_to_be_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data_dir = DataDir(tmp_path / "data")
    data_dir.create()
    (tmp_path / "elsewhere").write_text("secret\n")
    (tmp_path / "elsewhere").chmod(0o644)
    data_dir.key_file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SetupError):
        data_dir.make_key()
    assert "can't any more" not in caplog.text

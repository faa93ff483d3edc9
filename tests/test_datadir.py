"""The data directory: its key, its place, its modes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rsws.datadir import DataDir
from rsws.errors import SetupError
from support import unprivileged


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


def test_the_key_of_another_user_keeps_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir = DataDir(tmp_path)
    data_dir.key_file.write_text("shared\n")
    data_dir.key_file.chmod(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: data_dir.key_file.stat().st_uid + 1)
    assert data_dir.make_key() == "shared"
    assert mode(data_dir.key_file) == 0o644


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
    data_dir.create().joinpath("pub_history").symlink_to(tmp_path / "nowhere" / "file")
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


def test_a_directory_that_cannot_be_written(public_path: Path) -> None:
    public_path.chmod(0o555)
    with unprivileged(), pytest.raises(SetupError, match=rf"(?i){public_path} can't be written \(permission denied\)"):
        DataDir(public_path).make_key()

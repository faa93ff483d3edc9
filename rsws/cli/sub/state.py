"""``--state``: the position of each channel, kept in a file from one run to the next."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from rsws.cli.exits import ExitCode, Failure
from rsws.errors import UsageError
from rsws.protocol import StreamId

SAVE_EVERY_S = 0.2
"""The least time between two writes of the file."""
_MAX_BYTES = 64 * 1024 * 1024


class Positions:
    """What of each channel has been dealt with: printed, handed to a command with success, or not wanted.

    A context manager: until it is left no other run can have the file.

    Args:
        path: The file that keeps them; None for none.

    Raises:
        UsageError: The file is no such file, is another run's, or can't be read or written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = Path(os.path.realpath(path)) if path is not None else None
        self._of: dict[str, StreamId] = {}
        self._saved_at = 0.0
        self._saving: asyncio.TimerHandle | None = None
        self._is_dirty = False
        self._locked: int | None = None
        """The descriptor of the file, which is locked until it is closed: whatever ends this process unlocks it."""
        self.on_failure: Callable[[], None] = lambda: None
        """Called when the file can't be written, so that :meth:`save` is called where its error is heard."""
        if self._path is not None:
            try:
                self._load(self._path)
            except BaseException:
                self._close()
                raise

    def _load(self, path: Path) -> None:
        try:
            self._locked = _open_locked(path)
            self._of = _read(self._locked)
            self._write(path)
        except BlockingIOError:
            raise UsageError(f"--state {path}: another run uses it now; give this one a file of its own") from None
        except OSError as error:
            raise UsageError(f"--state {path}: it can't be used: {error.strerror}") from None
        except ValueError as fault:
            raise UsageError(f"--state {path}: this is no file of positions ({fault}); name another one") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        """Let go of the file."""
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def of(self, channel: str) -> StreamId | None:
        """Return the position of a channel; None where it has none yet."""
        return self._of.get(channel)

    def begin(self, channel: str, stream_id: StreamId) -> None:
        """Note where a channel begins, unless it has a position already."""
        if channel not in self._of:
            self.reached(channel, stream_id)

    def reached(self, channel: str, stream_id: StreamId) -> None:
        """Note that a channel's message and all before it are dealt with."""
        self._of[channel] = stream_id
        if self._path is None:
            return
        self._is_dirty = True
        wait_s = self._saved_at + SAVE_EVERY_S - time.monotonic()
        if wait_s <= 0:
            self.save()
        elif self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(wait_s, self._save_later)

    def save(self) -> None:
        """Write the file now, if it is not as it should be.

        Raises:
            Failure: It can't be written.
        """
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        if self._path is None or not self._is_dirty:
            return
        try:
            self._write(self._path)
        except OSError as error:
            raise Failure(f"--state {self._path}: it can't be written: {error.strerror}", ExitCode.ERROR) from None

    def _save_later(self) -> None:
        self._saving = None
        try:
            self.save()
        except Failure:  # which the next attempt raises where it ends the command
            self.on_failure()

    def _write(self, path: Path) -> None:
        """Write the file so that whoever reads it, at whatever moment, finds all of the old one or of the new one."""
        draft = path.with_name(f"{path.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(draft, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before it is the file that others open
            with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
                json.dump({name: str(each) for name, each in self._of.items()}, file, ensure_ascii=False, indent=1)
                file.write("\n")
            os.fsync(descriptor)
            os.replace(draft, path)
        except BaseException:
            os.close(descriptor)
            raise
        self._close()
        self._locked = descriptor
        self._is_dirty = False
        self._saved_at = time.monotonic()


def _open_locked(path: Path) -> int:
    """Open the file, which is made where there is none, and lock it.

    Raises:
        BlockingIOError: Another run has locked it.
        OSError: It can't be opened.
        ValueError: It is something else.
    """
    while True:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("it is not a regular file")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # another run has replaced the file since


def _read(descriptor: int) -> dict[str, StreamId]:
    """Return the positions in a file; none where it is empty.

    Raises:
        OSError: It can't be read.
        ValueError: It is something else.
    """
    with open(descriptor, "rb", closefd=False) as file:
        text = file.read(_MAX_BYTES)
    if not text:
        return {}
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(said, dict) or not all(isinstance(each, str) for each in said.values()):
        raise ValueError("it is not an object of channels and ids")
    return {channel: StreamId.parse(each) for channel, each in said.items()}

"""``--state``: the position of each channel, kept in a file from one run to the next."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from rsws.cli.exits import ExitCode, Failure
from rsws.errors import UsageError
from rsws.protocol import StreamId

SAVE_EVERY_S = 0.2
"""The least time between two writes of the file."""
_MAX_BYTES = 64 * 1024 * 1024


class Positions:
    """What of each channel has been dealt with: printed, handed to a command with success, or not wanted.

    Args:
        path: The file that keeps them; None for none.

    Raises:
        UsageError: The file is no such file, or can't be read or written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = Path(os.path.realpath(path)) if path is not None else None
        self._of: dict[str, StreamId] = {}
        self._saved_at = 0.0
        self._saving: asyncio.TimerHandle | None = None
        self._is_dirty = False
        self.on_failure: Callable[[], None] = lambda: None
        """Called when the file can't be written, so that :meth:`save` is called where its error is heard."""
        if self._path is not None:
            try:
                self._of = _read(self._path)
                self._write(self._path)
            except OSError as error:
                raise UsageError(f"--state {path}: it can't be used: {error.strerror}") from None
            except ValueError as fault:
                raise UsageError(f"--state {path}: this is no file of positions ({fault}); name another one") from None

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
        with open(os.open(draft, flags, 0o600), "w", encoding="utf-8") as file:
            json.dump({channel: str(each) for channel, each in self._of.items()}, file, ensure_ascii=False, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        self._is_dirty = False
        self._saved_at = time.monotonic()


def _read(path: Path) -> dict[str, StreamId]:
    """Return the positions in a file; none where there is no file.

    Raises:
        OSError: It can't be read.
        ValueError: It is something else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        text = file.read(_MAX_BYTES)
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(said, dict) or not all(isinstance(each, str) for each in said.values()):
        raise ValueError("it is not an object of channels and ids")
    return {channel: StreamId.parse(each) for channel, each in said.items()}

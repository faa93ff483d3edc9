"""The user's editor, for a message that is too long for one line."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsws.env_file import environment_of_others
from rsws.errors import UsageError

USUAL = ("editor", "nano", "vi")
"""The editors that are tried where the environment names none."""


async def edit(text: str) -> str | None:
    """Let the user edit ``text``, and return what was saved; None when nothing was.

    Raises:
        UsageError: There is no editor, or it failed.
    """
    command = _command()
    with _interrupts_are_the_editor_s():
        # In a thread, so that the connection lives on; no cancellation may take the terminal away from the editor.
        return await asyncio.shield(asyncio.to_thread(_edit, command, text))


def _command() -> list[str]:
    for name in ("VISUAL", "EDITOR"):
        if value := os.environ.get(name, "").strip():
            try:
                return shlex.split(value)
            except ValueError as error:
                raise UsageError(f"/edit: {name} is no command line: {error}") from None
    for each in USUAL:
        if found := shutil.which(each):
            return [found]
    raise UsageError("/edit: there is no editor: name one in VISUAL or EDITOR")


def _edit(command: list[str], text: str) -> str | None:
    descriptor, name = tempfile.mkstemp(prefix="rsws-", suffix=".json")  # for its owner alone
    path = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        before = path.stat()
        code = subprocess.run([*command, name], env=environment_of_others(), check=False).returncode
        after = path.stat()
        if code:
            raise UsageError(f"/edit: {command[0]} ended with code {code}; nothing is sent")
        is_saved = (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns)
        return path.read_text(encoding="utf-8") if is_saved else None
    except UnicodeDecodeError:
        raise UsageError("/edit: what was saved is not valid UTF-8") from None
    except OSError as error:
        raise UsageError(f"/edit: {command[0]}: {error.strerror}; name another editor in VISUAL or EDITOR") from None
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _interrupts_are_the_editor_s() -> Iterator[None]:
    """Leave Ctrl-C to the editor. A handler, as the editor would inherit it if the signal was ignored."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

"""Files of keys, which are read again when they change and when the operator says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from rsws.errors import RswsError
from rsws.settings import read_secret

log = logging.getLogger("rsws.gateway")


class KeyFile:
    """A file that holds a key.

    Args:
        path: The file.
        what: What it holds, for messages.
        use: Called with the text of the file whenever it has another one.

    Raises:
        RswsError: It can't be read, or what is in it can't be used.
    """

    def __init__(self, path: Path, what: str, use: Callable[[str], None]) -> None:
        self._path = path
        self._what = what
        self._use = use
        self._state = self._look()
        self._text = read_secret(path, what)
        use(self._text)

    def refresh(self, *, even_if_unchanged: bool = False) -> None:
        """Read the file again if it has changed. What can't be used is logged, and the keys stay as they were."""
        state = self._look()  # before it is read: a change in between is seen the next time
        if state == self._state and not even_if_unchanged:
            return
        self._state = state
        try:
            text = read_secret(self._path, self._what)
            if text == self._text:
                return
            self._use(text)
        except RswsError as error:
            log.error("the file of the %s is not used, what was in it before stays: %s", self._what, error)
        else:
            self._text = text
            log.info("the file of the %s was read again", self._what)

    def _look(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev, found.st_size


async def watch(files: list[KeyFile], every_s: float) -> None:
    """Read each file again when it changes, until cancelled."""
    while files:
        await asyncio.sleep(every_s)
        for each in files:
            each.refresh()

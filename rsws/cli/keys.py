"""Single keys of a terminal, beside an event loop."""

from __future__ import annotations

import asyncio
import os
import termios
import tty
from types import TracebackType
from typing import Any, Self

from rsws.cli import stdio


class Keys:
    """The keys that are pressed, unseen; a context manager, within an event loop. None where there is no terminal.

    Attributes:
        pressed: The last one.
    """

    def __init__(self) -> None:
        self.pressed = ""
        self._any = asyncio.Event()
        self._before: list[Any] | None = None

    def __enter__(self) -> Self:
        if os.isatty(stdio.STDIN):
            self._before = termios.tcgetattr(stdio.STDIN)
            tty.setcbreak(stdio.STDIN)  # Ctrl-C stays a signal
            asyncio.get_running_loop().add_reader(stdio.STDIN, self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            asyncio.get_running_loop().remove_reader(stdio.STDIN)
            termios.tcsetattr(stdio.STDIN, termios.TCSADRAIN, self._before)

    async def wait(self, timeout_s: float) -> None:
        """Wait until a key is pressed, or for so long."""
        self._any.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._any.wait()
        except TimeoutError:
            pass

    def _read(self) -> None:
        self.pressed = os.read(stdio.STDIN, 64).decode(errors="replace")[-1:]
        self._any.set()

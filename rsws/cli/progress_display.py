"""How far a command is with what takes long: a progress bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rsws.cli import stdio
from rsws.cli.terminal import stderr, stdout
from rsws.protocol import StreamId

if TYPE_CHECKING:
    from rich.progress import Progress

PROGRESS_AFTER_S = 0.5


class Meter:
    """A progress bar on a terminal, for what takes long.

    Args:
        total_bytes: The length of the input; None where it is unknown.
        what: What is counted, in the plural.
    """

    def __init__(self, total_bytes: int | None, what: str) -> None:
        self._total_bytes = total_bytes
        self._what = what
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def set(self, size_bytes: int, count: int) -> Progress | None:
        """Show that so many more bytes of the input are done, and how many there are of what is counted.

        Returns:
            The progress bar, if it is shown.
        """
        if self._progress is None and stderr().is_terminal and time.monotonic() - self._started > PROGRESS_AFTER_S:
            self._progress = _new_progress(self._what)
            self._progress.start()
            self._progress.add_task("", total=self._total_bytes, count=0)
        if self._progress is not None:
            self._progress.update(self._progress.tasks[0].id, advance=size_bytes, count=count)
        return self._progress


class Tally:
    """A printer of the ids of stored messages, one a line, and on a terminal of a progress bar when it takes long.

    Args:
        total_bytes: The length of the input; None where it is unknown.
    """

    def __init__(self, total_bytes: int | None) -> None:
        self._meter = Meter(total_bytes, "messages")
        self._count = 0

    def __enter__(self) -> Self:
        self._meter.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._meter.__exit__(kind, error, traceback)

    async def add(self, ids: Sequence[StreamId], size_bytes: int) -> None:
        """Print the ids of messages that were stored.

        Args:
            ids: Their ids, in the order of the input.
            size_bytes: The length of their input.
        """
        self._count += len(ids)
        progress = self._meter.set(size_bytes, self._count)
        lines = "".join(f"{stream_id}\n" for stream_id in ids)
        if progress is not None and stdout().is_terminal:  # the bar's terminal, and only the bar knows where to write
            progress.print(lines, end="")
            return
        await stdio.write(lines.encode())


def _new_progress(what: str) -> Progress:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        SpinnerColumn(),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[count]:,} " + what),
        TimeRemainingColumn(),
        console=stderr(),
        transient=True,
    )

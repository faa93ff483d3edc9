"""Standard input and output beside an event loop: a slow reader or writer at the other end never blocks the loop."""

from __future__ import annotations

import asyncio
import os
import select
import stat
from collections.abc import AsyncIterator, Coroutine
from typing import Any, NamedTuple

from rsws.cli.exits import StdoutClosed
from rsws.errors import UsageError

STDIN, STDOUT, STDERR = 0, 1, 2
CHUNK_BYTES = 64 * 1024
LOOK_EVERY_S = 0.25
"""How often to check whether standard output still has a reader."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""The longest input that is read as one message: far above what a gateway accepts, and a bound for the memory."""


class Line(NamedTuple):
    """A line of standard input that is not blank."""

    number: int
    """The line's number, counted from 1; blank lines count, too."""
    text: bytes
    """The line without its line end."""


async def write(data: bytes) -> None:
    """Write to standard output.

    Raises:
        StdoutClosed: Standard output has no reader any more.
        OSError: It can't be written for another reason, such as a full disk.
    """
    left = memoryview(data)
    while left:
        await _until(STDOUT, writable=True)
        try:
            # As much as a pipe that polls as writable is sure to accept without blocking.
            left = left[os.write(STDOUT, left[: select.PIPE_BUF]) :]
        except OSError:
            if _reader_has_gone():
                raise StdoutClosed from None
            raise


async def while_read(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` as long as standard output has a reader, which is checked even while there is nothing to write.

    Raises:
        StdoutClosed: The reader has closed the other end of the pipe, socket or terminal.
    """
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_reader_gone())
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise StdoutClosed
        await working
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _reader_gone() -> None:
    """Return when the reader of standard output has closed it; never for a file, which has no reader."""
    # This polls: an event loop reports a hangup only together with readability or writability, and a socket or a
    # terminal may be readable all the time.
    while True:
        if _reader_has_gone():
            return
        await asyncio.sleep(LOOK_EVERY_S)


def _reader_has_gone() -> bool:
    poll = select.poll()
    poll.register(STDOUT, 0)  # for nothing but errors and hangups, which are always reported
    return bool(poll.poll(0))


async def read_all() -> bytes:
    """Read standard input to its end, as one message.

    Raises:
        UsageError: It is longer than MAX_MESSAGE_BYTES.
    """
    data = bytearray()
    while chunk := await _read():
        data += chunk
        _check_size(len(data), "standard input")
    return bytes(data)


async def read_lines() -> AsyncIterator[list[Line]]:
    """Yield the lines of standard input, in batches as they arrive; blank lines are left out.

    Raises:
        UsageError: A line is longer than MAX_MESSAGE_BYTES.
    """
    number = 0
    rest = bytearray()
    while chunk := await _read():
        head, newline, tail = chunk.rpartition(b"\n")
        if not newline:
            rest += chunk
            _check_size(len(rest), f"line {number + 1}")
            continue
        texts = (bytes(rest) + head).split(b"\n")
        rest = bytearray(tail)
        if batch := [Line(number + index, text) for index, text in enumerate(texts, 1) if text.strip()]:
            yield batch
        number += len(texts)
    if rest.strip():
        yield [Line(number + 1, bytes(rest))]


def stdin_size() -> int | None:
    """Return how many bytes are left to read from standard input; None if it is not a file, so that it is unknown."""
    status = os.fstat(STDIN)
    return status.st_size - os.lseek(STDIN, 0, os.SEEK_CUR) if stat.S_ISREG(status.st_mode) else None


async def _read() -> bytes:
    await _until(STDIN, writable=False)
    return os.read(STDIN, CHUNK_BYTES)


async def _until(descriptor: int, *, writable: bool) -> None:
    """Wait until ``descriptor`` can be read or written without blocking; a file always can."""
    files = [descriptor]
    if any(select.select([] if writable else files, files if writable else [], [], 0)):
        return
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    add, remove = (loop.add_writer, loop.remove_writer) if writable else (loop.add_reader, loop.remove_reader)
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)


def _check_size(size: int, what: str) -> None:
    if size > MAX_MESSAGE_BYTES:
        raise UsageError(f"{what} is longer than {MAX_MESSAGE_BYTES} bytes; with --lines each line is one message")

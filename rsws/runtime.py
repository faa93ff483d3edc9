"""What a process with many connections needs: an event loop, open files, few collections of garbage, and others."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import resource
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed, else asyncio."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


LINE_BYTES = 64 * 1024
"""The longest line that a process is asked for, where nothing else is said: asyncio's own limit."""


async def start_module(
    module: str, *arguments: str, descriptors: Sequence[int], line_bytes: int = LINE_BYTES
) -> asyncio.subprocess.Process:
    """Run a module of this package in a process of its own, with pipes to and from it.

    It is in a session of its own, too: Ctrl-C in the terminal is for this process, which tells the other.

    Args:
        descriptors: Files that it inherits, under the same numbers.
        line_bytes: The longest line that is read from it.

    Raises:
        OSError: There is no process to be had.
    """
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=line_bytes,
        pass_fds=descriptors,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # it imports what this process does
        start_new_session=True,
    )


def allow_many_files() -> None:
    """Each connection is an open file, and the usual limit of 1,024 is meant for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # a hard limit that the system itself does not allow, as on macOS
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def collect_rarely() -> None:
    """A reply of Redis alone makes more lists than Python's 700, at which it would look for cycles in vain."""
    gc.set_threshold(20_000, 20, 20)
    gc.freeze()  # the modules, which stay


FREE_BYTES = 4 * 1024 * 1024
"""What the allocator may keep for later."""


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2``, see mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
                     "keepcost")
    ]  # fmt: skip


def give_back_memory() -> None:
    """Have the C library give back to the system what was freed, where that is much: by itself it keeps a crowd's peak.

    Does nothing where the library has no such call: it is glibc's, from 2.33 on.
    """
    library = ctypes.CDLL(None)
    with suppress(AttributeError):
        library.mallinfo2.restype = _MallocInfo
        if library.mallinfo2().fordblks > FREE_BYTES:
            library.malloc_trim(0)


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Do them all at once; when one fails, end the others and raise that."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for work in works:
                tasks.create_task(work)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None

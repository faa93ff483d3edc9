"""What a process with many connections needs: an event loop, open files, rare garbage collections, child processes."""

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
    """Return the function that makes event loops: uvloop's where it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


LINE_BYTES = 64 * 1024
"""The default for the longest line that is read from a child process: asyncio's own limit."""


async def start_module(
    module: str, *arguments: str, descriptors: Sequence[int], line_bytes: int = LINE_BYTES
) -> asyncio.subprocess.Process:
    """Run a module of this package in a child process, with pipes to its standard input and from its standard output.

    The child is in a session of its own: Ctrl-C in the terminal reaches this process alone, which tells the child.

    Args:
        descriptors: File descriptors that the child inherits, under the same numbers.
        line_bytes: The longest line that is read from the child.

    Raises:
        OSError: No process can be started.
    """
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=line_bytes,
        pass_fds=descriptors,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # the child imports from where this process does
        start_new_session=True,
    )


def has_terminal() -> bool:
    """Whether this process has a terminal, whose end it is told with SIGHUP."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def allow_many_files() -> None:
    """Raise the limit of open files to the hard limit: each connection is one, and the usual 1,024 suit select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # the system does not allow its own hard limit, as on macOS
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def collect_rarely() -> None:
    """Have Python look for cycles less often: one reply of Redis makes more lists than its threshold of 700."""
    gc.set_threshold(20_000, 20, 20)
    gc.freeze()  # the modules are never freed, so they need no further collection


FREE_BYTES = 4 * 1024 * 1024
"""The freed bytes that the C library may keep for later use."""


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2``, see mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
                     "keepcost")
    ]  # fmt: skip


def give_back_memory() -> None:
    """Have the C library return freed memory to the system, if there is much: else it keeps the peak of many clients.

    Does nothing where the library lacks the calls: glibc has them from 2.33 on.
    """
    library = ctypes.CDLL(None)
    with suppress(AttributeError):
        library.mallinfo2.restype = _MallocInfo
        if library.mallinfo2().fordblks > FREE_BYTES:
            library.malloc_trim(0)


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Run all coroutines concurrently; when one fails, cancel the others and raise its error."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for work in works:
                tasks.create_task(work)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None

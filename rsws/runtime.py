"""What a process with many connections needs: an event loop, open files, few collections of garbage."""

from __future__ import annotations

import asyncio
import gc
import resource
from collections.abc import Callable
from contextlib import suppress


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed, else asyncio."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


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

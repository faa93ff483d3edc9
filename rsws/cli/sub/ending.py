"""How a run ends before it is done: after ``--timeout``, or by SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

from rsws.cli import stdio
from rsws.cli.exits import ExitCode, Failure


async def within(timeout_s: float | None, work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work``, and return whether it came to its end: SIGTERM ends it as Ctrl-C does.

    Raises:
        Failure: It was not done in time.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(stdio.while_read(work))
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        async with asyncio.timeout(timeout_s) as deadline:
            await task
    except TimeoutError:
        if not deadline.expired():
            raise
        raise Failure(f"timeout: stopped after {timeout_s:g} s", ExitCode.TIMEOUT) from None
    except asyncio.CancelledError:
        if not terminated:
            raise
        return False
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    return True


def end_by_sigterm() -> None:
    """End as if SIGTERM had not been handled, so that whoever waits for this process is told the truth."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)

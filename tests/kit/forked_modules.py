"""The processes that a forked ``rsws`` starts itself, forked from it: its workers, and those of the benchmark.

Each has what a new process would have: its own session, pipes, signal handlers and logging, and no other descriptors.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess

import rsws.bench.coordinator
import rsws.gateway.process.supervisor
from rsws.runtime import LINE_BYTES


def fork_modules() -> None:
    """From now on fork what this process would start with :func:`rsws.runtime.start_module`."""
    multiprocessing.current_process().daemon = False  # else it may have no children
    for starting in (rsws.bench.coordinator, rsws.gateway.process.supervisor):
        starting.start_module = _fork_module  # type: ignore[attr-defined]


async def _fork_module(
    module: str, *arguments: str, descriptors: Sequence[int], line_bytes: int = LINE_BYTES
) -> _Process:
    loop = asyncio.get_running_loop()
    ended, held = os.pipe()
    child_input, input = os.pipe()
    output, child_output = os.pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_become, args=(module, arguments, child_input, child_output, [*descriptors, held])
    )
    process.start()
    for descriptor in (held, child_input, child_output):
        os.close(descriptor)
    stdout = asyncio.StreamReader(line_bytes)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdout), os.fdopen(output, "rb", 0))
    pipe, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(input, "wb", 0))
    return _Process(process, asyncio.StreamWriter(pipe, protocol, None, loop), stdout, ended)


def _become(
    module: str, arguments: Sequence[str], child_input: int, child_output: int, descriptors: Sequence[int]
) -> None:
    """Be ``python -P -m MODULE ARGUMENTS``."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(child_input, 0)
    os.dup2(child_output, 1)
    last = 2
    for descriptor in [*sorted(descriptors), os.sysconf("SC_OPEN_MAX")]:
        os.closerange(last + 1, descriptor)
        last = descriptor
    sys.stdin, sys.stdout, sys.stderr = (  # each line is written at once, as to standard error
        open(number, mode, buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
        for number, mode in enumerate("rww")
    )
    logging.root.handlers.clear()
    asyncio.events._set_running_loop(None)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class _Process:
    """What is used of :class:`asyncio.subprocess.Process`."""

    def __init__(
        self, process: BaseProcess, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader, ended: int
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self._process = process
        self._ended = ended
        self._end = asyncio.Event()
        asyncio.get_running_loop().add_reader(ended, self._has_ended)

    def _has_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._ended)
        os.close(self._ended)
        self.stdin.close()
        self._process.join()
        self._end.set()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode if self._end.is_set() else None

    async def wait(self) -> int:
        await self._end.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self._end.is_set():
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

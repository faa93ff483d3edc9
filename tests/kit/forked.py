"""``rsws`` processes forked from one that has imported it: each import anew takes longer than most tests.

What such a process has is its own all the same: standard streams, environment, directory, session, signals, pid.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import subprocess
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import Any
from unittest import mock

from rsws.cli.commands import SUMMARIES

_PRELOADED = [
    "kit.forked",
    "kit.forked_modules",
    "rsws.cli.app",
    *[f"rsws.cli.{name}" for name in SUMMARIES],
    "rsws.cli.prompt.editor",
    "rsws.cli.prompt.talk",
    "rsws.cli.sub.run",
    "rsws.cli.sub.sinks",
    "rsws.cli.top_display",
    "rsws.bench.coordinator",
    "rsws.bench.publisher",
    "rsws.bench.subscriber",
    "rsws.check.run",
    "rsws.client",
    "rsws.client.pages",
    "rsws.embedded.local",
    "rsws.gateway.process.lifecycle",
    "rsws.gateway.process.single",
    "rsws.gateway.process.supervisor",
    "rsws.streams.publisher",
    "importlib.metadata",
    "prompt_toolkit",
    *[f"rich.{name}" for name in ("columns", "live", "markdown", "table", "traceback")],  # a help text needs them
]


@cache
def _forking() -> ForkServerContext:
    """The process that forks. It is not traced for the coverage, as not all that it forks are."""
    context = multiprocessing.get_context("forkserver")
    preloaded = _PRELOADED
    if "COVERAGE_PROCESS_START" in os.environ:
        preloaded = [*preloaded, "coverage"]
        for name in _PRELOADED:  # here it is traced that they are imported, which those that are forked never see
            import_module(name)
    context.set_forkserver_preload(preloaded)
    with mock.patch.dict(os.environ):
        os.environ.pop("COVERAGE_PROCESS_START", None)
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # this module is among those that it imports
        forkserver.ensure_running()
    return context


def _become(arguments: Sequence[str], environment: dict[str, str], directory: str, streams: Sequence[Any]) -> None:
    """Be ``rsws ARGUMENTS``."""
    os.setsid()
    for number, stream in enumerate(streams):
        descriptor = stream.detach()
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  (multiprocessing has closed it)
    if os.isatty(2):
        with suppress(PermissionError):  # the terminal that the tests run in is another session's
            fcntl.ioctl(2, termios.TIOCSCTTY, 0)
    if os.isatty(1):  # where a line is written at once
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ |= environment
    os.chdir(directory)
    if "COVERAGE_PROCESS_START" in environment:
        import coverage

        with mock.patch("coverage.collector.short_stack"):  # which looks for the files of all modules, to no use
            coverage.process_startup()
    for name in _PRELOADED:  # it is there, unless it can't be imported, of which a preload says nothing
        import_module(name)
    from kit.forked_modules import fork_modules
    from rsws.__main__ import main

    fork_modules()
    sys.argv = ["rsws", *arguments]
    main()


class Forked(subprocess.Popen[str]):
    """A Popen of ``rsws ARGUMENTS`` in a session of its own, as from ``python -m rsws``.

    Args:
        streams: Its standard streams; by default pipes. A terminal that is its standard error becomes its own, if it is
            nobody's yet.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: dict[str, str],
        directory: str,
        streams: tuple[int, int, int] = (subprocess.PIPE,) * 3,
    ) -> None:
        self._rsws = arguments, environment, directory
        self._pipes = streams.count(subprocess.PIPE) == 3
        stdin, stdout, stderr = streams
        super().__init__(["rsws", *arguments], stdin=stdin, stdout=stdout, stderr=stderr, text=True, encoding="utf-8")

    def _execute_child(self, *given: Any) -> None:
        ends = given[10], given[13], given[15]  # the child's
        streams = [DupFd(each) for each in ends]
        self._process: BaseProcess = _forking().Process(target=_become, args=(*self._rsws, streams), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._child_created = True
        if self._pipes:
            for each in ends:
                os.close(each)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        self._process.join(0 if wait_flags & os.WNOHANG else None)
        code = self._process.exitcode
        if code is None:
            return 0, 0
        return self.pid, -code if code < 0 else code << 8

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid == self.pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode

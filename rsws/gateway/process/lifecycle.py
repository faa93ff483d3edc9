"""The life of a gateway's process, from its start to the signals that end it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rsws.gateway import logs
from rsws.log_lines import LogLine
from rsws.runtime import allow_many_files, collect_rarely, has_terminal, loop_factory
from rsws.settings import Settings

log = logging.getLogger("rsws.gateway")


class Gateway(ABC):
    """A gateway that :func:`run` can run: an async context manager that serves from entry to exit.

    Attributes:
        settings: The settings it was made with.
        key_file: The file the key came from, once it has started; None when the key was given.
        url: The URL it serves.
        redis_shown: The URL of its Redis, without secrets.
        redis_description: A description of its Redis for people.
    """

    url: str
    redis_shown: str
    redis_description: str

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.key_file: Path | None = None
        self._stack = AsyncExitStack()
        """The cleanup to do at exit, or when it can't start."""
        self._core: asyncio.Task[None] | None = None
        """The task that runs for as long as it serves; None before."""

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    @abstractmethod
    def client_count(self) -> int:
        """The number of clients connected now."""

    @abstractmethod
    async def _start(self) -> None:
        """Start to serve; cleanup to be done at exit is put on the stack."""

    async def stop(self) -> None:
        """Stop serving, and clean up."""
        await self._stack.aclose()

    @abstractmethod
    def reload_keys(self) -> None:
        """Read the files of keys again."""

    async def failed(self) -> None:
        """Wait until a task that the gateway needs has failed, and raise its error."""
        assert self._core is not None
        await asyncio.shield(self._core)

    async def _stop_core(self) -> None:
        if self._core is not None:
            self._core.cancel()
            await asyncio.wait([self._core])


def run(gateway: Gateway, on_started: Callable[[Gateway], None]) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP; a second signal other than SIGHUP ends the process immediately.

    SIGHUP stops nothing where keys are in files and there is no terminal that it could come from: they are read again.

    Args:
        on_started: Called once, as soon as clients can connect.

    Returns:
        The exit code: 0 after a signal, 1 after a failure of the gateway itself.

    Raises:
        SetupError: The gateway can't start.
        UsageError: A setting is invalid.
    """
    logs.configure(gateway.settings)
    allow_many_files()
    collect_rarely()

    def end_at_once(number: signal.Signals) -> None:
        os._exit(128 + number)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        code = runner.run(until_signalled(_serve(gateway, on_started), end_at_once, reload_on_hangup(gateway)))
    log.info("stopped")
    return code


async def _serve(gateway: Gateway, on_started: Callable[[Gateway], None]) -> None:
    async with gateway:
        log.info(LogLine("listening", url=gateway.url, redis=gateway.redis_shown))
        on_started(gateway)
        try:
            await gateway.failed()
        finally:
            log.info(LogLine("stopping", clients=gateway.client_count))


def reload_on_hangup(gateway: Gateway) -> Callable[[], None] | None:
    """Return what to do on SIGHUP; None where it stops the gateway."""
    return gateway.reload_keys if gateway.settings.has_key_files and not has_terminal() else None


async def until_signalled(
    serve: Coroutine[Any, Any, None],
    on_second: Callable[[signal.Signals], None],
    on_hangup: Callable[[], None] | None = None,
) -> int:
    """Run ``serve`` until it fails or a signal cancels it.

    Args:
        on_second: Called with each signal after the first except SIGHUP, which the kernel and the shell may both send
            when a terminal is closed, without a user asking twice.
        on_hangup: Called with SIGHUP; None for it to stop the gateway.

    Returns:
        The exit code: 0 after a signal, 1 after a failure.
    """
    loop = asyncio.get_running_loop()
    serving = asyncio.create_task(serve)
    signalled = False

    def on_signal(number: signal.Signals) -> None:
        nonlocal signalled
        if number is signal.SIGHUP and on_hangup is not None:
            on_hangup()
        elif not signalled:
            signalled = True
            serving.cancel()
        elif number is not signal.SIGHUP:
            on_second(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores it
            loop.add_signal_handler(number, on_signal, number)
    try:
        await serving
    except asyncio.CancelledError:
        pass
    except ExceptionGroup as failure:
        log.critical("the gateway failed and stops", exc_info=failure)
        return 1
    return 0

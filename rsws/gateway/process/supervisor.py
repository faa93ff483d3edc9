"""A gateway of several processes on one port: the supervisor, which serves no clients itself, and its workers.

The supervisor makes the choices that are made once (key, Redis, port), keeps the local Redis and the listening sockets,
and keeps each worker running. Workers are new processes (``python -m rsws.gateway.process.worker``), not forks: a
process with a running event loop can't be forked cleanly, and the supervisor runs one from beginning to end, for its
workers and for the embedded server. That adds half a second to the start of a worker.

On Linux each worker has a listening socket of its own, and the kernel spreads connections over them (SO_REUSEPORT).
The supervisor keeps all of them open: a client that connected to a worker that dies before accepting it is served by
the worker's replacement. Elsewhere the kernel does not spread connections, and all workers accept from one socket.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from rsws.backoff import Backoff
from rsws.datadir import DataDir
from rsws.embedded.local import LocalRedis
from rsws.errors import SetupError
from rsws.gateway.limits import DEFAULTS, Limits
from rsws.gateway.metrics import SharedMetrics
from rsws.gateway.process.lifecycle import Gateway
from rsws.gateway.process.setup import (
    Place,
    announce,
    check_settings,
    choose_key,
    find_redis,
    read_pipes,
    reserve_port,
    share_port,
    url_of,
)
from rsws.log_lines import LogLine
from rsws.options import SECONDS
from rsws.runtime import start_module
from rsws.settings import Settings

log = logging.getLogger("rsws.gateway")

LISTENING = "listening"
"""The line that a worker reports once it serves."""
START_TIMEOUT_S = 30 * SECONDS
"""The timeout for the start of a worker, in addition to the timeout of Redis."""
STOP_TIMEOUT_S = 2 * SECONDS
"""The timeout for the end of a worker, in addition to the times of the settings."""
RESTART = Backoff(0.1 * SECONDS, 5 * SECONDS)
"""The backoff before a worker that did not run for long is replaced."""
STEADY_S = 10 * SECONDS
"""The time after which a worker that ends counts as no failure, and is replaced without backoff."""


class WorkerConfig(NamedTuple):
    """The configuration that a worker gets when it starts."""

    settings: Settings
    listening: tuple[int, ...]
    """The file descriptors of the sockets that it accepts clients from."""
    admin: tuple[int, ...]
    """The file descriptors of the sockets for metrics and health."""
    board: int
    """The file descriptor of the shared memory for metrics."""
    processes: int
    """The number of processes that share the memory for metrics."""
    limits: Limits = DEFAULTS
    """The worker's bounds, and the interval at which it writes its metrics."""


class Supervisor(Gateway):
    """The gateway in several processes, as an async context manager: its workers serve from entry to exit.

    Args:
        settings: See :class:`rsws.settings.Settings`.
        limits: The bounds and timeouts of each worker.

    Raises:
        SetupError: On entry: it can't start; the text says what to do.
        UsageError: On entry: a setting is invalid.
    """

    def __init__(self, settings: Settings, *, limits: Limits = DEFAULTS) -> None:
        super().__init__(settings)
        self._limits = limits
        self._workers: list[_Worker] = []
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def client_count(self) -> int:
        """The number of clients connected to all workers now."""
        return self._board.clients

    def reload_keys(self) -> None:
        """See :class:`rsws.gateway.process.lifecycle.Gateway`. Each worker does it."""
        for worker in self._workers:
            worker.reload_keys()

    async def _start(self) -> None:
        settings, stack = read_pipes(self.settings), self._stack
        self.settings = settings
        check_settings(settings)
        data = DataDir(settings.data_dir)
        key = choose_key(settings, data)
        self.key_file = key.file
        places = Place.of_clients(settings), Place.of_admin(settings)
        reserved = [await reserve_port(place, stack) for place in places]
        redis = await find_redis(settings, data, stack)
        self.redis_shown, self.redis_description = redis.target.shown, redis.description
        listening, admin = [
            share_port(place, settings.workers, sockets, stack) for place, sockets in zip(places, reserved, strict=True)
        ]
        self.url = url_of(listening[0][0], settings.scheme)
        if admin[0]:
            self.admin_url = url_of(admin[0][0], "http")
        processes = settings.workers + 1
        memory = SharedMetrics.memory(processes)
        stack.callback(os.close, memory)
        self._board = SharedMetrics(processes, 0, memory)
        self._board.publish()
        if not settings.key_is_in_file:  # a file is read by each worker, also when it changes
            settings = replace(settings, secret_key=key.secret)
        if redis.local is not None:
            settings = replace(settings, redis_url=redis.local.url)
        elif settings.redis_url_is_read_once:  # from a pipe, which is empty now
            settings = replace(settings, redis_url=redis.target.text)
        for number, sockets in enumerate(listening, 1):
            own = settings if number == 1 else replace(settings, retain=())  # the first trims for all
            ports = [tuple([each.fileno() for each in part]) for part in (sockets, admin[number - 1])]
            config = WorkerConfig(own, ports[0], ports[1], memory, processes, self._limits)
            self._workers.append(_Worker(number, config, self._board))
        stack.push_async_callback(self._stop_core)
        stack.push_async_callback(self._stop_workers)
        for sockets in [*listening, *admin]:  # closed first: new connections are refused while the workers stop
            for each in sockets:
                stack.callback(each.close)
        for error in await asyncio.gather(*[worker.start() for worker in self._workers], return_exceptions=True):
            if error is not None:
                raise error
        announce(self.settings, data, key, listening[0], stack)
        self._core = asyncio.create_task(self._run_core(redis.local), name="rsws core")

    async def _run_core(self, local: LocalRedis | None) -> None:
        """Run the tasks that are needed for as long as the gateway serves; the first failure ends all of them."""
        async with asyncio.TaskGroup() as tasks:
            if local is not None:
                tasks.create_task(local.watch())
            self._keepers = [tasks.create_task(worker.keep()) for worker in self._workers]

    async def _stop_workers(self) -> None:
        """Stop all workers simultaneously, while the local Redis is still running."""
        for keeper in self._keepers:
            keeper.cancel()
        if self._keepers:
            await asyncio.wait(self._keepers)
        await asyncio.gather(*[worker.stop() for worker in self._workers])


class _Worker:
    """One of the workers: its process, and the processes that replace it."""

    def __init__(self, number: int, config: WorkerConfig, board: SharedMetrics) -> None:
        self._number = number
        self._config = config
        self._board = board
        self._process: asyncio.subprocess.Process | None = None
        self._serves = False
        """Whether the process has reported that it serves: before that it is ended by any signal."""

    async def start(self) -> None:
        """Start the worker's process, and return once it serves.

        Raises:
            SetupError: It can't be started, or did not report in time that it serves.
        """
        config = self._config
        self._serves = False
        try:
            descriptors = (*config.listening, *config.admin, config.board)
            self._process = process = await start_module(
                "rsws.gateway.process.worker", str(self._number), descriptors=descriptors
            )
        except OSError as error:
            raise SetupError(f"worker {self._number} can't start: {error.strerror}") from None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pickle.dumps(config))  # left open until this process ends
        try:
            async with asyncio.timeout(START_TIMEOUT_S + config.settings.redis_timeout_s):
                report = (await process.stdout.readline()).decode().strip()
        except TimeoutError:
            report = "it took too long"
        if report != LISTENING:
            with suppress(ProcessLookupError):
                process.kill()
            code = await process.wait()
            raise SetupError(f"worker {self._number} can't start: {report or _describe_exit(code)}")
        self._serves = True
        log.info(LogLine("worker started", worker=self._number, pid=process.pid))

    async def keep(self) -> None:
        """Replace the process whenever it has ended, until cancelled."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            assert self._process is not None
            since = clock()
            how = _describe_exit(await self._ended(self._process))
            self._board.retire(self._number)
            failures = 0 if clock() - since > STEADY_S else failures + 1
            delay_s = RESTART.wait_s(failures)
            pid, another_in_s = self._process.pid, round(delay_s, 1)
            log.error(LogLine("worker ended", worker=self._number, pid=pid, how=how, another_in_s=another_in_s))
            await asyncio.sleep(delay_s)
            try:
                await self.start()
            except SetupError as error:
                log.error("%s", error)
            else:
                self._board.metrics.worker_restarts += 1
                self._board.publish()

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        """Return the exit code once the process has ended; kill a process that hangs."""
        limits, ended = self._config.limits, asyncio.ensure_future(process.wait())
        try:
            written, silent_checks = -1, 0
            # Checks are counted instead of time, which also passes while the whole machine is suspended.
            while not (await asyncio.wait([ended], timeout=limits.publish_s))[0]:
                before, written = written, self._board.times_written(self._number)
                silent_checks = silent_checks + 1 if written == before else 0
                if silent_checks == limits.silent_checks:
                    log.error(LogLine("worker hangs, killing it", worker=self._number, pid=process.pid))
                    with suppress(ProcessLookupError):
                        process.kill()
            return ended.result()
        finally:
            ended.cancel()

    def reload_keys(self) -> None:
        """Have the process read the files of keys again; one that starts has just read them, or is about to."""
        if self._serves and self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        """End the process with SIGTERM, and with SIGKILL when it does not end in time."""
        process, settings = self._process, self._config.settings
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(settings.stop_s + STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            log.error(LogLine("worker does not end, killing it", worker=self._number, pid=process.pid))
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _describe_exit(code: int) -> str:
    """Describe how a process with that exit code ended."""
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

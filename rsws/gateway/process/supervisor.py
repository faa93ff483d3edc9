"""A gateway of several processes on one port: the supervisor, which serves nobody itself, and its workers.

The supervisor decides all that is decided once (key, Redis, port), keeps the local Redis and the listening sockets, and
sees to it that each worker runs. Workers are started afresh (``python -m rsws.gateway.process.worker``), not forked: a
process in which an event loop runs can't be forked cleanly, and this one runs a loop from its beginning to its end,
for its workers as for the embedded server. It costs half a second more when one starts.

On Linux each worker has a listening socket of its own, and the kernel spreads connections over them (SO_REUSEPORT).
The supervisor keeps them all open: who has connected to a worker that dies before it has accepted is served by the
next. Elsewhere the kernel does not spread, and all workers accept from one socket.
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
from rsws.errors import SetupError
from rsws.gateway.limits import DEFAULTS, Limits
from rsws.gateway.metrics import SharedMetrics
from rsws.gateway.process.lifecycle import Gateway
from rsws.gateway.process.setup import announce, choose_key, find_redis, reserve_port, share_port, url_of
from rsws.runtime import start_module
from rsws.settings import SECONDS, Settings
from rsws.streams.embedded import LocalRedis
from rsws.streams.retention import Rule

log = logging.getLogger("rsws.gateway")

LISTENING = "listening"
"""What a worker reports when it serves."""
START_TIMEOUT_S = 30 * SECONDS
"""How long a worker may take to start, beside what Redis may take to answer."""
STOP_TIMEOUT_S = 2 * SECONDS
"""How long a worker may take to end, beside the time that it and its clients have for it."""
RESTART = Backoff(0.1 * SECONDS, 5 * SECONDS)
"""How long to wait before a worker is started in place of one that did not live long."""
STEADY_S = 10 * SECONDS
"""One that lived so long is replaced at once."""


class WorkerConfig(NamedTuple):
    """What a worker is told when it starts."""

    settings: Settings
    listening: tuple[int, ...]
    """Descriptors of the sockets that it accepts from."""
    board: int
    """Descriptor of the memory for metrics."""
    processes: int
    """How many share it."""
    limits: Limits = DEFAULTS
    """What it may hold, and how often it writes its metrics."""


class Supervisor(Gateway):
    """The gateway as an async context manager: its workers serve from the moment it is entered until it is left.

    Args:
        settings: See :class:`rsws.settings.Settings`.
        limits: What each worker may hold, and how long is waited for it.

    Raises:
        SetupError: On entry: it can't start; the text says what to do.
        UsageError: On entry: a setting can't be used.
    """

    def __init__(self, settings: Settings, *, limits: Limits = DEFAULTS) -> None:
        super().__init__(settings)
        self._limits = limits
        self._workers: list[_Worker] = []
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def client_count(self) -> int:
        """How many are connected now, to all workers."""
        return self._board.clients

    async def _start(self) -> None:
        settings, stack = self.settings, self._stack
        for text in settings.retain:
            Rule.parse(text)
        data = DataDir(settings.data_dir)
        key = choose_key(settings, data)
        self.key_file = key.file
        reserved = await reserve_port(settings, stack)
        redis = await find_redis(settings, data, stack)
        self.redis_shown, self.redis_description = redis.target.shown, redis.description
        listening = share_port(settings, reserved, stack)
        self.url = url_of(listening[0][0])
        processes = settings.workers + 1
        memory = SharedMetrics.memory(processes)
        stack.callback(os.close, memory)
        self._board = SharedMetrics(processes, 0, memory)
        self._board.publish()
        settings = replace(settings, secret_key=key.secret, redis_url=redis.url)
        for number, sockets in enumerate(listening, 1):
            own = settings if number == 1 else replace(settings, retain=())  # one trims for all
            orders = WorkerConfig(own, tuple([each.fileno() for each in sockets]), memory, processes, self._limits)
            self._workers.append(_Worker(number, orders, self._board))
        stack.push_async_callback(self._stop_core)
        stack.push_async_callback(self._stop_workers)
        for sockets in listening:  # closed first: whoever connects while the workers stop is refused
            for each in sockets:
                stack.callback(each.close)
        for error in await asyncio.gather(*[worker.start() for worker in self._workers], return_exceptions=True):
            if error is not None:
                raise error
        announce(data, key, listening[0], stack)
        self._core = asyncio.create_task(self._run_core(redis.local), name="rsws core")

    async def _run_core(self, local: LocalRedis | None) -> None:
        """Everything that has to go on for as long as the gateway serves; the first to fail ends it."""
        async with asyncio.TaskGroup() as tasks:
            if local is not None:
                tasks.create_task(local.watch())
            self._keepers = [tasks.create_task(worker.keep()) for worker in self._workers]

    async def _stop_workers(self) -> None:
        """All at once, while the local Redis is still looked after."""
        for keeper in self._keepers:
            keeper.cancel()
        if self._keepers:
            await asyncio.wait(self._keepers)
        await asyncio.gather(*[worker.stop() for worker in self._workers])


class _Worker:
    """One of the workers: a process, and those that come in its place."""

    def __init__(self, number: int, orders: WorkerConfig, board: SharedMetrics) -> None:
        self._number = number
        self._orders = orders
        self._board = board
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Return when it serves.

        Raises:
            SetupError: It can't.
        """
        orders = self._orders
        try:
            self._process = process = await start_module(
                "rsws.gateway.process.worker", str(self._number), descriptors=(*orders.listening, orders.board)
            )
        except OSError as error:
            raise SetupError(f"worker {self._number} can't start: {error.strerror}") from None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pickle.dumps(orders))  # and is left open, until this process ends
        try:
            async with asyncio.timeout(START_TIMEOUT_S + orders.settings.redis_timeout_s):
                report = (await process.stdout.readline()).decode().strip()
        except TimeoutError:
            report = "it took too long"
        if report != LISTENING:
            with suppress(ProcessLookupError):
                process.kill()
            code = await process.wait()
            raise SetupError(f"worker {self._number} can't start: {report or _how(code)}")
        log.info("worker started worker=%d pid=%d", self._number, process.pid)

    async def keep(self) -> None:
        """Start it again whenever it has ended, until cancelled."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            assert self._process is not None
            since = clock()
            how = _how(await self._ended(self._process))
            self._board.retire(self._number)
            failures = 0 if clock() - since > STEADY_S else failures + 1
            delay_s = RESTART.wait_s(failures)
            log.error(
                "worker ended worker=%d pid=%d: %s; starting another in %.1f s",
                self._number, self._process.pid, how, delay_s,
            )  # fmt: skip
            await asyncio.sleep(delay_s)
            try:
                await self.start()
            except SetupError as error:
                log.error("%s", error)
            else:
                self._board.metrics.worker_restarts += 1
                self._board.publish()

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        """Return its exit code when it has ended; one that hangs is killed."""
        limits, ended = self._orders.limits, asyncio.ensure_future(process.wait())
        try:
            written, silent_checks = -1, 0
            # Turns are counted, and not the time: that passes too while the whole machine stands still.
            while not (await asyncio.wait([ended], timeout=limits.publish_s))[0]:
                before, written = written, self._board.times_written(self._number)
                silent_checks = silent_checks + 1 if written == before else 0
                if silent_checks == limits.silent_checks:
                    log.error("worker hangs, killing it worker=%d pid=%d", self._number, process.pid)
                    with suppress(ProcessLookupError):
                        process.kill()
            return ended.result()
        finally:
            ended.cancel()

    async def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL when it does not end in its time."""
        process, settings = self._process, self._orders.settings
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(settings.drain_s + settings.shutdown_timeout_s + STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            log.error("worker does not end, killing it worker=%d pid=%d", self._number, process.pid)
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _how(code: int) -> str:
    """How a process with that exit code ended."""
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

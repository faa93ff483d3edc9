"""The gateway's life: build, listen, serve, drain, stop. Ties the rooms together; decides nothing about delivery."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from rsws.datadir import DataDir
from rsws.errors import RedisUnavailable, SetupError
from rsws.gateway import logs
from rsws.gateway.access import Access
from rsws.gateway.clients import NOT_LET_IN, Clients
from rsws.gateway.connection import ClientConnection
from rsws.gateway.http import Health
from rsws.gateway.hub import Hub
from rsws.gateway.session import Session
from rsws.settings import Settings
from rsws.streams.embedded import LocalRedis
from rsws.streams.link import RedisTarget, probe
from rsws.streams.reader import Reader
from rsws.streams.retention import Retention, Rule
from rsws.streams.store import Store

log = logging.getLogger("rsws.gateway")

NOTSENT_BYTES = 16 * 1024
"""Unsent bytes the kernel takes for one client: without this limit a stalled one swallows 4 MB."""
TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)
BACKLOG = 4096
ACCEPT_AT_ONCE = 4
"""Connections asyncio takes in one turn of the loop, before one of them can be turned away."""
OWN_FILES = 64
"""Of the open files the system allows, those that are not for clients: the gateway's own, and NOT_LET_IN."""


class Server:
    """The gateway as an async context manager: it serves from the moment it is entered until it is left.

    Args:
        settings: See :class:`rsws.settings.Settings`.

    Raises:
        SetupError: On entry: it can't start; the text says what to do.
        UsageError: On entry: a setting can't be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.key_file: Path | None = None
        """Where the key came from, once the gateway has started; None when it was given."""
        self._data = DataDir(settings.data_dir)
        self._stack = AsyncExitStack()
        self._core: asyncio.Task[None] | None = None

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

    # --- start ---

    async def _start(self) -> None:
        settings = self.settings
        rules = [Rule.parse(text) for text in settings.retain]
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = sys.maxsize if files == resource.RLIM_INFINITY else max(1, files - OWN_FILES)
        self.clients = Clients(
            settings,
            min(settings.max_clients or room, room),
            room + NOT_LET_IN,
            Access(self._secret_key()),
            Health(lambda: self._store.ready),
            lambda connection: Session(connection, self._hub, self._store, self._tasks, settings),
        )
        self._listener = await self._bind()
        local: LocalRedis | None = None
        if settings.redis_url is not None:
            url = settings.redis_url
        else:
            local = await self._stack.enter_async_context(LocalRedis(self._data, settings.local_redis_port))
            url = local.url
        target = RedisTarget(url, settings.redis_timeout_s)
        self.redis_description = local.description if local is not None else target.shown
        try:
            await probe(target)
        except RedisUnavailable:
            self.redis_description += " (it can't be reached now; trying until it can)"
        self._store = Store(target, self._redis_changed)
        self._retention = Retention(rules, self._store.history)
        self._reader = Reader(target)
        started = asyncio.get_running_loop().create_future()
        self._core = asyncio.create_task(self._run_core(local, started), name="rsws core")
        self._stack.push_async_callback(self._stop_core)
        await asyncio.wait([self._core, started], return_when=asyncio.FIRST_COMPLETED)
        if self._core.done():
            self._core.result()
        try:
            await self._listener.start_serving()
        except OSError as error:
            raise self._cannot_listen(error) from None
        for listening in self._listener.sockets:  # asyncio takes one number for how many wait and how many it takes
            with socket.fromfd(listening.fileno(), listening.family, listening.type) as same:
                same.listen(BACKLOG)
        sockname = self._listener.sockets[0].getsockname()
        host = f"[{sockname[0]}]" if ":" in sockname[0] else sockname[0]
        self.url = f"ws://{host}:{sockname[1]}"
        log.info("listening url=%s redis=%s", self.url, target.shown)

    def _secret_key(self) -> str:
        settings = self.settings
        if settings.secret_key and not settings.secret_key.isspace():
            return settings.secret_key
        if settings.on_loopback:
            self.key_file = self._data.key_file
            return self._data.make_key()
        raise SetupError(
            f"WEBSOCKET_SECRET_KEY must be set to listen on {settings.host}, which others can reach; "
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(24))'"
        )

    async def _bind(self) -> asyncio.Server:
        settings = self.settings
        try:
            listener = await asyncio.get_running_loop().create_server(
                partial(ClientConnection, self.clients),
                settings.host,
                settings.port,
                backlog=ACCEPT_AT_ONCE,
                start_serving=False,
            )
        except OSError as error:
            raise self._cannot_listen(error) from None
        self._stack.callback(listener.close)
        if TCP_NOTSENT_LOWAT is not None:
            for listening in listener.sockets:
                listening.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_BYTES)
        return listener

    def _cannot_listen(self, error: OSError) -> SetupError:
        where = f"{self.settings.host}:{self.settings.port}"
        if error.errno == errno.EADDRINUSE:
            return SetupError(f"port {self.settings.port} is in use; choose another with --port or PORT")
        if error.errno == errno.EACCES:
            return SetupError(f"not allowed to listen on {where}; choose a port above 1023 with --port or PORT")
        return SetupError(f"can't listen on {where}: {error.strerror or error}; choose another --host or --port")

    async def _run_core(self, local: LocalRedis | None, started: asyncio.Future[None]) -> None:
        """Everything that has to go on for as long as the gateway serves; the first to fail ends it."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._hub = Hub(self._store, self._reader, tasks)
            tasks.create_task(self._store.run())
            tasks.create_task(self._reader.run())
            tasks.create_task(self._hub.check_quiet())
            tasks.create_task(self._retention.run())
            tasks.create_task(self.clients.look_after())
            if local is not None:
                tasks.create_task(local.watch())
            await asyncio.sleep(0)  # each has run up to its first wait
            started.set_result(None)

    def _redis_changed(self, trouble: str | None) -> None:
        if trouble is None:
            log.info("redis connected")
        else:
            log.warning("redis unreachable, trying again until it answers: %s", trouble)

    async def failed(self) -> None:
        """Wait until something the gateway can't do without has failed, and raise that."""
        assert self._core is not None
        await asyncio.shield(self._core)

    # --- stop ---

    async def stop(self) -> None:
        """Stop accepting, close each client once its writes under way are answered, and end.

        It takes as long as the clients are given to spread (``drain_s``), and at most the shutdown timeout more.
        """
        log.info("stopping clients=%d", len(self.clients.sessions))
        self._listener.close()
        await self.clients.send_away()
        await self._listener.wait_closed()
        await self._stack.aclose()
        log.info("stopped")

    async def _stop_core(self) -> None:
        assert self._core is not None
        self._core.cancel()
        await asyncio.wait([self._core])


def run(settings: Settings, on_started: Callable[[Server], None]) -> int:
    """Serve until SIGINT or SIGTERM; a second one ends at once.

    Args:
        on_started: Called once, when clients can connect.

    Returns:
        The exit code: 0 after a signal, 1 after a failure of the gateway itself.

    Raises:
        SetupError: It can't start.
        UsageError: A setting can't be used.
    """
    logs.configure(settings.log_level)
    _allow_many_files()
    _collect_rarely()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(settings, on_started))


async def _until_stopped(settings: Settings, on_started: Callable[[Server], None]) -> None:
    async with Server(settings) as server:
        on_started(server)
        await server.failed()


async def _serve(settings: Settings, on_started: Callable[[Server], None]) -> int:
    loop = asyncio.get_running_loop()
    serving = asyncio.create_task(_until_stopped(settings, on_started))
    signalled = False

    def on_signal(number: signal.Signals) -> None:
        nonlocal signalled
        if signalled:
            os._exit(128 + number)
        signalled = True
        serving.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    try:
        await serving
    except asyncio.CancelledError:
        pass
    except ExceptionGroup as failure:
        log.critical("the gateway failed and stops", exc_info=failure)
        return 1
    return 0


def _allow_many_files() -> None:
    """Each client is an open file, and the usual limit of 1,024 is meant for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # a hard limit that the system itself does not allow, as on macOS
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _collect_rarely() -> None:
    """A reply of Redis alone makes more lists than Python's 700, at which it would look for cycles in vain."""
    gc.set_threshold(20_000, 20, 20)
    gc.freeze()  # the modules, which stay


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop

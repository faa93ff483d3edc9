"""The gateway's life: build, listen, serve, drain, stop. Ties the rooms together; decides nothing about delivery."""

from __future__ import annotations

import asyncio
import errno
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

from websockets.asyncio.server import Server as WebSocketServer
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as listen

from rsws.datadir import DataDir
from rsws.errors import CloseCode, RedisUnavailable, SetupError
from rsws.gateway import logs
from rsws.gateway.access import Access
from rsws.gateway.connection import ClientConnection
from rsws.gateway.http import Health
from rsws.gateway.hub import Hub
from rsws.gateway.session import Session
from rsws.protocol import Connected, Refused, encode_reply
from rsws.settings import Settings
from rsws.streams.embedded import LocalRedis
from rsws.streams.link import RedisTarget, probe
from rsws.streams.reader import Reader
from rsws.streams.retention import Retention, Rule
from rsws.streams.store import Store

log = logging.getLogger("rsws.gateway")
_websocket_log = logging.getLogger("rsws.gateway.websocket")
_websocket_log.setLevel(logging.WARNING)  # at DEBUG websockets logs the request line, and the token is in it

NOTSENT_BYTES = 16 * 1024
"""Unsent bytes the kernel takes for one client: without this limit a stalled one swallows 4 MB."""
TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)
BACKLOG = 4096
ACCEPT_AT_ONCE = 4
"""Connections asyncio takes in one turn of the loop, before one of them can be turned away."""
OWN_FILES = 64
"""Of the open files the system allows, those that are not for clients."""
NOT_LET_IN_FILES = 16
"""Of these, those for connections in their handshake, or being turned away; the rest is for the gateway itself."""
TURNED_AWAY_LOG_S = 10.0
OPEN_TIMEOUT_S = 10.0


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
        self._sockets: set[ClientConnection] = set()
        self._connections: set[ClientConnection] = set()
        """Those that were let in."""
        self._turned_away = 0
        self._turned_away_told_at = -TURNED_AWAY_LOG_S
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
        self._access = Access(self._secret_key())
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = sys.maxsize if files == resource.RLIM_INFINITY else max(1, files - OWN_FILES)
        self._max_clients = min(settings.max_clients or room, room)
        self._max_sockets = room + NOT_LET_IN_FILES
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
        self._reader = Reader(target, self._store.commands)
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

    async def _bind(self) -> WebSocketServer:
        settings = self.settings
        try:
            listener = await listen(
                self._serve_client,
                settings.host,
                settings.port,
                start_serving=False,
                backlog=ACCEPT_AT_ONCE,
                create_connection=partial(ClientConnection, everyone=self._sockets, has_room=self._has_room),  # type: ignore[arg-type]
                logger=_websocket_log,
                process_request=Health(lambda: self._store.ready),
                compression=None,
                max_size=settings.max_message_bytes,
                write_limit=settings.high_water_bytes,
                ping_interval=None,  # a ping would queue behind data and cut off a slow client: see _look_after_clients
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=settings.shutdown_timeout_s / 2,
                server_header=None,
            )
        except OSError as error:
            raise self._cannot_listen(error) from None
        self._stack.callback(listener.close, close_connections=False)
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
            tasks.create_task(self._look_after_clients())
            if local is not None:
                tasks.create_task(local.watch())
            await asyncio.sleep(0)  # each has run up to its first wait
            started.set_result(None)

    def _redis_changed(self, trouble: str | None) -> None:
        if trouble is None:
            log.info("redis connected")
        else:
            log.warning("redis unreachable, trying again until it answers: %s", trouble)

    # --- serve ---

    async def _serve_client(self, websocket: ServerConnection) -> None:
        assert isinstance(websocket, ClientConnection)
        assert websocket.request is not None
        if not self._access.allows(websocket.request.path):
            websocket.ignore()
            log.warning("token refused client=%s", websocket.peer)
            websocket.reply(encode_reply(Refused()))
            await websocket.close(CloseCode.POLICY_VIOLATION, "Unauthorized")
            return
        if len(self._connections) >= self._max_clients:
            websocket.ignore()
            self._turn_away()
            await websocket.close(CloseCode.TRY_AGAIN_LATER, "too many clients")
            return
        session = Session(websocket, self._hub, self._store, self._tasks, self.settings)
        self._connections.add(websocket)
        log.info("client connected client=%s clients=%d", websocket.peer, len(self._connections))
        try:
            websocket.reply(encode_reply(Connected()))
            websocket.start(session)
            await websocket.ended
        finally:
            session.end()
            self._connections.discard(websocket)
            clients = len(self._connections)
            log.info("client gone client=%s code=%d clients=%d", websocket.peer, websocket.end_code, clients)

    def _has_room(self) -> bool:
        if len(self._sockets) < self._max_sockets:
            return True
        self._turn_away()
        return False

    def _turn_away(self) -> None:
        """Count one for which there is no room: they come in crowds, of which the log has a line now and then."""
        self._turned_away += 1
        now = asyncio.get_running_loop().time()
        if now - self._turned_away_told_at >= TURNED_AWAY_LOG_S:
            self._turned_away_told_at = now
            log.warning(
                "no room for another client clients=%d connections=%d turned_away=%d",
                len(self._connections), len(self._sockets), self._turned_away,
            )  # fmt: skip

    async def _look_after_clients(self) -> None:
        settings = self.settings
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(settings.ping_interval_s / 4)
            now = loop.time()
            for connection in list(self._connections):
                connection.check_alive(now, settings.ping_interval_s, settings.idle_timeout_s)

    async def failed(self) -> None:
        """Wait until something the gateway can't do without has failed, and raise that."""
        assert self._core is not None
        await asyncio.shield(self._core)

    # --- stop ---

    async def stop(self) -> None:
        """Stop accepting, close each client once its writes under way are answered, and end.

        It takes as long as the clients are given to spread (``drain_s``), and at most the shutdown timeout more.
        """
        settings = self.settings
        log.info("stopping clients=%d", len(self._connections))
        self._listener.close(close_connections=False)
        code = CloseCode.SERVICE_RESTART if settings.drain_s else CloseCode.GOING_AWAY
        step_s = settings.drain_s / max(1, len(self._connections))
        retiring = [
            asyncio.create_task(self._retire(connection, code, number * step_s))
            for number, connection in enumerate(list(self._connections))
        ]
        if retiring:
            _, unread = await asyncio.wait(retiring, timeout=settings.drain_s + settings.shutdown_timeout_s * 3 / 4)
            if unread:
                log.warning("cutting off clients that don't read clients=%d", len(unread))
        for connection in list(self._sockets):
            connection.transport.abort()
        await asyncio.gather(*retiring)
        await self._listener.wait_closed()
        await self._stack.aclose()
        log.info("stopped")

    async def _retire(self, connection: ClientConnection, code: CloseCode, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        connection.ignore()
        try:
            async with asyncio.timeout(self.settings.shutdown_timeout_s / 3):
                await connection.settled()
        except TimeoutError:
            log.warning("closing before Redis answered client=%s", connection.peer)
        await connection.close(code, "the gateway stops")

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


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop

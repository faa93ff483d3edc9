"""The gateway's life: build, listen, serve, drain, stop. Ties the rooms together; decides nothing about delivery."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import sys
import time
from collections.abc import Sequence
from functools import partial

from rsws.datadir import DataDir
from rsws.gateway.access import Access
from rsws.gateway.clients import Clients
from rsws.gateway.delivery.hub import Hub
from rsws.gateway.http import PlainHttp
from rsws.gateway.metrics import PUBLISH_S, Board
from rsws.gateway.process.lifecycle import Gateway
from rsws.gateway.process.setup import BACKLOG, announce, cannot_listen, choose_key, find_redis, reserve_port, url_of
from rsws.gateway.session import Session
from rsws.gateway.websocket.connection import ClientConnection
from rsws.gateway.websocket.frames import MessageFramer
from rsws.gateway.websocket.turns import Turns
from rsws.runtime import give_back_memory
from rsws.settings import Settings
from rsws.streams.embedded import LocalRedis
from rsws.streams.reader import Reader
from rsws.streams.retention import Retention, Rule
from rsws.streams.store import Store

log = logging.getLogger("rsws.gateway")

NOTSENT_BYTES = 16 * 1024
"""Unsent bytes the kernel takes for one client: without this limit a stalled one swallows 4 MB."""
TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)
ACCEPT_AT_ONCE = 4
"""Connections asyncio takes in one turn of the loop, before one of them can be turned away."""
GIVE_BACK_S = 2.0
OWN_FILES = 48
"""Of the open files the system allows, those that are not for connections of clients."""
COUNTED_AT_ONCE = 200
"""Channels whose subscriptions are counted whenever somebody asks; those of more at most every PUBLISH_S."""


class Server(Gateway):
    """The gateway as an async context manager: it serves from the moment it is entered until it is left.

    Args:
        settings: See :class:`rsws.settings.Settings`. Not looked at: ``workers``, of which this is one.
        listening: Bound sockets to serve on in place of the settings' host and port.
        board: Where it counts, with the other processes of the gateway; None is for one that is alone.

    Raises:
        SetupError: On entry: it can't start; the text says what to do.
        UsageError: On entry: a setting can't be used.
    """

    def __init__(self, settings: Settings, listening: Sequence[socket.socket] = (), board: Board | None = None) -> None:
        super().__init__(settings)
        self.board = board if board is not None else Board()
        self._metrics = self.board.metrics
        self._listening = listening
        self._data = DataDir(settings.data_dir)
        self._counted_at = -PUBLISH_S

    # --- start ---

    async def _start(self) -> None:
        settings = self.settings
        rules = [Rule.parse(text) for text in settings.retain]
        key = choose_key(settings, self._data)
        self.key_file = key.file
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = sys.maxsize if files == resource.RLIM_INFINITY else files - OWN_FILES
        self.clients = Clients(
            settings,
            limit,
            Access(key.secret),
            PlainHttp(lambda: self._store.ready, self._metrics_text),
            lambda connection: Session(connection, self._hub, self._store, self._tasks, settings),
            self.board,
            Turns(lambda: self._store.is_crowded),
        )
        sockets = self._listening or await reserve_port(settings, self._stack)
        self._listeners = [await self._bind(each) for each in sockets]
        redis = await find_redis(settings, self._data, self._stack)
        self.redis_shown, self.redis_description = redis.target.shown, redis.description
        self._store = Store(redis.target, self._redis_changed)
        self._retention = Retention(rules, self._store.history)
        self._reader = Reader(redis.target)
        started = asyncio.get_running_loop().create_future()
        self._core = asyncio.create_task(self._run_core(redis.local, started), name="rsws core")
        self._stack.push_async_callback(self._stop_core)
        await asyncio.wait([self._core, started], return_when=asyncio.FIRST_COMPLETED)
        if self._core.done():
            self._core.result()
        for listener in self._listeners:
            try:
                await listener.start_serving()
            except OSError as error:
                raise cannot_listen(settings, error) from None
            for listening in listener.sockets:  # asyncio takes one number for how many wait and how many it takes
                with socket.fromfd(listening.fileno(), listening.family, listening.type) as same:
                    same.listen(BACKLOG)
        self.url = url_of(self._listeners[0].sockets[0])
        announce(self._data, key, [each for listener in self._listeners for each in listener.sockets], self._stack)
        self._metrics.workers = 1
        self.publish_metrics()

    async def _bind(self, where: socket.socket) -> asyncio.Server:
        try:
            listener = await asyncio.get_running_loop().create_server(
                partial(ClientConnection, self.clients), sock=where, backlog=ACCEPT_AT_ONCE, start_serving=False
            )
        except OSError as error:
            raise cannot_listen(self.settings, error) from None
        self._stack.callback(listener.close)
        if TCP_NOTSENT_LOWAT is not None:
            for listening in listener.sockets:
                listening.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_BYTES)
        return listener

    async def _run_core(self, local: LocalRedis | None, started: asyncio.Future[None]) -> None:
        """Everything that has to go on for as long as the gateway serves; the first to fail ends it."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._hub = Hub(self._store, self._reader, tasks, self._metrics, MessageFramer)
            tasks.create_task(self._store.run())
            tasks.create_task(self._reader.run())
            tasks.create_task(self._hub.check_quiet())
            tasks.create_task(self._retention.run())
            tasks.create_task(self.clients.look_after())
            tasks.create_task(_keep_memory_small())
            if self.board.shared:
                tasks.create_task(self._keep_publishing_metrics())
            if local is not None:
                tasks.create_task(local.watch())
            await asyncio.sleep(0)  # each has run up to its first wait
            started.set_result(None)

    def _redis_changed(self, trouble: str | None) -> None:
        if trouble is None:
            log.info("redis connected")
        else:
            self._metrics.redis_outages += 1
            log.warning("redis unreachable, trying again until it answers: %s", trouble)

    # --- metrics ---

    @property
    def client_count(self) -> int:
        """How many are connected now."""
        return len(self.clients.sessions)

    def publish_metrics(self) -> None:
        """Have the other processes of the gateway see what this one has counted."""
        metrics, channels = self._metrics, self._hub.channels
        metrics.channels = len(channels)
        metrics.redis_up = int(self._store.ready)
        now = time.monotonic()
        if len(channels) <= COUNTED_AT_ONCE or now - self._counted_at >= PUBLISH_S:
            self._counted_at = now
            metrics.subscriptions = sum([len(channel.listeners) for channel in channels])
            current = sum([len(channel.live) + len(channel.beyond_cursor) for channel in channels])
            metrics.subscriptions_behind = metrics.subscriptions - current
        self.board.publish()

    def _metrics_text(self) -> str:
        self.publish_metrics()
        return self.board.text()

    async def _keep_publishing_metrics(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_S)
            self.publish_metrics()

    # --- stop ---

    async def stop(self) -> None:
        """Stop accepting, close each client once its writes under way are answered, and end.

        It takes as long as the clients are given to spread (``drain_s``), and at most the shutdown timeout more.
        """
        for listener in self._listeners:
            listener.close()
        await self.clients.send_away()
        for listener in self._listeners:
            await listener.wait_closed()
        await self._stack.aclose()


async def _keep_memory_small() -> None:
    while True:
        await asyncio.sleep(GIVE_BACK_S)
        give_back_memory()

"""The server: it listens, drains and stops. It connects the other parts, and decides nothing about delivery."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Self

from rsws.gateway.access.control import AccessControl
from rsws.gateway.access.files import watch
from rsws.gateway.admin import AdminListener
from rsws.gateway.census import Census
from rsws.gateway.clients import ClientRegistry
from rsws.gateway.delivery.hub import Hub
from rsws.gateway.entrance import Entrance
from rsws.gateway.http import PlainHttp, Request
from rsws.gateway.limits import DEFAULTS, Limits
from rsws.gateway.metrics import SharedMetrics, primaries_text
from rsws.gateway.peer import Peer
from rsws.gateway.request_limits import RequestLimits
from rsws.gateway.session.context import SessionContext
from rsws.gateway.session.session import Session
from rsws.gateway.websocket.frames import MessageFramer
from rsws.gateway.websocket.turns import Turns
from rsws.log_lines import LogLine
from rsws.redis.target import RedisTarget
from rsws.runtime import give_back_memory
from rsws.settings import Settings
from rsws.streams.fields import MessageFields
from rsws.streams.retention import Rule
from rsws.streams.router import Router

log = logging.getLogger("rsws.gateway")

NOTSENT_BYTES = 16 * 1024
"""The unsent bytes that the kernel buffers for one client: without this limit a stalled client costs 4 MB."""
TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)
ACCEPT_AT_ONCE = 4
"""The connections that asyncio accepts in one turn of the event loop, before any of them can be refused."""
GIVE_BACK_S = 2.0
OWN_FILES = 48
"""The open files, of those the system allows, that are kept for other things than connections."""


class Server:
    """The server of one process, as an async context manager: it stops on exit.

    Args:
        settings: See :class:`rsws.settings.Settings`. The key, Redis, host and port in them are ignored: they have been
            chosen before.
        key: The token that clients must send.
        redis: The Redis to use.
        rules: The retention rules for the channels to trim.
        board: The metrics that it updates.
        limits: The bounds and timeouts.

    Attributes:
        clients: The connections.
        hub: The open channels.
        redis: The access to Redis.
    """

    def __init__(
        self,
        settings: Settings,
        key: str,
        redis: RedisTarget,
        rules: Sequence[Rule] = (),
        board: SharedMetrics | None = None,
        *,
        limits: Limits = DEFAULTS,
    ) -> None:
        self.board = board if board is not None else SharedMetrics()
        self._metrics = self.board.metrics
        self._limits = limits
        self._tasks = asyncio.TaskGroup()
        """The tasks that run for as long as it serves, and those of clients' requests."""
        self.redis = Router(
            redis,
            self._redis_changed,
            rules=rules,
            wait_replicas=settings.wait_replicas,
            fields=MessageFields(settings.field),
            limits=limits.streams,
        )
        self.hub = Hub(self.redis, self._tasks, self._metrics, MessageFramer, settings.max_channels, limits=limits)
        self._access = AccessControl.of(settings, key, self._metrics, limits)
        requests = RequestLimits(settings)
        context = SessionContext(self._access, self.hub, self.redis, self._tasks, settings, requests)
        self.clients = ClientRegistry(
            settings,
            _connection_limit(),
            self._access,
            self._public_http(settings),
            partial(Session, context=context),
            self.board,
            Turns(lambda: self.redis.is_crowded),
            limits=limits,
        )
        self._census = Census(self.clients.sessions, self.hub, self.board.number, limits.publish_s)
        self._admin = AdminListener(
            PlainHttp(self._why_not_ready, self._metrics_text),
            settings.handshake_timeout_s,
            settings.max_header_bytes,
        )
        self._entrance = Entrance(settings, self.clients, self._metrics)
        self._listeners: list[asyncio.Server] = []
        self._admin_listeners: list[asyncio.Server] = []
        self._shutdown_delay_s = settings.shutdown_delay_s
        self._is_stopping = False
        self._counted_at = -limits.publish_s
        self._core: asyncio.Task[None] | None = None
        """The task that owns all others, from entry to exit."""

    # --- start and stop ---

    async def __aenter__(self) -> Self:
        started = asyncio.get_running_loop().create_future()
        self._core = asyncio.create_task(self._run(started), name="rsws server")
        try:
            await asyncio.wait([self._core, started], return_when=asyncio.FIRST_COMPLETED)
            if self._core.done():
                self._core.result()
        except BaseException:
            self._core.cancel()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say that it is not ready any more, drain, stop accepting, close the clients that are left, and end.

        This takes the shutdown delay and the time over which the closes are spread (``drain_s``), neither of them after
        a failure, and at most the shutdown timeout.
        """
        self._is_stopping = True
        try:
            if not isinstance(error, Exception):
                await asyncio.sleep(self._shutdown_delay_s)
                await self.clients.drain()
            for listener in self._listeners:
                listener.close()
            await self.clients.close_all()
            for listener in self._admin_listeners:
                listener.close()
            self._admin.close()
            for listener in [*self._listeners, *self._admin_listeners]:
                await listener.wait_closed()
        finally:
            assert self._core is not None
            self._core.cancel()
            await asyncio.wait([self._core])

    async def _run(self, started: asyncio.Future[None]) -> None:
        """Run the tasks that are needed for as long as it serves; the first failure ends all of them."""
        async with self._tasks as tasks:
            tasks.create_task(self.redis.run(partial(started.set_result, None)))
            tasks.create_task(self.hub.check_quiet())
            tasks.create_task(self._watch_connections())
            tasks.create_task(self.clients.look_after())
            tasks.create_task(self._access.watch_files())
            if (certificate := self._entrance.certificate) is not None:
                tasks.create_task(watch(certificate.files, self._limits.key_files_check_s))
            tasks.create_task(_keep_memory_small())
            if self.board.shared:
                tasks.create_task(self._keep_publishing_metrics())

    async def failed(self) -> None:
        """Wait until a task that the server needs has failed, and raise its error."""
        assert self._core is not None
        await asyncio.shield(self._core)

    async def listen_for_admin(self, sockets: Iterable[socket.socket]) -> list[socket.socket]:
        """Serve metrics and health on bound sockets; return the listening sockets.

        Raises:
            OSError: Another process listens there, or this one is not allowed to.
        """
        for bound in sockets:
            bound.listen()  # uvloop tells nobody when this fails
            listener = await asyncio.get_running_loop().create_server(self._admin.connection, sock=bound)
            self._admin_listeners.append(listener)
        return [each for listener in self._admin_listeners for each in listener.sockets]

    async def listen(self, sockets: Iterable[socket.socket], backlog: int) -> list[socket.socket]:
        """Accept clients on bound sockets; return the listening sockets.

        Args:
            backlog: The number of connections that may wait to be accepted.

        Raises:
            OSError: Another process listens there, or this one is not allowed to.
        """
        for bound in sockets:
            if TCP_NOTSENT_LOWAT is not None:
                bound.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_BYTES)
            bound.listen(backlog)  # uvloop tells nobody when this fails
            listener = await asyncio.get_running_loop().create_server(
                self._entrance, sock=bound, backlog=ACCEPT_AT_ONCE, start_serving=False
            )
            self._listeners.append(listener)
            await listener.start_serving()
            for listening in listener.sockets:  # asyncio has one number for the backlog and for its accepts per turn
                with socket.fromfd(listening.fileno(), listening.family, listening.type) as same:
                    same.listen(backlog)
        self._metrics.workers = 1
        self.publish_metrics()
        return [each for listener in self._listeners for each in listener.sockets]

    def reload_keys(self) -> None:
        """Read the files of keys again."""
        self._access.reload()
        if (certificate := self._entrance.certificate) is not None:
            for each in certificate.files:
                each.refresh(even_if_unchanged=True)

    # --- Redis ---

    async def _watch_connections(self) -> None:
        """Report, once, that a connection is missing while Redis takes publishes over another one."""
        before: str | None = None
        is_told = False
        while True:
            await asyncio.sleep(self._limits.connections_check_s)
            trouble = self.redis.reading_trouble
            if trouble is not None and before is not None:
                if not is_told:
                    log.warning("redis takes publishes, but a connection to read is missing, trying again: %s", trouble)
                is_told = True
                self.hub.tell_missing(self.redis.reading_trouble_of)  # those who have come since, too
            elif trouble is None and is_told and self.redis.ready:
                is_told = False
                self.hub.tell_missing(self.redis.reading_trouble_of)
                log.info("redis connected for reading, too")
            before = trouble

    def _redis_changed(self, server: str, trouble: str | None) -> None:
        if trouble is None:
            log.info(LogLine("redis connected", server=server))
        else:
            self._metrics.redis_outages += 1
            log.warning("redis unreachable, trying again until it answers: %s", trouble)

    # --- plain HTTP ---

    def _public_http(self, settings: Settings) -> PlainHttp:
        if settings.admin is not None:
            return PlainHttp(
                self._why_not_ready, None, scheme=settings.scheme, console=settings.console, census=self._tell_census
            )
        check = None if settings.on_loopback else self._check_operator
        return PlainHttp(
            self._why_not_ready,
            self._metrics_text,
            check,
            settings.scheme,
            console=settings.console,
            census=self._tell_census,
        )

    def _check_operator(self, request: Request, peer: Peer) -> HTTPStatus:
        return self._access.check_operator(request.headers.get(b"authorization"), request.target, peer)

    def _tell_census(self, request: Request, peer: Peer) -> tuple[HTTPStatus, str]:
        """Return what ``/clients`` tells: it names clients and channels, so that it wants the secret key anywhere."""
        authorization = request.headers.get(b"authorization")
        status = self._access.check_operator(authorization, request.target, peer, for_all=True)
        if status is not HTTPStatus.OK:
            return status, ""
        return status, self._census.text(request.target)

    def _why_not_ready(self) -> str | None:
        if self._is_stopping:
            return "the gateway stops"
        return None if self.redis.ready else "Redis can't be reached"

    # --- metrics ---

    def publish_metrics(self) -> None:
        """Write this process's metrics to where the other processes of the gateway read them."""
        metrics, channels, limits = self._metrics, self.hub.channels, self._limits
        metrics.channels = len(channels)
        metrics.redis_up = int(self.redis.ready)
        now = time.monotonic()
        if len(channels) <= limits.counted_at_once or now - self._counted_at >= limits.publish_s:
            self._counted_at = now
            metrics.subscriptions = sum([len(channel.listeners) for channel in channels])
            current = sum([len(channel.live) + len(channel.beyond_cursor) for channel in channels])
            metrics.subscriptions_behind = metrics.subscriptions - current
        self.board.publish()

    def _metrics_text(self) -> str:
        self.publish_metrics()
        return self.board.text() + primaries_text({each.target.shown: each.ready for each in self.redis.primaries})

    async def _keep_publishing_metrics(self) -> None:
        while True:
            await asyncio.sleep(self._limits.publish_s)
            self.publish_metrics()


def _connection_limit() -> int:
    """Return the number of connections that the system's limit on open files allows."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else files - OWN_FILES


async def _keep_memory_small() -> None:
    while True:
        await asyncio.sleep(GIVE_BACK_S)
        give_back_memory()

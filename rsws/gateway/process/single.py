"""A gateway of one process: the setup, then the server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from rsws.datadir import DataDir
from rsws.embedded.local import LocalRedis
from rsws.gateway.limits import DEFAULTS, Limits
from rsws.gateway.metrics import SharedMetrics
from rsws.gateway.process.lifecycle import Gateway
from rsws.gateway.process.setup import (
    BACKLOG,
    Place,
    announce,
    check_settings,
    choose_key,
    find_redis,
    read_pipes,
    reserve_port,
    url_of,
)
from rsws.gateway.server import Server
from rsws.patterns import Patterns
from rsws.settings import Settings
from rsws.streams.retention import Rule


class SingleProcess(Gateway):
    """The gateway in one process, as an async context manager: it serves from entry to exit.

    Args:
        settings: See :class:`rsws.settings.Settings`. ``workers`` is ignored, as this is one of them.
        listening: Bound sockets to serve on in place of the settings' host and port.
        admin: The same for metrics and health.
        board: The metrics shared with the other processes of the gateway; None when there are none.
        limits: The bounds and timeouts.

    Attributes:
        server: The server, once it has started.

    Raises:
        SetupError: On entry: it can't start; the text says what to do.
        UsageError: On entry: a setting is invalid.
    """

    server: Server

    def __init__(
        self,
        settings: Settings,
        listening: Sequence[socket.socket] = (),
        admin: Sequence[socket.socket] = (),
        board: SharedMetrics | None = None,
        *,
        limits: Limits = DEFAULTS,
    ) -> None:
        super().__init__(settings)
        self._limits = limits
        self._listening = listening
        self._admin = admin
        self._board = board if board is not None else SharedMetrics()

    @property
    def client_count(self) -> int:
        """The number of clients connected now."""
        return len(self.server.clients.sessions)

    def reload_keys(self) -> None:
        """See :class:`rsws.gateway.process.lifecycle.Gateway`."""
        if self._core is not None:  # before that they have just been read
            self.server.reload_keys()

    async def _start(self) -> None:
        settings, stack = read_pipes(self.settings), self._stack
        self.settings = settings
        check_settings(settings)
        channels = Patterns.of(settings.channels)
        rules = [Rule.parse(text, channels) for text in settings.retain]
        data = DataDir(settings.data_dir)
        key = choose_key(settings, data)
        self.key_file = key.file
        place, admin_place = Place.of_clients(settings), Place.of_admin(settings)
        sockets = self._listening or await reserve_port(place, stack)
        admin = self._admin or await reserve_port(admin_place, stack)
        redis = await find_redis(settings, data, stack)
        self.redis_shown, self.redis_description = redis.target.shown, redis.description
        self.server = Server(settings, key.secret, redis.target, rules, self._board, limits=self._limits)
        stack.push_async_callback(self._stop_core)
        await stack.enter_async_context(self.server)
        self._core = asyncio.create_task(self._run_core(redis.local), name="rsws core")
        try:
            listening = await self.server.listen(sockets, BACKLOG)
        except OSError as error:
            raise place.error(error) from None
        if admin_place is not None:
            try:
                admin_listening = await self.server.listen_for_admin(admin)
            except OSError as error:
                raise admin_place.error(error) from None
            self.admin_url = url_of(admin_listening[0], "http")
        self.url = url_of(listening[0], settings.scheme)
        announce(settings, data, key, listening, stack)

    async def _run_core(self, local: LocalRedis | None) -> None:
        """Run the tasks that are needed for as long as the gateway serves; the first failure ends all of them."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.server.failed())
            if local is not None:
                tasks.create_task(local.watch())

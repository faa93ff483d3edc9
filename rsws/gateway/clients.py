"""Who is connected: letting in, turning away, looking after, and sending away in the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus

from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from rsws.errors import CloseCode
from rsws.gateway.access import Access
from rsws.gateway.compression import COMPRESSION
from rsws.gateway.connection import OPEN_TIMEOUT_S, ClientConnection
from rsws.gateway.handshake import answer_usual
from rsws.gateway.http import PlainHttp
from rsws.gateway.metrics import Board
from rsws.gateway.session import Session
from rsws.gateway.turns import Turns
from rsws.protocol import Connected, Refused, encode_reply
from rsws.settings import Settings

log = logging.getLogger("rsws.gateway")

NOT_LET_IN = 16
"""Connections that there may be beside the clients: in their handshake, or being turned away."""
TURNED_AWAY_LOG_S = 10.0
_WELCOME = encode_reply(Connected())


class Clients:
    """All connections, those in their handshake included.

    Args:
        room: How many clients there may be in this process; those of all processes are in the settings. Connections
            above it, but for NOT_LET_IN, are cut off.
        make_session: Makes what answers a client that was let in.
        board: Where clients are counted, those of other processes included.
        turns: Whose turn it is to be read.
    """

    def __init__(
        self,
        settings: Settings,
        room: int,
        access: Access,
        http: PlainHttp,
        make_session: Callable[[ClientConnection], Session],
        board: Board,
        turns: Turns,
    ) -> None:
        self.extensions = COMPRESSION if settings.compress else ()
        self.max_message_bytes = settings.max_message_bytes
        self.high_water_bytes = settings.high_water_bytes
        self.close_timeout_s = settings.shutdown_timeout_s / 2
        self.turns = turns
        self.sessions: dict[ClientConnection, Session] = {}
        """Those that were let in."""
        self._settings = settings
        self._room = room
        self._access = access
        self._http = http
        self._make_session = make_session
        self._board = board
        self._metrics = board.metrics
        self._connections: set[ClientConnection] = set()
        self._unwritten: list[ClientConnection] = []
        self._turn = 0
        self._turn_is_over = True
        self._turned_away_told_at = -TURNED_AWAY_LOG_S
        self._stopping = False
        self._leaving: set[ClientConnection] = set()
        self._all_left = asyncio.Event()

    # --- see rsws.gateway.connection.Host ---

    def connected(self, connection: ClientConnection) -> bool:
        has_room = len(self._connections) < self._room + NOT_LET_IN
        if not has_room:
            self._turn_away()
        self._connections.add(connection)
        return has_room

    def answer_usual(self, request: bytes) -> tuple[str, bytes] | None:
        return None if self._stopping else answer_usual(request, with_extensions=not self.extensions)

    def respond(self, handshake: ServerProtocol, request: Request) -> Response:
        if not any("websocket" in value.lower() for value in request.headers.get_all("Upgrade")):
            return self._http.respond(handshake, request)
        if self._stopping:
            return handshake.reject(HTTPStatus.SERVICE_UNAVAILABLE, "the gateway stops\n")
        return handshake.accept(request)

    def opened(self, connection: ClientConnection, path: str) -> None:
        if not self._access.allows(path):
            self._metrics.tokens_refused += 1
            log.warning("token refused client=%s", connection.peer)
            connection.reply(encode_reply(Refused()))
            connection.fail(CloseCode.POLICY_VIOLATION, "Unauthorized")
        elif self._is_full:
            self._turn_away()
            connection.fail(CloseCode.TRY_AGAIN_LATER, "too many clients")
        else:
            session = self.sessions[connection] = self._make_session(connection)
            self._metrics.clients_accepted += 1
            self._board.publish_clients(len(self.sessions))
            log.info("client connected client=%s clients=%d", connection.peer, len(self.sessions))
            connection.reply(_WELCOME)
            connection.start(session)

    def turn(self) -> int:
        if self._turn_is_over:
            self._turn_is_over = False
            self._turn += 1
            asyncio.get_running_loop().call_soon(self._end_turn)
        return self._turn

    def will_flush(self, connection: ClientConnection) -> None:
        self.turn()
        self._unwritten.append(connection)

    def closing(self, connection: ClientConnection) -> None:
        session = self.sessions.pop(connection, None)
        if session is not None:
            session.end()
            clients = len(self.sessions)
            self._board.publish_clients(clients)
            log.info("client gone client=%s code=%d clients=%d", connection.peer, connection.end_code, clients)

    def lost(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        self._leaving.discard(connection)
        if not self._leaving:
            self._all_left.set()

    # --- everyone ---

    def _end_turn(self) -> None:
        self._turn_is_over = True
        unwritten, self._unwritten = self._unwritten, []
        for connection in unwritten:
            try:
                connection.flush()
            except Exception:
                log.exception("a bug in the gateway client=%s", connection.peer)
                connection.transport.abort()

    @property
    def _is_full(self) -> bool:
        """Whether there is no room for one client more, in this process or in all of them together."""
        limit = self._settings.max_clients
        return len(self.sessions) >= self._room or (limit is not None and self._board.clients >= limit)

    def _turn_away(self) -> None:
        """Count one for which there is no room: they come in crowds, of which the log has a line now and then."""
        self._metrics.clients_turned_away += 1
        now = asyncio.get_running_loop().time()
        if now - self._turned_away_told_at >= TURNED_AWAY_LOG_S:
            self._turned_away_told_at = now
            log.warning(
                "no room for another client clients=%d connections=%d turned_away=%d",
                len(self.sessions), len(self._connections), self._metrics.clients_turned_away,
            )  # fmt: skip

    async def look_after(self) -> None:
        """Ping the silent and cut off the dead, until cancelled."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(settings.ping_interval_s, 2 * OPEN_TIMEOUT_S) / 4)
            now = loop.time()
            for connection in list(self._connections):
                connection.check_alive(now, settings.ping_interval_s, settings.idle_timeout_s)

    async def send_away(self) -> None:
        """Close each client once its writes under way are answered; cut off who does not read.

        It takes as long as the clients are given to spread (``drain_s``), and at most the shutdown timeout more.
        """
        settings = self._settings
        code = CloseCode.SERVICE_RESTART if settings.drain_s else CloseCode.GOING_AWAY
        clients = list(self.sessions)
        patience_s = settings.shutdown_timeout_s / 3
        self._stopping = True
        for number, connection in enumerate(clients):
            asyncio.get_running_loop().call_later(
                number * settings.drain_s / len(clients), connection.retire, code, "the gateway stops", patience_s
            )
        try:
            async with asyncio.timeout(settings.drain_s + settings.shutdown_timeout_s * 3 / 4):
                await self._gone(clients)
        except TimeoutError:
            log.warning("cutting off clients that don't read clients=%d", len(self._leaving))
        for connection in self._connections:
            connection.transport.abort()
        await self._gone(self._connections)

    async def _gone(self, connections: Iterable[ClientConnection]) -> None:
        """Wait until these are gone."""
        self._leaving = set(connections)
        self._all_left.clear()
        if self._leaving:
            await self._all_left.wait()

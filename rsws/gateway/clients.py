"""Who is connected: letting in, turning away, looking after, and sending away in the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any

from rsws.errors import CloseCode
from rsws.gateway.access import TokenCheck, WrongTokens
from rsws.gateway.http import PlainHttp, Request, response
from rsws.gateway.limits import DEFAULTS, Limits
from rsws.gateway.logs import NowAndThen
from rsws.gateway.metrics import SharedMetrics
from rsws.gateway.session import Session
from rsws.gateway.websocket.compression import COMPRESSION
from rsws.gateway.websocket.connection import ClientConnection, ConnectionOwner
from rsws.gateway.websocket.handshake import Opening, answer_handshake
from rsws.gateway.websocket.turns import Turns
from rsws.protocol import Connected, Refused, encode_reply
from rsws.settings import Settings

log = logging.getLogger("rsws.gateway")

_WELCOME = encode_reply(Connected())


class ClientRegistry(ConnectionOwner):
    """All connections, those in their handshake included.

    Those that are not let in, because they are silent, or because they get something else than a welcome, have the
    room that clients leave, and a share that clients can't take. Where it is full, a new one takes the place of the
    oldest of them; who was let in is never touched.

    Args:
        limit: How many connections there may be in this process. How many clients there may be in all processes is in
            the settings.
        make_session: Makes what answers a client that was let in.
        board: Where clients are counted, those of other processes included.
        turns: Whose turn it is to be read.
    """

    def __init__(
        self,
        settings: Settings,
        limit: int,
        access: TokenCheck,
        http: PlainHttp,
        make_session: Callable[[ClientConnection], Session],
        board: SharedMetrics,
        turns: Turns,
        *,
        limits: Limits = DEFAULTS,
    ) -> None:
        # No more than 29 attributes: with 30 Python 3.11 reads them more slowly, and a delivery takes 8 % longer.
        self.max_message_bytes = settings.max_message_bytes
        self.high_water_bytes = settings.high_water_bytes
        self.close_timeout_s = settings.shutdown_timeout_s / 2
        self.limits = limits
        self.turns = turns
        self.sessions: dict[ClientConnection, Session] = {}
        """Those that were let in."""
        self._settings = settings
        self._limit = limit
        self._door = min(max(limits.door_least, limit // limits.door_share), limits.door_most)
        self._room = max(1, limit - self._door)
        self._extensions = COMPRESSION if settings.compress else ()
        self._access = access
        self._http = http
        self._make_session = make_session
        self._board = board
        self._metrics = board.metrics
        self._connections: set[ClientConnection] = set()
        self._silent: dict[ClientConnection, None] = {}
        """Those that have not sent a whole request, in the order in which they came."""
        self._dismissed: dict[ClientConnection, asyncio.TimerHandle | None] = {}
        """Those that are not let in, in the order in which that was found; one may still wait to be told."""
        self._ending: set[ClientConnection] = set()
        """Those that were clients and are not gone yet."""
        self._wrong_tokens = WrongTokens(limits)
        self._unwritten: list[ClientConnection] = []
        self._turn = 0
        self._turn_is_over = True
        self._log_no_room = NowAndThen(log)
        self._log_wrong_token = NowAndThen(log)
        self._stopping = False
        self._leaving: set[ClientConnection] = set()
        self._all_left = asyncio.Event()

    def __len__(self) -> int:
        """How many connections there are, those in their handshake and those that are closing included."""
        return len(self._connections)

    def __iter__(self) -> Iterator[ClientConnection]:
        return iter(self._connections)

    @property
    def at_the_door(self) -> int:
        """Connections that were not let in: those that have sent no whole request, and those that were dismissed."""
        return len(self._silent) + len(self._dismissed)

    # --- see rsws.gateway.websocket.connection.ConnectionOwner ---

    def connected(self, connection: ClientConnection) -> None:
        if self.at_the_door >= self._door:
            self._make_room()
        self._connections.add(connection)
        self._silent[connection] = None

    def answer(self, connection: ClientConnection, request: Request | HTTPStatus) -> Opening | bytes:
        self._silent.pop(connection, None)
        answer: Opening | bytes | None
        if isinstance(request, Request):
            answer = answer_handshake(request, self._extensions)
            if answer is None:
                answer = self._http.respond(request)
            elif self._stopping:
                answer = response(HTTPStatus.SERVICE_UNAVAILABLE, "the gateway stops\n")
        else:
            answer = response(request, "that is not a request that can be read\n")
        if isinstance(answer, bytes):
            self._dismissed[connection] = None
        return answer

    def opened(self, connection: ClientConnection, path: str) -> None:
        if not self._access.allows(path):
            self._refuse(connection)
        elif self._is_full:
            self._dismissed[connection] = None
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
            self._ending.add(connection)
            session.end()
            clients = len(self.sessions)
            self._board.publish_clients(clients)
            log.info("client gone client=%s code=%d clients=%d", connection.peer, connection.end_code, clients)

    def lost(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        self._ending.discard(connection)
        self._forget(connection)
        self._leaving.discard(connection)
        if not self._leaving:
            self._all_left.set()

    # --- at the door ---

    def _make_room(self) -> None:
        """Cut off the oldest, where those at the door have taken their share and what the clients leave."""
        left = self._limit - len(self.sessions) - len(self._ending)
        room = max(self._door, min(self.limits.door_most, left))
        while self.at_the_door >= room:
            self._turn_away()
            crowd: dict[ClientConnection, Any] = max(self._silent, self._dismissed, key=len)
            oldest = next(iter(crowd))
            self._forget(oldest)
            oldest.transport.abort()

    def _refuse(self, connection: ClientConnection) -> None:
        """Say that a token is wrong, at once or, where many of the same address were, after a while."""
        self._metrics.tokens_refused += 1
        self._log_wrong_token.warning(
            "token refused client=%s refused=%d", connection.peer, self._metrics.tokens_refused
        )
        loop = asyncio.get_running_loop()
        wait_s = self._wrong_tokens.wait_s(connection.peer.rpartition(":")[0], loop.time())
        if wait_s:
            connection.ignore()
            self._dismissed[connection] = loop.call_later(wait_s, self._say_unauthorized, connection)
        else:
            self._dismissed[connection] = None
            self._say_unauthorized(connection)

    def _say_unauthorized(self, connection: ClientConnection) -> None:
        connection.reply(encode_reply(Refused()))
        connection.fail(CloseCode.POLICY_VIOLATION, "Unauthorized")

    @property
    def _is_full(self) -> bool:
        """Whether there is no room for one client more, in this process or in all of them together."""
        most = self._settings.max_clients
        held = len(self.sessions) + len(self._ending)
        return held >= self._room or (most is not None and self._board.clients >= most)

    def _turn_away(self) -> None:
        self._metrics.clients_turned_away += 1
        self._log_no_room.warning(
            "no room for another client clients=%d connections=%d turned_away=%d",
            len(self.sessions), len(self._connections), self._metrics.clients_turned_away,
        )  # fmt: skip

    def _forget(self, connection: ClientConnection) -> None:
        self._silent.pop(connection, None)
        telling = self._dismissed.pop(connection, None)
        if telling is not None:
            telling.cancel()

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

    async def look_after(self) -> None:
        """Ping the silent and cut off the dead, until cancelled."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(settings.ping_interval_s, 2 * self.limits.open_timeout_s) / 4)
            now = loop.time()
            for connection in list(self._connections):
                connection.check_alive(now, settings.ping_interval_s, settings.idle_timeout_s)

    async def drain_all(self) -> None:
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
                number * settings.drain_s / len(clients), connection.drain, code, "the gateway stops", patience_s
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

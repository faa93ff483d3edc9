"""The registry of connections: it admits or refuses clients, checks that they are alive, and closes them in the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from rsws.errors import CloseCode, ErrorCode
from rsws.gateway.access.control import AccessControl
from rsws.gateway.addresses import AddressLimits
from rsws.gateway.console import ASSETS
from rsws.gateway.exchanges.answers import Refusal, refuse_unread
from rsws.gateway.exchanges.exchange import Exchange, ExchangeOwner
from rsws.gateway.exchanges.routes import is_for_channels
from rsws.gateway.http import PlainHttp, Request, refusal, response
from rsws.gateway.limits import DEFAULTS, Limits
from rsws.gateway.logs import NowAndThen
from rsws.gateway.metrics import SharedMetrics
from rsws.gateway.session.client import Client
from rsws.gateway.session.session import Session
from rsws.gateway.websocket.compression import COMPRESSION
from rsws.gateway.websocket.connection import ClientConnection, ConnectionOwner
from rsws.gateway.websocket.forwarded import TrustedProxies
from rsws.gateway.websocket.frames import close_frame, text_frame
from rsws.gateway.websocket.handshake import Opening, answer_handshake
from rsws.gateway.websocket.interfaces import TurnedAway
from rsws.gateway.websocket.turns import Turns
from rsws.gateway.websocket.write_queue import WriteQueue
from rsws.log_lines import LogLine, inform
from rsws.protocol import Connected, Refused, encode_reply
from rsws.settings import Settings
from rsws.text import excerpt
from rsws.tokens.grant import Grant

log = logging.getLogger("rsws.gateway")

CHECKED_AT_ONCE = 100
"""The connections that are checked for life in a turn of the event loop; many may have to be pinged."""
_WELCOME = text_frame(encode_reply(Connected()))


def _turn_away(request: Request, why: TurnedAway) -> bytes:
    """Return the answer to a client beyond a limit on addresses, in one piece: nothing is looked at but its request."""
    opening = answer_handshake(request, ())
    if isinstance(opening, Opening):
        return opening.answer + close_frame(CloseCode.TRY_AGAIN_LATER, why.reason)
    headers = {"Retry-After": str(why.come_back_s)}
    return opening or _refuse(request, HTTPStatus.TOO_MANY_REQUESTS, ErrorCode.RATE_LIMITED, why.reason, headers)


def _refuse(
    request: Request, status: HTTPStatus, code: ErrorCode, text: str, headers: Mapping[str, str] | None = None
) -> bytes:
    """Return a refusal in the form that the request's path is answered in; it is not the token that was refused."""
    if is_for_channels(request):
        return refuse_unread(request, Refusal(status, code, text, headers))
    return response(status, f"{text}\n", headers)


class ClientRegistry(ConnectionOwner, ExchangeOwner):
    """All connections of this process, those in their handshake included.

    Connections that are not admitted (they have sent no whole request yet, or are refused) may use the room that
    clients leave, and a share that clients can't use. When it is full, a new connection replaces the oldest of them;
    an admitted client is never cut off for it.

    Args:
        limit: The most connections in this process. The limit on clients in all processes is in the settings.
        access: Says what a client may do.
        make_session: Makes the session that answers an admitted client, of what its token allows.
        board: The metrics in which clients are counted, those of other processes included.
        turns: The queue that decides which client is read next.
    """

    def __init__(
        self,
        settings: Settings,
        limit: int,
        access: AccessControl,
        http: PlainHttp,
        make_session: Callable[[Client, Grant], Session],
        board: SharedMetrics,
        turns: Turns,
        *,
        limits: Limits = DEFAULTS,
    ) -> None:
        # At most 29 attributes: with 30, Python 3.11 reads them more slowly, and a delivery takes 8 % longer.
        self.high_water_bytes = settings.high_water_bytes
        self.close_timeout_s = settings.shutdown_timeout_s / 2
        self.settings = settings
        self.turns = turns
        self.sessions: dict[ClientConnection, Session] = {}
        """The sessions of the admitted clients."""
        self.limits = limits
        self._reserved = min(max(limits.door_least, limit // limits.door_share), limits.door_most)
        self._client_limit = max(1, limit - self._reserved)
        self._extensions = COMPRESSION if settings.compress else ()
        self._access = access
        self._proxies = TrustedProxies(settings.trusted_proxies) or None
        self._addresses = AddressLimits(settings, board.metrics, limits)
        self._http = http
        self._make_session = make_session
        self._board = board
        self._metrics = board.metrics
        self._connections: set[ClientConnection] = set()
        self._silent: dict[ClientConnection, None] = {}
        """Connections that have not sent a whole request, in the order in which they came."""
        self._dismissed: dict[ClientConnection, asyncio.TimerHandle | None] = {}
        """Refused connections, oldest refusal first, each with the timer of its refusal if that is delayed."""
        self._ending: set[ClientConnection] = set()
        """Connections of former clients that are closing but not lost yet."""
        self._unwritten: list[WriteQueue] = []
        self.turn = 0
        self._turns = 0
        self._log_no_room = NowAndThen(log)
        self._origins = frozenset(map(str.lower, settings.origin))
        self._log_origin = NowAndThen(log)
        self._stopping = False
        self._awaited: set[ClientConnection] = set()
        self._all_lost = asyncio.Event()

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
        if len(self._silent) + len(self._dismissed) >= self._reserved:
            self._make_room()
        self._connections.add(connection)
        self._silent[connection] = None
        self.identified(connection)

    def identified(self, connection: ClientConnection) -> None:
        if self._proxies is not None and connection.source in self._proxies:
            return  # for whom it comes is known later, or it is the proxy's own
        self._addresses.count(connection)
        if connection.turned_away is not None and not self._addresses.may_be_told():
            connection.transport.abort()

    def answer(self, connection: ClientConnection, request: Request | HTTPStatus) -> Opening | Exchange | bytes:
        self._silent.pop(connection, None)
        answer: Opening | Exchange | bytes | None
        if isinstance(request, Request):
            if self._proxies is not None:
                self._look_behind(connection, request, self._proxies)
            if connection.turned_away is not None:
                answer = _turn_away(request, connection.turned_away)
            else:
                answer = answer_handshake(request, self._extensions)
                if self._origins and (answer is not None or not request.target.startswith(ASSETS)):
                    answer = self._refuse_origin(connection, request) or answer
            if answer is None and is_for_channels(request):
                answer = Exchange(connection, self, request)
            if answer is None:
                answer = self._http.respond(request, connection.source)
            elif self._stopping:
                answer = _refuse(request, HTTPStatus.SERVICE_UNAVAILABLE, ErrorCode.STOPPING, "the gateway stops")
        else:
            self._metrics.headers_too_large += request is HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            answer = refusal(request)
        if isinstance(answer, bytes):
            self._dismissed[connection] = None
        return answer

    def opened(self, connection: ClientConnection, opening: Opening) -> None:
        request = opening.request
        grant = self._access.check_request(
            request.headers.get(b"authorization"), opening.subprotocols, request.target, connection.source
        )
        if not isinstance(grant, Grant):
            self._refuse(connection, grant)
        elif self._is_full:
            self._dismissed[connection] = None
            self._count_turned_away()
            connection.fail(CloseCode.TRY_AGAIN_LATER, "too many clients")
        else:
            session = self.sessions[connection] = self._make_session(connection, grant)
            self._metrics.clients_accepted += 1
            self._board.publish_clients(len(self.sessions))
            inform(log, "client connected", client=connection.peer, who=grant.who, clients=len(self.sessions))
            connection.queue(_WELCOME)
            connection.start(session)

    def handshake_timed_out(self, connection: ClientConnection) -> None:
        self._metrics.handshakes_timed_out += connection in self._silent

    def begin_turn(self) -> int:
        self._turns += 1
        self.turn = self._turns
        asyncio.get_running_loop().call_soon(self._end_turn)
        return self.turn

    def will_flush(self, queue: WriteQueue) -> None:
        if not self.turn:
            self.begin_turn()
        self._unwritten.append(queue)

    def closing(self, connection: ClientConnection) -> None:
        session = self.sessions.pop(connection, None)
        if session is not None:
            self._ending.add(connection)
            session.end()
            clients = len(self.sessions)
            self._board.publish_clients(clients)
            who, code = session.who, connection.end_code
            inform(log, "client gone", client=connection.peer, who=who, code=code, clients=clients)

    def exchange_done(self, connection: ClientConnection, *, goes_on: bool) -> None:
        self._forget(connection)
        session = self.sessions.pop(connection, None)
        if session is not None:
            session.end()
            self._board.publish_clients(len(self.sessions))
        if goes_on:
            self._silent[connection] = None
        else:
            self._dismissed[connection] = None

    # --- see rsws.gateway.exchanges.exchange.ExchangeOwner ---

    def check_token(self, connection: ClientConnection, request: Request) -> Grant | float:
        grant = self._access.check_request(request.headers.get(b"authorization"), (), request.target, connection.source)
        if not isinstance(grant, Grant):
            self._dismissed[connection] = None
        return grant

    def admit(self, connection: ClientConnection, client: Client, grant: Grant) -> Session | None:
        if self._is_full:
            self._count_turned_away()
            return None
        session = self.sessions[connection] = self._make_session(client, grant)
        self._board.publish_clients(len(self.sessions))
        return session

    def stream_begins(self, connection: ClientConnection, who: str | None, channel: str) -> None:
        self._metrics.clients_accepted += 1
        clients = len(self.sessions)
        log.info(LogLine("stream begins", client=connection.peer, who=who, channel=channel, clients=clients))

    # --- see rsws.gateway.websocket.connection.ConnectionOwner ---

    def lost(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        self._addresses.lost(connection)
        self._ending.discard(connection)
        self._forget(connection)
        if self._awaited:
            self._awaited.discard(connection)
            if not self._awaited:
                self._all_lost.set()

    # --- connections that are not admitted ---

    def _make_room(self) -> None:
        """Abort the oldest connections that are not admitted while they fill their share and the room clients leave."""
        left = self._client_limit + self._reserved - len(self.sessions) - len(self._ending)
        room = max(self._reserved, min(self.limits.door_most, left))
        while self.at_the_door >= room:
            self._count_turned_away()
            crowd: dict[ClientConnection, Any] = max(self._silent, self._dismissed, key=len)
            oldest = next(iter(crowd))
            self._forget(oldest)
            oldest.transport.abort()

    def _refuse(self, connection: ClientConnection, wait_s: float) -> None:
        """Tell the client that its token is wrong: immediately, or delayed after many from the same address."""
        if wait_s:
            connection.ignore()
            self._dismissed[connection] = asyncio.get_running_loop().call_later(
                wait_s, self._send_unauthorized, connection
            )
        else:
            self._dismissed[connection] = None
            self._send_unauthorized(connection)

    def _send_unauthorized(self, connection: ClientConnection) -> None:
        connection.reply(encode_reply(Refused()))
        connection.fail(CloseCode.POLICY_VIOLATION, "Unauthorized")

    def _look_behind(self, connection: ClientConnection, request: Request, proxies: TrustedProxies) -> None:
        """Find out for whom a proxy has sent a request, and count the connection as that client's."""
        client = proxies.client(connection.source, request.headers)
        if client is not connection.source:
            connection.source = client
            if client not in proxies:
                self._addresses.count(connection)

    def _refuse_origin(self, connection: ClientConnection, request: Request) -> bytes | None:
        """Return the refusal of a request of a page whose origin is not listed; None where it may go on.

        It is not asked of the console's own files, which are for every page: without them it could not say that its
        origin has to be listed. A WebSocket has the same path only by chance.
        """
        origin = request.headers.get(b"origin")
        if origin is None:
            return None
        text = origin.decode(errors="replace")
        if text.lower() in self._origins:
            return None
        self._metrics.origins_refused += 1
        refused = self._metrics.origins_refused
        self._log_origin.warning("origin refused", client=connection.peer, origin=excerpt(text), refused=refused)
        text = "pages of this origin may not connect: it is not among --origin"
        return _refuse(request, HTTPStatus.FORBIDDEN, ErrorCode.NOT_ALLOWED, text)

    @property
    def _is_full(self) -> bool:
        """Whether there is no room for another client, in this process or in all processes together."""
        most = self.settings.max_clients
        held = len(self.sessions) + len(self._ending)
        return held >= self._client_limit or (most is not None and self._board.clients >= most)

    def _count_turned_away(self) -> None:
        self._metrics.clients_turned_away += 1
        self._log_no_room.warning(
            "no room for another client",
            clients=len(self.sessions),
            connections=len(self._connections),
            turned_away=self._metrics.clients_turned_away,
        )

    def _forget(self, connection: ClientConnection) -> None:
        self._silent.pop(connection, None)
        delayed_refusal = self._dismissed.pop(connection, None)
        if delayed_refusal is not None:
            delayed_refusal.cancel()

    # --- all connections ---

    def _end_turn(self) -> None:
        self.turn = 0
        unwritten, self._unwritten = self._unwritten, []
        for connection in unwritten:
            try:
                connection.flush()
            except Exception:
                log.exception(LogLine("a bug in the gateway", client=connection.peer))
                connection.transport.abort()

    async def look_after(self) -> None:
        """Ping silent clients and abort dead connections, until cancelled."""
        settings = self.settings
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(settings.ping_interval_s, 2 * settings.handshake_timeout_s) / 4)
            for number, connection in enumerate(list(self._connections)):
                if number % CHECKED_AT_ONCE == 0:
                    await asyncio.sleep(0)
                connection.check_alive(loop.time(), settings.ping_interval_s, settings.idle_timeout_s)

    async def drain(self) -> None:
        """Close the clients of this moment one after the other, over ``drain_s``; new ones may still come."""
        drain_s = self.settings.drain_s
        clients = list(self.sessions) if drain_s else []
        for number, connection in enumerate(clients):
            asyncio.get_running_loop().call_later(number * drain_s / len(clients), self._drain, connection)
        if clients:
            await asyncio.sleep(drain_s)

    async def close_all(self) -> None:
        """Close each client once its requests under way are answered; abort those that don't read.

        This takes at most the shutdown timeout.
        """
        self._stopping = True
        clients = [*self.sessions, *self._ending]
        for connection in list(self.sessions):
            self._drain(connection)
        try:
            async with asyncio.timeout(self.settings.shutdown_timeout_s * 3 / 4):
                await self._wait_until_lost(clients)
        except TimeoutError:
            log.warning(LogLine("cutting off clients that don't read", clients=len(self._awaited)))
        for connection in self._connections:
            connection.transport.abort()
        await self._wait_until_lost(self._connections)

    def _drain(self, connection: ClientConnection) -> None:
        settings = self.settings
        code = CloseCode.SERVICE_RESTART if settings.drain_s else CloseCode.GOING_AWAY
        connection.drain(code, "the gateway stops", settings.shutdown_timeout_s / 3)

    async def _wait_until_lost(self, connections: Iterable[ClientConnection]) -> None:
        """Wait until all ``connections`` are lost."""
        self._awaited = set(connections)
        self._all_lost.clear()
        if self._awaited:
            await self._all_lost.wait()

"""Those who ask a session on behalf of a request of plain HTTP, and make a response of what it answers."""

from __future__ import annotations

from http import HTTPStatus
from typing import Protocol as Interface

from rsws.errors import CloseCode
from rsws.gateway.delivery.subscription import Subscription
from rsws.gateway.exchanges.answers import Refusal, json_line
from rsws.gateway.peer import Peer
from rsws.gateway.session.client import Client
from rsws.gateway.session.session import Session
from rsws.gateway.websocket.connection import ClientConnection
from rsws.gateway.websocket.keepalive import Liveness
from rsws.protocol import Ack, Error, ErrorAck, decode_reply


class Responder(Interface):
    """The interface of an exchange that whoever asks for it needs."""

    __slots__ = ()

    def respond(self, status: HTTPStatus, body: bytes = b"") -> None:
        """Send the whole response."""

    def refuse(self, refusal: Refusal) -> None:
        """Send a refusal, unless a response has begun."""

    def begin_stream(self, content_type: str) -> None:
        """Send the head of a response whose body comes piece by piece; further input is ignored."""

    def end_stream(self) -> None:
        """End the body."""

    def drain(self, code: CloseCode, reason: str, timeout_s: float) -> None:
        """Finish soon; no other request may come over this connection."""


class Asking(Client):
    """The client of a session for one request.

    Args:
        exchange: The request and its response.
        connection: Its connection.
    """

    __slots__ = ("connection", "exchange")

    is_lasting = False

    def __init__(self, exchange: Responder, connection: ClientConnection) -> None:
        self.exchange = exchange
        self.connection = connection

    @property
    def life(self) -> Liveness:
        return self.connection.life

    @property
    def source(self) -> Peer:
        return self.connection.source

    @property
    def peer(self) -> str:
        return self.connection.peer

    def request_started(self, size: int, count: int = 1) -> None:
        pass  # there is one, which the connection waits for

    def request_done(self, size: int, count: int = 1) -> None:
        pass

    def adjust_reading(self) -> None:
        self.connection.adjust_reading()

    def drain(self, code: CloseCode, reason: str, timeout_s: float) -> None:
        self.exchange.drain(code, reason, timeout_s)

    def fail(self, code: CloseCode, reason: str) -> None:
        self.connection.transport.abort()

    def begin(self, session: Session) -> None:
        """Ask, now that the whole request has come."""

    def end(self) -> None:
        """Clean up: the exchange is over."""

    # --- see rsws.gateway.delivery.subscription.Outlet ---

    def reply(self, payload: bytes) -> None:
        """Take nothing of what a session may say unasked, as that the token ends soon."""

    def write(self, frames: bytes) -> None:
        """Take nothing: there are no messages for who has not subscribed."""

    def try_send(self, frames: bytes) -> bool:
        return False

    @property
    def has_room(self) -> bool:
        return self.connection.has_room

    def when_room(self, subscription: Subscription) -> None:
        self.connection.when_room(subscription)

    @property
    def is_reading_page(self) -> bool:
        return self.connection.is_reading_page

    def page_begins(self) -> None:
        self.connection.page_begins()

    def page_done(self) -> None:
        self.connection.page_done()


class Publishing(Asking):
    """The client of a session for a publish."""

    __slots__ = ()

    def reply(self, payload: bytes) -> None:
        reply = decode_reply(payload.decode())
        if isinstance(reply, Ack):
            stored = {"streamId": str(reply.stream_id)}
            self.exchange.respond(HTTPStatus.OK, json_line(stored | ({"duplicate": True} if reply.duplicate else {})))
        elif isinstance(reply, Error | ErrorAck):
            self.exchange.refuse(Refusal.of(reply))

"""One request of plain HTTP and its response: the bytes to and from the h11 library, and who is at the other end.

What is asked for is done by a :class:`rsws.gateway.session.session.Session`, as for a WebSocket: an exchange makes a
request of the protocol of what came, and HTTP of what the session answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol as Interface

import h11

from rsws.errors import CloseCode, ErrorCode
from rsws.gateway.exchanges.answers import JSON, STATUS, Refusal, error_body, headers_for_pages, refuse_unread
from rsws.gateway.exchanges.asking import Asking, Publishing, Responder
from rsws.gateway.exchanges.listing import Listing
from rsws.gateway.exchanges.routes import (
    find_channel,
    find_idempotency_key,
    find_listing,
    find_wish,
    make_publish,
    too_big,
)
from rsws.gateway.exchanges.streaming import Streaming
from rsws.gateway.http import Request
from rsws.gateway.limits import Limits
from rsws.gateway.session.client import Client
from rsws.gateway.session.session import Session
from rsws.gateway.websocket.connection import ClientConnection
from rsws.gateway.websocket.interfaces import Exchange as ExchangeInterface
from rsws.log_lines import LogLine
from rsws.options import KIB
from rsws.settings import Settings
from rsws.tokens.grant import Grant

log = logging.getLogger("rsws.gateway")

COME_BACK = {"Retry-After": "1"}
MAX_BLANKS = 4 * KIB
"""The bytes that a body may have beside its data: line breaks and the like around it."""
TOKEN_REFUSED = Refusal(
    HTTPStatus.UNAUTHORIZED,
    ErrorCode.BAD_TOKEN,
    "the token is missing or wrong: send Authorization: Bearer TOKEN, or ?token=TOKEN",
    {"WWW-Authenticate": 'Bearer realm="rsws"'},
)


class ExchangeOwner(Interface):
    """The interface of the client registry that an exchange needs."""

    __slots__ = ()

    settings: Settings
    limits: Limits

    def check_token(self, connection: ClientConnection, request: Request) -> Grant | float:
        """Return what the token of a request allows; or the seconds after which to refuse it."""

    def admit(self, connection: ClientConnection, client: Client, grant: Grant) -> Session | None:
        """Return the session of a client that is let in; None where there is no room for it."""

    def stream_begins(self, connection: ClientConnection, who: str | None, channel: str) -> None:
        """Count a client that is now subscribed for as long as it stays, as those with a WebSocket are."""


class Exchange(ExchangeInterface, Responder):
    """One request and its response."""

    __slots__ = (
        "_asking", "_body", "_channel", "_connection", "_grant", "_http", "_is_busy", "_is_last", "_is_stream", "_key",
        "_owner", "_refusing", "_request", "_session",
    )  # fmt: skip

    def __init__(self, connection: ClientConnection, owner: ExchangeOwner, request: Request) -> None:
        self._connection = connection
        self._owner = owner
        self._request = request
        """The head, which tells what h11 finds in it, too."""
        # The head has been found to be short enough; the limit holds for what h11 may keep of a chunk's.
        self._http = h11.Connection(h11.SERVER, max(16 * KIB, owner.settings.max_header_bytes))
        self._body = bytearray()
        self._channel = ""
        self._key: str | None = None
        self._grant: Grant | None = None
        self._session: Session | None = None
        self._asking: Asking | None = None
        self._is_busy = False
        self._is_last = False
        self._is_stream = False
        """Whether the response is a stream under way."""
        self._refusing: asyncio.TimerHandle | None = None

    # --- see rsws.gateway.websocket.interfaces.Exchange ---

    @property
    def is_busy(self) -> bool:
        return self._is_busy

    def receive(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            if not self._is_busy:
                self._read_or_refuse()
        except Exception:
            log.exception(LogLine("a bug in the gateway", client=self._connection.peer))
            self._connection.transport.abort()

    @property
    def is_complete(self) -> bool:
        return self._http.their_state not in (h11.IDLE, h11.SEND_BODY)

    @property
    def rest(self) -> bytes:
        return self._http.trailing_data[0]

    def drain(self, code: CloseCode, reason: str, timeout_s: float) -> None:
        self._is_last = True
        if isinstance(self._asking, Streaming) and self._http.our_state is h11.SEND_BODY:
            self._asking.leave(code)
        elif not (self._is_busy and isinstance(self._asking, Publishing)):  # a publish under way is answered
            is_token = code is CloseCode.POLICY_VIOLATION
            self.refuse(TOKEN_REFUSED if is_token else Refusal(STATUS[ErrorCode.STOPPING], ErrorCode.STOPPING, reason))

    def end(self) -> None:
        if self._refusing is not None:
            self._refusing.cancel()
            self._refusing = None
        if self._asking is not None:
            self._asking.end()
        if self._is_stream:
            self._is_stream = False
            log.info(LogLine("stream ends", client=self._connection.peer, who=self._who, channel=self._channel))

    # --- the request ---

    def _read_or_refuse(self) -> None:
        try:
            self._read()
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            self.refuse(Refusal(status, ErrorCode.BAD_REQUEST, f"that is not HTTP/1.1: {error}"))
        except Refusal as refusal:
            self.refuse(refusal)

    def _read(self) -> None:
        while not self._is_busy:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._begin()
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > self._owner.settings.max_message_bytes + MAX_BLANKS:
                    raise too_big(self._owner.settings.max_message_bytes)
            elif isinstance(event, h11.EndOfMessage):
                self._ask()
            else:
                return

    def _begin(self) -> None:
        """Look at the head: what can be refused without the body is."""
        request = self._request
        self._refuse_two_ends()
        if request.method == "OPTIONS":
            self.respond(HTTPStatus.NO_CONTENT)
            return
        grant = self._owner.check_token(self._connection, request)
        if not isinstance(grant, Grant):
            self._be_busy()
            self._refusing = asyncio.get_running_loop().call_later(grant, self.refuse, TOKEN_REFUSED)
            return
        self._grant = grant
        self._channel = find_channel(request) or ""
        if not self._channel:
            self._asking = Listing(self, self._connection, *find_listing(request))
        elif request.method == "POST":
            self._key = find_idempotency_key(request)
            self._asking = Publishing(self, self._connection)
        else:
            wish = find_wish(request, self._channel, in_chunks=self._http.their_http_version == b"1.1")
            self._asking = Streaming(self, self._connection, wish, self._owner.limits.blank_s)
        length = request.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._owner.settings.max_message_bytes + MAX_BLANKS:
            raise too_big(self._owner.settings.max_message_bytes)
        self._session = self._owner.admit(self._connection, self._asking, grant)
        if self._session is None:
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE, ErrorCode.TOO_MANY, "too many clients; come back later", COME_BACK
            )
        if self._http.they_are_waiting_for_100_continue:
            self._send(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))

    def _refuse_two_ends(self) -> None:
        """Refuse a body that a proxy may take to end elsewhere, so that a request hides in it (RFC 9112, 6.1, 6.3)."""
        headers = self._request.headers
        is_old = self._http.their_http_version == b"1.0"
        if b"transfer-encoding" in headers and (is_old or b"content-length" in headers):
            self._is_last = True
            text = "Transfer-Encoding is for HTTP/1.1, and without Content-Length"
            raise Refusal(HTTPStatus.BAD_REQUEST, ErrorCode.BAD_REQUEST, text)

    def _ask(self) -> None:
        """Have the session do what the request asks for."""
        assert self._grant is not None
        assert self._session is not None
        assert self._asking is not None
        self._be_busy()
        if not isinstance(self._asking, Publishing):
            self._asking.begin(self._session)
            return
        max_bytes = self._owner.settings.max_message_bytes
        publish = make_publish(self._channel, bytes(self._body), self._key, self._grant, max_bytes)
        self._session.handle(publish, len(publish.data))

    def _be_busy(self) -> None:
        """Read nothing more before the response is made: requests of one client are done one after the other."""
        self._is_busy = True
        self._connection.adjust_reading()

    # --- the response ---

    def refuse(self, refusal: Refusal) -> None:
        if self._http.our_state is h11.IDLE:  # h11 has found no request, so that it would not know of a HEAD
            self._send(refuse_unread(self._request, refusal))
            self._connection.exchange_done(goes_on=False)
        elif self._http.our_state is h11.SEND_RESPONSE:
            self.respond(refusal.status, error_body(self._request, refusal), refusal.headers)

    def respond(self, status: HTTPStatus, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send the whole response; the connection goes on with its next request if the whole of this one has come."""
        self._is_busy = True
        self._skip_body()
        http, request = self._http, self._request
        fields = {"Date": formatdate(usegmt=True)} | (JSON if body else {}) | self._headers_for_pages
        if status is not HTTPStatus.NO_CONTENT:
            fields["Content-Length"] = str(len(body))
        if self._is_last or not self.is_complete or http.their_state is h11.ERROR:
            fields["Connection"] = "close"
        fields |= headers or {}
        out = http.send(h11.Response(status_code=status, reason=status.phrase, headers=[*fields.items()])) or b""
        if body and request.method != "HEAD":
            out += http.send(h11.Data(data=body)) or b""
        self._send(out + (http.send(h11.EndOfMessage()) or b""))
        self._connection.exchange_done(goes_on=http.our_state is http.their_state is h11.DONE)

    def begin_stream(self, content_type: str) -> None:
        fields = {
            "Date": formatdate(usegmt=True),
            "Content-Type": content_type,
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # nginx would keep back what comes in small pieces
            "Connection": "close",
        } | self._headers_for_pages
        self._send(self._http.send(h11.Response(status_code=200, reason="OK", headers=[*fields.items()])))
        self._is_stream = True
        self._owner.stream_begins(self._connection, self._who, self._channel)
        self._is_busy = False  # so that the end of the connection is noticed
        self._connection.ignore()
        self._connection.adjust_reading()

    def end_stream(self) -> None:
        if self._http.our_state is h11.SEND_BODY:
            self._send(self._http.send(h11.EndOfMessage()))
            self._connection.exchange_done(goes_on=False)

    def _skip_body(self) -> None:
        """Take note of what has come of a body that is not looked at: the next request may stand behind it."""
        with suppress(h11.RemoteProtocolError):
            while self._http.their_state is h11.SEND_BODY and self._http.next_event() is not h11.NEED_DATA:
                pass

    @property
    def _who(self) -> str | None:
        return None if self._grant is None else self._grant.who

    @property
    def _headers_for_pages(self) -> dict[str, str]:
        request = self._request
        is_listed = bool(self._owner.settings.origin)
        origin = request.headers.get(b"origin")
        return headers_for_pages(origin, is_listed=is_listed, is_preflight=request.method == "OPTIONS")

    def _send(self, data: bytes | None) -> None:
        if data:
            self._connection.write(data)

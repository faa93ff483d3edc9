"""A client's WebSocket connection: messages in, bounded writes out, liveness, close codes. It knows nothing of Redis.

It is an asyncio protocol: no connection or message has a task, a queue or a coroutine. The sections in comments are
those of RFC 6455.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Protocol as Interface

from websockets.protocol import Protocol, State

from rsws.errors import CloseCode
from rsws.gateway.http import Request, RequestReader
from rsws.gateway.peer import UNKNOWN, Peer
from rsws.gateway.websocket.compression import agreed_compressor
from rsws.gateway.websocket.frames import PING, text_frame, text_frames
from rsws.gateway.websocket.handshake import Opening
from rsws.gateway.websocket.interfaces import Exchange, MessageHandler, TurnedAway
from rsws.gateway.websocket.keepalive import Liveness, Verdict
from rsws.gateway.websocket.receiving import FrameReader, Receiver
from rsws.gateway.websocket.turns import BYTES_UNDER_WAY, REQUESTS_UNDER_WAY, Turns
from rsws.gateway.websocket.write_queue import QueueOwner, WriteQueue
from rsws.log_lines import LogLine
from rsws.options import KIB
from rsws.settings import Settings

log = logging.getLogger("rsws.gateway")

REPLIES_ROOM = 4
"""The size of buffered replies, in high-water marks, above which a client's requests have to wait."""
IGNORED_BYTES = 64 * KIB
"""The bytes that are read and discarded from a refused client, so that the end of its connection is noticed."""
LEAST_REQUESTS, LEAST_BYTES = REQUESTS_UNDER_WAY[0], BYTES_UNDER_WAY[0]


class ConnectionOwner(QueueOwner, Interface):
    """The interface of the client registry that a connection needs."""

    __slots__ = ()

    close_timeout_s: float
    settings: Settings
    turns: Turns

    def connected(self, connection: ClientConnection) -> None:
        """Add a new connection, before its handshake."""

    def identified(self, connection: ClientConnection) -> None:
        """Note that it is known now who the client is: abort the connection, or mark it, if it is one too many."""

    def answer(self, connection: ClientConnection, request: Request | HTTPStatus) -> Opening | Exchange | bytes:
        """Return the answer to a request: an opening for a handshake, else a response; a status becomes a refusal.

        An exchange is given the request's bytes, and makes the response itself.
        """

    def exchange_done(self, connection: ClientConnection, *, goes_on: bool) -> None:
        """Note that an exchange is over; the connection waits for its next request, or is about to be closed."""

    def opened(self, connection: ClientConnection, opening: Opening) -> None:
        """Admit the client after its handshake, and pass a handler to :meth:`ClientConnection.start`; or refuse it."""

    def handshake_timed_out(self, connection: ClientConnection) -> None:
        """Note that a connection is about to be cut off, as its time for a handshake is over."""

    def closing(self, connection: ClientConnection) -> None:
        """Note that an open connection is no longer open, for whatever reason."""

    def lost(self, connection: ClientConnection) -> None:
        """Remove a lost connection, whether it was open or not."""


class ClientConnection(WriteQueue, asyncio.Protocol, Receiver):
    """A client's connection, from its first byte to its end."""

    __slots__ = (
        "_connected_at",
        "_cutting_off",
        "_exchange",
        "_frames",
        "_handler",
        "_ignored_bytes",
        "_in_flight",
        "_in_flight_bytes",
        "_pending_close",
        "_request",
        "counted_as",
        "ignores_input",
        "is_full",
        "is_open",
        "life",
        "source",
        "turned_away",
    )  # fmt: skip

    _owner: ConnectionOwner
    is_lasting = True
    """See :class:`rsws.gateway.session.client.Client`."""

    def __init__(self, owner: ConnectionOwner) -> None:
        super().__init__(owner)
        self._request: RequestReader | None = None
        self._frames: FrameReader | None = None
        """The reader of the client's frames, once the handshake is done."""
        self._exchange: Exchange | None = None
        """The request of plain HTTP under way."""
        self._handler: MessageHandler | None = None
        self.is_open = False
        """Whether messages can be sent: between the handshake and a close frame."""
        self.ignores_input = False
        self._ignored_bytes = 0
        self._cutting_off: asyncio.TimerHandle | None = None
        self._pending_close: tuple[CloseCode, str] | None = None
        self._in_flight = 0
        self._in_flight_bytes = 0
        self.is_full = False
        self._connected_at = self._loop.time()
        """When it began to wait for a request: when it was made, or when the one before was answered."""
        self.life = Liveness(self._connected_at)
        self.counted_as: str | int | None = None
        """The address that it is counted under; None where it is not counted."""
        self.turned_away: TurnedAway | None = None
        """Why it is refused, whatever its request says; None where it is not."""

    @property
    def address(self) -> str:
        """The client's IP address, which limits count; behind a trusted proxy the proxy's own until it is told."""
        return self.source.address

    @property
    def peer(self) -> str:
        """See :class:`.WriteQueue`: the client's address, and its port where that is known."""
        return str(self.source)

    # --- input ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the connection (a callback of asyncio)."""
        self.write_to(transport)
        transport.set_write_buffer_limits(self._owner.high_water_bytes)
        address = transport.get_extra_info("peername")
        # IPv4 addresses have a prefix on a socket that is for IPv6, too.
        self.source = Peer(address[0].removeprefix("::ffff:"), address[1]) if address else UNKNOWN
        """Who the client is: who has connected, until a trusted proxy tells for whom."""
        self._owner.connected(self)

    def start(self, handler: MessageHandler) -> None:
        """Pass messages to ``handler`` from now on."""
        self._handler = handler

    def data_received(self, data: bytes) -> None:
        """Handle bytes from the client (a callback of asyncio)."""
        self.life.heard_at = self._loop.time()
        if self._frames is not None and not self.ignores_input:  # as for each message
            self._frames.receive(data)
        elif self.ignores_input:
            self._ignore(data)
        elif behind := self._read_handshake(data):
            self._receive(behind)

    def _receive(self, data: bytes) -> None:
        if self.ignores_input:
            self._ignore(data)
        elif self._frames is not None and data:
            self._frames.receive(data)

    def _read_handshake(self, data: bytes) -> bytes:
        """Have the request answered once it is complete; return the bytes after it, if it has opened a WebSocket."""
        if self._exchange is not None:
            self._exchange.receive(data)
            return b""
        reader = self._request
        if reader is None:
            reader = self._request = RequestReader(self._owner.settings.max_header_bytes)
        request = reader.read(data)
        if request is None:
            return b""
        handshakes = self._owner.turns.handshakes
        if handshakes.has_room():
            return self._answer_request(request, reader)
        handshakes.wait(partial(self._answer_in_turn, request, reader))
        self.reading_waits = True
        self.transport.pause_reading()
        return b""

    def _answer_in_turn(self, request: Request | HTTPStatus, reader: RequestReader) -> None:
        if not self.transport.is_closing():
            data = self._answer_request(request, reader)
            self.adjust_reading()
            self._receive(data)

    def _answer_request(self, request: Request | HTTPStatus, reader: RequestReader) -> bytes:
        """Answer the request; return the bytes after it, if it has opened a WebSocket."""
        answer = self._owner.answer(self, request)
        if isinstance(answer, bytes):
            self.ignores_input = True
            self.queue(answer)
            self._write_end()
            return b""
        self._request = None
        if not isinstance(answer, Opening):
            self._exchange = answer
            answer.receive(reader.received)
            return b""
        self.queue(answer.answer)
        self._frames = FrameReader(self, answer.extensions, self._owner.settings.max_message_bytes)
        if answer.extensions:
            self.compressor = agreed_compressor(answer.extensions)
        self.is_open = True
        self._owner.opened(self, answer)
        return reader.behind

    def exchange_done(self, *, goes_on: bool) -> None:
        """End the connection after an exchange, whose response was written, or go on with the next request."""
        if self._exchange is None:  # the connection was lost meanwhile
            return
        self._exchange.end()
        self._connected_at = self._loop.time()
        self._owner.exchange_done(self, goes_on=goes_on)
        if goes_on:  # each request takes its own turn; until then the exchange is busy, so that nothing more is read
            self.adjust_reading()
            self._loop.call_soon(self._read_next)
        else:
            self._exchange = None
            self.ignores_input = True
            self._write_end()

    def _read_next(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None and not self.transport.is_closing():
            if exchange.rest:
                self.data_received(exchange.rest)
            self.adjust_reading()

    def ignore(self) -> None:
        """Ignore everything that the client sends from now on: it is refused."""
        self.ignores_input = True

    def _ignore(self, data: bytes) -> None:
        """Discard input, which is read only to notice its end, and stop reading after ``IGNORED_BYTES``."""
        self._ignored_bytes += len(data)
        if self._ignored_bytes > IGNORED_BYTES:
            self.transport.pause_reading()

    def messages_received(self, payloads: Sequence[bytes]) -> None:
        """See :class:`rsws.gateway.websocket.receiving.Receiver`."""
        if self._handler is None:
            return
        try:
            self._handler.texts_received(map(bytes.decode, payloads))
        except UnicodeDecodeError:  # sections 8.1 and 7.4.1: 1007
            self.fail(CloseCode.INVALID_DATA, "invalid UTF-8")
        except Exception:  # section 7.4.1: 1011
            log.exception(LogLine("a bug in the gateway", client=self.peer))
            self.fail(CloseCode.INTERNAL_ERROR, "internal error")
        if self._in_flight >= LEAST_REQUESTS or self._in_flight_bytes >= LEAST_BYTES or not self.has_room:
            self.adjust_reading()

    def frame_parsed(self, websocket: Protocol) -> None:
        """See :class:`rsws.gateway.websocket.receiving.Receiver`."""
        self._send_protocol_data(websocket)
        if websocket.state is not State.OPEN:
            self._close_began()

    def request_started(self, size: int, count: int = 1) -> None:
        """See :class:`rsws.gateway.session.client.Client`."""
        if not self.is_open:
            return
        if not self._in_flight:
            self._owner.turns.busy_clients += 1
        self._in_flight += count
        self._in_flight_bytes += size

    def request_done(self, size: int, count: int = 1) -> None:
        """See :class:`rsws.gateway.session.client.Client`."""
        if not self.is_open:
            return
        self._in_flight -= count
        self._in_flight_bytes -= size
        if self.reading_waits:
            self.adjust_reading()
        if not self._in_flight:
            self._owner.turns.busy_clients -= 1
            if self._pending_close is not None:
                self.close(*self._pending_close)

    @property
    def under_way(self) -> tuple[int, int]:
        """The requests that are not answered yet: how many, and how many characters."""
        return self._in_flight, self._in_flight_bytes

    def adjust_reading(self) -> None:
        """Pause or resume reading: a client waits while it has used its share, or does not read its replies."""
        turns, frames = self._owner.turns, self._frames
        self.is_full = (
            turns.is_over_share(self._in_flight, self._in_flight_bytes)
            or (self._handler is not None and self._handler.is_busy)
            or self.buffered_bytes > REPLIES_ROOM * self._owner.high_water_bytes
        )
        has_unread = frames is not None and frames.has_unread
        if frames is not None and has_unread and not (self.is_full or frames.is_in_line):
            frames.is_in_line = True
            turns.wait(frames)
        paused = self.is_full or has_unread or (self._exchange is not None and self._exchange.is_busy)
        if paused != self.reading_waits and not self.transport.is_closing():
            self.reading_waits = paused
            if paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    # --- output ---

    def reply(self, payload: bytes) -> None:
        """Queue one text message."""
        if self.is_open:
            self.queue(text_frame(payload))

    def reply_all(self, payloads: Iterable[bytes]) -> None:
        """Queue some text messages."""
        if self.is_open:
            self.queue(text_frames(payloads))

    def _answer(self, data: bytes) -> None:
        """Queue a reply; reading may pause when the write queue has no room."""
        self.queue(data)
        if not self.has_room:
            self.adjust_reading()

    def _send_protocol_data(self, websocket: Protocol) -> None:
        """Queue the data websockets has to send after what was written so far; empty data from it ends the writing."""
        for data in websocket.data_to_send():
            if data:
                self._answer(data)  # section 5.5.3: a pong; 5.5.1: a close frame, once
            else:  # section 7.1.1: the server closes TCP first
                self.ignores_input = True
                self._write_end()

    def _write_end(self) -> None:
        if self.transport.is_closing():
            return
        self.flush()
        try:
            self.transport.write_eof()
        except OSError:  # the client is gone, which asyncio has not noticed yet
            self.transport.abort()

    # --- liveness and end ---

    def check_alive(self, now: float, ping_after_s: float, dead_after_s: float) -> None:
        """Ping a silent client; abort one from which nothing came and to which nothing drained for too long."""
        if self.transport.is_closing():
            return
        if self._exchange is not None:
            self._check_exchange(self._exchange, now, dead_after_s)
            return
        if not self.is_open:
            if self._frames is None and now - self._connected_at > self._owner.settings.handshake_timeout_s:
                self._owner.handshake_timed_out(self)
                self.transport.abort()
            return
        match self.life.judge(now, self.drained_bytes, ping_after_s, dead_after_s):
            case Verdict.DEAD:
                log.info(LogLine("client dead", client=self.peer, silent_s=round(now - self.life.heard_at)))
                self.transport.abort()
            case Verdict.PING:
                self.flush()
                self.send(PING)  # section 5.5.2; not counted as written: its draining is no sign of life

    def _check_exchange(self, exchange: Exchange, now: float, dead_after_s: float) -> None:
        """Abort a connection over which a request comes too slowly, or whose client is dead."""
        is_slow = not exchange.is_complete and now - self._connected_at > dead_after_s
        if is_slow or self.life.judge(now, self.drained_bytes, dead_after_s, dead_after_s) is Verdict.DEAD:
            self.transport.abort()

    def drain(self, code: CloseCode, reason: str, timeout_s: float) -> None:
        """Ignore further messages; close once the client's requests are answered, or after ``timeout_s`` seconds."""
        if self._exchange is not None:
            self._exchange.drain(code, reason, timeout_s)
            return
        self._handler = None
        if self._in_flight:
            self._pending_close = code, reason
            self._loop.call_later(timeout_s, self._drain_timed_out)
        else:
            self.close(code, reason)

    def _drain_timed_out(self) -> None:
        if self.is_open and self._pending_close is not None:
            log.warning(LogLine("closing before Redis answered", client=self.peer))
            self.close(*self._pending_close)

    def close(self, code: CloseCode, reason: str) -> None:
        """Close after what was written so far."""
        if self.is_open and self._frames is not None:
            websocket = self._frames.get_websocket()
            websocket.send_close(code, reason)  # sections 7.1.2 and 5.5.1
            self._send_protocol_data(websocket)
            self._close_began()

    def fail(self, code: CloseCode, reason: str) -> None:
        """Close after what was written so far, and ignore further input: the client is refused, or broke the rules."""
        if self.is_open and self._frames is not None:
            websocket = self._frames.get_websocket()
            websocket.fail(code, reason)  # section 7.1.7
            self._send_protocol_data(websocket)
            self._close_began()

    @property
    def end_code(self) -> int:
        """The close code of a connection that is closed, or closing."""
        websocket = self._frames and self._frames.websocket
        closed = websocket and (websocket.close_rcvd or websocket.close_sent)
        return closed.code if closed else 1006  # section 7.1.5: gone without a close frame

    def _close_began(self, *, is_lost: bool = False) -> None:
        if self._exchange is not None:
            self._exchange.end()
            self._exchange = None
            self.forget_waiting()
            self._owner.exchange_done(self, goes_on=False)
        if self.is_open:  # section 7.1.3: after the first close frame, in either direction, nothing more is sent
            self.is_open = False
            self._handler = None
            if self._in_flight:
                self._owner.turns.busy_clients -= 1
            if not is_lost:  # the client may neither answer nor read
                self.forget_waiting()
                self._cutting_off = self._loop.call_later(self._owner.close_timeout_s, self.transport.abort)
            self._owner.closing(self)

    def eof_received(self) -> None:
        """Handle the end of the client's input, on which the transport closes itself (a callback of asyncio)."""
        self.flush()
        self._close_began()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after the end of the connection (a callback of asyncio)."""
        self._close_began(is_lost=True)
        if self._cutting_off is not None:
            self._cutting_off.cancel()
            self._cutting_off = None  # the reference cycle would keep both alive
        self.drop()
        if self._frames is not None:
            self._frames.break_cycles()
        self._owner.lost(self)

"""One WebSocket: messages in, bounded writes out, signs of life, close codes. Knows no Redis.

An asyncio protocol around websockets' Sans-I/O one, which does the closing and everything before it that is neither
the handshake nor a plain message. Between two messages an open connection has none: that is a third of its memory, and
half the time a message takes. There is no task, no queue and no coroutine for a connection or a message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Protocol as Interface
from typing import cast

from websockets.extensions import Extension
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, State

from rsws.errors import CloseCode
from rsws.gateway import protocols
from rsws.gateway.compression import Compressor, agreed_compressor
from rsws.gateway.frames import MAX_HEADER_BYTES, PING, frame_size, read_messages, text_frame
from rsws.gateway.handshake import Opening
from rsws.gateway.http import Request, RequestReader
from rsws.gateway.keepalive import SignsOfLife, Verdict, unacknowledged_bytes
from rsws.gateway.subscription import Subscription

log = logging.getLogger("rsws.gateway")

OPEN_TIMEOUT_S = 10.0
REPLIES_ROOM = 4
"""A client may let this many times the high-water mark of replies pile up before its requests have to wait."""
IN_FLIGHT_REQUESTS = 1000
IN_FLIGHT_BYTES = 4 * 1024 * 1024
_DATA = (Opcode.TEXT, Opcode.CONT, Opcode.BINARY)


class MessageHandler(Interface):
    """What a connection needs of whoever answers its messages."""

    def text_received(self, text: str) -> None:
        """One message of the client."""


class Host(Interface):
    """What a connection needs of the server it belongs to."""

    max_message_bytes: int
    high_water_bytes: int
    close_timeout_s: float

    def connected(self, connection: ClientConnection) -> None:
        """There is a new one, before its handshake."""

    def answer(self, connection: ClientConnection, request: Request | HTTPStatus) -> Opening | bytes:
        """The answer to what the client asked for, a handshake or something else; a status is a refusal."""

    def opened(self, connection: ClientConnection, path: str) -> None:
        """The handshake is done: who answers is given to :meth:`ClientConnection.start`."""

    def turn(self) -> int:
        """The number of this turn of the loop, positive."""

    def will_flush(self, connection: ClientConnection) -> None:
        """Something was written: its :meth:`ClientConnection.flush` is to be called at the end of this turn."""

    def closing(self, connection: ClientConnection) -> None:
        """An open connection is open no more, for whatever reason."""

    def lost(self, connection: ClientConnection) -> None:
        """The connection is gone, whether it was open or not."""


class ClientConnection(asyncio.Protocol):
    """A client's connection, from its first to its last moment."""

    __slots__ = (
        "_compressor", "_connected_at", "_cutting_off", "_extensions", "_handler", "_host", "_in_flight",
        "_in_flight_bytes", "_last_words", "_life", "_loop", "_offered_in", "_out", "_out_bytes", "_partial",
        "_paused", "_reading_paused", "_request", "_rest", "_rest_wanted", "_waiting", "_was_open", "_websocket",
        "_written", "is_open", "peer", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._request: RequestReader | None = None
        self._websocket: Protocol | None = None
        self._extensions: Sequence[Extension] = ()
        self._compressor: Compressor | None = None
        self._rest: bytearray | None = None
        """The beginning of a frame that is not all there."""
        self._rest_wanted = 0
        self._partial: bytearray | None = None
        """The beginning of a fragmented message."""
        self._handler: MessageHandler | None = None
        self.is_open = False
        """Whether messages can be sent: between the handshake and a close frame."""
        self._was_open = False
        self._cutting_off: asyncio.TimerHandle | None = None
        self._paused = False
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._last_words: tuple[CloseCode, str] | None = None
        self._waiting: dict[Subscription, None] | None = None  # in turn
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._reading_paused = False
        self._connected_at = self._loop.time()
        self._life = SignsOfLife(self._connected_at)
        self._offered_in = 0
        self._written = 0

    # --- in ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's hook for the beginning of the connection."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(self._host.high_water_bytes)
        address = transport.get_extra_info("peername")
        # On a socket that is for IPv4 as well, its addresses have a prefix.
        self.peer = f"{address[0].removeprefix('::ffff:')}:{address[1]}" if address else "unknown"
        """The client's address, for a log line."""
        self._host.connected(self)

    def start(self, handler: MessageHandler) -> None:
        """Hand messages to ``handler`` from now on."""
        self._handler = handler

    def data_received(self, data: bytes) -> None:
        """asyncio's hook for bytes from the client."""
        self._life.heard_at = self._loop.time()
        if not self.is_open:
            if self._was_open:
                self._parse(data)
                return
            data = self._read_handshake(data)
            if not self.is_open or not data:
                return
        if self._rest is not None:
            self._rest += data
            if len(self._rest) < self._rest_wanted:
                return
            data, self._rest = bytes(self._rest), None
        start = 0
        while self.is_open:
            if self._websocket is None:
                payloads, start = read_messages(data, start, self._host.max_message_bytes)
                for payload in payloads:
                    self._message_received(payload)
            if start == len(data):
                return
            size = frame_size(data, start)
            if len(data) < start + size <= start + self._host.max_message_bytes + MAX_HEADER_BYTES:
                self._rest, self._rest_wanted = bytearray(data[start:]), size
                return
            self._parse(data[start : start + size])
            start += size

    def _read_handshake(self, data: bytes) -> bytes:
        """Answer the request once it is all there; what is behind it, if that is a client's who was let in."""
        reader = self._request
        if reader is None:
            reader = self._request = RequestReader()
        request = reader.read(data)
        if request is None:
            return b""
        answer = self._host.answer(self, request)
        if isinstance(answer, bytes):
            self._write(answer)
            self.flush()
            self.transport.write_eof()
            return b""
        self._request = None
        self._write(answer.answer)
        if answer.extensions:
            self._extensions = answer.extensions
            self._compressor = agreed_compressor(answer.extensions)
        self._open(answer.path)
        return reader.behind if self._handler is not None else b""

    def _parse(self, data: bytes) -> None:
        """Let websockets read what is no plain message."""
        websocket = self._get_websocket()
        websocket.receive_data(data)
        for event in websocket.events_received():
            if isinstance(event, Frame) and event.opcode in _DATA:
                self._frame_received(event)
        self._send_protocol_data(websocket)
        if websocket.state is not State.OPEN:
            self._close_began()
        elif self._partial is None:
            self._drop_websocket()

    def _drop_websocket(self) -> None:
        websocket, self._websocket = self._websocket, None
        if websocket is not None:
            protocols.let_go(websocket)

    def _get_websocket(self) -> Protocol:
        if self._websocket is None:
            self._websocket = protocols.after_handshake(self._extensions, self._host.max_message_bytes)
        return self._websocket

    def _open(self, path: str) -> None:
        self.is_open = self._was_open = True
        self._host.opened(self, path)

    def _frame_received(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY:
            self.fail(CloseCode.UNSUPPORTED_DATA, "text frames only")
        elif frame.fin and self._partial is None:
            self._message_received(bytes(frame.data))
        else:
            if self._partial is None:
                self._partial = bytearray()
            self._partial += frame.data
            if frame.fin:
                payload, self._partial = bytes(self._partial), None
                self._message_received(payload)

    def _message_received(self, payload: bytes) -> None:
        if self._handler is None:
            return
        try:
            self._handler.text_received(payload.decode())
        except UnicodeDecodeError:
            self.fail(CloseCode.INVALID_DATA, "invalid UTF-8")
        except Exception:
            log.exception("a bug in the gateway client=%s", self.peer)
            self.fail(CloseCode.INTERNAL_ERROR, "internal error")

    def request_started(self, size: int) -> None:
        """A request of that many characters is under way; with too many of them the client has to wait."""
        self._in_flight += 1
        self._in_flight_bytes += size
        if self._in_flight >= IN_FLIGHT_REQUESTS or self._in_flight_bytes >= IN_FLIGHT_BYTES:
            self._adjust_reading()

    def request_done(self, size: int) -> None:
        """It is answered; ``size`` is that of then."""
        self._in_flight -= 1
        self._in_flight_bytes -= size
        if self._reading_paused:
            self._adjust_reading()
        if not self._in_flight and self._last_words is not None:
            self.close(*self._last_words)

    def _adjust_reading(self) -> None:
        full = (
            self._in_flight >= IN_FLIGHT_REQUESTS
            or self._in_flight_bytes >= IN_FLIGHT_BYTES
            or self.buffered_bytes > REPLIES_ROOM * self._host.high_water_bytes
        )
        if full != self._reading_paused and not self.transport.is_closing():
            self._reading_paused = full
            if full:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    # --- out ---

    @property
    def buffered_bytes(self) -> int:
        """Bytes written but not yet taken by the kernel."""
        return self._out_bytes + self.transport.get_write_buffer_size()

    @property
    def has_room(self) -> bool:
        """Whether a subscription may write: false above the high-water mark, until the client has read."""
        return not self._paused and self._out_bytes < self._host.high_water_bytes

    def offer(self, frames: bytes) -> bool:
        """Write text frames if there is room.

        Those that are the first in a turn of the loop leave at once, so that in a wide fan-out the first clients have
        them while the last are still written to; what comes after them in the same turn is gathered like all else.
        """
        if not self.has_room:
            return False
        if self._compressor is not None:
            frames = self._compressor.compress(frames)
        turn = self._host.turn()
        if self._out or turn == self._offered_in:
            self._write(frames)
        else:
            self._offered_in = turn
            self._written += len(frames)
            self.transport.write(frames)
        return True

    def write(self, frames: bytes) -> None:
        """Write text frames behind everything written before; they leave at the end of this turn of the loop."""
        self._write(frames if self._compressor is None else self._compressor.compress(frames))

    def _write(self, frames: bytes) -> None:
        if not self._out:
            self._host.will_flush(self)
        self._out.append(frames)
        self._out_bytes += len(frames)

    def reply(self, payload: bytes) -> None:
        """Write one text message in answer to a request."""
        if self.is_open:
            self._answer(text_frame(payload))

    def _answer(self, data: bytes) -> None:
        """Write what the client has asked for; one that does not read it is not read any more."""
        self._write(data)
        if not self.has_room:
            self._adjust_reading()

    def when_room(self, subscription: Subscription) -> None:
        """See :class:`rsws.gateway.subscription.Outlet`."""
        if self._waiting is None:
            self._waiting = {}
        self._waiting[subscription] = None

    def flush(self) -> None:
        """Hand everything written so far to the transport in one piece."""
        out = self._out
        if out:
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))
            self._written += self._out_bytes
            out.clear()
            self._out_bytes = 0
        if self._waiting and not self._paused:
            self._loop.call_soon(self._serve_waiting)
        if self._reading_paused:
            self._adjust_reading()

    def pause_writing(self) -> None:
        """asyncio's hook for a write buffer above the high-water mark."""
        self._paused = True

    def resume_writing(self) -> None:
        """asyncio's hook for a write buffer that has drained."""
        self._paused = False
        self._serve_waiting()
        if self._reading_paused:
            self._adjust_reading()

    def _serve_waiting(self) -> None:
        waiting = self._waiting
        for _ in range(len(waiting or ())):
            if not waiting or not self.has_room:
                return
            subscription = next(iter(waiting))
            del waiting[subscription]
            subscription.advance()

    def _send_protocol_data(self, websocket: Protocol) -> None:
        """Send what websockets has to say, after what was written so far; its word for the end is nothing."""
        for data in websocket.data_to_send():
            if data:
                self._answer(data)
            elif not self.transport.is_closing():
                self.flush()
                self.transport.write_eof()

    # --- life and end ---

    def check_alive(self, now: float, ping_after_s: float, dead_after_s: float) -> None:
        """Ping a silent client; cut off one from which nothing came and to which nothing drained for too long."""
        if self.transport.is_closing():
            return
        if not self.is_open:
            if not self._was_open and now - self._connected_at > OPEN_TIMEOUT_S:
                self.transport.abort()
            return
        drained = self._written - self.transport.get_write_buffer_size() - unacknowledged_bytes(self.transport)
        match self._life.judge(now, drained, ping_after_s, dead_after_s):
            case Verdict.DEAD:
                log.info("client dead client=%s silent_s=%.0f", self.peer, now - self._life.heard_at)
                self.transport.abort()
            case Verdict.PING:
                self.flush()
                self.transport.write(PING)  # not counted as written: that it drains is no sign of life

    def retire(self, code: CloseCode, reason: str, patience_s: float) -> None:
        """Look at nothing the client sends from now on; close once its requests are answered, or patience has ended."""
        self._handler = None
        if self._in_flight:
            self._last_words = code, reason
            self._loop.call_later(patience_s, self._lose_patience)
        else:
            self.close(code, reason)

    def _lose_patience(self) -> None:
        if self.is_open and self._last_words is not None:
            log.warning("closing before Redis answered client=%s", self.peer)
            self.close(*self._last_words)

    def close(self, code: CloseCode, reason: str) -> None:
        """Close after what was written so far."""
        if self.is_open:
            websocket = self._get_websocket()
            websocket.send_close(code, reason)
            self._send_protocol_data(websocket)
            websocket.receive_data(bytes(self._rest or b""))  # from now on it reads everything
            self._close_began()

    def fail(self, code: CloseCode, reason: str) -> None:
        """Close because the client broke the rules, after what was written so far."""
        if self.is_open:
            websocket = self._get_websocket()
            websocket.fail(code, reason)
            self._send_protocol_data(websocket)
            self._close_began()

    @property
    def end_code(self) -> int:
        """The close code of a connection that has ended, or is about to."""
        closed = self._websocket and (self._websocket.close_rcvd or self._websocket.close_sent)
        return closed.code if closed else 1006  # RFC 6455: gone without a close frame

    def _close_began(self) -> None:
        if self.is_open:
            self.is_open = False
            self._handler = None
            self._waiting = None
            # The client need not answer, or read.
            self._cutting_off = self._loop.call_later(self._host.close_timeout_s, self.transport.abort)
            self._host.closing(self)

    def eof_received(self) -> None:
        """asyncio's hook for the end of the client's bytes; the transport closes itself then."""
        self._close_began()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's hook for the end of the connection."""
        self._close_began()
        if self._cutting_off is not None:
            self._cutting_off.cancel()
        self._out.clear()
        self._drop_websocket()
        self._host.lost(self)

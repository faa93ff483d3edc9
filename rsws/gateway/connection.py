"""One WebSocket: messages in, bounded writes out, signs of life, close codes. Knows no Redis.

Messages are handled where they arrive and written once a turn of the event loop, all that turn's frames in one
write: no task, no queue and no coroutine for a message.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sys
import termios
from collections.abc import Callable
from typing import Any, Protocol

from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

from rsws.errors import CloseCode
from rsws.gateway.frames import text_frame
from rsws.gateway.subscription import Subscription

log = logging.getLogger("rsws.gateway")

REPLIES_ROOM = 4
"""A client may let this many times the high-water mark of replies pile up before its requests have to wait."""
_DATA = (Opcode.TEXT, Opcode.CONT, Opcode.BINARY)
IN_FLIGHT_REQUESTS = 1000
IN_FLIGHT_BYTES = 4 * 1024 * 1024


class MessageHandler(Protocol):
    """What a connection needs of whoever answers its messages."""

    def text_received(self, text: str) -> None:
        """One message of the client."""


class ClientConnection(ServerConnection):
    """A client's connection.

    Until :meth:`start` is called messages are kept; after :meth:`ignore` they are dropped.

    Args:
        everyone: Where it is registered from its first to its last moment, the handshake included.
        has_room: Whether there is room for it; asked once it is connected, and if not it is cut off.
    """

    def __init__(
        self, *args: Any, everyone: set[ClientConnection], has_room: Callable[[], bool], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._everyone = everyone
        self._has_room = has_room
        self.high_water_bytes = self.write_limit_high
        self.ended: asyncio.Future[None] = self.loop.create_future()
        """Done when the connection is closing, for whatever reason."""
        self._handler: MessageHandler | None = None
        self._ignoring = False
        self._early: list[Frame] = []
        self._partial = bytearray()
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._waiting: dict[Subscription, None] = {}  # in turn
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._settled: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._heard_at = self.loop.time()
        self._pinged_at = self._heard_at
        self._written = 0
        self._drained = 0
        self._drained_at = self._heard_at

    # --- in ---

    def start(self, handler: MessageHandler) -> None:
        """Hand messages to ``handler`` from now on, first those that are here already."""
        self._handler = handler
        early, self._early = self._early, []
        for frame in early:
            self._frame_received(frame)

    def ignore(self) -> None:
        """Look at nothing the client sends from now on."""
        self._ignoring = True
        self._early.clear()

    def process_event(self, event: Event) -> None:
        """websockets' hook for what its parser found: data frames are handled here and now, not queued for recv()."""
        if not isinstance(event, Frame) or event.opcode not in _DATA:
            super().process_event(event)
        elif self._ignoring or self.protocol.state is not State.OPEN:
            pass
        elif self._handler is None:
            self._early.append(event)
        else:
            self._frame_received(event)

    def _frame_received(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY:
            self.fail(CloseCode.UNSUPPORTED_DATA, "text frames only")
            return
        data = bytes(frame.data)
        if not frame.fin:
            self._partial += data
            return
        if self._partial:
            data = bytes(self._partial + data)
            self._partial.clear()
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self.fail(CloseCode.INVALID_DATA, "invalid UTF-8")
            return
        assert self._handler is not None
        try:
            self._handler.text_received(text)
        except Exception:
            log.exception("a bug in the gateway client=%s", self.peer)
            self.fail(CloseCode.INTERNAL_ERROR, "internal error")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's hook for the beginning of the connection."""
        has_room = self._has_room()
        self._everyone.add(self)
        super().connection_made(transport)
        if not has_room:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """asyncio's hook for bytes from the client."""
        self._heard_at = self.loop.time()
        super().data_received(data)
        if self.protocol.state is not State.OPEN:
            self._check_ended()

    def eof_received(self) -> None:
        """asyncio's hook for the end of the client's bytes."""
        super().eof_received()
        self._check_ended()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's hook for the end of the connection."""
        super().connection_lost(exc)
        self._everyone.discard(self)
        self._waiting.clear()
        self._out.clear()
        self._check_ended()

    def _check_ended(self) -> None:
        if self.protocol.state in (State.CLOSING, State.CLOSED) and not self.ended.done():
            self.ended.set_result(None)

    def request_started(self, size: int) -> None:
        """A request of that many characters is under way; with too many of them the client has to wait."""
        self._in_flight += 1
        self._in_flight_bytes += size
        self._adjust_reading()

    def request_done(self, size: int) -> None:
        """It is answered; ``size`` is that of then."""
        self._in_flight -= 1
        self._in_flight_bytes -= size
        self._adjust_reading()
        if self._settled is not None and not self._in_flight:
            self._settled.set_result(None)
            self._settled = None

    async def settled(self) -> None:
        """Wait until every request under way is answered, or the connection is gone."""
        if self._in_flight and not self.ended.done():
            self._settled = self.loop.create_future()
            await asyncio.wait([self._settled, self.ended], return_when=asyncio.FIRST_COMPLETED)

    def _adjust_reading(self) -> None:
        full = (
            self._in_flight >= IN_FLIGHT_REQUESTS
            or self._in_flight_bytes >= IN_FLIGHT_BYTES
            or self.buffered_bytes > REPLIES_ROOM * self.high_water_bytes
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
        return not self.paused and self._out_bytes < self.high_water_bytes

    def write(self, frames: bytes) -> None:
        """Write frames behind everything written before; they leave at the end of this turn of the loop."""
        if not self._out:
            self.loop.call_soon(self.flush)
        self._out.append(frames)
        self._out_bytes += len(frames)

    def reply(self, payload: bytes) -> None:
        """Write one text message in answer to a request."""
        self.write(text_frame(payload))
        if self._out_bytes > self.high_water_bytes or self.paused:
            self._adjust_reading()

    def when_room(self, subscription: Subscription) -> None:
        """See :class:`rsws.gateway.subscription.Outlet`."""
        self._waiting[subscription] = None

    def flush(self) -> None:
        """Hand everything written so far to the transport in one piece."""
        if self._out:
            if self.protocol.state is State.OPEN:
                self.transport.write(b"".join(self._out))
                self._written += self._out_bytes
            self._out.clear()
            self._out_bytes = 0
        if self._waiting and not self.paused:
            self.loop.call_soon(self._serve_waiting)
        if self._reading_paused:
            self._adjust_reading()

    def resume_writing(self) -> None:
        """asyncio's hook for a write buffer that has drained."""
        super().resume_writing()
        self._serve_waiting()
        self._adjust_reading()

    def _serve_waiting(self) -> None:
        for _ in range(len(self._waiting)):
            if not self.has_room:
                return
            subscription = next(iter(self._waiting))
            del self._waiting[subscription]
            subscription.advance()

    # --- life and end ---

    @property
    def peer(self) -> str:
        """The client's address, for a log line."""
        address = self.remote_address
        return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "unknown"

    @property
    def end_code(self) -> int:
        """The close code of a connection that has ended, or is about to."""
        closed = self.protocol.close_rcvd or self.protocol.close_sent
        return closed.code if closed is not None else 1006  # RFC 6455: gone without a close frame

    def check_alive(self, now: float, ping_after_s: float, dead_after_s: float) -> None:
        """Ping a silent client; cut off one from which nothing came and to which nothing drained for too long."""
        if self.transport.is_closing():
            return
        drained = self._written - self.transport.get_write_buffer_size() - self._unacknowledged_bytes
        if drained > self._drained:
            self._drained = drained
            self._drained_at = now
        silent_s = now - self._heard_at
        if min(silent_s, now - self._drained_at) >= dead_after_s:
            log.info("client dead client=%s silent_s=%.0f", self.peer, silent_s)
            self.transport.abort()
        elif silent_s >= ping_after_s and now - self._pinged_at >= ping_after_s:
            self._pinged_at = now
            if self.protocol.state is State.OPEN:
                self.protocol.send_ping(b"")
                self.send_data()

    @property
    def _unacknowledged_bytes(self) -> int:
        """Bytes the kernel took, but the other machine has not confirmed: one that lost its power never will."""
        if sys.platform != "linux":  # it is not to be had there: the kernel's word counts
            return 0
        answer = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(answer, sys.byteorder)

    def fail(self, code: CloseCode, reason: str) -> None:
        """Close because the client broke the rules, after what was written so far."""
        self.flush()
        self.protocol.fail(code, reason)
        self.send_data()
        self._check_ended()

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close after what was written so far. Has no deadline of its own when the client does not read."""
        self.flush()
        await super().close(code, reason)

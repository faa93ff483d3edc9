"""The reader of a client's frames after the handshake, in turn with other clients.

Plain messages are parsed here. Everything else, the closing handshake included, is left to websockets' Sans-I/O
protocol, which exists only while it is needed: keeping none between messages saves a third of a connection's memory and
half the time of a message. The sections in comments are those of RFC 6455.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol as Interface

from websockets.extensions import Extension
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol

from rsws.errors import CloseCode
from rsws.frames import bounds, read_messages
from rsws.gateway.websocket import protocols
from rsws.gateway.websocket.frames import breaks_rules, is_close, is_compressed, is_plain
from rsws.gateway.websocket.turns import BYTES_A_TURN, FRAMES_A_TURN, HEAVY_BYTES, PARSED_FRAME_COST, TurnTaker

AT_ONCE = 16
"""The number of messages that are parsed and handled before the limits are checked again."""
_DATA = (Opcode.TEXT, Opcode.CONT, Opcode.BINARY)


class Receiver(Interface):
    """The interface of a connection that a :class:`FrameReader` needs."""

    __slots__ = ()

    is_open: bool
    ignores_input: bool
    """Whether further input is ignored: the client was refused, or the connection is being closed."""
    is_full: bool
    """Whether nothing more is read until the client's requests are answered, or it has read its replies."""

    def messages_received(self, payloads: Sequence[bytes]) -> None:
        """Handle some messages of the client."""

    def frame_parsed(self, websocket: Protocol) -> None:
        """Handle the result of websockets having parsed a frame or a part of one: data to send, or the closing."""

    def fail(self, code: CloseCode, reason: str) -> None:
        """Close the connection: the client violated the gateway's rules."""

    def adjust_reading(self) -> None:
        """Pause or resume reading: there is input that waits for its turn now, or none any more."""


class FrameReader(TurnTaker):
    """The reader of one client's frames.

    Args:
        receiver: The connection.
        extensions: The extensions agreed on in the handshake.
        max_bytes: The maximum size of a message.

    Attributes:
        is_in_line: Whether this reader is queued for its turn.
        websocket: The protocol of websockets, while it is needed.
    """

    __slots__ = (
        "_extensions", "_frame_left", "_max_bytes", "_partial", "_receiver", "_rest", "_rest_wanted", "_unread",
        "is_in_line", "websocket",
    )  # fmt: skip

    def __init__(self, receiver: Receiver, extensions: Sequence[Extension], max_bytes: int) -> None:
        self.websocket: Protocol | None = None
        self.is_in_line = False
        self._receiver = receiver
        self._extensions = extensions
        self._max_bytes = max_bytes
        self._rest: bytearray | None = None
        """The received part of an incomplete frame."""
        self._rest_wanted = 0
        self._unread: tuple[bytes, int] | None = None
        """The input that waits for its turn, and the offset at which it begins."""
        self._frame_left = 0
        """The bytes still missing from the frame that websockets is parsing."""
        self._partial: bytearray | None = None
        """The received fragments of an incomplete message."""

    @property
    def has_unread(self) -> bool:
        """Whether there is input that waits for the client's next turn."""
        return self._unread is not None

    def get_websocket(self) -> Protocol:
        """Return the protocol of websockets, a new one if there is none."""
        if self.websocket is None:
            self.websocket = protocols.after_handshake(self._extensions, self._max_bytes)
        return self.websocket

    def break_cycles(self) -> None:
        """Drop unread input, and the reference cycles of websockets' protocol."""
        self._rest = self._unread = self._partial = None
        if self.websocket is not None:
            self._drop_websocket()

    def _drop_websocket(self) -> None:
        websocket, self.websocket = self.websocket, None
        if websocket is not None:
            protocols.break_cycles(websocket)

    def receive(self, data: bytes) -> None:
        """Feed received bytes, and read as much as this turn allows."""
        if self._unread is not None:  # TLS may deliver buffered bytes after reading was paused
            unread, start = self._unread
            self._unread = unread[start:] + data, 0
        elif self._rest is None:
            self._read(data, 0)
        else:
            self._rest += data
            if len(self._rest) >= self._rest_wanted:
                data, self._rest = bytes(self._rest), None
                self._read(data, 0)

    def read_on(self) -> None:
        """See :class:`rsws.gateway.websocket.turns.TurnTaker`."""
        self.is_in_line = False
        unread, self._unread = self._unread, None
        if unread is not None:
            self._read(*unread, in_turn=True)
            self._receiver.adjust_reading()

    def _read(self, data: bytes, start: int, *, in_turn: bool = False) -> None:
        """Read frames until the client has used its share of this turn of the event loop.

        Args:
            in_turn: Whether this is the reader's turn from the queue, so that it may read a long message.
        """
        receiver = self._receiver
        frames_left, stop = FRAMES_A_TURN, start + BYTES_A_TURN
        max_bytes = self._max_bytes if in_turn else min(HEAVY_BYTES, self._max_bytes)
        while start < len(data) and not receiver.ignores_input:
            if frames_left <= 0 or start >= stop or receiver.is_full:
                self._defer(data, start)
                return
            if self.websocket is None:
                payloads, start = read_messages(data, start, max_bytes, min(AT_ONCE, frames_left), stop)
                if payloads:
                    receiver.messages_received(payloads)
                    frames_left -= len(payloads)
                    continue
            is_heavy = False
            if not self._frame_left:
                found = bounds(data, start)
                size = 0 if found is None else found[1] - start  # 0: its length has not been received
                if self._needs_more(data, start, found):
                    self._rest, self._rest_wanted = bytearray(data[start:]), size or len(data) - start + 1
                    return
                is_heavy = self._is_heavy(data, start, size)
                if is_heavy and not in_turn:
                    self._defer(data, start)
                    return
                self._begin_frame(data, start, size)
            part = data[start : start + self._frame_left]
            start += len(part)
            self._frame_left -= len(part)
            frames_left = 0 if is_heavy else frames_left - PARSED_FRAME_COST
            self._parse(part)

    def _defer(self, data: bytes, start: int) -> None:
        """Keep the rest until its turn; nothing more is read from the client meanwhile."""
        self._unread = data, start
        self._receiver.adjust_reading()

    def _needs_more(self, data: bytes, start: int, found: tuple[int, int] | None) -> bool:
        """Whether more bytes of the frame at ``start`` are needed before it can be parsed.

        They are needed for an incomplete length and for an incomplete plain message. websockets parses anything else in
        parts, and responds to a violation as soon as it finds one.
        """
        if found is None:
            return not breaks_rules(data, start)  # a frame that does ends the connection immediately (7.1.7)
        body, end = found
        return len(data) < end and self.websocket is None and is_plain(data, start) and end - body <= self._max_bytes

    def _is_heavy(self, data: bytes, start: int, size: int) -> bool:
        """Whether parsing the frame may take long: it is long, compressed, or comes in a long fragmented message."""
        return size > HEAVY_BYTES or is_compressed(data, start) or len(self._partial or b"") > HEAVY_BYTES

    def _begin_frame(self, data: bytes, start: int, size: int) -> None:
        """Start to parse a frame with websockets; a frame of size 0 is invalid, whatever follows."""
        self._frame_left = size or len(data) - start
        if self._partial is not None and is_close(data, start):  # section 5.4: it may come between fragments
            self._partial = None
            self._drop_websocket()

    def _parse(self, data: bytes) -> None:
        websocket = self.get_websocket()
        websocket.receive_data(data)
        for event in websocket.events_received():
            if isinstance(event, Frame) and event.opcode in _DATA:
                self._frame_received(event)
        self._receiver.frame_parsed(websocket)
        if self._receiver.is_open and self._partial is None and not self._frame_left:
            self._drop_websocket()

    def _frame_received(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY:  # section 7.4.1: close code 1003, a data type that is not accepted
            self._receiver.fail(CloseCode.UNSUPPORTED_DATA, "text frames only")
        elif frame.fin and self._partial is None:
            self._receiver.messages_received([bytes(frame.data)])
        else:  # section 5.4: fragments come in order, and no other message comes between them
            if self._partial is None:
                self._partial = bytearray()
            self._partial += frame.data
            if frame.fin:
                payload, self._partial = bytes(self._partial), None
                self._receiver.messages_received([payload])

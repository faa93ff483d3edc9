"""What a client sends once its WebSocket is open, read in turn with the others.

Plain messages are read here. Everything else, and a closing handshake, is left to websockets' Sans-I/O protocol, of
which there is none between two messages: that is a third of a connection's memory, and half the time a message takes.
The sections in comments are those of RFC 6455.
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

AT_ONCE = 8
"""Messages that are handed on before it is looked whether there may be more."""
_DATA = (Opcode.TEXT, Opcode.CONT, Opcode.BINARY)


class Receiver(Interface):
    """What a reader needs of the connection it reads."""

    __slots__ = ()

    is_open: bool
    is_deaf: bool
    """Whether nothing matters that still comes: the client was sent away, or has said goodbye."""
    is_full: bool
    """Whether the client has to wait for answers, or to read them, before more is read."""

    def message_received(self, payload: bytes) -> None:
        """One message of the client."""
        raise NotImplementedError

    def frame_parsed(self, websocket: Protocol) -> None:
        """websockets has read something: it may have an answer, or have closed the connection."""
        raise NotImplementedError

    def fail(self, code: CloseCode, reason: str) -> None:
        """The client broke the rules of the gateway."""
        raise NotImplementedError

    def adjust_reading(self) -> None:
        """Something waits to be read, or no more."""
        raise NotImplementedError


class FrameReader(TurnTaker):
    """Reads the frames of one client.

    Args:
        receiver: The connection.
        extensions: Those that the handshake agreed on.
        max_bytes: Of a message.

    Attributes:
        is_in_line: Whether it waits for its turn.
        websocket: websockets' protocol, while there is one.
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
        """The beginning of a frame that is not all there."""
        self._rest_wanted = 0
        self._unread: tuple[bytes, int] | None = None
        """What waits for its turn, and where it begins."""
        self._frame_left = 0
        """Bytes that websockets lacks of the frame that it is reading."""
        self._partial: bytearray | None = None
        """The beginning of a fragmented message."""

    @property
    def has_unread(self) -> bool:
        """Whether there is more than the client's turns so far had room for."""
        return self._unread is not None

    def get_websocket(self) -> Protocol:
        """websockets' protocol; a new one where there is none."""
        if self.websocket is None:
            self.websocket = protocols.after_handshake(self._extensions, self._max_bytes)
        return self.websocket

    def break_cycles(self) -> None:
        """Forget what was not read to its end."""
        self._rest = self._unread = self._partial = None
        self._drop_websocket()

    def _drop_websocket(self) -> None:
        websocket, self.websocket = self.websocket, None
        if websocket is not None:
            protocols.break_cycles(websocket)

    def receive(self, data: bytes) -> None:
        """Take bytes, and read what this turn has room for."""
        if self._unread is not None:  # TLS may have some left after reading was paused
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
        """Read frames until the client has had its share of this turn of the loop.

        Args:
            in_turn: Whether nobody else of those with much to read is read in this turn.
        """
        receiver = self._receiver
        frames_left, stop = FRAMES_A_TURN, start + BYTES_A_TURN
        max_bytes = self._max_bytes if in_turn else min(HEAVY_BYTES, self._max_bytes)
        while start < len(data) and not receiver.is_deaf:
            if frames_left <= 0 or start >= stop or receiver.is_full:
                self._keep(data, start)
                return
            if self.websocket is None:
                payloads, start = read_messages(data, start, max_bytes, min(AT_ONCE, frames_left), stop)
                for payload in payloads:
                    receiver.message_received(payload)
                frames_left -= len(payloads)
                if payloads:
                    continue
            is_heavy = False
            if not self._frame_left:
                found = bounds(data, start)
                size = 0 if found is None else found[1] - start  # 0: its length is not there
                if self._has_to_come(data, start, found):
                    self._rest, self._rest_wanted = bytearray(data[start:]), size or len(data) - start + 1
                    return
                is_heavy = self._is_heavy(data, start, size)
                if is_heavy and not in_turn:
                    self._keep(data, start)
                    return
                self._begin_frame(data, start, size)
            part = data[start : start + self._frame_left]
            start += len(part)
            self._frame_left -= len(part)
            frames_left = 0 if is_heavy else frames_left - PARSED_FRAME_COST
            self._parse(part)

    def _keep(self, data: bytes, start: int) -> None:
        """Have the rest wait for its turn; nothing more is read meanwhile."""
        self._unread = data, start
        self._receiver.adjust_reading()

    def _has_to_come(self, data: bytes, start: int, found: tuple[int, int] | None) -> bool:
        """Whether more of the frame at ``start`` has to come first.

        That is so for its length, and for a plain message. websockets reads anything else in pieces, and answers what
        breaks the rules as soon as it can.
        """
        if found is None:
            return not breaks_rules(data, start)  # one that does ends the connection at once (7.1.7)
        body, end = found
        return len(data) < end and self.websocket is None and is_plain(data, start) and end - body <= self._max_bytes

    def _is_heavy(self, data: bytes, start: int, size: int) -> bool:
        """Whether reading the frame may take long: so may a small one that is compressed, or ends a message."""
        return size > HEAVY_BYTES or is_compressed(data, start) or len(self._partial or b"") > HEAVY_BYTES

    def _begin_frame(self, data: bytes, start: int, size: int) -> None:
        """Have websockets read a frame; one without a size breaks the rules, whatever follows."""
        self._frame_left = size or len(data) - start
        if self._partial is not None and is_close(data, start):  # section 5.4: it may stand between fragments
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
        if frame.opcode is Opcode.BINARY:  # section 7.4.1: 1003, a type of data that is not accepted
            self._receiver.fail(CloseCode.UNSUPPORTED_DATA, "text frames only")
        elif frame.fin and self._partial is None:
            self._receiver.message_received(bytes(frame.data))
        else:  # section 5.4: fragments come in order, and no other message comes between them
            if self._partial is None:
                self._partial = bytearray()
            self._partial += frame.data
            if frame.fin:
                payload, self._partial = bytes(self._partial), None
                self._receiver.message_received(payload)

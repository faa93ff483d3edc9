"""A WebSocket connection with as little code as possible between the kernel and the reader of the messages."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import Protocol, cast

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import CONNECTING, OPEN
from websockets.uri import WebSocketURI

from rsws.bench.messages import find_frame
from rsws.errors import CLOSE_HELP
from rsws.frames import TEXT

MAX_FRAME_BYTES = 64 * 1024 * 1024
_RESET = struct.pack("ii", 1, 0)  # linger for 0 s: closing sends RST
_LINE_END = b"\r\n"
_HEAD_END = b"\r\n\r\n"

_log = logging.getLogger("rsws.bench.websocket")
_log.setLevel(logging.INFO)  # at DEBUG websockets logs the request's path, and the token is in it
_CLOSE_HELP = {int(code): help for code, help in CLOSE_HELP.items()}


class FrameHandler(Protocol):
    """The receiver of what arrives over a connection."""

    def read_frames(self, data: bytes, position: int) -> int:
        """Handle the frames of the expected kind from ``position`` on, and return where the first other one begins."""
        ...

    def handle_text(self, text: bytes) -> None:
        """Handle a text message that :meth:`read_frames` did not handle."""

    def closed(self, reason: str) -> None:
        """Handle the end of the connection; not called after :meth:`Socket.cut` and :meth:`Socket.close`."""


class Socket(asyncio.Protocol):
    """A connection to a gateway.

    ``websockets`` makes the handshake and handles all frames but whole text messages: pings, closes, fragments.
    """

    def __init__(self, uri: WebSocketURI, handler: FrameHandler) -> None:
        self._handler: FrameHandler | None = handler
        self._protocol = ClientProtocol(uri, logger=_log, max_size=MAX_FRAME_BYTES)
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._fragments: list[bytes] = []

    def write(self, frames: bytes) -> None:
        """Send whole frames, headers included: see :func:`rsws.bench.messages.text_header`."""
        assert self._transport is not None
        self._transport.write(frames)

    def cut(self) -> None:
        """Break the connection as an outage does, without a close frame (TCP RST)."""
        self._handler = None
        if self._transport is not None:
            tcp = self._transport.get_extra_info("socket")
            if tcp is not None:  # uvloop has none any more where connecting was cancelled
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()

    def close(self) -> None:
        """Send a close frame and close the connection, without waiting for an answer."""
        self._handler = None
        if self._protocol.state is OPEN:
            self._protocol.send_close(1000)
            self._send()
        if self._transport is not None:
            self._transport.close()

    # --- asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._protocol.send_request(self._protocol.connect())
        self._send()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        position = 0
        if self._protocol.state is CONNECTING:
            end = data.find(_HEAD_END)
            if end < 0:
                self._keep(data)
                return
            position = end + len(_HEAD_END)
            self._feed_websockets(data[:position])
            if self._protocol.state is not OPEN:
                self._end(f"{data.partition(_LINE_END)[0].decode(errors='replace')[:60]!r} and no WebSocket")
        while self._handler is not None:
            position = self._handler.read_frames(data, position)
            frame = find_frame(data, position)
            if frame is None:
                break
            start, stop = frame
            if data[position] == TEXT:
                self._handler.handle_text(data[start:stop])
            else:
                self._feed_websockets(data[position:stop])
            position = stop
        self._keep(data[position:])

    def connection_lost(self, error: Exception | None) -> None:
        self._end("the connection broke")

    def _keep(self, rest: bytes) -> None:
        """Keep the beginning of an incomplete frame, unless it is too long."""
        self._rest = rest
        if len(rest) > MAX_FRAME_BYTES:
            self._end(f"it sent a frame of more than {MAX_FRAME_BYTES:,} bytes")

    # --- websockets ---

    def _send(self) -> None:
        for data in filter(None, self._protocol.data_to_send()):
            self.write(data)

    def _feed_websockets(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        self._send()
        for event in self._protocol.events_received():
            if self._handler is None:
                return
            if isinstance(event, Frame):
                self._handle_frame(event, self._handler)
        if self._protocol.parser_exc is not None:
            self._end(f"it broke the WebSocket protocol: {self._protocol.parser_exc}")

    def _handle_frame(self, frame: Frame, handler: FrameHandler) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.CONT):
            self._fragments.append(bytes(frame.data))
            if frame.fin:
                handler.handle_text(b"".join(self._fragments))
                self._fragments.clear()
        elif frame.opcode is Opcode.CLOSE:
            close = self._protocol.close_rcvd
            assert close is not None
            meaning = close.reason or _CLOSE_HELP.get(close.code, ("", True))[0]
            self._end(f"closed by the gateway with {close.code}" + (f": {meaning}" if meaning else ""))
        elif frame.opcode is Opcode.BINARY:
            self._end("it sent a binary frame; the protocol is text")

    def _end(self, reason: str) -> None:
        handler, self._handler = self._handler, None
        if self._transport is not None:
            self._transport.abort()
        if handler is not None:
            handler.closed(reason)

"""WebSocket frames as they are on the wire: ordinary text messages, whole and unfragmented, in both directions.

websockets reads and writes everything else. A server's frame is made here once and sent to many. A client's message is
read here because websockets' parser, a chain of generators made for any frame in pieces of any size, takes six times as
long for one that is there in one piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from websockets.frames import Frame, Opcode, apply_mask  # type: ignore[attr-defined]

_TEXT = 0x81
"""FIN and opcode 1 (RFC 6455, section 5.2)."""
_COMPRESSED = 0x40
"""RSV1 (RFC 7692, section 6)."""
_MASKED = 0x80
_OPCODES = frozenset(Opcode)
_EXTENDED = {126: 2, 127: 8}
"""Bytes of a length that does not fit into seven bits, by what those are then."""
_medium_header = Struct("!BBH").pack
_long_header = Struct("!BBQ").pack
PING = Frame(Opcode.PING, b"").serialize(mask=False)


def text_frame(payload: bytes, first_byte: int = _TEXT) -> bytes:
    """``payload``, valid UTF-8, as one unfragmented text frame of a server: a header of two to ten bytes, no mask."""
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (first_byte, size, payload)
    if size < 65536:
        return _medium_header(first_byte, 126, size) + payload
    return _long_header(first_byte, 127, size) + payload


class MessageFramer:
    """Makes the frames of one channel's messages, header and payload in one go.

    Args:
        template: The payload, with a ``%b`` for the id and one for the data.
    """

    __slots__ = ("_medium", "_size", "_template")

    def __init__(self, template: bytes) -> None:
        self._template = template
        self._size = len(template % (b"", b""))
        self._medium = b"\x81\x7e%%c%%c%b" % template

    def frame(self, stream_id: bytes, data: bytes) -> bytes:
        """The frame of one message; ``data`` is JSON."""
        size = self._size + len(stream_id) + len(data)
        if 126 <= size < 65536:
            return self._medium % (size >> 8, size & 255, stream_id, data)
        return text_frame(self._template % (stream_id, data))


def compressed_text_frame(payload: bytes) -> bytes:
    """The same of a payload that permessage-deflate has compressed."""
    return text_frame(payload, _TEXT | _COMPRESSED)


def text_payloads(frames: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each frame and its payload, of frames that :func:`text_frame` made."""
    start = 0
    while start < len(frames):
        end = start + frame_size(frames, start)
        body = start + header_size(frames, start)
        yield frames[start:end], frames[body:end]
        start = end


def read_messages(data: bytes, start: int, max_bytes: int, max_messages: int, stop: int) -> tuple[list[bytes], int]:
    """The payloads of the plain text messages of a client in ``data`` from ``start`` on, and where they end.

    It reads at most ``max_messages``, and none that begins behind ``stop``. It stops before anything else: a frame that
    is not all there, control frames, fragments, a message of more than ``max_bytes``, what breaks the rules.
    """
    payloads: list[bytes] = []
    end = len(data)
    while start < stop and end - start >= 6 and data[start] == _TEXT:
        size = data[start + 1] - _MASKED
        body = start + 6
        if size == 126 and end - start >= 8:
            size = data[start + 2] << 8 | data[start + 3]
            body = start + 8
        elif size == 127 and end - start >= 14:
            size = int.from_bytes(data[start + 2 : start + 10])
            body = start + 14
        elif not 0 <= size < 126:
            break
        if body + size > end or size > max_bytes:
            break
        payloads.append(apply_mask(data[body : body + size], data[body - 4 : body]))
        start = body + size
        if len(payloads) == max_messages:
            break
    return payloads, start


def frame_size(data: bytes, start: int) -> int:
    """How many bytes the frame at ``start`` has; 0 while its length is not there."""
    there = len(data) - start
    if there < 2:
        return 0
    size = data[start + 1] & ~_MASKED
    extended = _EXTENDED.get(size, 0)
    if there < 2 + extended:
        return 0
    if extended:
        size = int.from_bytes(data[start + 2 : start + 2 + extended])
    return 2 + extended + (4 if data[start + 1] & _MASKED else 0) + size


def header_size(data: bytes, start: int) -> int:
    """How many of them are its header."""
    return 2 + _EXTENDED.get(data[start + 1] & ~_MASKED, 0) + (4 if data[start + 1] & _MASKED else 0)


def is_plain(data: bytes, start: int) -> bool:
    """Whether what is there of the frame at ``start`` begins a whole, uncompressed text message of a client."""
    return data[start] == _TEXT and (len(data) - start < 2 or data[start + 1] >= _MASKED)


def breaks_rules(data: bytes, start: int) -> bool:
    """Whether no client may begin a frame as the one at ``start`` does: not masked, or of no known kind."""
    return len(data) - start >= 2 and (data[start + 1] < _MASKED or data[start] & 0x0F not in _OPCODES)


def is_compressed(data: bytes, start: int) -> bool:
    """Whether the frame at ``start`` says so."""
    return bool(data[start] & _COMPRESSED)


def is_close(data: bytes, start: int) -> bool:
    """Whether the frame at ``start`` is a close frame."""
    return data[start] & 0x0F == Opcode.CLOSE

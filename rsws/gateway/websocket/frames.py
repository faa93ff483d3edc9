"""The text frames that the server sends, encoded once for many clients, and the kinds of a client's frames.

These functions handle unfragmented text messages; the websockets library reads and writes everything else. The sections
in comments are those of RFC 6455 unless another one is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from websockets.frames import Close, Frame, Opcode

from rsws.frames import MASKED, TEXT, bounds, header
from rsws.gateway.delivery.channel import Framer

_COMPRESSED = 0x40
"""The RSV1 bit, which marks a compressed message (RFC 7692, section 6)."""
_OPCODES = frozenset(Opcode)  # section 5.2: the others are reserved
_SHORT_HEADERS = [header(size) for size in range(126)]
"""The headers of short text frames, by the size of the payload: making one takes longer than all else of an ack."""
PING = Frame(Opcode.PING, b"").serialize(mask=False)  # section 5.5.2


def text_frame(payload: bytes) -> bytes:
    """Return ``payload``, valid UTF-8, as one unfragmented, unmasked text frame of a server."""
    size = len(payload)  # section 5.1: a server must not mask; 5.6: text is UTF-8
    return (_SHORT_HEADERS[size] if size < 126 else header(size)) + payload


def text_frames(payloads: Iterable[bytes]) -> bytes:
    """Return several payloads as text frames, like :func:`text_frame`, whose call takes longer than it does."""
    return b"".join([(_SHORT_HEADERS[size] if (size := len(each)) < 126 else header(size)) + each for each in payloads])


class MessageFramer(Framer):
    """The encoder of one channel's messages as frames, header and payload in one formatting step.

    Args:
        template: The payload with a ``%b`` for the id, followed by one for the data.
    """

    __slots__ = ("_medium", "_size", "_template")

    def __init__(self, template: bytes) -> None:
        self._template = template
        self._size = len(template % (b"", b""))
        self._medium = b"\x81\x7e%%c%%c%b" % template

    def frame(self, stream_id: bytes, data: bytes) -> bytes:
        """Return the frame of one message; ``data`` is JSON."""
        size = self._size + len(stream_id) + len(data)
        if 126 <= size < 65536:
            return self._medium % (size >> 8, size & 255, stream_id, data)
        return text_frame(self._template % (stream_id, data))


def close_frame(code: int, reason: str) -> bytes:
    """Return the close frame of a server."""
    return Frame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(mask=False)  # section 5.5.1


def compressed_text_frame(payload: bytes) -> bytes:
    """Return a payload that permessage-deflate has compressed as one text frame of a server."""
    return header(len(payload), TEXT | _COMPRESSED) + payload


def text_payloads(frames: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each frame and its payload from joined frames that :func:`text_frame` made."""
    start = 0
    while (found := bounds(frames, start)) is not None:
        body, end = found
        yield frames[start:end], frames[body:end]
        start = end


def is_plain(data: bytes, start: int) -> bool:
    """Whether the frame at ``start``, as far as received, is a client's unfragmented, uncompressed text message."""
    return data[start] == TEXT and (len(data) - start < 2 or data[start + 1] >= MASKED)


def breaks_rules(data: bytes, start: int) -> bool:
    """Whether the first bytes of the frame at ``start`` are invalid from a client: unmasked, or an unknown opcode."""
    # Section 5.1: a client has to mask. Section 5.2: an unknown opcode fails the connection.
    return len(data) - start >= 2 and (data[start + 1] < MASKED or data[start] & 0x0F not in _OPCODES)


def is_compressed(data: bytes, start: int) -> bool:
    """Whether the frame at ``start`` is marked as compressed."""
    return bool(data[start] & _COMPRESSED)  # RFC 7692, section 6


def is_close(data: bytes, start: int) -> bool:
    """Whether the frame at ``start`` is a close frame."""
    return data[start] & 0x0F == Opcode.CLOSE  # section 5.5.1

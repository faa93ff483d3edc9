"""WebSocket frames of the server side, made once and sent to many.

A server's text frame is a header of two to ten bytes before the payload (RFC 6455, section 5.2): no mask, one
frame a message. Building it here lets one frame serve every subscriber of a channel.
"""

from __future__ import annotations

from struct import pack

_TEXT = 0x81
"""FIN and opcode 1."""


def text_frame(payload: bytes) -> bytes:
    """``payload``, valid UTF-8, as one unfragmented text frame."""
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (_TEXT, size, payload)
    if size < 65536:
        return pack("!BBH", _TEXT, 126, size) + payload
    return pack("!BBQ", _TEXT, 127, size) + payload

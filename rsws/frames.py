"""Writing and reading the header of a WebSocket frame (RFC 6455, section 5.2), for all of rsws.

The sections named in comments are those of RFC 6455.

A client's messages are parsed here because the parser of ``websockets``, a chain of generators for any frame in pieces
of any size, needs six times as long for a message that has arrived whole.
"""

from __future__ import annotations

from struct import Struct

from websockets.frames import apply_mask  # type: ignore[attr-defined]

TEXT = 0x81
"""The first byte of a text message in one frame: FIN and opcode 1."""
MASKED = 0x80
"""The bit of the second byte that says that a mask follows the length, as in every frame of a client."""
_short_header = Struct("!BB").pack
_medium_header = Struct("!BBH").pack
_long_header = Struct("!BBQ").pack


def header(size: int, first_byte: int = TEXT, mask_bit: int = 0) -> bytes:
    """Return the two to ten bytes before a payload of that size; with :data:`MASKED`, the mask has to follow them."""
    if size < 126:  # section 5.2: a length is written in as few bytes as possible
        return _short_header(first_byte, mask_bit | size)
    if size < 65536:
        return _medium_header(first_byte, mask_bit | 126, size)
    return _long_header(first_byte, mask_bit | 127, size)


def bounds(data: bytes, start: int) -> tuple[int, int] | None:
    """Return where the payload of the frame at ``start`` begins and ends, whether or not it has arrived.

    None until the frame's length has arrived.
    """
    body = start + 2
    if body > len(data):
        return None
    second = data[start + 1]
    size = second & ~MASKED
    if size > 125:  # section 5.2: the length is in the next two bytes, or eight
        body += 2 if size == 126 else 8
        if body > len(data):
            return None
        size = int.from_bytes(data[start + 2 : body])
    if second & MASKED:
        body += 4  # section 5.3
    return body, body + size


def read_messages(data: bytes, start: int, max_bytes: int, max_messages: int, stop: int) -> tuple[list[bytes], int]:
    """Return the payloads of a client's unfragmented text messages in ``data`` from ``start`` on, and where they end.

    It reads at most ``max_messages``, and none that begins at or after ``stop``. It stops before anything else: an
    incomplete frame, control frames, fragments, a message of more than ``max_bytes``, what breaks the rules.
    """
    payloads: list[bytes] = []
    end = len(data)
    for _ in range(max_messages):
        if start >= stop or end - start < 6 or data[start] != TEXT:
            break
        size = data[start + 1] - MASKED  # bounds() is inlined: the call would cost a fifth of this function's time
        body = start + 6
        if size == 126 and end - start >= 8:
            size = data[start + 2] << 8 | data[start + 3]
            body = start + 8
        elif size == 127 and end - start >= 14:
            size = int.from_bytes(data[start + 2 : start + 10])
            body = start + 14
        elif not 0 <= size < 126:
            break
        following = body + size
        if following > end or size > max_bytes:
            break
        payloads.append(apply_mask(data[body:following], data[body - 4 : body]))  # section 5.3
        start = following
    return payloads, start

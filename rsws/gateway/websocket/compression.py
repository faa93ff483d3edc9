"""permessage-deflate (RFC 7692): a message is compressed once for all receivers that agreed on the same window.

No message that the gateway sends refers back to an earlier one (``server_no_context_takeover``), which compresses less
and saves the memory of a window for each client. The gateway asks a client for nothing that it has not offered, as some
clients reject such an answer: a client's messages may refer back to its earlier ones, in a window of the same size, if
it likes. The sections in comments are those of RFC 7692.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache

from websockets.extensions import Extension, ServerExtensionFactory
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory

from rsws.gateway.websocket.frames import compressed_text_frame, text_payloads
from rsws.gateway.websocket.translation import Translator

WINDOW_BITS = 12
"""The base-2 logarithm of the window, 4 KiB: most messages are smaller, and zlib has less to prepare for each."""
MEMORY_LEVEL = 5
_END = b"\x00\x00\xff\xff"
"""The end of what zlib writes on a flush, which the extension leaves out (section 7.2.1)."""

COMPRESSION: Sequence[ServerExtensionFactory] = [
    # Sections 7.1.1.1 and 7.1.2.2.
    ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_max_window_bits=WINDOW_BITS)
]
"""The extensions that the gateway accepts in a handshake when it compresses."""


class Compressor(Translator):
    """A compressor of messages for receivers with a window of ``window_bits`` bits."""

    def __init__(self, window_bits: int) -> None:
        super().__init__()
        self._zlib = zlib.compressobj(wbits=-window_bits, memLevel=MEMORY_LEVEL)

    def make(self, frames: bytes) -> bytes:
        """Compress a server's text frames, each separately, and only where that makes it smaller."""
        result = []
        for frame, payload in text_payloads(frames):
            # A full flush resets the context, as a new compressor would, at a tenth of its cost.
            deflated = self._zlib.compress(payload) + self._zlib.flush(zlib.Z_FULL_FLUSH)
            smaller = compressed_text_frame(deflated.removesuffix(_END))
            result.append(smaller if len(smaller) < len(frame) else frame)
        return b"".join(result)


@cache
def compressor(window_bits: int) -> Compressor:
    """Return the compressor that all receivers with that window share."""
    return Compressor(window_bits)


def agreed_compressor(extensions: Sequence[Extension]) -> Compressor | None:
    """Return the compressor for the extensions agreed on in the handshake; None when compression is not among them."""
    for extension in extensions:
        if isinstance(extension, PerMessageDeflate):
            return compressor(min(WINDOW_BITS, extension.local_max_window_bits))  # section 7.1.2.1
    return None

"""The opening handshake as nearly every client writes it; any other request is websockets' to answer.

Its parser takes a request line by line as it comes in and knows all of HTTP that matters here, in ten times the time.
When ten thousand clients come back at once, that is the time that they wait for.
"""

from __future__ import annotations

import re

from websockets.utils import accept_key

MAX_BYTES = 4096
_TOKEN = rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+"
_REQUEST = re.compile(rb"GET ([!-~]+) HTTP/1\.1\r\n((?:" + _TOKEN + rb":[ -~]*\r\n)+)\r\n")
_HEADER = re.compile(rb"(" + _TOKEN + rb"):([ -~]*)\r\n")
_CONNECTION = re.compile(rb"(?:[a-z-]+, ?)*upgrade(?:, ?[a-z-]+)*")
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_NOT_USUAL = {b"content-length", b"transfer-encoding", b"sec-websocket-protocol"}


def answer_usual(request: bytes, *, with_extensions: bool) -> tuple[str, bytes] | None:
    """The path a client asks for and the answer (101) when ``request`` is a whole, usual, faultless handshake.

    Args:
        with_extensions: Whether a request that offers extensions is one as well; they are not agreed to.

    Returns:
        None for anything else, a faulty handshake included.
    """
    match = _REQUEST.fullmatch(request) if len(request) <= MAX_BYTES else None
    if match is None:
        return None
    pairs = _HEADER.findall(match[2])
    headers = {name.lower(): value.strip() for name, value in pairs}
    if (
        len(headers) != len(pairs)
        or headers.get(b"upgrade", b"").lower() != b"websocket"
        or not _CONNECTION.fullmatch(headers.get(b"connection", b"").lower())
        or headers.get(b"sec-websocket-version") != b"13"
        or not _KEY.fullmatch(key := headers.get(b"sec-websocket-key", b""))
        or not _NOT_USUAL.isdisjoint(headers)
        or (b"sec-websocket-extensions" in headers and not with_extensions)
    ):
        return None
    accept = accept_key(key.decode()).encode()
    return match[1].decode(), (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
    )

"""The opening handshake (RFC 6455, section 4.2), by the rules of the npm package ``ws``, which old clients work with.

The sections in comments are those of RFC 6455; numbers in parentheses after them are items of the sections' lists.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha1
from http import HTTPStatus

import msgspec
from websockets.exceptions import InvalidHeader
from websockets.extensions import Extension, ServerExtensionFactory

from rsws.gateway.http import TOKEN, Request, response
from rsws.gateway.websocket.protocols import agree_on_extensions
from rsws.protocol import SUBPROTOCOL, TOKEN_SUBPROTOCOL

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_VERSIONS = (b"13", b"8")  # version 8 is a draft with the same frames as the RFC
_SUBPROTOCOLS = re.compile(TOKEN + rb"(?:[ \t]*,[ \t]*" + TOKEN + rb")*")


class Opening(msgspec.Struct, frozen=True):
    """A successful handshake."""

    request: Request
    answer: bytes
    subprotocols: Sequence[bytes] = ()
    """The names that the client offers."""
    extensions: Sequence[Extension] = ()
    """The extensions that were agreed on."""


def answer_handshake(request: Request, factories: Sequence[ServerExtensionFactory]) -> Opening | bytes | None:
    """Return the answer to a handshake.

    Args:
        factories: The extensions that the gateway supports.

    Returns:
        The opening; the bytes of the response when the handshake is refused; None when the request is not a WebSocket
        handshake, for instance one for another upgrade.
    """
    headers = request.headers
    upgrade = headers.get(b"upgrade", b"").lower()
    options = headers.get(b"connection", b"").lower()
    # Section 4.2.1 (3, 4): the headers that ask for a WebSocket.
    if b"websocket" not in upgrade or (options != b"upgrade" and b"upgrade" not in _list(options)):
        return None
    if request.method != "GET":  # section 4.2.1 (1)
        return response(HTTPStatus.METHOD_NOT_ALLOWED, "a WebSocket is opened with GET\n", {"Allow": "GET"})
    if upgrade != b"websocket":
        return _refusal("Upgrade", "is not websocket alone")
    key = headers.get(b"sec-websocket-key", b"")
    if not _KEY.fullmatch(key):  # section 4.2.1 (5)
        return _refusal("Sec-WebSocket-Key", "is not 16 bytes in base64")
    if headers.get(b"sec-websocket-version") not in _VERSIONS:  # section 4.2.1 (6), and for the answer 4.4
        return _refusal("Sec-WebSocket-Version", "is not 13", {"Sec-WebSocket-Version": "13, 8"})
    answer = (  # section 4.2.2 (5)
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n" % b64encode(sha1(key + _GUID).digest())
    )
    offered = headers.get(b"sec-websocket-protocol")
    subprotocols: list[bytes] = []
    if offered is not None:  # sections 4.2.1 (8) and 4.2.2 (4): the server chooses one that the client offers
        subprotocols = _read_subprotocols(offered)
        if not subprotocols:
            return _refusal("Sec-WebSocket-Protocol", "is not a list of different names")
        chosen = _choose_subprotocol(subprotocols)
        if chosen is not None:
            answer += b"Sec-WebSocket-Protocol: %b\r\n" % chosen
    extensions: Sequence[Extension] = ()
    # Sections 4.2.1 (9) and 9.1.
    if factories and b"sec-websocket-extensions" in headers:
        try:
            agreed, extensions = agree_on_extensions(factories, headers[b"sec-websocket-extensions"].decode("latin-1"))
        except InvalidHeader:
            return _refusal("Sec-WebSocket-Extensions", "can't be read")
        if agreed is not None:
            answer += b"Sec-WebSocket-Extensions: %b\r\n" % agreed.encode()
    return Opening(request, answer + b"\r\n", subprotocols, extensions)


def _read_subprotocols(offered: bytes) -> list[bytes]:
    """Return the subprotocols that a client offers, in order of preference; none for an invalid header."""
    if not _SUBPROTOCOLS.fullmatch(offered):
        return []
    names = _list(offered)
    return names if len(set(names)) == len(names) else []  # section 4.1 (10): unique


def _choose_subprotocol(names: list[bytes]) -> bytes | None:
    """Return the first one, as browsers require one to be chosen; but never one that holds a token."""
    without_tokens = [name for name in names if not name.startswith(TOKEN_SUBPROTOCOL)]
    if len(without_tokens) < len(names) and SUBPROTOCOL in names:
        return SUBPROTOCOL
    return without_tokens[0] if without_tokens else None


def _list(value: bytes) -> list[bytes]:
    return [item.strip() for item in value.split(b",")]


def _refusal(header: str, why: str, headers: dict[str, str] | None = None) -> bytes:
    return response(HTTPStatus.BAD_REQUEST, f"no WebSocket: the header {header} {why}\n", headers)

"""websockets' protocols without I/O: made for what is not a plain message, and let go of afterwards."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from websockets.datastructures import Headers
from websockets.extensions import Extension, ServerExtensionFactory
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol

_log = logging.getLogger("rsws.gateway.websocket")
_log.setLevel(logging.WARNING)  # at DEBUG websockets logs the request line, and the token is in it


def agree_on_extensions(
    factories: Sequence[ServerExtensionFactory], offered: str
) -> tuple[str | None, Sequence[Extension]]:
    """What a handshake's answer says of the extensions that a client offered, and those that were agreed on.

    Raises:
        InvalidHeader: The offer can't be read.
    """
    protocol = ServerProtocol(extensions=factories, logger=_log)
    try:
        return protocol.process_extensions(Headers({"Sec-WebSocket-Extensions": offered}))
    finally:
        break_cycles(protocol)


def after_handshake(extensions: Sequence[Extension], max_bytes: int) -> Protocol:
    """One of an open connection, between two frames.

    Args:
        extensions: Those that the handshake agreed on.
        max_bytes: Of a message.
    """
    protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=max_bytes, logger=_log)  # RFC 6455, section 4.2.2
    protocol.extensions = list(extensions)
    return protocol


def break_cycles(protocol: Protocol) -> None:
    """Break its cycles: its parser, errors and what it has read last would wait for the garbage collector."""
    protocol.parser.close()
    error: BaseException | None
    for error in (protocol.parser_exc, protocol.handshake_exc):
        while error is not None:
            error.__traceback__ = None
            error = error.__cause__ or error.__context__

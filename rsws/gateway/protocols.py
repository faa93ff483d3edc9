"""websockets' protocols without I/O: made for a handshake or for what is no plain message, and let go of afterwards."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from websockets.extensions import Extension, ServerExtensionFactory
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol

_log = logging.getLogger("rsws.gateway.websocket")
_log.setLevel(logging.WARNING)  # at DEBUG websockets logs the request line, and the token is in it


def for_handshake(extensions: Sequence[ServerExtensionFactory], max_bytes: int) -> ServerProtocol:
    """One that waits for a request.

    Args:
        extensions: Those it offers.
        max_bytes: Of a message.
    """
    return ServerProtocol(extensions=extensions, max_size=max_bytes, logger=_log)


def after_handshake(extensions: Sequence[Extension], max_bytes: int) -> Protocol:
    """One of an open connection, between two frames.

    Args:
        extensions: Those that the handshake agreed on.
        max_bytes: Of a message.
    """
    protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=max_bytes, logger=_log)
    protocol.extensions = list(extensions)
    return protocol


def let_go(protocol: Protocol) -> None:
    """Break its cycles: its parser, errors and what it has read last would wait for the garbage collector."""
    protocol.parser.close()
    error: BaseException | None
    for error in (protocol.parser_exc, protocol.handshake_exc):
        while error is not None:
            error.__traceback__ = None
            error = error.__cause__ or error.__context__

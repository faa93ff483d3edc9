"""The websockets library's Sans-I/O protocols, created for what is not a plain message, and discarded afterwards."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from websockets.datastructures import Headers
from websockets.extensions import Extension, ServerExtensionFactory
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol

_log = logging.getLogger("rsws.gateway.websocket")
_log.setLevel(logging.WARNING)  # at DEBUG websockets logs the request line, which contains the token


def agree_on_extensions(
    factories: Sequence[ServerExtensionFactory], offered: str
) -> tuple[str | None, Sequence[Extension]]:
    """Return the extensions header of the handshake's answer to a client's offer, and the extensions agreed on.

    Raises:
        InvalidHeader: The offer can't be parsed.
    """
    protocol = ServerProtocol(extensions=factories, logger=_log)
    try:
        return protocol.process_extensions(Headers({"Sec-WebSocket-Extensions": offered}))
    finally:
        break_cycles(protocol)


def after_handshake(extensions: Sequence[Extension], max_bytes: int) -> Protocol:
    """Return a protocol in the state of an open connection, between two frames.

    Args:
        extensions: The extensions agreed on in the handshake.
        max_bytes: The maximum size of a message.
    """
    protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=max_bytes, logger=_log)  # RFC 6455, section 4.2.2
    protocol.extensions = list(extensions)
    return protocol


def break_cycles(protocol: Protocol) -> None:
    """Break the protocol's reference cycles, which would keep its parser, errors and last data until a collection."""
    protocol.parser.close()
    error: BaseException | None
    for error in (protocol.parser_exc, protocol.handshake_exc):
        while error is not None:
            error.__traceback__ = None
            error = error.__cause__ or error.__context__

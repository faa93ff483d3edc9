"""What the gateway answers to plain HTTP: health."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from websockets.http11 import Request, Response
from websockets.server import ServerProtocol


class Health:
    """Answers GET requests that don't ask for a WebSocket.

    Args:
        is_ready: Whether Redis can be reached and does its work: it is not loading its data.
    """

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready

    def respond(self, protocol: ServerProtocol, request: Request) -> Response:
        """The answer to a request for any path."""
        match request.path.partition("?")[0]:
            case "/healthz":
                return protocol.reject(HTTPStatus.OK, "ok\n")
            case "/readyz" if self._is_ready():
                return protocol.reject(HTTPStatus.OK, "ok\n")
            case "/readyz":
                return protocol.reject(HTTPStatus.SERVICE_UNAVAILABLE, "Redis can't be reached\n")
        response = protocol.reject(
            HTTPStatus.UPGRADE_REQUIRED, "This is a WebSocket gateway: connect with ws://HOST:PORT/?token=KEY\n"
        )
        response.headers["Upgrade"] = "websocket"
        return response

"""What the gateway answers to plain HTTP: health and metrics."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from rsws.gateway.metrics import CONTENT_TYPE


class PlainHttp:
    """Answers GET requests that don't ask for a WebSocket.

    Args:
        is_ready: Whether Redis can be reached and does its work: it is not loading its data.
        metrics: Returns what ``/metrics`` says.
    """

    def __init__(self, is_ready: Callable[[], bool], metrics: Callable[[], str]) -> None:
        self._is_ready = is_ready
        self._metrics = metrics

    def __call__(self, connection: ServerConnection, request: Request) -> Response | None:
        """The answer, or None for a WebSocket handshake (on any path)."""
        if "websocket" in request.headers.get("Upgrade", "").lower():
            return None
        match request.path.partition("?")[0]:
            case "/healthz":
                return connection.respond(HTTPStatus.OK, "ok\n")
            case "/readyz" if self._is_ready():
                return connection.respond(HTTPStatus.OK, "ok\n")
            case "/readyz":
                return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "Redis can't be reached\n")
            case "/metrics":
                return _with(connection.respond(HTTPStatus.OK, self._metrics()), "Content-Type", CONTENT_TYPE)
        response = connection.respond(
            HTTPStatus.UPGRADE_REQUIRED, "This is a WebSocket gateway: connect with ws://HOST:PORT/?token=KEY\n"
        )
        return _with(response, "Upgrade", "websocket")


def _with(response: Response, header: str, value: str) -> Response:
    response.headers.pop(header, None)  # setting one adds to what is there
    response.headers[header] = value
    return response

"""What the gateway answers to plain HTTP: health and metrics."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from rsws.gateway.metrics import CONTENT_TYPE


class PlainHttp:
    """Answers requests that don't ask for a WebSocket.

    Args:
        is_ready: Whether Redis can be reached and does its work: it is not loading its data.
        metrics: Returns what ``/metrics`` says.
    """

    def __init__(self, is_ready: Callable[[], bool], metrics: Callable[[], str]) -> None:
        self._is_ready = is_ready
        self._metrics = metrics

    def respond(self, protocol: ServerProtocol, request: Request) -> Response:
        """The answer to a request for any path."""
        if request.method not in ("GET", "HEAD"):
            return _with(protocol.reject(HTTPStatus.METHOD_NOT_ALLOWED, "GET only\n"), "Allow", "GET, HEAD")
        response = self._get(protocol, request)
        if request.method == "HEAD":
            response.body = b""
        return response

    def _get(self, protocol: ServerProtocol, request: Request) -> Response:
        match request.path.partition("?")[0]:
            case "/healthz":
                return protocol.reject(HTTPStatus.OK, "ok\n")
            case "/readyz" if self._is_ready():
                return protocol.reject(HTTPStatus.OK, "ok\n")
            case "/readyz":
                return protocol.reject(HTTPStatus.SERVICE_UNAVAILABLE, "Redis can't be reached\n")
            case "/metrics":
                return _with(protocol.reject(HTTPStatus.OK, self._metrics()), "Content-Type", CONTENT_TYPE)
        response = protocol.reject(
            HTTPStatus.UPGRADE_REQUIRED, "This is a WebSocket gateway: connect with ws://HOST:PORT/?token=KEY\n"
        )
        return _with(response, "Upgrade", "websocket")


def _with(response: Response, header: str, value: str) -> Response:
    response.headers.pop(header, None)  # setting one adds to what is there
    response.headers[header] = value
    return response

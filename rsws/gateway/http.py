"""The part of HTTP/1 that the gateway speaks: reading a request's head, and plain responses such as ``/metrics``.

A complete head is checked by one regular expression. It accepts what Node's parser accepts, which old clients and the
proxies in front of them were tested with, in a tenth of the time of a parser that reads line by line: when ten thousand
clients reconnect simultaneously, that is the time they wait for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus

import msgspec

from rsws.gateway.client_module import HEADERS as CLIENT_MODULE_HEADERS
from rsws.gateway.client_module import client_module
from rsws.gateway.console import get_console
from rsws.gateway.metrics import CONTENT_TYPE
from rsws.gateway.peer import Peer

MAX_HEADERS = 128
TOKEN = rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+"
"""The regular expression for a token (RFC 9110, section 5.6.2)."""
_HEAD = re.compile(rb"([A-Z]+) ([!-~]+) HTTP/1\.[01]((?:\r\n" + TOKEN + rb"+:[\t -~\x80-\xff]*+)*)\r\n\r\n")
_NEVER = re.compile(rb"\A[^A-Z]|(?<!\r)\n|\r[^\n]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Bytes that no valid head starts with or contains: a request with them is refused before its head is complete."""


class Request(msgspec.Struct, frozen=True):
    """The head of a request."""

    method: str
    target: str
    """The request target, usually the path and its query."""
    headers: dict[bytes, bytes]
    """The header values by lower-case name; values of a repeated name are joined with a comma."""

    def __repr__(self) -> str:  # without the query and the headers, which may hold a token
        return f"Request({self.method} {self.target.partition('?')[0]})"


class RequestReader:
    """A parser for the head of one request, which may arrive in pieces.

    Args:
        max_bytes: The most bytes that the request line and the headers may have together.

    Attributes:
        received: The bytes that came, from the head on.
    """

    __slots__ = ("_end", "_is_over", "_max_bytes", "received")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.received = b""
        self._end = 0
        self._is_over = False

    @property
    def behind(self) -> bytes:
        """The bytes that came after the head."""
        return self.received[self._end :]

    def read(self, data: bytes) -> Request | HTTPStatus | None:
        """Feed received bytes.

        Returns:
            The request, or the status to refuse an invalid one with; None before the head is complete and after this.
        """
        if self._is_over:
            if self.received:
                self.received += data
            return None
        searched = len(self.received)
        received = self.received + data if searched else data.lstrip(b"\r\n")  # RFC 9112, section 2.2
        end = received.find(b"\r\n\r\n", max(0, searched - 3)) + 4
        if end < 4:
            if _NEVER.search(received, max(0, searched - 1)):
                return self._refuse(HTTPStatus.BAD_REQUEST)
            if len(received) > self._max_bytes:
                return self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            self.received = received
            return None
        if end > self._max_bytes:
            return self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        match = _HEAD.fullmatch(received, 0, end)
        if match is None:
            return self._refuse(HTTPStatus.BAD_REQUEST)
        lines = match[3].split(b"\r\n")[1:]
        if len(lines) > MAX_HEADERS:
            return self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        self._is_over = True
        self.received = received
        self._end = end
        return Request(match[1].decode(), match[2].decode(), _headers(lines))

    def _refuse(self, status: HTTPStatus) -> HTTPStatus:
        self._is_over = True
        self.received = b""
        return status


def _headers(lines: list[bytes]) -> dict[bytes, bytes]:
    """Return the headers by name, the values of repeated ones joined."""
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip()
        headers[name] = b"%b, %b" % (headers[name], value) if name in headers else value
    return headers


def response(
    status: HTTPStatus, text: str | bytes, headers: Mapping[str, str] | None = None, *, with_body: bool = True
) -> bytes:
    """Return the bytes of a response after which the connection is closed.

    Args:
        headers: Headers that are added to the default ones, or replace them.
        with_body: False for the response to HEAD, which has the same head and no body.
    """
    body = text.encode() if isinstance(text, str) else text
    fields = {
        "Date": formatdate(usegmt=True),
        "Connection": "close",
        "Content-Length": str(len(body)),
        "Content-Type": "text/plain; charset=utf-8",
    } | dict(headers or {})
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *[f"{name}: {value}" for name, value in fields.items()]]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head + body if with_body else head


_REFUSALS = {
    HTTPStatus.BAD_REQUEST: "that is not a request that can be read\n",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "the URL and headers of the request are too large, or too many\n",
}


def refusal(status: HTTPStatus) -> bytes:
    """Return the response to a request that a :class:`RequestReader` refuses with ``status``."""
    return response(status, _REFUSALS[status])


class PlainHttp:
    """The responses to requests that don't ask for a WebSocket.

    Args:
        why_not_ready: Returns why no client should be sent here, or None when nothing speaks against it.
        metrics: Returns the text for ``/metrics``; None where that is not here.
        check: Returns, for a request and who has sent it, whether the metrics are for it: ``OK``, or the status to
            refuse it with. None where they are for anybody.
        scheme: That of the gateway's URL: ``ws`` or ``wss``.
        console: Whether browsers are given the console.
        census: Returns, likewise, the status and the JSON for ``/clients``; None where that is not here.
    """

    def __init__(
        self,
        why_not_ready: Callable[[], str | None],
        metrics: Callable[[], str] | None,
        check: Callable[[Request, Peer], HTTPStatus] | None = None,
        scheme: str = "ws",
        *,
        console: bool = False,
        census: Callable[[Request, Peer], tuple[HTTPStatus, str]] | None = None,
    ) -> None:
        self._why_not_ready = why_not_ready
        self._scheme = scheme
        self._metrics = metrics
        self._check = check
        self._console = console
        self._census = census

    def respond(self, request: Request, peer: Peer) -> bytes:
        """Return the response to a request for any path.

        Args:
            peer: Who has sent it.
        """
        if request.method not in ("GET", "HEAD"):
            return response(HTTPStatus.METHOD_NOT_ALLOWED, "GET only\n", {"Allow": "GET, HEAD"})
        status, text, headers = self._get(request, peer)
        with_body = request.method == "GET" and status is not HTTPStatus.NOT_MODIFIED
        return response(status, text, headers, with_body=with_body)

    def _get(self, request: Request, peer: Peer) -> tuple[HTTPStatus, str | bytes, dict[str, str]]:
        path = request.target.partition("?")[0]
        match path:
            case "/healthz":
                return HTTPStatus.OK, "ok\n", {}
            case "/readyz":
                trouble = self._why_not_ready()
                if trouble is not None:
                    return HTTPStatus.SERVICE_UNAVAILABLE, f"{trouble}\n", {}
                return HTTPStatus.OK, "ok\n", {}
            case "/metrics":
                return self._get_metrics(request, peer)
            case "/clients":
                return self._get_census(request, peer)
            case "/rsws.js":
                gzipped = b"gzip" in request.headers.get(b"accept-encoding", b"")
                encoding = {"Content-Encoding": "gzip"} if gzipped else {}
                return HTTPStatus.OK, client_module(gzipped=gzipped), CLIENT_MODULE_HEADERS | encoding
        if self._console and (answer := get_console(path, request.headers)) is not None:
            return answer
        text = (
            f"This is a WebSocket gateway: connect with {self._scheme}://HOST:PORT/?token=KEY\n"
            "A proxy in between has to pass on the headers Upgrade and Connection.\n"
        )
        return HTTPStatus.UPGRADE_REQUIRED, text, {"Upgrade": "websocket"}

    def _get_metrics(self, request: Request, peer: Peer) -> tuple[HTTPStatus, str, dict[str, str]]:
        if self._metrics is None:
            return HTTPStatus.NOT_FOUND, "the metrics are at the address of --admin\n", {}
        status = HTTPStatus.OK if self._check is None else self._check(request, peer)
        if status is HTTPStatus.OK:
            return status, self._metrics(), {"Content-Type": CONTENT_TYPE}
        return (
            status,
            "the metrics need the secret key: Authorization: Bearer KEY; or serve them with --admin\n",
            {"WWW-Authenticate": 'Bearer realm="rsws"'},
        )

    def _get_census(self, request: Request, peer: Peer) -> tuple[HTTPStatus, str, dict[str, str]]:
        if self._census is None:
            return HTTPStatus.NOT_FOUND, "the clients are told on the port of clients\n", {}
        status, text = self._census(request, peer)
        if status is HTTPStatus.OK:
            return status, text, {"Content-Type": "application/json"}
        challenge = {"WWW-Authenticate": 'Bearer realm="rsws"'}
        return status, "the clients need the secret key: Authorization: Bearer KEY\n", challenge

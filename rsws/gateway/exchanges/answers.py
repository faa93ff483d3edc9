"""What plain HTTP answers: statuses, errors as JSON, and the headers for pages of other origins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from rsws.errors import ErrorCode, Outcome
from rsws.gateway.http import Request, response
from rsws.protocol import Error, ErrorAck

JSON = {"Content-Type": "application/json", "Cache-Control": "no-store"}
STATUS: dict[str, HTTPStatus] = {
    **dict.fromkeys(ErrorCode, HTTPStatus.BAD_REQUEST),
    ErrorCode.BAD_TOKEN: HTTPStatus.UNAUTHORIZED,
    ErrorCode.NOT_ALLOWED: HTTPStatus.FORBIDDEN,
    ErrorCode.CONFLICT: HTTPStatus.CONFLICT,
    ErrorCode.CHANNEL_UNREADABLE: HTTPStatus.CONFLICT,
    ErrorCode.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.TOO_MANY: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.REDIS_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.REDIS_REFUSED: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.NOT_REPLICATED: HTTPStatus.GATEWAY_TIMEOUT,
    ErrorCode.STOPPING: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The status of each error code; where it is unknown whether a message is stored, it is 504 whatever the code."""
_METHODS_OF_PAGES = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
    "Access-Control-Max-Age": "600",
}


class Refusal(Exception):
    """A request is refused.

    Attributes:
        status: The status of the answer.
        code: The ``code`` in it.
        headers: The headers beside the usual ones.
    """

    def __init__(self, status: HTTPStatus, code: str, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.headers = headers or {}

    @classmethod
    def of(cls, error: Error | ErrorAck) -> Refusal:
        """Return the refusal that a session's answer amounts to."""
        is_unknown = isinstance(error, ErrorAck) and error.outcome is Outcome.UNKNOWN
        status = HTTPStatus.GATEWAY_TIMEOUT if is_unknown else STATUS[error.code]
        headers = {}
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(math.ceil(error.retry_after_s))
        return cls(status, error.code, error.error, headers)


def error_body(request: Request, refusal: Refusal) -> bytes:
    """Return the body of a refusal. Only of a publish the outcome is anything: it may be stored, or is not."""
    outcome = None
    if request.method == "POST":
        outcome = Outcome.UNKNOWN if refusal.status is HTTPStatus.GATEWAY_TIMEOUT else Outcome.NOT_STORED
    return json_line({"error": str(refusal), "code": refusal.code, "outcome": outcome})


def json_line(value: Any) -> bytes:
    """Return a body of JSON, which ends with a line break as terminals like it."""
    return msgspec.json.encode(value) + b"\n"


def refuse_unread(request: Request, refusal: Refusal) -> bytes:
    """Return the whole answer to a request of which only the head was looked at; the connection is closed after it."""
    return response(
        refusal.status, error_body(request, refusal), JSON | dict(refusal.headers), with_body=request.method != "HEAD"
    )


def headers_for_pages(origin: bytes | None, *, is_listed: bool, is_preflight: bool = False) -> dict[str, str]:
    """Return the headers that let pages of other origins read an answer.

    Args:
        origin: The origin of the page, which has been found to be allowed; None for no page.
        is_listed: Whether the settings list origins; without, all are allowed, as a page needs the token.
        is_preflight: Whether the request asks what the page may do.
    """
    headers = {"Access-Control-Expose-Headers": "Retry-After"}
    if not is_listed:
        headers["Access-Control-Allow-Origin"] = "*"
    else:
        headers["Vary"] = "Origin"
        if origin is not None:
            headers["Access-Control-Allow-Origin"] = origin.decode(errors="replace")
    return headers | (_METHODS_OF_PAGES if is_preflight else {})

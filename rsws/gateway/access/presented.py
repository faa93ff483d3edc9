"""Where a client's token is: a header, a subprotocol, or the URL. The first that is there is the only one looked at."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote, unquote_plus

from rsws.protocol import SUBPROTOCOL, TOKEN_SUBPROTOCOL
from rsws.tokens.reasons import Reason


class Source(StrEnum):
    """Where a token came from."""

    HEADER = "header"
    SUBPROTOCOL = "subprotocol"
    URL = "url"
    REQUEST = "request"


@dataclass(frozen=True, slots=True)
class Presented:
    """The token of a client, or why there is none to be looked at."""

    source: Source
    readings: tuple[str, ...] = field(default=(), repr=False)
    """The token; several where it can be read in several ways."""
    fault: Reason | None = None


def find_token(authorization: bytes | None, subprotocols: Sequence[bytes], target: str) -> Presented:
    """Return the token of a request.

    Args:
        authorization: The value of that header.
        subprotocols: The names that the client offers.
        target: The path and its query.
    """
    if authorization is not None:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() == b"bearer":
            return _presented(Source.HEADER, token.strip().decode(errors="surrogateescape"))
    encoded = [name.removeprefix(TOKEN_SUBPROTOCOL) for name in subprotocols if name.startswith(TOKEN_SUBPROTOCOL)]
    if encoded and SUBPROTOCOL in subprotocols:
        return _decoded(encoded)
    in_url = next((value for name, _, value in _parameters(target) if name == "token"), None)
    if in_url is None and encoded:
        return Presented(Source.SUBPROTOCOL, fault=Reason.MISPLACED)
    # Deployed pages put the key into the URL as it is: a "+" in it may stand for itself or for a space.
    return _presented(Source.URL, unquote(in_url or ""), unquote_plus(in_url or ""))


def _presented(source: Source, *readings: str) -> Presented:
    if not any(readings):
        return Presented(source, fault=Reason.MISSING)
    return Presented(source, readings)


def _decoded(encoded: list[bytes]) -> Presented:
    if len(encoded) > 1:
        return Presented(Source.SUBPROTOCOL, fault=Reason.SEVERAL)
    text = encoded[0]
    try:
        token = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if base64.urlsafe_b64encode(token).rstrip(b"=") != text:
            raise ValueError("not as it is written")
        return _presented(Source.SUBPROTOCOL, token.decode())
    except (binascii.Error, ValueError):
        return Presented(Source.SUBPROTOCOL, fault=Reason.NOT_BASE64)


def _parameters(path: str) -> list[tuple[str, str, str]]:
    query = path.partition("#")[0].partition("?")[2]
    return [parameter.partition("=") for parameter in query.split("&")]

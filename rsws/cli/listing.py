"""Which channels there are: asked of the gateway over plain HTTP, as it has no request for that on a WebSocket."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from urllib.parse import quote, unquote, urlencode, urlsplit

import msgspec

from rsws.cli.endpoint import Endpoint
from rsws.cli.exits import ExitCode, Failure
from rsws.protocol import channel_fault
from rsws.text import excerpt

TIMEOUT_S = 10.0
"""How long the gateway may take for one page."""


class _Channel(msgspec.Struct):
    channel: str


class _Page(msgspec.Struct):
    channels: list[_Channel]
    cursor: str | None


class _Refusal(msgspec.Struct):
    error: str


async def list_channels(gateway: Endpoint, match: str = "*") -> AsyncIterator[list[str]]:
    """Yield the names of the channels that the token may read, some at a time, in no order.

    One that comes or goes meanwhile may be left out, or come twice.

    Args:
        match: A pattern, in which ``*`` stands for any run of characters.

    Raises:
        Failure: The list can't be had; the text says why.
        Unauthorized: The gateway refuses the token.
    """
    cursor: str | None = None
    while True:
        query = {"match": match} | ({} if cursor is None else {"cursor": cursor})
        page = await _get(gateway, f"/channels?{urlencode(query, quote_via=quote)}")
        yield [each.channel for each in page.channels if channel_fault(each.channel) is None]
        cursor = page.cursor
        if cursor is None:
            return


async def _get(gateway: Endpoint, path: str) -> _Page:
    from rsws.client.address import Address, explain
    from rsws.client.pages import Proxy, fetch

    address = Address.of(gateway.url, None, gateway.tls)
    parts = urlsplit(address.full_url)
    is_tls = parts.scheme == "wss"
    place = (parts.hostname or "", parts.port or (443 if is_tls else 80))
    tls = (gateway.tls or ssl.create_default_context()) if is_tls else None
    proxy = None
    if address.proxy is not None:
        via = urlsplit(address.proxy)
        if via.scheme != "http" or via.hostname is None:
            raise _failure(address.url, "the proxy that the environment names is no http:// one")
        login = f"{unquote(via.username or '')}:{unquote(via.password or '')}".encode() if via.username else b""
        proxy = Proxy((via.hostname, via.port or 80), base64.b64encode(login).decode())
    try:
        answer = await fetch(path, place, tls, token=gateway.read_token(), proxy=proxy, timeout_s=TIMEOUT_S)
    except TimeoutError:
        raise _failure(address.url, f"no answer within {TIMEOUT_S:g} s") from None
    except OSError as error:
        raise _failure(address.url, explain(error)) from None
    except ValueError as error:
        raise _failure(address.url, str(error)) from None
    if answer.status == 401:
        raise address.with_token("").unauthorized()
    try:
        if answer.status == 200:
            return msgspec.json.decode(answer.body, type=_Page)
        why = msgspec.json.decode(answer.body, type=_Refusal).error
    except msgspec.MsgspecError:
        why = f"HTTP status {answer.status}; is it older, or a proxy in front of it that does not pass on /channels?"
    code = {403: ExitCode.REFUSED, 503: ExitCode.NOT_CONNECTED, 429: ExitCode.TIMEOUT}.get(answer.status)
    raise _failure(address.url, why, code or ExitCode.ERROR)


def _failure(url: str, why: str, code: ExitCode = ExitCode.ERROR) -> Failure:
    return Failure(f"the gateway at {url} does not list its channels: {excerpt(why)}", code)

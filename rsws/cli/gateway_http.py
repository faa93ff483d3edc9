"""What a command asks a gateway over plain HTTP, at the same address and with the same token as its clients."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, unquote, urlencode, urlsplit

import msgspec

from rsws.cli.endpoint import Endpoint
from rsws.cli.exits import ExitCode, Failure
from rsws.text import excerpt
from rsws.urls import HostPort

if TYPE_CHECKING:
    from rsws.client.pages import Proxy

T = TypeVar("T")
TIMEOUT_S = 10.0
"""How long the gateway may take for one page."""
_CHANNELS = "which channels there are"
_CODES = {403: ExitCode.REFUSED, 503: ExitCode.NOT_CONNECTED, 429: ExitCode.TIMEOUT}


class _Refusal(msgspec.Struct):
    error: str


async def get(
    gateway: Endpoint,
    path: str,
    what: str,
    admin: HostPort | None = None,
    *,
    hint: str = "is it older, or a proxy in front?",
) -> str:
    """Return the text of a page.

    Args:
        what: What is asked for, for the text of an error: "the gateway at URL does not tell WHAT: ...".
        admin: Where the gateway listens for operators, if that is to be asked instead: it needs no token.
        hint: What to say where there is no such page.

    Raises:
        Failure: The page can't be had; the text says why.
        Unauthorized: The gateway refuses the token.
    """
    from rsws.client.address import Address, explain
    from rsws.client.pages import fetch

    address = Address.of(gateway.url, None, gateway.tls)
    parts = urlsplit(address.full_url)
    is_tls = parts.scheme == "wss" and admin is None
    place = admin or (parts.hostname or "", parts.port or (443 if is_tls else 80))
    tls = (gateway.tls or ssl.create_default_context()) if is_tls else None
    token = None if admin else gateway.read_token()

    def failure(why: str, code: ExitCode = ExitCode.NOT_CONNECTED) -> Failure:
        shown = f"http://{admin[0]}:{admin[1]}" if admin else address.url
        return Failure(f"the gateway at {shown} does not tell {what}: {excerpt(why)}", code)

    via = None if admin else address.proxy
    if via is not None and not via.startswith("http://"):
        raise failure("the proxy that the environment names is no http:// one", ExitCode.ERROR)
    try:
        page = await fetch(path, place, tls, token=token, proxy=_proxy(via), timeout_s=TIMEOUT_S)
    except TimeoutError:
        raise failure(f"no answer within {TIMEOUT_S:g} s") from None
    except OSError as error:
        raise failure(explain(error)) from None
    except ValueError as error:
        raise failure(str(error), ExitCode.ERROR) from None
    if page.status == 200:
        return page.body
    if page.status == 401:
        raise address.with_token("").unauthorized()
    try:
        why = msgspec.json.decode(page.body, type=_Refusal).error
    except msgspec.MsgspecError:
        why = page.body.strip() if page.headers.get_content_type() == "text/plain" else ""
        why = why if why and page.status not in (404, 426) else f"HTTP status {page.status}; {hint}"
    raise failure(why, _CODES.get(page.status, ExitCode.ERROR))


def _proxy(url: str | None) -> Proxy | None:
    from rsws.client.pages import Proxy

    if url is None:
        return None
    via = urlsplit(url)
    login = f"{unquote(via.username or '')}:{unquote(via.password or '')}".encode() if via.username else b""
    return Proxy((via.hostname or "", via.port or 80), base64.b64encode(login).decode())


class ListedChannel(msgspec.Struct, frozen=True, rename="camel"):
    """A channel of a gateway's list."""

    channel: str
    entries: int
    first_id: str | None
    last_id: str
    subscribers: int


class _Page(msgspec.Struct):
    channels: list[ListedChannel]
    cursor: str | None


async def list_channels(gateway: Endpoint, match: str) -> AsyncIterator[list[ListedChannel]]:
    """Yield the channels that the token may read, some at a time, in no order; one may come twice.

    Args:
        match: A pattern, in which ``*`` alone is special.

    Raises:
        Failure: The list can't be had; the text says why.
        Unauthorized: The gateway refuses the token.
    """
    cursor: str | None = None
    while True:
        query = {"match": match} | ({} if cursor is None else {"cursor": cursor})
        page = decode(await get(gateway, f"/channels?{urlencode(query, quote_via=quote)}", _CHANNELS), _Page, _CHANNELS)
        yield page.channels
        cursor = page.cursor
        if cursor is None:
            return


def decode(text: str, type: type[T], what: str) -> T:
    """Return a page of JSON as a value of ``type``.

    Raises:
        Failure: It is none.
    """
    try:
        return msgspec.json.decode(text, type=type)
    except msgspec.MsgspecError:
        text = f"what answers there does not tell {what}: is it a gateway, and not an older one?"
        raise Failure(text, ExitCode.ERROR) from None

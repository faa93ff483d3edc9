"""The address of a gateway, one attempt to connect to it, and the reason for a connection's end."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import (
    ConnectionClosed,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidURI,
    ProxyError,
    WebSocketException,
)
from websockets.frames import Frame, Opcode
from websockets.protocol import Event
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from rsws.client.limits import DEFAULTS, Limits
from rsws.errors import CLOSE_HELP, TOKEN_EXPIRED, CannotConnect, CloseCode, ConnectionLost, Unauthorized, UsageError
from rsws.protocol import Connected, Error, ErrorAck, Refused, Reply, decode_reply
from rsws.text import excerpt, safe
from rsws.urls import is_loopback, redact_url, websocket_url

_log = logging.getLogger("rsws.client.websocket")
_log.setLevel(logging.INFO)  # at DEBUG websockets logs the request's path, and the token is in it


class Connection(ClientConnection):
    """A connection that aborts when the other side pings and does not read: ``websockets`` buffers pongs unbounded."""

    def __init__(self, *args: Any, max_pong_bytes: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_pong_bytes = max_pong_bytes
        self._pong_bytes = 0

    def process_event(self, event: Event) -> None:
        super().process_event(event)
        if self.paused and isinstance(event, Frame) and event.opcode is Opcode.PING:
            self._pong_bytes += len(event.data) + 6  # the header of a short masked frame
            if self._pong_bytes > self._max_pong_bytes:
                self.transport.abort()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._pong_bytes = 0


@dataclass(frozen=True, slots=True)
class Address:
    """A gateway's URL, and the token for it."""

    url: str
    """The URL without query and password, safe to be shown."""
    full_url: str = field(repr=False)
    """The URL with the token, never to be shown."""
    tls: ssl.SSLContext | None = None
    """For ``wss://``: which certificates to trust; None for those that the system trusts."""

    @classmethod
    def of(cls, url: str, token: str | None, tls: ssl.SSLContext | None = None) -> Address:
        """Check ``url``, and put the token into its query; see :meth:`with_token`.

        Raises:
            UsageError: ``url`` is not a gateway's URL, or the token is not valid UTF-8.
        """
        full_url = websocket_url(url)
        shown = redact_url(full_url)
        try:
            parse_uri(full_url)
        except InvalidURI as error:
            raise UsageError(f"not a gateway's URL: {shown!r}: {error.msg}") from None
        except ValueError:  # a host name that can't be written for DNS
            raise UsageError(f"not a gateway's URL: {shown!r}: no valid host name") from None
        address = cls(shown, full_url, tls if urlsplit(full_url).scheme == "wss" else None)
        return address if token is None else address.with_token(token)

    def with_token(self, token: str) -> Address:
        """Return the address with the token in the URL's query, where it replaces one that is there already.

        Raises:
            UsageError: The token is not valid UTF-8.
        """
        parts = urlsplit(self.full_url)
        kept = [pair for pair in parts.query.split("&") if pair and pair.partition("=")[0] != "token"]
        try:
            quoted = quote(token, safe="")
        except UnicodeEncodeError:
            raise UsageError("the token is not valid UTF-8") from None
        query = "&".join([*kept, f"token={quoted}"])
        return Address(self.url, urlunsplit(parts._replace(query=query)), self.tls)

    @property
    def proxy(self) -> str | None:
        """The proxy that the environment names for this address, by curl's rules; None for none."""
        return _proxy(self.full_url)

    async def open(self, timeout_s: float, limits: Limits = DEFAULTS) -> ClientConnection:
        """Connect, and wait until the gateway has accepted the token.

        Raises:
            CannotConnect: No gateway answers there.
            Unauthorized: The gateway refuses the token.
        """
        proxy = self.proxy
        options: dict[str, Any] = {} if self.tls is None else {"ssl": self.tls}
        create = partial(Connection, max_pong_bytes=limits.max_pong_bytes)
        # Errors are raised `from None`: the texts and attributes of the originals hold the URL, token included.
        try:
            async with asyncio.timeout(timeout_s):
                connection = await connect_websocket(
                    self.full_url,
                    compression=None,
                    proxy=proxy,
                    **options,
                    open_timeout=None,
                    close_timeout=limits.close_timeout_s,
                    max_size=limits.max_message_bytes,
                    create_connection=create,  # type: ignore[arg-type] # it is only called
                    logger=_log,
                )
                try:
                    await self._await_welcome(connection)
                except BaseException:
                    connection.transport.abort()
                    raise
        except TimeoutError:
            through = f" through the proxy {redact_url(proxy)}" if proxy else ""
            raise self.cannot_connect(f"no answer within {timeout_s:g} s{through}; is the address right?") from None
        except ConnectionClosed as closed:
            ending = Ending.of(closed)
            if ending.code == CloseCode.POLICY_VIOLATION:
                raise self.unauthorized() from None
            raise self.cannot_connect(ending.reason) from None
        except (OSError, WebSocketException, ImportError, ValueError) as error:
            raise self.cannot_connect((proxy and _explain_proxy(error, proxy)) or explain(error)) from None
        return connection

    async def _await_welcome(self, connection: ClientConnection) -> None:
        try:
            first = read_reply(await connection.recv())
        except ValueError:
            first = None
        if isinstance(first, Refused):
            raise self.unauthorized()
        if not isinstance(first, Connected):
            raise self.cannot_connect("what answers there is not an rsws gateway; is the address right?")

    # --- errors whose texts don't show the token ---

    def cannot_connect(self, reason: str) -> CannotConnect:
        return CannotConnect(f"can't connect to {self.url}: {safe(reason)}")

    def connection_lost(self, reason: str) -> ConnectionLost:
        return ConnectionLost(f"the connection to {self.url} is lost: {safe(reason)}")

    def unauthorized(self) -> Unauthorized:
        given = any(pair.startswith("token=") for pair in urlsplit(self.full_url).query.split("&"))
        fault = "refuses the token" if given else "wants a token, and none was given"
        remedy = "give the one it was started with, or a JWT that it takes"
        return Unauthorized(f"the gateway at {self.url} {fault}; {remedy}")


def read_reply(frame: str | bytes) -> Reply | None:
    """Decode any frame with :func:`decode_reply`, and make the gateway's error texts short and safe to be shown.

    Raises:
        ValueError: The frame is not a reply.
    """
    if isinstance(frame, bytes):
        raise ValueError("a binary frame")
    try:
        reply = decode_reply(frame)
    except ValueError as error:
        raise ValueError(excerpt(str(error))) from None
    if isinstance(reply, (Error, ErrorAck)):
        return replace(reply, error=excerpt(reply.error), code=excerpt(reply.code))
    return reply


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for ``url``, by curl's rules; None when it names none."""
    address = parse_uri(url)
    if is_loopback(address.host):
        return None
    import urllib.request  # with http.client and email, which nothing else needs

    if urllib.request.proxy_bypass(f"{address.host}:{address.port}"):
        return None
    proxy = get_proxy(address) or urllib.request.getproxies().get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _explain_proxy(error: Exception, proxy: str) -> str | None:
    """Return what went wrong with the proxy; None when the error is not the proxy's."""
    shown = f"the proxy {redact_url(proxy)} that the environment names"
    match error:
        case InvalidProxyStatus(response=response):
            import http.client

            status = response.status_code  # the standard's phrase, as the proxy's text could be anything
            return f"{shown} refuses: HTTP status {status} {http.client.responses.get(status, '')}".rstrip()
        case InvalidProxy():
            return f"{shown} can't be used: {error.msg}"
        case ProxyError():
            return f"{shown} has answered with what is no answer of a proxy"
        case ImportError():
            return f"{shown} can't be used: {error}"  # a SOCKS proxy, and python-socks is not installed
        case ValueError():
            return f"{shown} is no URL: write http://HOST:PORT"
        case ssl.SSLError() if not proxy.startswith("https:"):
            return None
        case OSError():
            return f"{shown}: {_explain_os(error)}"
    return None


def explain(error: Exception) -> str:
    """Return what went wrong and what to do, without the URL (an InvalidURI after a redirect would show it whole)."""
    match error:
        case InvalidStatus(response=response):
            return f"HTTP status {response.status_code} and no WebSocket; is this an rsws gateway's address?"
        case WebSocketException():
            return f"no WebSocket there ({type(error).__name__}); is this an rsws gateway, and ws:// or wss:// right?"
        case ssl.SSLCertVerificationError():
            return f"its certificate can't be trusted: {error.verify_message.rstrip('.')}{_what_to_trust(error)}"
        case ValueError():
            return "its host name is not a valid one"
        case ssl.SSLError():
            return f"TLS failed ({error.reason}); does the gateway speak ws:// rather than wss://?"
    if _is_refused(error):
        return "connection refused; is the gateway running? `rsws serve` starts one"
    if isinstance(error, ConnectionError):
        return "the connection was cut while it was made; is ws:// or wss:// right?"
    return _explain_os(error)


def _what_to_trust(error: ssl.SSLCertVerificationError) -> str:
    """Return what to do about a certificate that can't be trusted: X509_V_ERR_... of openssl/x509_vfy.h."""
    match error.verify_code:
        case 18 | 19 | 20 | 21:  # self-signed, or of an authority that is not known
            return "; for a private authority give its certificate with --ca (in Python: ssl=) or SSL_CERT_FILE"
        case 62 | 64:  # another host name, another IP address
            return "; connect to the name that the certificate is for (--ca and the authority are not the matter)"
    return ""


def _is_refused(error: Exception) -> bool:
    # asyncio joins the refusals of several addresses (localhost has two) into the text of one OSError.
    return isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error)


def _explain_os(error: Exception) -> str:
    match error:
        case socket.gaierror():
            return f"the host name can't be resolved ({error.strerror})"
        case ssl.SSLError(reason=reason):
            return f"TLS failed ({reason})"
        case OSError() if _is_refused(error):
            return "connection refused"
        case OSError(errno=int(number)):
            return os.strerror(number)
    return str(error) or type(error).__name__


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a connection."""

    reason: str
    """Why the connection ended."""
    code: int | None
    """The close code; None where the connection broke without one."""
    by_gateway: bool
    """Whether the gateway closed it."""
    come_back: bool
    """Whether to reconnect makes sense."""
    token_expired: bool = False
    """Whether to reconnect makes sense with another token."""

    @classmethod
    def of(cls, closed: ConnectionClosed) -> Ending:
        """Make an :class:`Ending` of the exception that ``websockets`` raises at the end of a connection."""
        by_gateway = closed.rcvd is not None
        frame = closed.rcvd or closed.sent
        if frame is None:
            return cls("the connection broke", None, False, True)
        meaning, come_back = _CLOSE_HELP.get(frame.code, ("", True))
        said = safe(frame.reason) or (meaning if by_gateway else "")
        text = f"closed by {'the gateway' if by_gateway else 'this side'} with {frame.code}"
        expired = by_gateway and frame.code == CloseCode.POLICY_VIOLATION and frame.reason == TOKEN_EXPIRED
        return cls(f"{text}: {said}" if said else text, frame.code, by_gateway, come_back, expired)


_CLOSE_HELP = {int(code): help for code, help in CLOSE_HELP.items()}

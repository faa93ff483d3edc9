"""What an accepted connection passes before its WebSocket: a PROXY header, then TLS, where the settings say so."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import cast

from rsws.certificates import read_certificate, server_context
from rsws.gateway.access.files import KeyFile
from rsws.gateway.logs import NowAndThen
from rsws.gateway.metrics import Metrics
from rsws.gateway.peer import UNKNOWN
from rsws.gateway.websocket.connection import ClientConnection, ConnectionOwner
from rsws.gateway.websocket.forwarded import TrustedProxies
from rsws.gateway.websocket.proxy_header import read_proxy_header
from rsws.gateway.websocket.tls import TlsTransport
from rsws.log_lines import LogLine
from rsws.settings import Settings, read_secret

log = logging.getLogger("rsws.gateway")


class CertificateFiles:
    """The gateway's certificate and its key, read again when one of their files changes.

    Attributes:
        context: The context for new connections; those that are open keep the one they began with.
        files: The files to be watched.

    Raises:
        UsageError: A file can't be used.
    """

    context: ssl.SSLContext

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._certificate = certificate
        self._key = key or certificate
        self._loaded: tuple[str, str] | None = None
        paths = {"TLS certificate": certificate, "TLS key": key}
        self.files = [KeyFile(path, what, self._load) for what, path in paths.items() if path is not None]

    def _load(self, _: str) -> None:
        """Read both files: the certificate is of no use without its key."""
        texts = read_secret(self._certificate, "TLS certificate"), read_secret(self._key, "TLS key")
        if texts == self._loaded:
            return
        self.context = server_context(self._certificate, self._key)
        self._loaded = texts
        if fault := read_certificate(self._certificate).time_fault():
            log.warning("the TLS certificate in %s %s; clients will refuse it", self._certificate, fault)


class Entrance:
    """Makes the protocol of each connection that is accepted.

    Args:
        owner: Who owns the connections.

    Attributes:
        owner: Who owns the connections.
        certificate: The gateway's certificate; None where it does not speak TLS.

    Raises:
        UsageError: A file of the certificate can't be used.
    """

    def __init__(self, settings: Settings, owner: ConnectionOwner, metrics: Metrics) -> None:
        self.owner = owner
        self._metrics = metrics
        self._wants_header = settings.proxy_protocol
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._log_no_header = NowAndThen(log)
        self.certificate: CertificateFiles | None = None
        if settings.tls_cert is not None:
            self.certificate = CertificateFiles(settings.tls_cert, settings.tls_key)

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        connection = ClientConnection(self.owner)
        protocol: asyncio.Protocol = connection
        if self.certificate is not None:
            protocol = TlsTransport(self.certificate.context, connection, self._tls_failed)
        return _ProxyHeaderReader(self, connection, protocol) if self._wants_header else protocol

    def trusts(self, connection: ClientConnection) -> bool:
        """Whether a connection comes from a trusted proxy."""
        return connection.source in self._proxies

    def refuse_header(self, connection: ClientConnection, reason: str) -> None:
        """Count, log and abort a connection that does not begin as it should."""
        self._metrics.proxy_headers_refused += 1
        self._log_no_header.warning(
            "connection refused",
            client=connection.peer,
            reason=reason,
            refused=self._metrics.proxy_headers_refused,
        )
        connection.transport.abort()

    def _tls_failed(self, connection: ClientConnection, reason: str) -> None:
        self._metrics.tls_failures += 1
        log.debug(LogLine("TLS failed", client=connection.peer, reason=reason))


class _ProxyHeaderReader(asyncio.Protocol):
    """The protocol of a connection until its PROXY header has come; then it makes way for the next one."""

    __slots__ = ("_connection", "_entrance", "_next", "_received", "_transport")

    def __init__(self, entrance: Entrance, connection: ClientConnection, next_: asyncio.Protocol) -> None:
        self._entrance = entrance
        self._connection = connection
        self._next = next_
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start (a callback of asyncio). The connection is made now: its time for the handshake includes the header."""
        self._transport = cast(asyncio.Transport, transport)
        self._next.connection_made(transport)
        if self._connection.source is UNKNOWN:
            self._transport.abort()
        elif not self._entrance.trusts(self._connection):
            self._entrance.refuse_header(self._connection, "its address is not one of --trusted-proxies")

    def data_received(self, data: bytes) -> None:
        """Read the header (a callback of asyncio)."""
        self._received += data
        try:
            header = read_proxy_header(self._received)
        except ValueError as error:
            self._entrance.refuse_header(self._connection, str(error))
            return
        if header is None:
            return
        if header.client is not None:
            self._connection.source = header.client
            self._entrance.owner.identified(self._connection)
            if self._transport.is_closing():
                return
        self._transport.set_protocol(self._next)
        if rest := self._received[header.size :]:
            self._next.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on (a callback of asyncio)."""
        self._next.connection_lost(exc)

"""TLS between a client's TCP connection and its WebSocket.

OpenSSL does it in memory, and what it makes is written to the TCP transport immediately: so the connection sees the one
write buffer there is, and the transport is counted, and has its deadline, from the moment it was accepted.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from rsws.gateway.websocket.connection import ClientConnection

RECORD_BYTES = 16 * 1024
"""The most bytes that one record of TLS carries."""


class TlsTransport(asyncio.Protocol, asyncio.Transport):
    """The transport of a connection that speaks TLS, and the protocol of the TCP transport below.

    Args:
        context: The certificate, and which versions are spoken.
        connection: The connection above, which notices nothing of TLS.
        failed: Called when the client does not speak TLS, or breaks its rules, with the reason.
    """

    __slots__ = ("_connection", "_failed", "_has_ended", "_incoming", "_is_open", "_outgoing", "_tcp", "_tls")

    _tcp: asyncio.Transport

    def __init__(
        self,
        context: ssl.SSLContext,
        connection: ClientConnection,
        failed: Callable[[ClientConnection, str], None],
    ) -> None:
        super().__init__()
        self._connection = connection
        self._failed = failed
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._is_open = False
        self._has_ended = False
        """Whether nothing more is written: input is only read to notice its end."""

    # --- from the client: a protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start (a callback of asyncio). The connection is made now: it has to wait for the handshake as for any."""
        self._tcp = cast(asyncio.Transport, transport)
        self._connection.connection_made(self)

    def data_received(self, data: bytes) -> None:
        """Pass on what records have in them (a callback of asyncio)."""
        connection = self._connection
        if self._has_ended:
            connection.data_received(data)
            return
        plain, is_over = [], False
        self._incoming.write(data)
        try:
            if not self._is_open:
                self._tls.do_handshake()
                self._is_open = True
            while (self._incoming.pending or self._tls.pending()) and not is_over:
                plain.append(self._tls.read(RECORD_BYTES))
                is_over = not plain[-1]
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._fail(error)
            return
        if self._outgoing.pending:
            self._tcp.write(self._outgoing.read())
            connection.adjust_reading()  # a client may demand answers of TLS itself, and not read them
        if any(plain):
            connection.data_received(plain[0] if len(plain) == 1 else b"".join(plain))
        if is_over and not self._tcp.is_closing():
            connection.eof_received()
            self.close()

    def eof_received(self) -> None:
        """Handle the end of the client's input, on which TCP closes itself (a callback of asyncio)."""
        self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after the end of the connection (a callback of asyncio)."""
        self._connection.connection_lost(exc)
        # The reference cycle would keep them alive. What is called from now on looks at TCP first, which is closed.
        del self._connection, self._tls, self._incoming, self._outgoing

    def pause_writing(self) -> None:
        """Pass it on (a callback of asyncio)."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on (a callback of asyncio)."""
        self._connection.resume_writing()

    def _fail(self, error: ssl.SSLError) -> None:
        """Close the connection after the alert that says why."""
        if self._outgoing.pending:
            self._tcp.write(self._outgoing.read())
        self._has_ended = True
        self._connection.eof_received()
        self._tcp.close()
        self._failed(self._connection, (error.reason or str(error)).lower().replace("_", " "))

    # --- to the client: a transport ---

    def write(self, data: Any) -> None:
        """Write it in records of TLS."""
        if self._has_ended or self._tcp.is_closing() or not data:
            return
        written = self._tls.write(data)  # it may take a part
        if written < len(data):
            rest = memoryview(data)
            while rest := rest[written:]:
                written = self._tls.write(rest)
        self._tcp.write(self._outgoing.read())

    def can_write_eof(self) -> bool:
        """See :class:`asyncio.WriteTransport`."""
        return True

    def write_eof(self) -> None:
        """End the writing: first that of TLS (RFC 8446, section 6.1), then that of TCP."""
        self._end()
        self._tcp.write_eof()

    def close(self) -> None:
        """Close after what was written so far."""
        self._end()
        self._tcp.close()

    def _end(self) -> None:
        if self._has_ended or self._tcp.is_closing():
            return
        self._has_ended = True
        if self._is_open:
            with suppress(ssl.SSLError):  # the client has not ended its side yet
                self._tls.unwrap()
        if self._outgoing.pending:
            self._tcp.write(self._outgoing.read())

    def abort(self) -> None:
        """Close immediately."""
        self._tcp.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or closing."""
        return self._tcp.is_closing()

    def pause_reading(self) -> None:
        """Read nothing more. What has been received is passed on at once, so nothing waits here."""
        self._tcp.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._tcp.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Return the bytes, encrypted, that the kernel has not taken yet."""
        return self._tcp.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See :class:`asyncio.WriteTransport`."""
        self._tcp.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the TCP transport says, and the context of TLS as ``sslcontext``."""
        return self._tls.context if name == "sslcontext" else self._tcp.get_extra_info(name, default)

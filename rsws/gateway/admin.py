"""The admin listener: ``/metrics``, ``/healthz`` and ``/readyz`` where no client comes."""

from __future__ import annotations

import asyncio
from typing import cast

from rsws.gateway.http import PlainHttp, Request, RequestReader, refusal
from rsws.gateway.peer import UNKNOWN

MAX_CONNECTIONS = 64
"""The maximum number of connections at once; each further one replaces the oldest."""


class AdminListener:
    """The makers of the admin listener's connections.

    Args:
        http: Responds to requests.
        timeout_s: The time that a connection may take in all.
        max_header_bytes: The most bytes that a request may have.
    """

    def __init__(self, http: PlainHttp, timeout_s: float, max_header_bytes: int) -> None:
        self.http = http
        self.timeout_s = timeout_s
        self.max_header_bytes = max_header_bytes
        self.connections: dict[asyncio.Transport, None] = {}

    def connection(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return _Connection(self)

    def close(self) -> None:
        """Cut off all connections."""
        for transport in [*self.connections]:
            transport.abort()


class _Connection(asyncio.Protocol):
    """One request and its response."""

    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle

    def __init__(self, listener: AdminListener) -> None:
        self._listener = listener
        self._reader = RequestReader(listener.max_header_bytes)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        listener = self._listener
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(listener.timeout_s, self._transport.abort)
        if len(listener.connections) >= MAX_CONNECTIONS:
            oldest = next(iter(listener.connections))
            del listener.connections[oldest]
            oldest.abort()
        listener.connections[self._transport] = None

    def data_received(self, data: bytes) -> None:
        request = self._reader.read(data)
        if request is None:
            return
        answer = self._listener.http.respond(request, UNKNOWN) if isinstance(request, Request) else refusal(request)
        self._transport.write(answer)
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        self._listener.connections.pop(self._transport, None)

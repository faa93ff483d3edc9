"""A plain request to a gateway: one page of HTTP beside the WebSocket."""

from __future__ import annotations

import asyncio
import http.client
import io
import re
import ssl
import time
from dataclasses import dataclass, field
from email.message import Message

from rsws.urls import HostPort, join_host_port

PAGE_BYTES = 1024 * 1024
"""The most of a page that is read."""


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to a plain request."""

    status: int
    headers: Message
    body: str
    age_s: float
    """How long the answer took."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy for HTTP."""

    place: HostPort
    login: str = field(default="", repr=False)
    """User and password as ``Proxy-Authorization: Basic`` has them; empty for none."""


async def fetch(
    path: str,
    place: HostPort,
    tls: ssl.SSLContext | None,
    *,
    token: str | None = None,
    proxy: Proxy | None = None,
    timeout_s: float,
) -> Page:
    """Get a page.

    Args:
        token: What is sent as ``Authorization``; None for nothing.
        proxy: A proxy that connects to ``place``; None where there is none.

    Raises:
        TimeoutError: It was not there within ``timeout_s``.
        OSError: Nothing answers.
        ValueError: What answers does not speak HTTP, or the proxy refuses.
    """
    since = time.monotonic()
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(
            *(proxy.place if proxy else place), ssl=None if proxy else tls, limit=PAGE_BYTES
        )
        try:
            if proxy:
                await _tunnel(reader, writer, place, proxy.login)
                if tls is not None:
                    await writer.start_tls(tls, server_hostname=place[0])
            # By HTTP/1.0 the end of the page is that of the connection, whatever is in between.
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {join_host_port(place)}\r\n{bearer}\r\n".encode())
            answer = bytearray()
            while len(answer) < PAGE_BYTES and (part := await reader.read(PAGE_BYTES)):
                answer += part
        finally:
            writer.transport.abort()
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    first, _, fields = head.partition(b"\r\n")
    said = http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
    return Page(_status(first), said, body.decode(errors="replace"), time.monotonic() - since)


async def _tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: HostPort, login: str) -> None:
    target = join_host_port(place)
    basic = f"Proxy-Authorization: Basic {login}\r\n" if login else ""
    writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{basic}\r\n".encode())
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise ValueError("the proxy has answered with what is no answer of a proxy") from None
    if (status := _status(head)) != 200:
        raise ValueError(f"the proxy refuses: HTTP status {status}")


def _status(first: bytes) -> int:
    match = re.match(rb"HTTP/1\.[01] ([0-9]{3})", first)
    if match is None:
        raise ValueError("what answers there does not speak HTTP")
    return int(match[1])

"""The PROXY protocol, versions 1 and 2: the header with which a proxy begins a connection to say whose it is.

As HAProxy defines it (proxy-protocol.txt); the sections in comments are those of that document.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import NamedTuple

from rsws.gateway.peer import Peer

MAX_BYTES = 1024
"""The longest header of version 2: 16 bytes, addresses, and additions that are not looked at."""
_MAX_LINE = 107  # section 2.1, the line end included
_LINE_START = b"PROXY "
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = len(_SIGNATURE) + 4
_LINE = re.compile(rb"(TCP[46]) ([0-9a-fA-F.:]+) ([0-9a-fA-F.:]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})")
_ADDRESS_BYTES = {0x11: 4, 0x21: 16}  # section 2.2: TCP over IPv4, TCP over IPv6


class ProxyHeader(NamedTuple):
    """A header that is complete."""

    client: Peer | None
    """Who has connected to the proxy; None where that is the proxy itself, as for a health check, or not told."""
    size: int
    """Its length in bytes; what follows it is the connection's own."""


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """Return the header at the beginning of ``data``; None while it is incomplete.

    Raises:
        ValueError: What is there is no such header; the text says what is wrong with it.
    """
    if _begins(data, _SIGNATURE):
        return _read_binary(data)
    if _begins(data, _LINE_START):
        return _read_line(data)
    raise ValueError("no PROXY header")


def _begins(data: bytes, start: bytes) -> bool:
    """Whether ``data`` begins with ``start``, as far as it goes."""
    return data[: len(start)] == start[: len(data)]


def _read_line(data: bytes) -> ProxyHeader | None:
    """Read version 1 (section 2.1)."""
    end = data.find(b"\r\n", 0, _MAX_LINE)
    if end < 0:
        if len(data) >= _MAX_LINE:
            raise ValueError("the line of the PROXY header is too long")
        return None
    said = data[len(_LINE_START) : end]
    if said.partition(b" ")[0] == b"UNKNOWN":
        return ProxyHeader(None, end + 2)
    match = _LINE.fullmatch(said)
    if match is None or max(int(match[4]), int(match[5])) > 65535 or (b":" in match[2]) != (match[1] == b"TCP6"):
        raise ValueError("the line of the PROXY header can't be read")
    return ProxyHeader(Peer.of(match[2].decode(), int(match[4])), end + 2)


def _read_binary(data: bytes) -> ProxyHeader | None:
    """Read version 2 (section 2.2)."""
    if len(data) < _FIXED:
        return None
    command, family = data[12], data[13]
    size = _FIXED + int.from_bytes(data[14:16])
    if command not in (0x20, 0x21):  # LOCAL and PROXY
        raise ValueError("the PROXY header has another version or command")
    if size > MAX_BYTES:
        raise ValueError(f"the PROXY header has {size} bytes, and {MAX_BYTES} are allowed")
    width = _ADDRESS_BYTES.get(family, 0)
    is_told = command == 0x21 and width > 0
    if is_told and size < _FIXED + 2 * width + 4:
        raise ValueError("the PROXY header is too short for its addresses")
    if len(data) < size:
        return None
    if not is_told:
        return ProxyHeader(None, size)
    source = data[_FIXED : _FIXED + width]
    port = int.from_bytes(data[_FIXED + 2 * width : _FIXED + 2 * width + 2])
    return ProxyHeader(Peer.of(str(ip_address(source)), port), size)

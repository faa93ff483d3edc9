"""What proxies send in front of a connection."""

from __future__ import annotations

import ipaddress

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"


def proxy_v2(address: str, port: int, additions: bytes = b"") -> bytes:
    """The header of version 2 for a client of that address."""
    source = ipaddress.ip_address(address).packed
    body = source + bytes(len(source)) + port.to_bytes(2) + b"\x01\xbb" + additions
    return SIGNATURE + (b"\x21\x11" if len(source) == 4 else b"\x21\x21") + len(body).to_bytes(2) + body

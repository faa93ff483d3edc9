"""The address of a client."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from rsws.urls import join_host_port


class Peer(NamedTuple):
    """The address of a client. Its text is for log lines."""

    address: str
    """The IP address, or ``unknown``."""
    port: int | None = None
    """The port; None where a proxy does not tell it."""

    @classmethod
    def of(cls, address: str, port: int | None = None) -> Peer:
        """Return the peer, its address written in the one usual way: an IPv4 address without a prefix of IPv6.

        Raises:
            ValueError: It is no IP address, or one with a zone, which means nothing on another machine.
        """
        if "%" in address:
            raise ValueError("an address with a zone")
        parsed = ip_address(address)
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return cls(str(parsed), port)

    def __str__(self) -> str:
        address, port = self
        return address if port is None else join_host_port((address, port))


UNKNOWN = Peer("unknown")
"""The peer of a connection that had ended before it was accepted, as health checks end theirs."""


def counted_as(address: str) -> str | int:
    """Return what an address is counted under: itself, or its /64 network in IPv6, where a client has 2**64 of them."""
    return int(IPv6Address(address.partition("%")[0])) >> 64 if ":" in address else address

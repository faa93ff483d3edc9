"""The client behind trusted proxies, as the headers ``X-Forwarded-For`` and ``Forwarded`` (RFC 7239) tell it.

Each proxy appends the address that it was reached from, so the headers are read from their end, and only as far as
trusted proxies have written them: whatever stands before that, the client itself may have made up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network

from rsws.gateway.peer import Peer

MAX_HOPS = 20
"""The proxies of one request that are looked at, from the end of the header."""
_NODE = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+))(?::([0-9]{1,5}|_[A-Za-z0-9._-]+))?")
_PAIR = re.compile(r'[ \t]*([-!#$%&\'*+.^_`|~0-9a-zA-Z]+)=([-!#$%&\'*+.^_`|~0-9a-zA-Z]+|"(?:[^"\\]|\\.)*")[ \t]*')


class TrustedProxies:
    """The proxies whose word counts.

    Args:
        networks: Their addresses and networks, such as ``10.0.0.0/8``.

    Raises:
        ValueError: One of them is neither.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ip_network(text) for text in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, peer: Peer) -> bool:
        if not self._networks:
            return False
        try:
            address = ip_address(peer.address.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def client(self, peer: Peer, headers: Mapping[bytes, bytes]) -> Peer:
        """Return who has sent a request: the first address before ``peer`` that is no trusted proxy.

        Where an entry names nobody (``unknown``, an obfuscated name) or can't be read, it is the proxy that wrote it.

        Args:
            peer: Where the connection comes from.
            headers: The request's, by lower-case name. ``Forwarded`` counts only without ``X-Forwarded-For``: a proxy
                that writes one of them usually passes the other on as the client sent it, and most write that one.
        """
        if peer not in self:
            return peer
        said = headers.get(b"x-forwarded-for")
        nodes = _forwarded_for(headers.get(b"forwarded", b"")) if said is None else _entries(said)
        for node in nodes:
            told = parse_node(node)
            if told is None:
                break
            peer = told
            if peer not in self:
                break
        return peer


def parse_node(text: str) -> Peer | None:
    """Return the address of an entry, with or without a port; None where it names none."""
    match = _NODE.fullmatch(text)
    try:
        if match is None:
            return Peer.of(text)  # an IPv6 address without brackets, as in X-Forwarded-For
        port = int(match[3]) if match[3] and match[3].isdigit() else None
        return Peer.of(match[1] or match[2], port if port is None or port < 65536 else None)
    except ValueError:
        return None


def _entries(value: bytes) -> Iterator[str]:
    """Yield the entries of a list, the last one first."""
    parts = value.decode("latin-1").rsplit(",", MAX_HOPS)
    return (part.strip() for part in reversed(parts[-MAX_HOPS:]))


def _forwarded_for(value: bytes) -> Iterator[str]:
    """Yield what the elements of ``Forwarded`` say after ``for=``, the last one first; "" for one that says nothing.

    An element is what follows the last comma, also where a client has opened a quotation before it: so nothing that it
    sends can hide what proxies append. One with a comma of its own in a quotation, which no address has, can't be read.
    """
    for element in _entries(value):
        pairs = [_PAIR.fullmatch(pair) for pair in element.split(";") if pair.strip()]
        said = [pair[2] for pair in pairs if pair is not None and pair[1].lower() == "for"]
        readable = None not in pairs and len(said) == 1
        yield re.sub(r"\\(.)", r"\1", said[0].strip('"')) if readable else ""

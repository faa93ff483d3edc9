"""URLs of gateways and Redis servers: checked, completed, and redacted for display."""

from __future__ import annotations

import ipaddress
import re
from typing import TypeAlias
from urllib.parse import urlsplit

from rsws.errors import UsageError
from rsws.text import safe

HostPort: TypeAlias = tuple[str, int]

_SCHEME = re.compile(
    r"(?:(?:rediss?|valkeys?)(?:\+sentinel|\+cluster)?|unix|ws|wss|http|https|socks4a?|socks5h?)://", re.IGNORECASE
)
_PLACE = r"(?:\[[0-9a-f:.]+(?:%\w+)?\]|[^\s@:/?#\[\],]+)(?::[0-9]{1,5})?"
# Everything before the last @ is secret, however a parser would read it. The address can't contain a password.
_SHOWN = re.compile(
    rf"(?P<scheme>{_SCHEME.pattern})(?P<secret>[^?#]*@)?"
    rf"(?P<address>(?:{_PLACE}(?:,{_PLACE})*)?(?:/[^@?#]*)?)"
    r"(?:[?#][^@]*)?",
    re.IGNORECASE,
)
_PORT = re.compile(r":?([0-9]+)")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
"""The ports that browsers leave out of an origin."""


def is_loopback(host: str) -> bool:
    """Whether ``host`` is a name or an address at which only this machine itself can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_fault(host: str) -> str | None:
    """Return why ``host`` is not a valid host name; None when it is."""
    if is_loopback(host):  # as of most commands, which then need no tables of Unicode
        return None
    try:
        host.encode("idna")
    except UnicodeError:
        return "it is not a valid host name"
    return None


def parse_place(text: str) -> HostPort:
    """Return the host and the port of ``HOST:PORT``, ``[IPV6]:PORT``, or ``PORT`` of this machine.

    Raises:
        ValueError: It is none of them.
    """
    if port := _PORT.fullmatch(text):
        text = f"127.0.0.1:{port[1]}"
    parts = urlsplit(f"//{text}")
    if parts.netloc != text or "@" in text or not parts.hostname or parts.port is None or host_fault(parts.hostname):
        raise ValueError
    return parts.hostname, parts.port


def place_fault(text: str) -> str | None:
    """Return why ``text`` is no place to listen on; None when it is."""
    try:
        parse_place(text)
    except ValueError:
        return "it must be HOST:PORT, or PORT for this machine alone"
    return None


def origin_fault(text: str) -> str | None:
    """Return why ``text`` is not the origin of a web page as a browser writes it; None when it is."""
    if text == "null":
        return None
    match = _ORIGIN.fullmatch(text.lower())
    if match is not None and (match[2] is None or match[2] != _DEFAULT_PORTS.get(match[1])):
        return None
    return "it must be an origin as browsers write it, SCHEME://HOST or SCHEME://HOST:PORT, without *, or null"


def network_fault(text: str) -> str | None:
    """Return why ``text`` is not an IP address or a network of them; None when it is."""
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        return f"it is no IP address, and no network such as 10.0.0.0/8: {error}"
    return None


def join_host_port(place: HostPort) -> str:
    """Return ``host:port``, an IPv6 address in brackets."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def redact_url(url: str) -> str:
    """Return ``url`` without user, password and query, safe for a log line.

    Only the scheme is left of a text that is not clearly a URL, such as one whose password was not percent-encoded.
    """
    match = _SHOWN.fullmatch(safe(url))
    if match is None:
        return f"{scheme[0]}***" if (scheme := _SCHEME.match(url)) else "***"
    return f"{match['scheme']}{'***@' if match['secret'] else ''}{match['address']}"


def websocket_url(url: str) -> str:
    """Check and complete ``url`` for a WebSocket client: ``localhost:8080`` becomes ``ws://localhost:8080``.

    A port alone, ``8080`` or ``:8080``, is a port of this machine.

    Raises:
        UsageError: It is not a ws:// or wss:// URL; the text says what to write.
    """
    text = url.strip()
    if port := _PORT.fullmatch(text):
        text = f"127.0.0.1:{port[1]}"
    if "://" not in text:
        text = f"ws://{text}"
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("ws", "wss") and parts.hostname and (parts.port is None or parts.port > 0)
        valid = valid and host_fault(parts.hostname or "") is None
    except ValueError:
        valid = False
    if not valid or safe(text) != text or any(character.isspace() for character in text):
        raise UsageError(f"not a gateway's URL: '{redact_url(text)}'; write ws://HOST:PORT or wss://HOST")
    return text

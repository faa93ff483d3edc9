"""Who a client is, by what trusted proxies say: the headers, read from their end."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsws.gateway.peer import Peer
from rsws.gateway.websocket.forwarded import MAX_HOPS, TrustedProxies, parse_node
from rsws.urls import network_fault

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8:f::/48", "192.0.2.7"])
PROXY = Peer("10.0.0.1", 4711)
X, FORWARDED = b"x-forwarded-for", b"forwarded"


def client(said: str, header: bytes = X, peer: Peer = PROXY) -> str:
    return str(PROXIES.client(peer, {header: said.encode("latin-1")}))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("6.6.6.6, 203.0.113.5", "203.0.113.5"),
        ("6.6.6.6, 203.0.113.5, 10.9.9.9", "203.0.113.5"),
        ("203.0.113.5,10.9.9.9,192.0.2.7", "203.0.113.5"),
        ("10.3.3.3, 10.2.2.2", "10.3.3.3"),
        ("203.0.113.5:1234", "203.0.113.5:1234"),
        ("2001:db8::5", "2001:db8::5"),
        ("[2001:DB8:0::5]:443", "[2001:db8::5]:443"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("203.0.113.5, 2001:db8:f::1", "203.0.113.5"),
        ("", "10.0.0.1:4711"),
        ("unknown", "10.0.0.1:4711"),
        ("203.0.113.5, unknown", "10.0.0.1:4711"),
        ("203.0.113.5, nonsense, 10.2.2.2", "10.2.2.2"),
        ("203.0.113.5,", "10.0.0.1:4711"),
        ("203.0.113.256", "10.0.0.1:4711"),
        ("203.0.113.5:99999", "203.0.113.5"),
        ("fe80::1%eth0", "10.0.0.1:4711"),
        ("fe80::1%x\x1b[2J", "10.0.0.1:4711"),
        ("٢٠٣.0.113.5".encode().decode("latin-1"), "10.0.0.1:4711"),
        (", ".join(["10.1.1.1"] * 5000), "10.1.1.1"),
        ("203.0.113.5, " + ", ".join(["10.1.1.1"] * MAX_HOPS), "10.1.1.1"),
    ],
)
def test_x_forwarded_for(said: str, expected: str) -> None:
    assert client(said) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("for=203.0.113.5", "203.0.113.5"),
        ("For=203.0.113.5;proto=https;by=10.0.0.1", "203.0.113.5"),
        ('for="203.0.113.5:80"', "203.0.113.5:80"),
        ('for="[2001:db8:cafe::17]:4711"', "[2001:db8:cafe::17]:4711"),
        ('for="[2001:db8:cafe::17]"', "2001:db8:cafe::17"),
        ('for="203.0.113.5:_port"', "203.0.113.5"),
        ("for=6.6.6.6, for=203.0.113.5 , for=10.2.2.2;proto=http", "203.0.113.5"),
        ("for=203.0.113.5, for=unknown", "10.0.0.1:4711"),
        ("for=203.0.113.5, for=_hidden, for=10.2.2.2", "10.2.2.2"),
        ("for=203.0.113.5, proto=https", "10.0.0.1:4711"),
        ("for=1.1.1.1;for=203.0.113.5", "10.0.0.1:4711"),
        ("for=203.0.113.5;", "203.0.113.5"),
        ("for = 203.0.113.5", "10.0.0.1:4711"),
        ("203.0.113.5", "10.0.0.1:4711"),
        # A quotation that the client has opened takes in nothing of what the proxy appends.
        ('for="6.6.6.6, for=203.0.113.5', "203.0.113.5"),
        (r'for="6.6.6.6\", for=203.0.113.5', "203.0.113.5"),
        ('for=203.0.113.5;host="a,b"', "10.0.0.1:4711"),
    ],
)
def test_forwarded(said: str, expected: str) -> None:
    assert client(said, FORWARDED) == expected


def test_it_counts_from_trusted_proxies_alone() -> None:
    stranger = Peer("203.0.113.9", 1)
    assert PROXIES.client(stranger, {X: b"10.0.0.1", FORWARDED: b"for=10.0.0.1"}) is stranger
    assert PROXY in PROXIES
    assert Peer("unknown") not in PROXIES
    assert Peer("2001:db8:f::1") in PROXIES
    assert Peer("fe80::1%eth0") not in PROXIES
    assert not TrustedProxies([])


def test_x_forwarded_for_counts_where_both_are_there() -> None:
    both = {X: b"203.0.113.5", FORWARDED: b"for=6.6.6.6"}
    assert PROXIES.client(PROXY, both).address == "203.0.113.5"


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0", "proxy.example.org", "", "::/200"])
def test_what_is_no_network(text: str) -> None:
    assert "it is no IP address, and no network such as 10.0.0.0/8: " in (network_fault(text) or "")


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from([*'0123456789abcdef.:[]",;= \\\t%_\xff', "for=", "10.0.0.1", "203.0.113.5"]), max_size=30)
)
def test_whatever_is_sent_an_address_comes_out(pieces: list[str]) -> None:
    for header in (X, FORWARDED):
        found = PROXIES.client(PROXY, {header: "".join(pieces).encode("latin-1")})
        assert str(ipaddress.ip_address(found.address)) == found.address
        assert found.port is None or 0 <= found.port <= 65535


@given(st.ip_addresses())
def test_every_address_is_read_as_it_is(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    for text in (str(address), f"[{address}]:1" if address.version == 6 else f"{address}:1"):
        node = parse_node(text)
        assert node is not None
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        assert node.address == str(mapped or address)

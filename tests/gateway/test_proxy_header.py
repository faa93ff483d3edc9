"""The PROXY protocol's header: what is read, what is refused, in any pieces."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.proxies import LOCAL, SIGNATURE, proxy_v2
from rsws.gateway.peer import Peer
from rsws.gateway.websocket.proxy_header import MAX_BYTES, ProxyHeader, read_proxy_header

V4, V6 = "203.0.113.5", "2001:db8::5"
ADDITION = b"\x05\x00\x04uniq"
UNIX = SIGNATURE + b"\x21\x31\x00\xd8" + b"/tmp/socket".ljust(216, b"\0")

RIGHT: dict[str, tuple[bytes, Peer | None]] = {
    "v2 IPv4": (proxy_v2(V4, 1234), Peer(V4, 1234)),
    "v2 IPv6": (proxy_v2(V6, 1234), Peer(V6, 1234)),
    "v2 with additions": (proxy_v2(V4, 1234, ADDITION), Peer(V4, 1234)),
    "v2 IPv4 in IPv6": (proxy_v2(f"::ffff:{V4}", 1), Peer(V4, 1)),
    "v2 as long as allowed": (proxy_v2(V4, 1, bytes(MAX_BYTES - 28)), Peer(V4, 1)),
    "v2 LOCAL": (LOCAL, None),
    "v2 LOCAL with an address": (LOCAL[:13] + b"\x11\x00\x0c" + bytes(12), None),
    "v2 unspecified": (SIGNATURE + b"\x21\x00\x00\x00", None),
    "v2 of a Unix socket": (UNIX, None),
    "v1 IPv4": (f"PROXY TCP4 {V4} 10.0.0.1 1234 443\r\n".encode(), Peer(V4, 1234)),
    "v1 IPv6": (f"PROXY TCP6 {V6} ::1 65535 0\r\n".encode(), Peer(V6, 65535)),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1 unknown with addresses": (b"PROXY UNKNOWN ffff:f:f:f ffff:f 65535 65535\r\n", None),
}
WRONG = {
    "HTTP": b"GET / HTTP/1.1\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "a signature that breaks off": SIGNATURE[:8] + b"X",
    "version 1 in the binary form": SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
    "an unknown command": SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12),
    "too long": SIGNATURE + b"\x21\x11" + (MAX_BYTES - 15).to_bytes(2),
    "as long as can be said": SIGNATURE + b"\x21\x11\xff\xff",
    "too short for IPv4": SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11),
    "too short for IPv6": SIGNATURE + b"\x21\x21\x00\x0c" + bytes(12),
    "v1 without an end": b"PROXY TCP4 " + b"1" * 100,
    "v1 with a late end": b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
    "v1 of an unknown kind": b"PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n",
    "v1 in small letters": b"proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
    "v1 with too little": b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
    "v1 with two spaces": b"PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n",
    "v1 with a port too high": b"PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n",
    "v1 with a zero in front": b"PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n",
    "v1 with no address": b"PROXY TCP4 1.1.1.256 1.1.1.1 1 1\r\n",
    "v1 with the other family": b"PROXY TCP4 ::1 ::1 1 1\r\n",
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_header_that_is_right(name: str, behind: bytes) -> None:
    header, client = RIGHT[name]
    assert read_proxy_header(header + behind) == ProxyHeader(client, len(header))
    for size in range(len(header)):  # in any pieces: before its end it is neither right nor wrong
        assert read_proxy_header(header[:size]) is None


@pytest.mark.parametrize("name", WRONG)
def test_a_header_that_is_wrong(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_proxy_header(WRONG[name])


@settings(max_examples=500, deadline=None)
@given(st.sampled_from([header for header, _ in RIGHT.values()]), st.data())
def test_a_byte_that_is_changed_does_no_harm(header: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(header) - 1))
    changed = header[:place] + data.draw(st.binary(max_size=3)) + header[place + 1 :]
    try:
        found = read_proxy_header(changed)
    except ValueError:
        return
    if found is not None:
        assert found.size <= MAX_BYTES
        assert found.client is None or ipaddress.ip_address(found.client.address)


@given(st.binary(max_size=300))
def test_what_never_ends_is_not_awaited_for_ever(noise: bytes) -> None:
    for start in (b"", SIGNATURE, b"PROXY "):
        try:
            found = read_proxy_header(start + noise + b"x" * MAX_BYTES)
        except ValueError:
            continue
        assert found is not None

"""The handshake that is answered here, against websockets, which answers all others."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from rsws.gateway.handshake import MAX_BYTES, answer_usual

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
USUAL = {
    "Host": "example.com:8080",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
CHROMIUM = {
    "Host": "127.0.0.1:8080", "Connection": "Upgrade", "Pragma": "no-cache", "Cache-Control": "no-cache",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64)", "Upgrade": "websocket", "Origin": "http://127.0.0.1:8000",
    "Sec-WebSocket-Version": "13", "Accept-Encoding": "gzip, deflate, br", "Accept-Language": "id,en;q=0.9",
    "Cookie": "a=b; c=d", "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
}  # fmt: skip
FIREFOX = CHROMIUM | {"Connection": "keep-alive, Upgrade", "Sec-Fetch-Mode": "websocket"}


def written(headers: dict[str, str], line: str = "GET /?token=k HTTP/1.1") -> bytes:
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode("latin-1")


def theirs(request: bytes) -> tuple[str, bytes] | None:
    """The path and the answer of websockets, without its date; None where it does not open a WebSocket."""
    protocol = ServerProtocol()
    protocol.receive_data(request)
    events = protocol.events_received()
    if not events:
        return None
    [event] = events
    assert isinstance(event, Request)
    response = protocol.accept(event)
    if response.status_code != 101:
        return None
    del response.headers["Date"]
    protocol.send_response(response)
    assert protocol.state is State.OPEN
    return event.path, b"".join(protocol.data_to_send())


@pytest.mark.parametrize(
    "headers", [USUAL, CHROMIUM, FIREFOX, {name.lower(): value for name, value in USUAL.items()}],
    ids=["short", "Chromium", "Firefox", "small letters"],
)  # fmt: skip
def test_a_usual_one_is_answered_as_websockets_would(headers: dict[str, str]) -> None:
    request = written(headers)
    assert answer_usual(request, with_extensions=True) == theirs(request) != None  # noqa: E711


def test_an_offer_of_extensions_is_not_usual_when_there_are_some() -> None:
    assert answer_usual(written(CHROMIUM), with_extensions=False) is None
    assert answer_usual(written(USUAL), with_extensions=False) is not None


@pytest.mark.parametrize(
    "request_",
    [
        written(USUAL)[:-1],
        written(USUAL) + b"\x81\x80\0\0\0\0",
        written(USUAL | {"Sec-WebSocket-Protocol": "chat"}),
        written(USUAL | {"X": "x" * MAX_BYTES}),
        written(USUAL | {"Cookie": "\xe9"}),
        written({"connection": "close"} | USUAL),
    ],
    ids=["not all there", "more behind it", "protocol", "long", "not ASCII", "twice"],
)
def test_what_is_left_to_websockets(request_: bytes) -> None:
    assert answer_usual(request_, with_extensions=True) is None


names = st.sampled_from(
    [*CHROMIUM, "Content-Length", "Transfer-Encoding", "Sec-WebSocket-Protocol", "upgrade", "X Y", ""]
)
values = st.sampled_from(
    ["", "0", "1", "13", "websocket", "WebSocket", "websocket, h2c", "Upgrade", "upgrade", "close, Upgrade",
     "Upgrade,", "up grade", "keep-alive,upgrade,x", "a;b, upgrade", KEY, KEY[:-1], KEY[:-3] + "===", "x" * 24, "\tx\t",
     "é", "\x01"]
)  # fmt: skip
lines = st.sampled_from(
    ["GET / HTTP/1.1", "GET / HTTP/1.0", "POST / HTTP/1.1", "get / HTTP/1.1", "GET  HTTP/1.1", "GET / x HTTP/1.1",
     "GET /é HTTP/1.1", "GET /%C3%A9?token=a+b#c HTTP/1.1", "GET /\x01 HTTP/1.1", "GET http://x/?y HTTP/1.1"]
)  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(names, values), max_size=3), lines, st.booleans(), st.integers(0, 400))
@example([("Connection", "a;b, upgrade")], "GET / HTTP/1.1", False, 0)
def test_whatever_is_answered_websockets_would_answer_the_same(
    changes: list[tuple[str, str]], line: str, twice: bool, cut: int
) -> None:
    headers = USUAL | ({} if twice else dict(changes))
    request = written(headers, line)
    if twice:
        request = request[:-2] + written(dict(changes), "")[2:]
    request = request[:cut] + request[cut + 1 :] if 0 < cut < len(request) else request
    answer = answer_usual(request, with_extensions=True)
    assert answer is None or answer == theirs(request)


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, len(written(FIREFOX)) - 1), st.binary(max_size=2), st.integers(0, 2))
def test_a_byte_more_or_less_changes_nothing_of_that(place: int, put: bytes, take: int) -> None:
    whole = written(FIREFOX)
    request = whole[:place] + put + whole[place + take :]
    answer = answer_usual(request, with_extensions=True)
    assert answer is None or answer == theirs(request)

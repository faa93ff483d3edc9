"""The handshake without a network: against websockets, which knows the RFC, in any pieces, and within its bounds."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.http11 import Request as WebsocketsRequest
from websockets.protocol import State
from websockets.server import ServerProtocol

from rsws.gateway.http import MAX_HEADERS, Request, RequestReader
from rsws.gateway.websocket.handshake import Opening, answer_handshake
from rsws.settings import Settings

MAX_HEAD_BYTES = Settings().max_header_bytes

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


def ours(request: bytes) -> tuple[str, bytes] | None:
    """The path and the answer of the gateway; None where it does not open a WebSocket."""
    read = RequestReader(MAX_HEAD_BYTES).read(request)
    if not isinstance(read, Request):
        return None
    answer = answer_handshake(read, ())
    return (answer.request.target, answer.answer) if isinstance(answer, Opening) else None


def theirs(request: bytes) -> tuple[str, bytes] | None:
    """The same of websockets, without its date, when it chooses the first subprotocol."""
    protocol = ServerProtocol(select_subprotocol=lambda protocol, offered: offered[0] if offered else None)
    protocol.receive_data(request)
    events = protocol.events_received()
    if not events:
        return None
    [event] = events
    assert isinstance(event, WebsocketsRequest)
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
    assert ours(request) == theirs(request) != None  # noqa: E711


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


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(names, values), max_size=3), lines, st.booleans(), st.integers(0, 400))
@example([("Connection", "a;b, upgrade")], "GET / HTTP/1.1", False, 0)
def test_what_both_open_both_answer_the_same(changes: list[tuple[str, str]], line: str, twice: bool, cut: int) -> None:
    headers = USUAL | ({} if twice else dict(changes))
    request = written(headers, line)
    if twice:
        request = request[:-2] + written(dict(changes), "")[2:]
    request = request[:cut] + request[cut + 1 :] if 0 < cut < len(request) else request
    mine, other = ours(request), theirs(request)
    assert mine is None or other is None or mine == other


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(written(FIREFOX)) - 1), st.binary(max_size=2), st.integers(0, 2))
def test_a_byte_more_or_less_changes_nothing_of_that(place: int, put: bytes, take: int) -> None:
    whole = written(FIREFOX)
    request = whole[:place] + put + whole[place + take :]
    mine, other = ours(request), theirs(request)
    assert mine is None or other is None or mine == other


# --- in pieces ---

BEHIND = b"\x89\x80\0\0\0\0\r\n\r\nGET / HTTP/1.1\r\n\r\n"


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([written(FIREFOX), b"\r\n\r\n" + written(USUAL), written(USUAL | {"X": "\x01"}), b"\x16\x03\x01"]),
    st.lists(st.integers(1, 500), max_size=6),
)
def test_the_pieces_in_which_it_comes_make_no_difference(head: bytes, places: list[int]) -> None:
    sent = head + BEHIND
    at_once = RequestReader(MAX_HEAD_BYTES)
    right = at_once.read(sent)
    assert right is not None
    ends = sorted({*places, len(sent)})
    reader = RequestReader(MAX_HEAD_BYTES)
    answers: list[Request | HTTPStatus] = []
    behind = b""
    for start, end in zip([0, *ends], ends, strict=False):
        done = bool(answers)
        answer = reader.read(sent[start:end])
        if answer is not None:
            answers.append(answer)
            behind = reader.behind
        elif done:
            behind += sent[start:end]
    assert answers == [right]
    if isinstance(right, Request):
        assert behind == at_once.behind == BEHIND


def test_a_byte_at_a_time() -> None:
    reader = RequestReader(MAX_HEAD_BYTES)
    sent = b"\r\n" + written(FIREFOX)
    assert [reader.read(sent[place : place + 1]) for place in range(len(sent) - 1)] == [None] * (len(sent) - 1)
    request = reader.read(sent[-1:])
    assert isinstance(request, Request)
    assert request.headers[b"connection"] == b"keep-alive, Upgrade"


# --- its bounds ---


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES, MAX_HEAD_BYTES + 1])
@pytest.mark.parametrize("piece", [1000, MAX_HEAD_BYTES * 2])
def test_a_head_has_at_most_16_kib(size: int, piece: int) -> None:
    bare = len(written(USUAL | {"X": ""}))
    sent = written(USUAL | {"X": "x" * (size - bare)})
    reader = RequestReader(MAX_HEAD_BYTES)
    answers = [reader.read(sent[start : start + piece]) for start in range(0, len(sent), piece)]
    answer = next(each for each in answers if each is not None)
    if size > MAX_HEAD_BYTES:
        assert answer is HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    else:
        assert isinstance(answer, Request)


def test_what_never_ends_is_not_kept() -> None:
    reader = RequestReader(MAX_HEAD_BYTES)
    answers = [reader.read(b"GET /" + b"x" * 1000) for _ in range(50)]
    assert [answer for answer in answers if answer] == [HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE]
    assert answers.index(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) * 1000 <= MAX_HEAD_BYTES
    assert not reader.received


@pytest.mark.parametrize("count", [MAX_HEADERS, MAX_HEADERS + 1])
def test_a_request_has_at_most_128_headers(count: int) -> None:
    sent = written(USUAL | {f"X{number}": "" for number in range(count - len(USUAL))})
    assert (ours(sent) is None) == (theirs(sent) is None) == (count > MAX_HEADERS)

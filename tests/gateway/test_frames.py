"""The few lines that read and write plain messages, against websockets, which could do it all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from kit.gateway import frame, handshake
from rsws.errors import CloseCode
from rsws.frames import bounds, read_messages
from rsws.gateway.http import Request
from rsws.gateway.websocket.connection import ClientConnection
from rsws.gateway.websocket.frames import MessageFramer, text_frame, text_payloads
from rsws.gateway.websocket.handshake import Opening, answer_handshake
from rsws.gateway.websocket.receiving import FrameReader
from rsws.gateway.websocket.turns import Turns
from rsws.gateway.websocket.write_queue import WriteQueue
from rsws.protocol import Message, StreamId, encode_reply, message_template
from rsws.settings import Settings

MAX_BYTES = 100_000
SIZES = (0, 1, 125, 126, 127, 65_535, 65_536, MAX_BYTES)


class Transport(asyncio.Transport):
    """Remembers what was written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1)})
        self.written = bytearray()
        self.aborted = False
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class Everyone:
    """A server with one client, whose messages it writes down."""

    high_water_bytes = 65_536
    settings = Settings(max_message_bytes=MAX_BYTES)
    close_timeout_s = 0.0

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.turns = Turns(lambda: False)

    def connected(self, connection: ClientConnection) -> None:
        pass

    identified = handshake_timed_out = connected

    def answer(self, connection: ClientConnection, request: Request | HTTPStatus) -> Opening | bytes:
        assert isinstance(request, Request)
        answer = answer_handshake(request, ())
        assert answer is not None
        return answer

    def opened(self, connection: ClientConnection, opening: Opening) -> None:
        connection.start(self)

    is_busy = False

    def texts_received(self, texts: Iterable[str]) -> None:
        self.messages.extend(texts)

    turn = 1

    def begin_turn(self) -> int:
        return 1

    def will_flush(self, queue: WriteQueue) -> None:
        pass

    def closing(self, connection: ClientConnection) -> None:
        pass

    def exchange_done(self, connection: ClientConnection, *, goes_on: bool) -> None:
        pass

    def lost(self, connection: ClientConnection) -> None:
        pass


class Listening:
    """A receiver that has time for everything."""

    is_open = True
    ignores_input = False
    is_full = False

    def messages_received(self, payloads: Sequence[bytes]) -> None:
        pass

    def frame_parsed(self, websocket: Protocol) -> None:
        pass

    def fail(self, code: CloseCode, reason: str) -> None:
        raise AssertionError(reason)

    def adjust_reading(self) -> None:
        raise AssertionError("there is more than one turn has room for")


def ours(pieces: list[bytes]) -> tuple[list[str], int | None]:
    """The messages in what a client sends piece by piece, and the code with which the connection is closed."""

    async def feed() -> tuple[list[str], int | None]:
        host, transport = Everyone(), Transport()
        connection = ClientConnection(host)
        connection.connection_made(transport)
        connection.data_received(handshake("/"))
        for piece in pieces:
            connection.data_received(piece)
            while transport.paused and connection.is_open:  # noqa: ASYNC110 - it waits for its turn
                await asyncio.sleep(0)
        return host.messages, None if connection.is_open else connection.end_code

    return asyncio.run(feed())


def theirs(frames: list[bytes]) -> tuple[list[str], int | None]:
    """The same, all read by websockets, frame by frame."""
    protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=MAX_BYTES)
    messages: list[str] = []
    partial = b""
    for each in frames:
        if each[0] & 15 == Opcode.CLOSE:  # which may stand between fragments, other than websockets has it
            protocol.current_size = None
        protocol.receive_data(each)
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.BINARY:
                protocol.fail(1003)
            elif event.opcode in (Opcode.TEXT, Opcode.CONT):
                partial += event.data
                if event.fin:
                    try:
                        messages.append(partial.decode())
                    except UnicodeDecodeError:
                        protocol.fail(1007)
                    partial = b""
        closed = protocol.close_rcvd or protocol.close_sent
        if closed:
            return messages, closed.code
    return messages, None


payloads = st.one_of(
    st.binary(max_size=8),
    st.text(max_size=200).map(str.encode),
    st.sampled_from([b"x" * size for size in (*SIZES, MAX_BYTES + 1)]),
)
fragments = st.lists(st.text(max_size=50).map(str.encode), min_size=2, max_size=4).map(
    lambda parts: b"".join(frame(part, 0 if n else 1, fin=n == len(parts) - 1) for n, part in enumerate(parts))
)
frames = st.one_of(
    st.text(max_size=300).map(lambda text: frame(text.encode())),
    payloads.map(frame),
    st.sampled_from([frame(b"", 9), frame(b"hi", 9), frame(b"", 10), frame(b"\x03\xe8", 8), frame(b"x", 2)]),
    fragments,
    st.sampled_from([frame(b"x", masked=False), frame(b"x", reserved=4), frame(b"x", 0), frame(b"x", 3)]),
    st.sampled_from([frame(b"a", fin=False), b"\x81\xfe\x00\x01\0\0\0\0z", b"\x81\xff" + b"\x80" + b"\0" * 11]),
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in pieces, cut at these places (taken modulo its length)."""
    borders = [0, *sorted({place % len(data) for place in places} - {0}), len(data)]
    return [data[start:end] for start, end in pairwise(borders)]


@settings(max_examples=100, deadline=None)
@given(st.lists(frames, min_size=1, max_size=8), st.lists(st.integers(0, 1_000_000), max_size=12))
def test_in_pieces_of_any_size_it_reads_what_websockets_reads(sent: list[bytes], places: list[int]) -> None:
    assert ours(cut(b"".join(sent), places)) == theirs(sent)


@pytest.mark.parametrize("size", SIZES)
def test_a_byte_at_a_time(size: int) -> None:
    data = frame(b"x" * min(size, 300)) + frame(b"y") + frame(b"", 9) + frame(b"z" * 2)
    assert ours([data[n : n + 1] for n in range(len(data))]) == (["x" * min(size, 300), "y", "zz"], None)


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_is_what_websockets_would_have_written(size: int) -> None:
    payload = b"x" * size
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)
    assert list(text_payloads(text_frame(payload) * 2)) == [(text_frame(payload), payload)] * 2
    for masked in (True, False):
        whole = Frame(Opcode.TEXT, payload).serialize(mask=masked)
        assert bounds(b"??" + whole, 2) == (2 + len(whole) - size, 2 + len(whole))
        found = (len(whole) - size, len(whole))
        assert {bounds(whole[:n], 0) for n in range(min(len(whole), 20))} <= {None, found}
        assert bounds(whole[:1], 0) is None


@pytest.mark.parametrize("channel", ["c", "100%b", "%%", "b\u00fcro"])
@pytest.mark.parametrize("size", SIZES)
def test_header_and_message_in_one_go_are_the_same(size: int, channel: str) -> None:
    bare = len(encode_reply(Message(channel, StreamId(1764000000000, 12), "0"))) - 1
    data = "7" * max(1, size - bare)
    whole = encode_reply(Message(channel, StreamId(1764000000000, 12), data))
    assert MessageFramer(message_template(channel)).frame(b"1764000000000-12", data.encode()) == text_frame(whole)
    assert size < bare or len(whole) == size or size == bare


@pytest.mark.parametrize("size", [0, 5, 125, 126, 5000, 65_535, 65_536, MAX_BYTES])
def test_a_plain_message_is_read_here(size: int) -> None:
    one = frame(b"x" * size)
    assert read_messages(b"?" + one + one, 1, MAX_BYTES, 9, 1 << 30) == ([b"x" * size] * 2, 1 + 2 * len(one))


@pytest.mark.parametrize(
    "other",
    [
        frame(b"x" * (MAX_BYTES + 1)),
        frame(b"x" * 50, 9),
        frame(b"x", fin=False),
        frame(b"x", masked=False),
        frame(b"x")[:-1],
    ],
    ids=["too big", "ping", "fragment", "not masked", "not all there"],
)
def test_anything_else_is_left_to_websockets(other: bytes) -> None:
    assert read_messages(frame(b"a") + other, 0, MAX_BYTES, 9, 1 << 30) == ([b"a"], len(frame(b"a")))


def test_no_more_is_read_than_wanted() -> None:
    one = frame(b"x")
    assert read_messages(one * 5, 0, MAX_BYTES, 3, 1 << 30) == ([b"x"] * 3, 3 * len(one))
    assert read_messages(one * 5, 0, MAX_BYTES, 9, len(one) + 1) == ([b"x"] * 2, 2 * len(one))


def test_a_message_above_the_limit_is_left_to_websockets() -> None:
    assert read_messages(frame(b"x" * 11), 0, 10, 9, 1 << 30) == ([], 0)


@pytest.mark.parametrize("sent", [b"", frame(b"x") * 9, frame(b"", 9), frame(b"x", fin=False) + frame(b"y", 0)])
def test_between_messages_there_is_no_parser(sent: bytes) -> None:
    reader = FrameReader(Listening(), (), MAX_BYTES)
    assert reader.websocket is None
    reader.receive(sent[:1])
    reader.receive(sent[1:])
    assert reader.websocket is None
    assert not reader.has_unread

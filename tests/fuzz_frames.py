"""The gateway's reading of frames against websockets' own server protocol, which is fed the same bytes.

A stream of frames, right and wrong ones, is made from a seed and a number, changed here and there, and cut into pieces.
Both sides are given piece after piece; after each of them they have to have read the same messages, written the same
pongs and the same close code, and ended, or not. So a rule that is broken has to be answered at the same byte.

The documented differences are in :class:`Model`: a binary message is 1003, and what is no text 1007.
"""

from __future__ import annotations

import asyncio
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from reprlib import repr as repr_
from typing import Any, cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from gateway_kit import KEY, first_frame, handshake
from rsws.gateway.access import Access
from rsws.gateway.clients import Clients
from rsws.gateway.compression import COMPRESSION
from rsws.gateway.connection import ClientConnection
from rsws.gateway.http import PlainHttp
from rsws.gateway.metrics import Board
from rsws.gateway.session import Session
from rsws.settings import Settings

MAX_BYTES = 1024
"""Of a message: the smallest that the settings allow, so that what is too big is soon there."""
OFFER = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
TURNS = 10_000
"""Of the loop, within which a connection has dealt with a piece."""
SHRINKING = 600
"""Tries to make what fails smaller."""

CODES = [0, 1, 999, *range(1000, 1017), 1100, 2000, 2999, 3000, 3999, 4000, 4999, 5000, 65535]
NO_TEXT = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"a\xfe", b"\xf0\x9f\x98"]


class Transport(asyncio.Transport):
    """Remembers what was written, and whether that was all."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1)})
        self.written = bytearray()
        self.ended = False
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    close = abort

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_reading(self) -> bool:
        return not self.paused

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


@dataclass(frozen=True)
class Outcome:
    """What has come of the bytes so far."""

    messages: tuple[str, ...]
    pongs: tuple[bytes, ...]
    close: int | None
    """The code of the close frame that was written: 0 where it has none; None where there is no frame."""
    ended: bool
    """Whether there is nothing more to write."""


def outcome(messages: list[str], written: bytes, ended: bool) -> Outcome:
    pongs: list[bytes] = []
    close = None
    rest = bytearray(written)
    while (found := first_frame(rest)) is not None:
        opcode, payload, size = found
        del rest[:size]
        if opcode == Opcode.PONG:
            pongs.append(payload)
        elif opcode == Opcode.CLOSE:
            close = int.from_bytes(payload[:2])
    assert not rest, f"half a frame was written: {rest!r}"
    return Outcome(tuple(messages), tuple(pongs), close, ended)


class Model(ServerProtocol):
    """What websockets makes of the bytes, with the two rules for messages that the gateway adds."""

    def __init__(self, compress: bool) -> None:
        super().__init__(extensions=COMPRESSION if compress else None, max_size=MAX_BYTES)
        self.messages: list[str] = []
        self._partial = b""
        self.receive_data(opening(compress))
        [request] = self.events_received()
        assert isinstance(request, Request)
        self.send_response(self.accept(request))
        self.data_to_send()
        assert self.state is State.OPEN
        self._written = b""

    def recv_frame(self, frame: Frame) -> None:
        super().recv_frame(frame)
        if frame.opcode is Opcode.BINARY:
            self.fail(1003)
        elif frame.opcode in (Opcode.TEXT, Opcode.CONT):
            self._partial += frame.data
            if frame.fin:
                payload, self._partial = self._partial, b""
                try:
                    self.messages.append(payload.decode())
                except UnicodeDecodeError:
                    self.fail(1007)

    def outcome(self) -> Outcome:
        self._written += b"".join(self.data_to_send())
        return outcome(self.messages, self._written, self.eof_sent)


class Writer:
    """A session that writes down the messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def text_received(self, text: str) -> None:
        self.messages.append(text)

    def end(self) -> None:
        pass


async def quiet() -> None:
    """Let the loop turn until nothing is left to do but to wait."""
    ready = cast(Any, asyncio.get_running_loop())._ready
    for _ in range(TURNS):
        await asyncio.sleep(0)
        if not ready:
            return
    raise AssertionError("the loop never comes to rest")


class Gateway:
    """Everything of a gateway that a connection has to do with, without a network and without Redis."""

    def __init__(self, connection: type[ClientConnection] = ClientConnection, max_bytes: int = MAX_BYTES) -> None:
        self._connection = connection
        self._max_bytes = max_bytes
        self._clients = {compress: self._make_clients(compress) for compress in (False, True)}
        self._session: Writer

    def _make_clients(self, compress: bool) -> Clients:
        settings = Settings(secret_key=KEY, max_message_bytes=self._max_bytes, compress=compress)
        http = PlainHttp(lambda: True, lambda: "")
        return Clients(settings, 1000, Access(KEY), http, self._make_session, Board())

    def _make_session(self, connection: ClientConnection) -> Session:
        self._session = Writer()
        return cast(Session, self._session)

    def connect(self, transport: Transport, compress: bool) -> ClientConnection:
        """A connection before its handshake."""
        connection = self._connection(self._clients[compress])
        connection.connection_made(transport)
        return connection

    async def outcomes(self, compress: bool, pieces: list[bytes]) -> list[Outcome]:
        """What has come of the bytes after each piece."""
        transport = Transport()
        connection = self.connect(transport, compress)
        connection.data_received(opening(compress))
        await quiet()
        session = self._session
        transport.written.clear()
        found = []
        for piece in pieces:
            assert not transport.paused, "nothing more is read"
            connection.data_received(piece)
            await quiet()
            found.append(outcome(session.messages, bytes(transport.written), transport.ended))
        connection.connection_lost(None)
        return found


def opening(compress: bool) -> bytes:
    return handshake(f"/?token={KEY}", OFFER if compress else "")


# --- streams ---


@dataclass(frozen=True)
class Sent:
    """What a client sends."""

    compress: bool
    pieces: list[bytes]

    def __str__(self) -> str:
        return f"compress={self.compress}, pieces={self.pieces!r}"


def sent(seed: object, number: int) -> Sent:
    """The stream with that number."""
    chance = random.Random(f"{seed} {number}")
    compress = chance.random() < 0.4
    data = b"".join(frames(chance, compress))
    if chance.random() < 0.4:
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            data = changed(data, chance)
    return Sent(compress, cut(data, chance))


def cut(data: bytes, chance: random.Random) -> list[bytes]:
    """``data`` in pieces of some size: often whole, sometimes byte by byte."""
    size = len(data)
    way = chance.random()
    if way < 0.15 and size <= 300:
        return [data[n : n + 1] for n in range(size)]
    places = (
        {chance.randrange(size) for _ in range(0 if way < 0.35 else chance.choice([1, 2, 3, 8]))} if size else set()
    )
    return [data[start:end] for start, end in pairwise(sorted({0, *places, size}))]


def changed(data: bytes, chance: random.Random) -> bytes:
    """A bit flipped, some bytes left out, put in, or doubled, or the end cut off."""
    place = chance.randrange(len(data) + 1)
    end = place + chance.choice([1, 1, 2, 4, 20])
    match chance.randrange(6):
        case 0 | 1 if place < len(data):
            return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
        case 2:
            return data[:place] + data[end:]
        case 3:
            return data[:place] + chance.randbytes(end - place) + data[place:]
        case 4:
            return data[:end] + data[place:]
        case _:
            return data[:place]


def frames(chance: random.Random, compress: bool) -> Iterator[bytes]:
    """Some frames, mostly right ones, in the order in which they are sent."""
    for _ in range(chance.choice([1, 1, 2, 3, 5, 8])):
        kind = chance.random()
        if kind < 0.3:
            yield from message(chance, compress, [])
        elif kind < 0.5:
            yield from message(chance, compress, [control(chance) for _ in range(chance.randrange(4))], fragments=True)
        elif kind < 0.65:
            yield control(chance)
        elif kind < 0.72:
            yield frame_of(chance, close_payload(chance), 8)
        else:
            yield wrong(chance, compress)


def text(chance: random.Random) -> bytes:
    size = chance.choice([0, 1, 3, 10, 50, 125, 126, 127, 500, MAX_BYTES - 1, MAX_BYTES])
    if chance.random() < 0.5:
        return chance.choice([b"x", b"{", b"\0"]) * size
    return "".join(chance.choices('a{"0 é€😀', k=size // 2)).encode()[:MAX_BYTES].decode(errors="ignore").encode()


def message(chance: random.Random, compress: bool, between: list[bytes], *, fragments: bool = False) -> Iterator[bytes]:
    """A text message, with control frames between its fragments; now and then it is none, is too big, is binary."""
    payload = text(chance)
    kind = chance.random()
    if kind < 0.1:
        place = chance.randrange(len(payload) + 1)
        payload = payload[:place] + chance.choice(NO_TEXT) + payload[place:]
    elif kind < 0.15:
        payload += b"y" * (MAX_BYTES + 1 - len(payload))
    opcode = 2 if chance.random() < 0.05 else 1
    reserved = 0
    if compress and chance.random() < 0.6:
        payload, reserved = deflated(payload), 4
    parts = [payload]
    if fragments:
        places = sorted(chance.randrange(len(payload) + 1) for _ in range(chance.choice([1, 1, 2, 4])))
        parts = [payload[start:end] for start, end in pairwise([0, *places, len(payload)])]
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        yield frame_of(chance, part, 0 if number else opcode, fin=last, reserved=0 if number else reserved)
        if between and not last:
            yield between.pop()


def deflated(payload: bytes) -> bytes:
    zipper = zlib.compressobj(wbits=-12)
    return (zipper.compress(payload) + zipper.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def control(chance: random.Random) -> bytes:
    """A ping or a pong."""
    return frame_of(chance, chance.randbytes(chance.choice([0, 0, 1, 5, 124, 125])), chance.choice([9, 9, 9, 10]))


def close_payload(chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return chance.randbytes(chance.choice([0, 0, 1]))
    reason = chance.choice([b"", b"bye", "\u20ac".encode() * 41, *NO_TEXT])
    return struct.pack("!H", chance.choice(CODES)) + reason


def wrong(chance: random.Random, compress: bool) -> bytes:
    """A frame, or the beginning of one, that breaks a rule or stretches it."""
    payload = chance.choice([b"", b"x", b"{}", b"x" * 126, chance.randbytes(20)])
    any_opcode = chance.choice([0, 1, 1, 1, 2, 8, 9, 10])
    match chance.randrange(11):
        case 0:
            return frame_of(chance, payload, any_opcode, masked=False)
        case 1:
            return frame_of(chance, payload, any_opcode, reserved=chance.randrange(1, 8))
        case 2:
            return frame_of(chance, payload, chance.choice([3, 4, 5, 6, 7, 11, 12, 13, 14, 15]))
        case 3:
            return frame_of(chance, b"x" * chance.choice([126, 127, 200]), chance.choice([8, 9, 10]))
        case 4:
            return frame_of(chance, payload[:100], chance.choice([8, 9, 10]), fin=False)
        case 5:
            return frame_of(chance, payload, 0, fin=chance.random() < 0.5)  # a continuation of nothing
        case 6:
            return frame_of(chance, payload, 1, fin=False)  # never continued
        case 7:
            return frame_of(chance, payload, chance.choice([1, 1, 9]), long=chance.choice([126, 127]))
        case 8:  # too big: only the header, or more than that
            size = chance.choice([MAX_BYTES + 1, 65535, 65536, 2**31, 2**32, 2**62, 2**63, 2**63 + 5, 2**64 - 1])
            return header(chance, 1, size)[: chance.choice([2, 4, 10, 14, 14])] + payload
        case 9:  # the header of a bad frame, whose body never comes
            first = chance.choice([0x83, 0x91, 0x80, 0x09, 0x89, 0xC1, 0xF1])
            return bytes([first]) + header(chance, 1, chance.choice([3, 200, MAX_BYTES]))[1:]
        case _ if compress:
            return frame_of(chance, chance.choice([payload, deflated(b"0" * (MAX_BYTES + 1))]), 1, reserved=4)
        case _:
            return chance.randbytes(chance.randrange(1, 40))


def frame_of(
    chance: random.Random,
    payload: bytes,
    opcode: int,
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    long: int = 0,
) -> bytes:
    head = header(chance, opcode, len(payload), fin=fin, reserved=reserved, masked=masked, long=long)
    if not masked:
        return head + payload
    return head + bytes(byte ^ head[-4 + index % 4] for index, byte in enumerate(payload))


def header(
    chance: random.Random,
    opcode: int,
    size: int,
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    long: int = 0,
) -> bytes:
    """Of a frame; ``long`` is 126 or 127 for a length that takes more bytes than it has to."""
    form = max(long, 127 if size > 65535 else 126 if size > 125 else 0)
    length = {0: b"", 126: size.to_bytes(8)[-2:], 127: size.to_bytes(8)}[form]
    mask = chance.choice([b"\0\0\0\0", chance.randbytes(4)]) if masked else b""
    return bytes([fin << 7 | reserved << 4 | opcode, masked << 7 | (form or size)]) + length + mask


# --- comparing ---


async def difference(gateway: Gateway, stream: Sent) -> str | None:
    """Where the two part, in words; None where they don't."""
    model = Model(stream.compress)
    ours = await gateway.outcomes(stream.compress, stream.pieces)
    for number, (piece, our) in enumerate(zip(stream.pieces, ours, strict=True)):
        model.receive_data(piece)
        if our != (their := model.outcome()):
            fields = [name for name in vars(our) if getattr(our, name) != getattr(their, name)]
            unlike = [f"{name} is {repr_(getattr(our, name))}, not {repr_(getattr(their, name))}" for name in fields]
            return f"after piece {number}: {'; '.join(unlike)}"
    return None


async def shrunk(gateway: Gateway, stream: Sent) -> Sent:
    """A smaller stream that fails, too: with fewer borders, and without the bytes that do not matter."""
    tries = SHRINKING

    async def fails(pieces: list[bytes]) -> bool:
        nonlocal tries
        tries -= 1
        return tries >= 0 and await failing(gateway, Sent(stream.compress, pieces)) is not None

    pieces = stream.pieces
    joined = [b"".join(pieces)]
    if await fails(joined):
        pieces = joined
    size = max(map(len, pieces))
    while size:
        for index in range(len(pieces)):
            place = 0
            while index < len(pieces) and place < len(pieces[index]):
                shorter = pieces[index][:place] + pieces[index][place + size :]
                fewer = [*pieces[:index], *([shorter] if shorter else []), *pieces[index + 1 :]]
                if await fails(fewer):
                    pieces = fewer
                else:
                    place += size
        size //= 2
    return Sent(stream.compress, pieces)


async def failing(gateway: Gateway, stream: Sent) -> str | None:
    """What is wrong, a bug that raises included."""
    try:
        return await difference(gateway, stream)
    except Exception as error:
        return repr(error)


@dataclass(frozen=True)
class Failure:
    """A stream that the two sides read differently."""

    seed: object
    number: int
    what: str
    smallest: Sent

    def __str__(self) -> str:
        return f"seed {self.seed!r}, stream {self.number}: {self.what}\n  smallest: {self.smallest}"


async def search(
    seed: object,
    count: int,
    connection: type[ClientConnection] = ClientConnection,
    *,
    at_most: int = 3,
    advance: Callable[[int], None] = lambda streams: None,
) -> list[Failure]:
    """The first failures among ``count`` streams; not on uvloop, which does not say when it is quiet.

    Args:
        connection: What reads.
        advance: Told how many streams more have been read.
    """
    gateway = Gateway(connection)
    failures: list[Failure] = []
    for number in range(count):
        stream = sent(seed, number)
        if await failing(gateway, stream) is not None:
            smallest = await shrunk(gateway, stream)
            failures.append(Failure(seed, number, str(await failing(gateway, smallest)), smallest))
            if len(failures) == at_most:
                break
        advance(1)
    return failures

"""The gateway's reading of frames against websockets' own server protocol, which is fed the same bytes.

A stream of frames, right and wrong ones, is made from a seed and a number, changed here and there, and cut into pieces.
Both sides are given piece after piece; after each of them they have to have read the same messages, written the same
pongs and the same close code, and ended, or not. So a rule that is broken has to be answered at the same byte.

The documented differences are in :class:`Model`: a binary message is 1003, and what is no text 1007; a close frame may
stand between fragments, as RFC 6455, section 5.4, has it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from reprlib import repr as repr_
from typing import Any, TypeAlias, cast
from unittest import mock

from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from kit.frame_streams import MAX_BYTES, Sent, sent
from kit.gateway import KEY, first_frame, handshake
from rsws.gateway.access.control import AccessControl
from rsws.gateway.access.tokens import TokenCheck
from rsws.gateway.clients import ClientRegistry
from rsws.gateway.http import PlainHttp
from rsws.gateway.metrics import SharedMetrics
from rsws.gateway.session.client import Client
from rsws.gateway.session.session import Session
from rsws.gateway.websocket import turns
from rsws.gateway.websocket.compression import COMPRESSION
from rsws.gateway.websocket.connection import ClientConnection
from rsws.gateway.websocket.turns import Turns
from rsws.settings import Settings
from rsws.tokens.grant import Grant

OFFER = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
ReadExact: TypeAlias = Callable[[int], Generator[None, None, bytes | bytearray]]
TURNS = 10_000
"""Of the loop, within which a connection has dealt with a piece."""
SHRINKING = 600
"""Tries to make what fails smaller."""


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


class RoomForClose(Frame):
    """A frame, read as websockets reads it, but that a close frame is not counted with the message it interrupts."""

    @classmethod
    def parse(
        cls, read_exact: ReadExact, *, mask: bool, max_size: int | None = None, extensions: Any = None
    ) -> Generator[None, None, Frame]:
        header: list[bytes | bytearray] = []

        def noting(size: int) -> Generator[None, None, bytes | bytearray]:
            header.append((yield from read_exact(size)))
            return header[-1]

        def again(size: int) -> Generator[None, None, bytes | bytearray]:
            return header.pop(0) if header else (yield from read_exact(size))

        try:
            return (yield from Frame.parse(noting, mask=mask, max_size=max_size, extensions=extensions))
        except PayloadTooBig:
            if header[0][0] & 0x0F != Opcode.CLOSE:
                raise
            return (yield from Frame.parse(again, mask=mask, max_size=MAX_BYTES, extensions=extensions))


class Model(ServerProtocol):
    """What websockets makes of the bytes, with the rules that are the gateway's."""

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
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
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

    is_busy = False
    who = None

    def texts_received(self, texts: Iterable[str]) -> None:
        self.messages.extend(texts)

    def end(self) -> None:
        pass


async def quiet() -> None:
    """Let the loop turn until nothing is left to do but to wait."""
    ready = cast(Any, asyncio.get_running_loop())._ready
    still = 0
    for _ in range(TURNS):
        await asyncio.sleep(0)
        still = 0 if ready else still + 1
        if still == 2:  # what was put off to the next turn is only seen there
            return
    raise AssertionError("the loop never comes to rest")


class Gateway:
    """Everything of a gateway that a connection has to do with, without a network and without Redis."""

    def __init__(self, connection: type[ClientConnection] = ClientConnection, max_bytes: int = MAX_BYTES) -> None:
        self._connection = connection
        self._max_bytes = max_bytes
        self._clients = {compress: self._make_clients(compress) for compress in (False, True)}
        self._session: Writer

    def _make_clients(self, compress: bool) -> ClientRegistry:
        settings = Settings(secret_key=KEY, max_message_bytes=self._max_bytes, compress=compress, attempt_rate="0")
        http = PlainHttp(lambda: None, lambda: "")
        board = SharedMetrics()
        access = AccessControl(TokenCheck(KEY), board.metrics)
        return ClientRegistry(settings, 1000, access, http, self._make_session, board, Turns(lambda: False))

    def _make_session(self, connection: Client, grant: Grant) -> Session:
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


# --- comparing ---


async def difference(gateway: Gateway, stream: Sent) -> str | None:
    """Where the two part, in words; None where they don't."""
    model = Model(stream.compress)
    ours = await gateway.outcomes(stream.compress, stream.pieces)
    for number, (piece, our) in enumerate(zip(stream.pieces, ours, strict=True)):
        with mock.patch("websockets.protocol.Frame", RoomForClose):
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
    with mock.patch.object(turns, "REST_AFTER_S", math.inf):  # which a loop that is quiet may still wait for
        for number in range(count):
            stream = sent(seed, number)
            if await failing(gateway, stream) is not None:
                smallest = await shrunk(gateway, stream)
                failures.append(Failure(seed, number, str(await failing(gateway, smallest)), smallest))
                if len(failures) == at_most:
                    break
            advance(1)
    return failures

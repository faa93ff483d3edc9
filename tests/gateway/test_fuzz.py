"""The quick form of ``prove.py fuzz``; and that it finds bugs which are put in."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
import uvloop
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol

from kit import fuzz_frames, fuzz_handshake, fuzz_http
from kit.support import RedisServer, untraced
from rsws import frames
from rsws.errors import CloseCode
from rsws.gateway.exchanges.exchange import Exchange
from rsws.gateway.websocket import connection as connection_module
from rsws.gateway.websocket.connection import ClientConnection
from rsws.gateway.websocket.receiving import FrameReader

SEEDS = ["fixed", random.SystemRandom().getrandbits(32)]
FRAMES, HANDSHAKES, CONNECTIONS = 500, 500, 150
"""As many as take a second, and find each bug that is put in below."""


def search(seed: object, count: int, connection: type[ClientConnection] = ClientConnection) -> list[Any]:
    with untraced(), asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(fuzz_frames.search(seed, count, connection))


@pytest.mark.parametrize("seed", SEEDS, ids=["a fixed seed", "a fresh seed"])
def test_frames_are_read_as_websockets_reads_them(seed: object) -> None:
    failures = search(seed, FRAMES)
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.parametrize("seed", SEEDS, ids=["a fixed seed", "a fresh seed"])
def test_every_handshake_is_answered(seed: object) -> None:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        failures = runner.run(fuzz_handshake.search(seed, HANDSHAKES))
    assert not failures, "\n".join(failures)


def search_http(redis: RedisServer, seed: object, count: int) -> list[str]:
    with untraced(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(fuzz_http.search(redis, seed, count, at_most=1))


@pytest.mark.parametrize("seed", SEEDS, ids=["a fixed seed", "a fresh seed"])
def test_every_request_of_plain_http_is_answered(own_redis: RedisServer, seed: object) -> None:
    failures = search_http(own_redis, seed, CONNECTIONS)
    assert not failures, "\n".join(failures)


# --- bugs put in ---


class TakesAnyText(ClientConnection):
    def messages_received(self, payloads: Sequence[bytes]) -> None:
        super().messages_received([payload.decode(errors="replace").encode() for payload in payloads])


class TakesBinary(FrameReader):
    def _frame_received(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY:
            frame = Frame(Opcode.TEXT, frame.data, frame.fin)
        super()._frame_received(frame)


class ChecksEachFragment(FrameReader):
    """A character may be cut in two by the border of fragments."""

    def _frame_received(self, frame: Frame) -> None:
        try:
            bytes(frame.data).decode()
        except UnicodeDecodeError:
            self._receiver.fail(CloseCode.INVALID_DATA, "invalid UTF-8")
        else:
            super()._frame_received(frame)


class ForgetsTheBeginning(FrameReader):
    def _frame_received(self, frame: Frame) -> None:
        if frame.fin and self._partial is not None:
            self._partial.clear()
        super()._frame_received(frame)


class ForgetsTheExtension(FrameReader):
    def get_websocket(self) -> Protocol:
        self._extensions = ()
        return super().get_websocket()


class ForgetsWhatWaits(FrameReader):
    """What one turn has no room for is not read in the next."""

    def read_on(self) -> None:
        self._unread = (b"", 0)
        super().read_on()


class HearsLate(ClientConnection):
    """The last byte of a piece is read when the next one comes."""

    def data_received(self, data: bytes) -> None:
        held = getattr(self, "held", b"")
        if self.is_open:
            data, self.held = held + data[:-1], data[-1:]
        super().data_received(data)


class AllowsMore(ClientConnection):
    """One byte more than the limit."""

    class More:
        def __init__(self, host: Any) -> None:
            self._host = host
            self.max_message_bytes = host.max_message_bytes + 1

        def __getattr__(self, name: str) -> Any:
            return getattr(self._host, name)

    def __init__(self, host: Any) -> None:
        super().__init__(self.More(host))


class Loses(ClientConnection):
    """A piece that is a single byte."""

    def data_received(self, data: bytes) -> None:
        if len(data) != 1:
            super().data_received(data)


class Raises(ClientConnection):
    def data_received(self, data: bytes) -> None:
        if self.is_open and data[:1] == b"\x89":
            raise IndexError("a bug")
        super().data_received(data)


@pytest.mark.parametrize(
    "bug",
    [TakesAnyText, TakesBinary, ChecksEachFragment, ForgetsTheBeginning, ForgetsTheExtension, ForgetsWhatWaits,
     HearsLate, AllowsMore, Loses, Raises],
)  # fmt: skip
def test_a_bug_is_found(monkeypatch: pytest.MonkeyPatch, bug: type[ClientConnection] | type[FrameReader]) -> None:
    if issubclass(bug, FrameReader):
        monkeypatch.setattr(connection_module, "FrameReader", bug)
        bug = ClientConnection
    [failure] = search("fixed", FRAMES, bug)[:1]
    assert len(b"".join(failure.smallest.pieces)) <= 2200, "it is made small"


@pytest.mark.parametrize(
    ("where", "bug"),
    [
        ("apply_mask", lambda data, mask: bytes(data)),
        ("MASKED", 0),
    ],
)
def test_a_bug_in_the_quick_way_is_found(monkeypatch: pytest.MonkeyPatch, where: str, bug: object) -> None:
    monkeypatch.setattr(frames, where, bug)
    assert search("fixed", FRAMES)


@pytest.mark.parametrize("method", ["_refuse_two_ends", "_skip_body"])
def test_a_bug_in_plain_http_is_found(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(Exchange, method, lambda self: None)
    assert search_http(own_redis, "fixed", CONNECTIONS)

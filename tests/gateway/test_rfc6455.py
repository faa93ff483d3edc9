"""The rules of the WebSocket protocol, in the groups of the Autobahn test suite (cases 1 to 7), one table for each.

Autobahn itself found a gateway that echoes no worse than the websockets library, plain and compressed. It differs by
intent where messages are binary (cases 1.2, half of 9, and 12.2, 12.3 and 12.5): they are refused with 1003.
"""

from __future__ import annotations

import asyncio
import struct

import pytest

from kit.fuzz_frames import Gateway, Outcome
from kit.gateway import frame

SIZES = (0, 125, 126, 127, 128, 65_535, 65_536)
HELLO = frame(b"hello")
KAPPA = "\u03ba\u03cc\u03c3\u03bc\u03b5".encode()


def outcome_of(*pieces: bytes, octets: bool = False, compress: bool = False) -> Outcome:
    """What comes of frames that are sent in these pieces, or byte by byte."""
    sent = [bytes([byte]) for byte in b"".join(pieces)] if octets else list(pieces)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(Gateway(max_bytes=SIZES[-1]).outcomes(compress, sent))[-1]


def goes_on(*messages: str, pongs: tuple[bytes, ...] = ()) -> Outcome:
    return Outcome(messages, pongs, None, False)


def ends(code: int, *messages: str, pongs: tuple[bytes, ...] = ()) -> Outcome:
    return Outcome(messages, pongs, code, True)


def closing(code: int, reason: bytes = b"") -> bytes:
    return frame(struct.pack("!H", code) + reason, 8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chop", [1_000_000, 997])
def test_1_messages_of_any_size(size: int, chop: int) -> None:
    whole = frame(b"*" * size)
    pieces = [whole[start : start + chop] for start in range(0, len(whole), chop)]
    assert outcome_of(*pieces) == goes_on("*" * size)
    assert outcome_of(frame(b"*" * size, 2)) == ends(1003)


@pytest.mark.parametrize("octets", [False, True])
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (frame(b"", 9), goes_on(pongs=(b"",))),
        (frame(b"\x00\xff\xfe", 9), goes_on(pongs=(b"\x00\xff\xfe",))),
        (frame(b"\xfe" * 125, 9), goes_on(pongs=(b"\xfe" * 125,))),
        (frame(b"\xfe" * 126, 9), ends(1002)),
        (frame(b"unasked", 10) + frame(b"ping", 9), goes_on(pongs=(b"ping",))),
        (b"".join(frame(b"%d" % n, 9) for n in range(10)), goes_on(pongs=tuple(b"%d" % n for n in range(10)))),
    ],
)
def test_2_pings(sent: bytes, expected: Outcome, octets: bool) -> None:
    assert outcome_of(sent, octets=octets) == expected


@pytest.mark.parametrize("reserved", range(1, 8))
@pytest.mark.parametrize("opcode", [1, 2, 8, 9])
@pytest.mark.parametrize("octets", [False, True])
def test_3_reserved_bits(reserved: int, opcode: int, octets: bool) -> None:
    assert outcome_of(HELLO, frame(b"", opcode, reserved=reserved), HELLO, octets=octets) == ends(1002, "hello")


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("payload", [b"", b"x"])
def test_4_reserved_opcodes(opcode: int, payload: bytes) -> None:
    assert outcome_of(HELLO + frame(payload, opcode) + HELLO) == ends(1002, "hello")
    assert outcome_of(HELLO, frame(b"x" * 200, opcode)[:2]) == ends(1002, "hello"), "before its body is here"


def part(payload: bytes, *, first: bool = False, last: bool = False) -> bytes:
    return frame(payload, 1 if first else 0, fin=last)


ONE, MORE, END = part(b"1", first=True), part(b"2"), part(b"3", last=True)


@pytest.mark.parametrize("octets", [False, True])
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (frame(b"x", 9, fin=False), ends(1002)),
        (frame(b"x", 10, fin=False), ends(1002)),
        (ONE + END, goes_on("13")),
        (ONE + MORE + MORE + END, goes_on("1223")),
        (ONE + frame(b"p", 9) + END, goes_on("13", pongs=(b"p",))),
        (ONE + frame(b"p", 9) + MORE + frame(b"q", 9) + END + HELLO, goes_on("123", "hello", pongs=(b"p", b"q"))),
        (part(b"", first=True) + part(b"") + part(b"", last=True), goes_on("")),
        (END + HELLO, ends(1002)),
        (MORE + HELLO, ends(1002)),
        (ONE + END + END, ends(1002, "13")),
        (ONE + HELLO, ends(1002)),
        (ONE + ONE, ends(1002)),
        (ONE + closing(1000), ends(1000)),
    ],
)
def test_5_fragments(sent: bytes, expected: Outcome, octets: bool) -> None:
    assert outcome_of(sent, octets=octets) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"", KAPPA, b"\x00", b"\x7f", b"\xc2\x80", b"\xdf\xbf", b"\xe0\xa0\x80", b"\xed\x9f\xbf", b"\xee\x80\x80",
        b"\xef\xbf\xbe", b"\xef\xbf\xbf", b"\xf0\x90\x80\x80", b"\xf4\x8f\xbf\xbf", b"\xf0\x9f\xbf\xbe",
    ],
)  # fmt: skip
def test_6_text(text: bytes) -> None:
    parts = [part(text[n : n + 1]) for n in range(len(text))]
    assert outcome_of(frame(text)) == goes_on(text.decode())
    assert outcome_of(part(b"", first=True), *parts, part(b"", last=True)) == goes_on(text.decode())


@pytest.mark.parametrize(
    "text",
    [
        b"\xff", b"\x80", b"\xbf", b"\xc0\xaf", b"\xc1\xbf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xed\xa0\x80",
        b"\xed\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xce",
        b"\xe2\x82", KAPPA + b"\xed\xa0\x80edited", KAPPA[:-1],
    ],
)  # fmt: skip
def test_6_what_is_no_text(text: bytes) -> None:
    parts = [part(text[n : n + 1]) for n in range(len(text))]
    assert outcome_of(HELLO, frame(text), HELLO) == ends(1007, "hello")
    assert outcome_of(part(b"", first=True), *parts) == goes_on(), "it is looked at when it is whole"
    assert outcome_of(part(b"", first=True), *parts, part(b"", last=True)) == ends(1007)


@pytest.mark.parametrize("octets", [False, True])
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(b"", 8), 0),
        *[(closing(code), code) for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4999)],
        *[(closing(code), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)],
        (frame(b"\x03", 8), 1002),
        (closing(1000, b"*" * 123), 1000),
        (closing(1000, b"*" * 124), 1002),
        (closing(1000, KAPPA), 1000),
        (closing(1000, KAPPA + b"\xed\xa0\x80"), 1007),
    ],
)
def test_7_closing(sent: bytes, code: int, octets: bool) -> None:
    behind = HELLO + frame(b"p", 9) + closing(1001)
    assert outcome_of(HELLO, sent, behind, octets=octets) == ends(code, "hello"), "what is behind it is not read"


@pytest.mark.parametrize("compress", [False, True])
def test_7_half_a_frame_before_the_end(compress: bool) -> None:
    assert outcome_of(HELLO[:-1], compress=compress) == goes_on()
    assert outcome_of(HELLO[:-1], HELLO[-1:] + closing(1000), compress=compress) == ends(1000, "hello")

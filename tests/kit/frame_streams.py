"""What clients might send: streams of frames, right and wrong, changed here and there, and cut into pieces."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

MAX_BYTES = 1024
"""Of a message: the smallest that the settings allow, so that what is too big is soon there."""
CODES = [0, 1, 999, *range(1000, 1017), 1100, 2000, 2999, 3000, 3999, 4000, 4999, 5000, 65535]
NO_TEXT = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"a\xfe", b"\xf0\x9f\x98"]


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

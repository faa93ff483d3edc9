"""Opening requests, changed here and there: each is answered with a status, and none with silence or a traceback."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from kit.frame_streams import MAX_BYTES, changed, cut
from kit.fuzz_frames import Gateway, Transport, quiet
from kit.gateway import KEY, handshake

STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d) [ -~]*\r\n(?:[-A-Za-z]+: [^\r\n]*\r\n)*\r\n")
PLAIN_HTTP = {200, 426}
"""What a request is answered with that asks for no WebSocket."""

Change = Callable[[bytes], bytes]


def put(old: bytes, new: bytes) -> Change:
    return lambda request: request.replace(old, new, 1)


def line(text: bytes) -> Change:
    """One header more."""
    return lambda request: request[:-2] + text + b"\r\n\r\n"


KINDS: dict[str, tuple[Change, set[int]]] = {
    "as it is": (lambda request: request, {101}),
    "small letters": (lambda request: re.sub(rb"\r\n[-A-Za-z]+:", lambda name: name[0].lower(), request), {101}),
    "another header": (line(b"X-Y: z"), {101}),
    "a cookie": (line(b"Cookie: " + b"c" * 2000), {101}),
    "Connection with more": (put(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade"), {101}),
    "no Upgrade": (put(b"Upgrade: websocket\r\n", b""), PLAIN_HTTP),
    "another Upgrade": (put(b"Upgrade: websocket", b"Upgrade: h2c"), PLAIN_HTTP),
    "no Connection": (put(b"Connection: Upgrade\r\n", b""), {400, 426}),
    "no key": (lambda request: re.sub(rb"Sec-WebSocket-Key: .*\r\n", b"", request), {400}),
    "a short key": (lambda request: re.sub(rb"(Sec-WebSocket-Key: ..).*\r\n", rb"\1\r\n", request), {400}),
    "version 12": (put(b"Version: 13", b"Version: 12"), {400, 426}),
    "POST": (put(b"GET", b"POST"), {400, 405}),
    "no method": (put(b"GET ", b""), {400}),
    "HTTP/2": (put(b"HTTP/1.1", b"HTTP/2.0"), {400, 505}),
    "no colon": (line(b"nonsense"), {400}),
    "a space in a name": (line(b"X Y: z"), {400}),
    "a control character": (line(b"X: \x01"), {400}),
    "too long a path": (put(b"/?", b"/" + b"x" * 100_000 + b"?"), {400, 414, 431}),
    "too long a header": (line(b"X: " + b"x" * 100_000), {400, 431}),
    "too many headers": (lambda request: request[:-2] + b"X: y\r\n" * 5000 + b"\r\n", {400, 431}),
    "TLS": (lambda request: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + request, {400}),
}
"""What is done to a request, and the statuses that are right."""


@dataclass(frozen=True)
class Asked:
    """What a client asks, what that is, and how it has to be answered; None is for any status, or none yet."""

    kind: str
    pieces: list[bytes]
    expected: set[int] | None


def asked(seed: object, number: int) -> Asked:
    """The request with that number."""
    chance = random.Random(f"{seed} handshake {number}")
    kind, (change, expected) = chance.choice(list(KINDS.items()))
    usual = re.sub(rb"(Sec-WebSocket-Key: ).*\r\n", rb"\1dGhlIHNhbXBsZSBub25jZQ==\r\n", handshake(f"/?token={KEY}"))
    request = change(usual)  # the same key each time: the seed says all
    if chance.random() < 0.5:
        return Asked(kind, cut(request, chance), expected)
    for _ in range(chance.choice([1, 1, 2, 5])):
        request = changed(request, chance)
    return Asked(f"{kind}, changed", cut(request, chance), None)


class Complaints(logging.Handler):
    """Remembers what the gateway says of a bug of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


async def fault(gateway: Gateway, request: Asked) -> str | None:
    """What is wrong with the answer; None where it is right."""
    transport = Transport()
    connection = gateway.connect(transport, compress=False)
    for piece in request.pieces:
        if transport.ended:
            break
        connection.data_received(piece)
        await quiet()
    written = bytes(transport.written)
    if not written and not transport.ended:
        connection.eof_received()
        await quiet()
        written = bytes(transport.written)
        waits = re.search(rb"\r?\n\r?\n", b"".join(request.pieces).lstrip(b"\r\n")) is None
    else:
        waits = False
    connection.connection_lost(None)
    if waits:  # for the rest of it
        return None if request.expected is None else "not answered"
    found = STATUS.match(written)
    if found is None:
        return f"answered with {written[:80]!r}" if written else "closed, or left waiting, without a word"
    status = int(found[1])
    right = request.expected or {101, 200, *range(400, 500), 505}
    return None if status in right else f"answered with {status}, not with one of {sorted(right)}"


async def search(
    seed: object, count: int, *, at_most: int = 3, advance: Callable[[int], None] = lambda requests: None
) -> list[str]:
    """The first faults among the answers to ``count`` requests; not on uvloop, like :func:`kit.fuzz_frames.search`."""
    gateway = Gateway()
    log, complaints = logging.getLogger("rsws.gateway"), Complaints()
    log.addHandler(complaints)
    failures: list[str] = []
    try:
        for number in range(count):
            request = asked(seed, number)
            try:
                what = await fault(gateway, request)
            except Exception as error:
                what = repr(error)
            if what is not None or complaints.said:
                said = f"; logged {complaints.said}" if complaints.said else ""
                complaints.said.clear()
                shown = [piece if len(piece) < 2 * MAX_BYTES else piece[:300] + b"..." for piece in request.pieces]
                failures.append(f"seed {seed!r}, handshake {number} ({request.kind}): {what}{said}\n  {shown}")
                if len(failures) == at_most:
                    break
            advance(1)
    finally:
        log.removeHandler(complaints)
    return failures

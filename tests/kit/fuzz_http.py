"""Requests of plain HTTP, right and wrong ones in a row: each is answered as it has to be, and stores what it says.

A connection is made from a seed and a number: some requests, each with the statuses that are right for it, cut into
pieces and sent over TCP; half of them are changed here and there. What was said is held against what was asked, and
what is stored against what was said to be: a body that is taken for a request, or the other way round, shows in both.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from kit.faults import command_calls
from kit.frame_streams import changed, cut
from kit.fuzz_handshake import Complaints
from kit.gateway import KEY, Reachable, Wire, entries, gateway
from kit.support import RedisServer
from rsws.gateway.limits import DEFAULTS

MAX_BYTES = 1024
"""Of a message."""
AT_ONCE = 8
"""Connections at a time."""
CHANNEL, CHANGED = "exact", "changed"
ANSWER = re.compile(rb"HTTP/1\.1 (\d\d\d) [ -~]*\r\n((?:[-A-Za-z]+: [^\r\n]*\r\n)*)\r\n")
LENGTH = re.compile(rb"\nContent-Length: (\d+)\r", re.IGNORECASE)
CHUNKS = re.compile(rb"(?:([0-9a-f]+)\r\n((?s:.*?))\r\n)*?0\r\n\r\n")
POSSIBLE = {100, 200, 204, *range(400, 418), 426, 431, 501}
"""What may be the answer to a request that was changed; 503 and the like are for a gateway that can't."""
HEAD = f"POST /channels/{CHANNEL} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"


@dataclass(frozen=True)
class Asked:
    """What is sent for one request.

    Attributes:
        statuses: Those that are right.
        is_last: Whether the connection ends with the answer; None where it may, as the head alone is refused.
        stored: The data that is stored.
    """

    sent: bytes
    statuses: set[int]
    is_last: bool | None = False
    stored: str | None = None


Kind = Callable[[random.Random, str], Asked]
"""Makes a request, which is given data that no other one has."""


def right(head: str, body: str = "", status: int = 200, *, of_body: int = 0) -> Kind:
    """A request that can be read, and is answered so; ``DATA`` in it is the data.

    Args:
        of_body: The status where it is the body that is wrong.
    """

    def make(chance: random.Random, data: str) -> Asked:
        text = body.replace("DATA", data)
        length = f"Content-Length: {len(text)}\r\n" if text else ""
        stored = data if "POST" in head and status == 200 else None
        is_last = None if text and status not in (200, of_body) else False
        return Asked(f"{head}{length}\r\n{text}".encode(), {status}, is_last, stored)

    return make


def wrong(more: str | bytes, *statuses: int, body: str | bytes = b"1", head: str = HEAD) -> Kind:
    """A request that can't be read, so that the connection ends: its head goes on with ``more``."""
    more, body = [text.encode("latin-1") if isinstance(text, str) else text for text in (more, body)]
    return lambda chance, data: Asked(head.encode() + more + b"\r\n" + body, {*statuses} or {400}, is_last=True)


def in_chunks(chance: random.Random, data: str) -> Asked:
    body = b""
    for piece in cut(data.encode(), chance):
        extension = chance.choice([b"", b"", b";a", b';a="b c"'])
        size = chance.choice([b"%x", b"%X", b"00%x"]) % len(piece)
        body += size + extension + b"\r\n" + piece + b"\r\n"
    trailers = chance.choice([b"", b"", b"X-Sum: 7\r\n", b"Content-Length: 5\r\nHost: y\r\n"])
    name = chance.choice(["Transfer-Encoding: chunked", "transfer-encoding:CHUNKED", "Transfer-Encoding: chunked "])
    return Asked(f"{HEAD}{name}\r\n\r\n".encode() + body + b"0\r\n" + trailers + b"\r\n", {200}, stored=data)


def expecting(chance: random.Random, data: str) -> Asked:
    return Asked(
        f"{HEAD}Expect: 100-continue\r\nContent-Length: {len(data)}\r\n\r\n{data}".encode(), {200}, stored=data
    )


def stream(chance: random.Random, data: str) -> Asked:
    accept = chance.choice(["text/event-stream", "application/x-ndjson"])
    target = f"/channels/none?follow=0&token={KEY}"
    method = chance.choice(["GET", "HEAD"])
    return Asked(f"{method} {target} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n".encode(), {200}, is_last=True)


CHUNKED = "Transfer-Encoding: chunked\r\n"
TOKEN = f"Authorization: Bearer {KEY}\r\n"
KINDS: dict[str, Kind] = {
    "a publish": right(HEAD, "DATA"),
    "blanks around the data": right(HEAD, " \r\n\tDATA\r\n"),
    "in chunks": in_chunks,
    "expecting": expecting,
    "one length twice": right(HEAD + "Content-Length: 17\r\n", "DATA"),
    "line breaks before": right("\r\n" + HEAD, "DATA"),
    "the list": right(f"GET /channels?match=none HTTP/1.1\r\nHost: x\r\n{TOKEN}"),
    "the head of the list": right(f"HEAD /channels?match=none HTTP/1.1\r\nHost: x\r\n{TOKEN}"),
    "the list with a body": right(f"GET /channels?match=none HTTP/1.1\r\nHost: x\r\n{TOKEN}", HEAD + "\r\n"),
    "a preflight": right("OPTIONS /channels/x HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\n", status=204),
    "a preflight with a body": right("OPTIONS /channels/x HTTP/1.1\r\nHost: x\r\n", HEAD + "\r\n", 204),
    "no token": right(f"POST /channels/{CHANNEL} HTTP/1.1\r\nHost: x\r\n", "DATA", 401),
    "no such path": right(f"POST /channels/{CHANNEL}/x HTTP/1.1\r\nHost: x\r\n{TOKEN}", HEAD + "\r\n", 404),
    "no such method": right(f"DELETE /channels/{CHANNEL} HTTP/1.1\r\nHost: x\r\n{TOKEN}", "DATA", 405),
    "a list to publish to": right(f"POST /channels HTTP/1.1\r\nHost: x\r\n{TOKEN}", "DATA", 405),
    "no such form": right(f"GET /channels/x HTTP/1.1\r\nHost: x\r\n{TOKEN}Accept: image/png\r\n", "", 406),
    "no JSON": right(HEAD, "{DATA", 400, of_body=400),
    "no body": right(HEAD, "", 400),
    "too much of a body": right(HEAD, "1" * MAX_BYTES, 413, of_body=413),
    "a bad name": right(f"POST /channels/%ff HTTP/1.1\r\nHost: x\r\n{TOKEN}", "DATA", 400),
    "an empty key": right(HEAD + "Idempotency-Key:\r\n", "DATA", 400),
    "a bad position": right(f"GET /channels/x HTTP/1.1\r\nHost: x\r\n{TOKEN}Last-Event-ID: x\r\n", "", 400),
    "a stream": stream,
    "the last one": lambda chance, data: Asked(
        f"{HEAD}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n{data}".encode(), {200}, True, data
    ),
    "HTTP/1.0": lambda chance, data: Asked(
        f"{HEAD}Content-Length: {len(data)}\r\n\r\n{data}".replace("/1.1", "/1.0").encode(), {200}, True, data
    ),
    "two lengths": wrong("Content-Length: 1\r\nContent-Length: 2\r\n"),
    "two lengths in a line": wrong("Content-Length: 1, 2\r\n"),
    "a length and chunks": wrong("Content-Length: 6\r\n" + CHUNKED, body="1\r\n1\r\n0\r\n\r\n"),
    "chunks and a length": wrong(CHUNKED + "Content-Length: 6\r\n", body="1\r\n1\r\n0\r\n\r\n"),
    "chunks twice": wrong(CHUNKED * 2, 400, 501, body="1\r\n1\r\n0\r\n\r\n"),
    "chunks and something": wrong("Transfer-Encoding: chunked, identity\r\n", 400, 501),
    "gzip and chunks": wrong("Transfer-Encoding: gzip, chunked\r\n", 400, 501),
    "no chunks": wrong("Transfer-Encoding: xchunked\r\n", 400, 501),
    "a quoted encoding": wrong('Transfer-Encoding: "chunked"\r\n', 400, 501),
    "an empty encoding": wrong("Transfer-Encoding:\r\nContent-Length: 1\r\n", 400, 501),
    "a tab in chunked": wrong("Transfer-Encoding: chun\tked\r\n", 400, 501),
    "a vertical tab": wrong("Transfer-Encoding:\x0bchunked\r\n"),
    "chunks in HTTP/1.0": wrong(CHUNKED, head=HEAD.replace("/1.1", "/1.0"), body="1\r\n1\r\n0\r\n\r\n"),
    "a negative length": wrong("Content-Length: -1\r\n"),
    "a signed length": wrong("Content-Length: +1\r\n"),
    "a length in parts": wrong("Content-Length: 1.0\r\n"),
    "an empty length": wrong("Content-Length:\r\n"),
    "a hexadecimal length": wrong("Content-Length: 0x1\r\n"),
    "a length beyond 64 bits": wrong(f"Content-Length: {2**64}\r\n", 400, 413),
    "a length beyond all": wrong(f"Content-Length: {'9' * 5000}\r\n", 400, 413),
    "too long": wrong("Content-Length: 100000000\r\n", 413),
    "a chunk of x bytes": wrong(CHUNKED, body="x\r\n1\r\n0\r\n\r\n"),
    "a chunk of -1 bytes": wrong(CHUNKED, body="-1\r\n1\r\n0\r\n\r\n"),
    "a chunk of 0x1 bytes": wrong(CHUNKED, body="0x1\r\n1\r\n0\r\n\r\n"),
    "a chunk of no bytes": wrong(CHUNKED, body="\r\n1\r\n0\r\n\r\n"),
    "a chunk of 1_0 bytes": wrong(CHUNKED, body="1_0\r\n1\r\n0\r\n\r\n"),
    "a chunk beyond all": wrong(CHUNKED, body="f" * 21 + "\r\n1\r\n0\r\n\r\n"),
    "a chunk that goes on": wrong(CHUNKED, body="1\r\n12\r\n0\r\n\r\n"),
    "chunks between bare LF": wrong(CHUNKED, 400, 431, body="1\n1\n0\n\n" + "x" * 20_000),
    "a bare LF in an extension": wrong(CHUNKED, body="1;a\nb\r\n1\r\n0\r\n\r\n"),
    "an endless extension": wrong(CHUNKED, 400, 431, body="1;" + "a" * 100_000),
    "endless chunks": wrong(CHUNKED, 413, body="400\r\n" + "1" * 1024 + "\r\n" + "2000\r\n" + "1" * 8192 + "\r\n"),
    "endless trailers": wrong(CHUNKED, 400, 431, body="1\r\n1\r\n0\r\n" + "X: y\r\n" * 20_000 + "X"),
    "a bad trailer": wrong(CHUNKED, body="1\r\n1\r\n0\r\nno colon\r\n\r\n"),
    "a folded header": wrong("X: y\r\n z: 1\r\nContent-Length: 1\r\n"),
    "a folded length": wrong("Content-Length:\r\n 1\r\n"),
    "a blank before the colon": wrong("Content-Length : 1\r\n"),
    "a blank before the name": wrong(" Content-Length: 1\r\n"),
    "a blank in the name": wrong("X Y: 1\r\n"),
    "no colon": wrong("nonsense\r\n"),
    "no name": wrong(": 1\r\n"),
    "a bare LF": wrong("X: y\nContent-Length: 1\r\n"),
    "a bare CR": wrong("X: y\rContent-Length: 1\r\n"),
    "a NUL": wrong("X: \0\r\n"),
    "a NUL in a name": wrong("X\0: y\r\n"),
    "too long a header": wrong(f"X: {'y' * 100_000}\r\n", 431),
    "too many headers": wrong("X: y\r\n" * 500, 431),
    "too long a target": wrong("", 431, head=HEAD.replace("/channels/", f"/channels/{'x' * 100_000}")),
    "no host": wrong("Content-Length: 1\r\n", head=HEAD.replace("Host: x\r\n", "")),
    "the head of a list without a host": wrong("", head=f"HEAD /channels HTTP/1.1\r\n{TOKEN}", body=""),
    "the head of a list with a bad chunk": wrong(CHUNKED, head=HEAD.replace("POST", "HEAD"), body="x\r\n"),
    "two hosts": wrong("Host: y\r\nContent-Length: 1\r\n"),
    "HTTP/1.2": wrong("", 400, 505, head=HEAD.replace("/1.1", "/1.2")),
    "HTTP/2.0": wrong("", 400, 505, head=HEAD.replace("/1.1", "/2.0")),
    "HTTP/01.1": wrong("", head=HEAD.replace("/1.1", "/01.1")),
    "no version": wrong("", head=HEAD.replace(" HTTP/1.1", "")),
    "two blanks": wrong("", head=HEAD.replace(" HTTP", "  HTTP")),
    "a small method": wrong("", head=HEAD.replace("POST", "post")),
    "a target of bytes": wrong("", head=HEAD.replace(CHANNEL, "\xe4")),
    "HTTP/2": wrong("", head="PRI * HTTP/2.0\r\n", body="SM\r\n\r\n"),
    "a tunnel": right(HEAD.replace(f"POST /channels/{CHANNEL}", "CONNECT /channels/x"), status=405),
    "an upgrade that is not known": right(HEAD + "Connection: upgrade\r\nUpgrade: h2c\r\n", "DATA"),
}
"""All kinds of requests; data is 17 characters long."""


@dataclass(frozen=True)
class Said:
    """One answer."""

    status: int
    body: bytes
    is_last: bool
    is_whole: bool
    """Whether all of it has come: a stream ends when the client has ended its side."""


def answers(received: bytes) -> list[Said]:
    """What was said; it raises where that is no HTTP."""
    found: list[Said] = []
    place = 0
    while place < len(received):
        match = ANSWER.match(received, place)
        assert match is not None, f"no answer: {received[place : place + 80]!r}"
        assert not (found and found[-1].is_last), "an answer after the last one"
        place = match.end()
        length = LENGTH.search(match[0])
        size, is_whole = 0, True
        if b"\r\nTransfer-Encoding: chunked\r\n" in match[0] and not received.startswith(b"HTTP/", place):
            body = CHUNKS.match(received, place)
            size = (body.end() if body else len(received)) - place
            is_whole = body is not None or not size
        elif length is not None and not received.startswith(b"HTTP/", place):  # after HEAD there is none
            size = min(int(length[1]), len(received) - place)
            assert size in (0, int(length[1])), "half an answer"
        if match[1] != b"100":
            is_last = b"connection: close\r\n" in match[0].lower()
            found.append(Said(int(match[1]), received[place : place + size], is_last, is_whole))
        place += size
    return found


class Conversation:
    """What is sent over one connection.

    Attributes:
        requests: The requests as they were made.
        is_changed: Whether they were changed after that.
        pieces: The bytes.
    """

    def __init__(self, seed: object, number: int) -> None:
        chance = random.Random(f"{seed} http {number}")
        self._name = f"seed {seed!r}, http {number}"
        self.kinds = [chance.choice(list(KINDS)) for _ in range(chance.choice([1, 1, 2, 3, 6]))]
        self.requests = [KINDS[kind](chance, f'"{number:08}-{place:06}"') for place, kind in enumerate(self.kinds)]
        sent = b"".join([ask.sent for ask in self.requests])
        self.is_changed = chance.random() < 0.5
        if self.is_changed:
            sent = sent.replace(b"/" + CHANNEL.encode(), b"/" + CHANGED.encode())
            for _ in range(chance.choice([1, 1, 2, 5])):
                sent = changed(sent, chance)
        self.sent = sent
        self.pieces = cut(sent, chance)

    def __str__(self) -> str:
        return f"{self._name} ({', '.join(self.kinds)}{', changed' * self.is_changed}):\n  {self.sent[:1500]!r}\n "

    async def hold(self, server: Reachable) -> bytes:
        """Everything that is said, until the gateway ends the connection."""
        async with Wire(server) as wire:
            wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(OSError):  # the gateway has had enough
                for piece in self.pieces:
                    await wire.send(piece)
                    await asyncio.sleep(0)
                if self.is_changed or not any(ask.is_last for ask in self.requests):
                    wire.socket.shutdown(socket.SHUT_WR)  # what was asked for is answered all the same, but for streams
            return await wire.read_to_end()

    def fault(self, said: list[Said]) -> str | None:
        """What is wrong with the answers; None where they are right, or may be."""
        return self._fault_of_changed(said) if self.is_changed else self._fault(said)

    def _fault(self, said: list[Said]) -> str | None:
        for place, (ask, told) in enumerate(zip(self.requests, said, strict=False)):
            is_last = told.is_last if ask.is_last is None else ask.is_last
            if told.status not in ask.statuses or told.is_last is not is_last or not told.is_whole:
                return f"request {place} answered with {told}"
        is_over = bool(said) and said[-1].is_last
        return None if len(said) == len(self.requests) or is_over else f"answered with {said}"

    def _fault_of_changed(self, said: list[Said]) -> str | None:
        odd = [told for told in said if told.status not in POSSIBLE]
        if odd:
            return f"answered with {odd[0]}"
        head, blank, _ = self.sent.lstrip(b"\r\n").partition(b"\r\n\r\n")
        has_body = re.search(rb"(?i)\n(content-length|transfer-encoding):", head)
        return "not answered" if blank and not has_body and not said else None

    def stored(self, said: list[Said]) -> list[str]:
        """The data that are stored, where nothing was changed."""
        asked = [] if self.is_changed else self.requests[: len(said)]
        return [ask.stored for ask in asked if ask.stored is not None]


async def search(
    redis: RedisServer, seed: object, count: int, *, at_most: int = 3, advance: Callable[[int], None] = lambda _: None
) -> list[str]:
    """The first faults among ``count`` connections, and in what they have stored; nobody else uses the Redis."""
    logs, complaints = [logging.getLogger(name) for name in ("rsws.gateway", "asyncio")], Complaints()
    for log in logs:
        log.addHandler(complaints)
    failures: list[str] = []
    stored: Counter[str] = Counter()
    acked = 0
    conversations = (Conversation(seed, number) for number in range(count))

    async def hold_some(server: Reachable) -> None:
        nonlocal acked
        for conversation in conversations:
            try:
                said = answers(await conversation.hold(server))
                what = conversation.fault(said)
                stored.update(conversation.stored(said))
                acked += sum(b'"streamId"' in told.body for told in said)
            except (AssertionError, TimeoutError) as error:
                what = repr(error)
            if what is not None or complaints.said:
                failures.append(f"{conversation} {what}; logged {complaints.said}")
                complaints.said.clear()
            if len(failures) >= at_most:
                return
            advance(1)

    limits = replace(DEFAULTS, free_tries=10**9)
    settings: dict[str, Any] = {"max_message_bytes": MAX_BYTES, "attempt_rate": "0", "subscribe_rate": "0"}
    try:
        async with gateway(redis.url, limits, **settings) as server, asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(hold_some(server))
    finally:
        for log in logs:
            log.removeHandler(complaints)
    written = Counter(fields["messageData"] for _, fields in entries(redis, CHANNEL))
    appended = command_calls(redis, "xadd")
    if not failures and (written != stored or acked != appended):
        odd = (written - stored) + (stored - written)
        failures.append(f"seed {seed!r}: {acked} acks, {appended} appends; stored otherwise: {odd}")
    return failures

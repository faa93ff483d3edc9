"""What the hot paths cost, piece by piece, without a network and without Redis.

    python benchmarks/micro.py [NAME ...] [--json]

Each piece is measured in turns with a yardstick, ``json.loads`` of the same message: the ratio to it says the same on a
fast machine and on a busy one, the nanoseconds are those of this machine now. instructions.py counts
instructions, which nothing else on the machine can disturb.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import redirect_stderr
from typing import Any, cast

from websockets.frames import Frame, Opcode

from rsws.frames import read_messages
from rsws.gateway.access.control import AccessControl
from rsws.gateway.access.tokens import TokenCheck
from rsws.gateway.clients import ClientRegistry
from rsws.gateway.delivery.channel import Channel, RingBudget
from rsws.gateway.delivery.hub import Hub
from rsws.gateway.delivery.subscription import Subscription
from rsws.gateway.http import PlainHttp
from rsws.gateway.logs import configure
from rsws.gateway.metrics import SharedMetrics
from rsws.gateway.portions import Portions
from rsws.gateway.request_limits import RequestLimits
from rsws.gateway.session.client import Client
from rsws.gateway.session.context import SessionContext
from rsws.gateway.session.session import Session
from rsws.gateway.websocket.connection import ClientConnection
from rsws.gateway.websocket.frames import MessageFramer
from rsws.gateway.websocket.turns import Turns
from rsws.protocol import ZERO, StreamId, decode_request
from rsws.redis.connection import RedisConnection
from rsws.redis.link import RedisLink
from rsws.settings import Settings
from rsws.streams.follower import Follower
from rsws.streams.replies import Entry, parse_entries
from rsws.streams.store import Store
from rsws.tokens.grant import Grant
from rsws.tokens.keys import read_keys
from rsws.tokens.signed import SignedTokens
from rsws.tokens.signing import read_signing_key

BATCH = 16
"""Messages that come together, as from a publisher that has so many under way."""
PAGE = 256
SUBSCRIBERS = 1000
ROUNDS = 15
ROUND_S = 0.02

DATA = b'{"seq":123456,"time":1764000000000,"text":"%b"}' % (b"x" * 84)
REQUEST = b'{"action":"publish","channel":"orders","data":%b,"messageId":"m-123456"}' % DATA
FRAME = Frame(Opcode.TEXT, REQUEST).serialize(mask=True)
HANDSHAKE = (
    b"GET /?token=KEY HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SUBSCRIBE = Frame(Opcode.TEXT, b'{"action":"subscribe","channel":"orders"}').serialize(mask=True)
STORED = b"$15\r\n1764000000000-0\r\n"
NO_STREAM = b"*4\r\n$-1\r\n$3\r\n0-0\r\n:0\r\n:0\r\n"
"""What is answered to a look at a stream that nothing was added to."""

Piece = Callable[[], Awaitable[int]]
"""Does its work once and returns how many times that was: messages, deliveries, connections."""


class NullTransport(asyncio.Transport):
    """Takes everything at once, and so does its socket."""

    _NULL = open(os.devnull, "wb", buffering=0)  # noqa: SIM115 - as long as the process lives

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1), "socket": self._NULL})

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    close = abort


class NullRedis(NullTransport):
    """Answers each command in a write with ``answer``. Stands for redis-py's connection, too."""

    timeout_s = 5.0
    shown = "redis://nowhere"

    def __init__(self) -> None:
        super().__init__()
        self.answer = STORED
        self._reader = asyncio.StreamReader()
        self._writer = asyncio.StreamWriter(self, asyncio.Protocol(), None, asyncio.get_running_loop())

    async def connect(self, name: str) -> RedisConnection:
        self.connection = RedisConnection(self)  # type: ignore[arg-type]
        return self.connection

    async def disconnect(self, nowait: bool) -> None:
        pass

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        answers = self.answer * len(self.connection.unanswered)
        asyncio.get_running_loop().call_soon(self.connection.data_received, answers)


class NullStreams(Store):
    """Streams that nothing is ever added to."""

    def follow(self, name: str, after: StreamId, follower: Follower) -> None:
        pass

    def unfollow(self, name: str) -> None:
        pass


def log_as_a_gateway() -> None:
    """Write log lines as a gateway does, of which each client has two, to nowhere."""
    with redirect_stderr(open(os.devnull, "w")):
        configure(Settings())


class Gateway:
    """The rooms of a gateway between clients and a Redis that are not there."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        redis: Any = NullRedis()
        self.redis = redis
        commands = RedisLink(redis, "rsws-commands")
        self.store = NullStreams(commands, commands)
        self.running = tasks.create_task(commands.run())
        board = SharedMetrics()
        http = PlainHttp(lambda: None, board.text)
        settings = Settings(attempt_rate="1000000,1000000000")  # there are as many attempts as there can be
        access = AccessControl(TokenCheck("KEY"), board.metrics)
        turns = Turns(lambda: False)
        turns.handshakes = Portions(sys.maxsize)  # those of a thousand clients are done before it begins
        self.clients = ClientRegistry(settings, sys.maxsize, access, http, self._session, board, turns)
        hub = Hub(cast(Any, self.store), tasks, board.metrics, MessageFramer, sys.maxsize)
        self._context = SessionContext(access, hub, self.store, tasks, settings, RequestLimits(settings))
        self.channel = Channel(
            "orders",
            ZERO,
            RingBudget(),
            lambda name, entry: None,
            lambda channel: None,
            lambda channel: None,
            MessageFramer,
            board.metrics,
        )

    def _session(self, connection: Client, grant: Grant) -> Session:
        return Session(connection, grant, self._context)

    def connect(self) -> ClientConnection:
        connection = ClientConnection(self.clients)
        connection.connection_made(NullTransport())
        connection.data_received(HANDSHAKE)
        return connection


def entries(count: int) -> list[Entry]:
    return [Entry(b"1764000000000-%d" % number, DATA) for number in range(1, count + 1)]


# --- the pieces ---


def yardstick(gateway: Gateway) -> Piece:
    async def run() -> int:
        for _ in range(BATCH):
            json.loads(DATA)
        return BATCH

    return run


def receive(gateway: Gateway) -> Piece:
    """Frames to payloads, per message."""
    frames = FRAME * BATCH

    async def run() -> int:
        payloads, _ = read_messages(frames, 0, 1 << 20, BATCH, len(frames))
        return len(payloads)

    return run


def decode(gateway: Gateway) -> Piece:
    """A request's JSON to what it asks for, per message."""
    text = REQUEST.decode()

    async def run() -> int:
        for _ in range(BATCH):
            decode_request(text)
        return BATCH

    return run


def encode(gateway: Gateway) -> Piece:
    """An entry to its frame, checked and wrapped, per message."""
    some = entries(BATCH)

    async def run() -> int:
        for entry in some:
            gateway.channel.encode(entry)
        return BATCH

    return run


def append(gateway: Gateway) -> Piece:
    """From the store's ``append`` to its callback, Redis' parser included, per message."""
    done: list[Any] = []

    async def run() -> int:
        done.clear()
        for _ in range(BATCH):
            gateway.store.append("orders", DATA, done.append)
        while len(done) < BATCH:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return BATCH

    return run


def publish(gateway: Gateway) -> Piece:
    """A client's frames to its acks: receive, decode, append and all in between, per message."""
    connection = gateway.connect()
    frames = FRAME * BATCH

    async def run() -> int:
        connection.data_received(frames)
        while connection._in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return BATCH

    return run


def deliver(gateway: Gateway) -> Piece:
    """A batch of one message to 1,000 clients, per delivery."""
    pages: Any = None
    for _ in range(SUBSCRIBERS):
        Subscription(gateway.channel, ZERO, gateway.connect(), pages).advance()
    number = 0

    async def run() -> int:
        nonlocal number
        number += 1
        gateway.channel.deliver([Entry(b"1764000000000-%d" % number, DATA)])
        await asyncio.sleep(0)
        return SUBSCRIBERS

    return run


def page(gateway: Gateway) -> Piece:
    """Redis' reply to the frames of a page of history, per entry."""
    reply = b"*%d\r\n" % PAGE + b"".join(
        b"*2\r\n$%d\r\n%b\r\n*2\r\n$11\r\nmessageData\r\n$%d\r\n%b\r\n" % (len(id_), id_, len(DATA), DATA)
        for id_, _ in [(entry.raw_id, None) for entry in entries(PAGE)]
    )
    frames: list[bytes] = []

    def encode_all(found: Any) -> None:
        encoded = [gateway.channel.encode(entry) for entry in parse_entries(found)]
        frames.append(b"".join(filter(None, encoded)))

    async def run() -> int:
        redis = NullRedis()
        connection = await redis.connect("page")
        connection.unanswered.append(encode_all)
        connection.data_received(reply)
        frames.clear()
        return PAGE

    return run


def token(gateway: Gateway) -> Piece:
    """A JWT in a request's URL to what it allows, and whether that is to read a channel, per token."""
    secret = "a secret of thirty-two characters"
    tokens = TokenCheck("KEY", signed=SignedTokens(read_keys(secret)))
    target = "/?token=" + read_signing_key(secret).sign({"orders": "rw", "news.*": "r"}, 86_400, subject="alice")

    async def run() -> int:
        grant, _ = tokens.check_request(None, (), target)
        assert isinstance(grant, Grant)
        assert grant.may_read("orders")
        return 1

    return run


def connect(gateway: Gateway) -> Piece:
    """A handshake up to the welcome, and the end of it, per connection."""

    async def run() -> int:
        connection = gateway.connect()
        await asyncio.sleep(0)
        connection.connection_lost(None)
        return 1

    return run


def subscribe(gateway: Gateway) -> Piece:
    """A handshake and the subscribe after it, up to its reply, to a channel that others have, per connection."""
    gateway.redis.answer = NO_STREAM
    other = gateway.connect()
    other.data_received(SUBSCRIBE)

    async def run() -> int:
        connection = gateway.connect()
        await asyncio.sleep(0)
        connection.data_received(SUBSCRIBE)
        while connection._in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0)
        connection.connection_lost(None)
        return 1

    return run


PIECES = {
    piece.__name__: piece
    for piece in (receive, decode, append, publish, encode, deliver, page, token, connect, subscribe)
}


# --- measuring ---


async def once(piece: Piece, seconds: float) -> float:
    """Seconds for one unit, measured for about so long."""
    units = 0
    started = time.process_time()
    while (spent := time.process_time() - started) < seconds:
        units += await piece()
    return spent / units


async def measure(names: list[str]) -> dict[str, dict[str, float]]:
    """For each piece nanoseconds for one unit (the least of all rounds) and its ratio to the yardstick (the median)."""
    figures = {}
    async with asyncio.TaskGroup() as tasks:
        for name in names:
            gateway = Gateway(tasks)
            piece, stick = PIECES[name](gateway), yardstick(gateway)
            await once(piece, ROUND_S)
            rounds = [(await once(piece, ROUND_S), await once(stick, ROUND_S)) for _ in range(ROUNDS)]
            figures[name] = {
                "ns": round(min(mine for mine, _ in rounds) * 1e9),
                "ratio": round(statistics.median(mine / theirs for mine, theirs in rounds), 3),
            }
            gateway.running.cancel()
    return figures


async def repeat(name: str, units: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        gateway = Gateway(tasks)
        piece = PIECES[name](gateway)
        while units > 0:
            units -= await piece()
        gateway.running.cancel()


def main() -> None:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="*", help=f"which of {', '.join(PIECES)}; all when none is given")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeat", type=int, metavar="N", help="just do it N times, for a profiler")
    arguments = parser.parse_args()
    names = arguments.name or list(PIECES)
    log_as_a_gateway()
    if unknown := set(names) - set(PIECES):
        parser.error(f"there is no {', '.join(sorted(unknown))}; choose from {', '.join(PIECES)}")
    if arguments.repeat:
        for name in names:
            asyncio.run(repeat(name, arguments.repeat))
        return
    figures = asyncio.run(measure(names))
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, row in figures.items():
        print(f"{name:10}", *(f"{value:>10,} {unit}" for unit, value in row.items()), f"   {PIECES[name].__doc__}")


if __name__ == "__main__":
    main()

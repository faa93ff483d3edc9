"""A client of the gateway that connects, may be cut off, and reconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice

from rsws.bench.context import WorkerContext
from rsws.bench.counters import Count
from rsws.bench.messages import now_us, text_header
from rsws.bench.socket import FrameHandler, Socket
from rsws.errors import CannotConnect, RswsError, SubscribeRefused
from rsws.protocol import Connected, Error, Gap, Refused, Reply, decode_reply
from rsws.runtime import together

CUT_SHARE = 10
"""One in this many connections is cut at a time."""
CONNECTING_AT_ONCE = 32
"""The connections that a process makes concurrently; more would overflow a server's queue of unaccepted ones."""
RETRY_S = 0.05


class BenchClient(FrameHandler):
    """A client of the gateway.

    Args:
        context: The state that it shares with the other clients of this process.
    """

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        self._socket: Socket | None = None
        self._joined: asyncio.Future[None] | None = None
        self._since_us = 0
        self._was_in = False

    @property
    def is_in(self) -> bool:
        """Whether it is connected and ready."""
        return self._joined is not None and self._joined.done()

    async def join(self) -> None:
        """Connect, and wait until the client is ready.

        Raises:
            CannotConnect: The client can't connect or does not become ready in time.
            Unauthorized: The gateway refuses the token.
            SubscribeRefused: It refuses the subscription.
        """
        self._joined = asyncio.get_running_loop().create_future()
        self._since_us = now_us()
        try:
            async with asyncio.timeout(self.context.plan.timeout_s):
                self._socket = Socket(self.context.uri, self)
                await self.context.connect(self._socket)
                await self._joined
        except TimeoutError:
            self._drop()
            raise self.context.cannot_connect(f"no answer within {self.context.plan.timeout_s:g} s") from None
        except BaseException:
            self._drop()
            raise
        self._was_in = True

    def cut(self) -> None:
        """Break the connection, if the client is ready, and reconnect."""
        if self.is_in:
            self.context.row[Count.CUTS] += 1
            self._drop()
            self._lost()

    def leave(self) -> None:
        """Close the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._joined = None

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.cut()
            self._socket = None
        self._joined = None

    def _lost(self) -> None:
        """Reconnect, after the connection of a ready client was lost."""
        self.context.spawn(self._reconnect_until_ready())

    async def _reconnect_until_ready(self) -> None:
        loop = asyncio.get_running_loop()
        since_us = now_us()
        deadline = loop.time() + self.context.plan.timeout_s
        while True:
            try:
                await self.join()
            except CannotConnect:
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                break
        self.context.latency("resumed").add(now_us() - since_us)

    def _ready(self) -> None:
        """Mark the client as ready, which :meth:`join` waits for."""
        if self._joined is not None and not self._joined.done():
            self._joined.set_result(None)

    def _measure_step(self, name: str) -> None:
        """Record how long a step of the first connection took, since its beginning."""
        if not self._was_in:
            self.context.latency(name).add(now_us() - self._since_us)

    def _send_text(self, text: bytes) -> None:
        assert self._socket is not None
        self._socket.write(text_header(len(text)) + text)

    # --- what comes over the connection ---

    def read_frames(self, data: bytes, position: int) -> int:
        """See :class:`rsws.bench.socket.FrameHandler`."""
        return position

    def handle_text(self, text: bytes) -> None:
        """See :class:`rsws.bench.socket.FrameHandler`."""
        try:
            reply = decode_reply(text.decode())
        except ValueError:
            self._fail(
                self.context.cannot_connect("what answers there is no gateway of this protocol; is the address right?")
            )
            return
        match reply:
            case Connected():
                self._measure_step("connected")
                self._on_connected()
            case Refused():
                self._fail(self.context.address.unauthorized())
            case Error(error, code, channel):
                self._fail(SubscribeRefused(error, code, channel or ""))
            case Gap():
                self.context.findings.gaps += 1
            case None:
                pass  # an event of a later version of the protocol
            case _:
                self._handle(reply, text)

    def closed(self, reason: str) -> None:
        """See :class:`rsws.bench.socket.FrameHandler`."""
        was_in = self.is_in
        self._socket = None
        if not was_in:
            self._fail(self.context.cannot_connect(reason))
        elif self.context.plan.kill_every_s is None:
            self.context.fail(self.context.address.connection_lost(f"{reason}; its log may say why"))
        else:
            self._joined = None
            self._lost()

    def _fail(self, error: RswsError) -> None:
        if self._joined is not None and not self._joined.done():
            self._joined.set_exception(error)
        else:
            self.context.fail(error)

    def _on_connected(self) -> None:
        """Begin, now that the gateway accepts requests."""
        self._ready()

    def _handle(self, reply: Reply, text: bytes) -> None:
        pass


async def join(context: WorkerContext, clients: Iterable[BenchClient], at_once: int = CONNECTING_AT_ONCE) -> None:
    """Have all clients connect, at most ``at_once`` of them concurrently.

    Raises:
        ClientError: A client can't connect, or is refused.
    """
    queue = iter(clients)

    async def some() -> None:
        for client in queue:
            await client.join()
            context.row[Count.CONNECTED] += 1

    await together(*(some() for _ in range(at_once)))


async def cut_in_turn(every_s: float, groups: Sequence[Sequence[BenchClient]]) -> None:
    """Every ``every_s`` seconds, without end, cut the next tenth of each group (at least one client), in turn."""
    turns = [_in_turn(group) for group in groups]
    while True:
        await asyncio.sleep(every_s)
        for group, turn in zip(groups, turns, strict=True):  # one may be empty, as in a process without publishers
            for client in islice(turn, -(-len(group) // CUT_SHARE)):
                client.cut()


def _in_turn(group: Sequence[BenchClient]) -> Iterator[BenchClient]:
    """Yield the group's clients in turn without end; the group may change meanwhile."""
    for number in count():
        yield group[number % len(group)]

"""The fault kit: a TCP proxy that cuts, swallows, delays and slows down, and servers that fail in every way.

    async with Proxy(redis.port) as link, gateway(f"redis://127.0.0.1:{link.port}") as server:
        with link.cut_reply(b"XADD"):  # Redis stores it, and the gateway never hears of it
            ...

Each fault is a context manager: inside it the fault is there, after it everything works again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self

from kit.support import RedisServer, eventually, free_port

_PIECE_BYTES = 64 * 1024


class Way(Enum):
    """A direction through the proxy."""

    UP = "towards the server"
    DOWN = "from the server"


@dataclass
class Cut:
    """An ambush for one command.

    Attributes:
        marker: The bytes it waits for, on their way up.
        left: How many times it strikes yet.
        done: How many times it has struck.
    """

    marker: bytes
    forward: bool
    left: int
    done: int = 0


@dataclass(eq=False)
class _Joint:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    seen: bytes = b""
    """The end of what went up last: a marker may come in two pieces."""
    answer_cut: Cut | None = None
    pumps: list[asyncio.Task[None]] = field(default_factory=list)

    def abort(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


class Proxy:
    """Carries TCP connections to a port of 127.0.0.1; an asynchronous context manager.

    Args:
        server_port: Where it leads to. The server need not be there yet.

    Attributes:
        port: Where it listens.
        connections: How many it has carried so far.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self.port = free_port()
        self.connections = 0
        self._joints: set[_Joint] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = {way: asyncio.Event() for way in Way}
        for event in self._open.values():
            event.set()
        self._delay_s = 0.0
        self._bytes_per_s: float | None = None
        self._refusing = False
        self._cuts: list[Cut] = []

    @property
    def redis_url(self) -> str:
        """What REDIS_URL would say, for a server without a password."""
        return f"redis://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- faults ---

    def cut(self) -> None:
        """Reset every connection there is now, on both sides."""
        for joint in self._joints:
            joint.abort()

    def lead_to(self, server_port: int) -> None:
        """From now on carry new connections there; those that are open stay where they are."""
        self._server_port = server_port

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Every connection is reset, and each new one at once."""
        self._refusing = True
        self.cut()
        try:
            yield
        finally:
            self._refusing = False

    @contextmanager
    def black_hole(self, *ways: Way) -> Iterator[None]:
        """Nothing arrives any more (both ways unless said), nobody is told; afterwards what was held back arrives."""
        for way in ways or Way:
            self._open[way].clear()
        try:
            yield
        finally:
            for way in ways or Way:
                self._open[way].set()

    @contextmanager
    def delayed(self, seconds: float) -> Iterator[None]:
        """Each piece, of up to 64 KiB, takes that much longer, in either direction."""
        self._delay_s = seconds
        try:
            yield
        finally:
            self._delay_s = 0.0

    @contextmanager
    def limited(self, bytes_per_s: float) -> Iterator[None]:
        """Each connection carries no more than that, in either direction."""
        self._bytes_per_s = bytes_per_s
        try:
            yield
        finally:
            self._bytes_per_s = None

    @contextmanager
    def cut_reply(self, marker: bytes, times: int = 1) -> Iterator[Cut]:
        """Let what contains ``marker`` through, wait for the server's answer, throw that away and reset."""
        with self._ambush(Cut(marker, forward=True, left=times)) as cut:
            yield cut

    @contextmanager
    def cut_request(self, marker: bytes, times: int = 1) -> Iterator[Cut]:
        """Throw away what contains ``marker`` and reset: the server never gets it."""
        with self._ambush(Cut(marker, forward=False, left=times)) as cut:
            yield cut

    @contextmanager
    def _ambush(self, cut: Cut) -> Iterator[Cut]:
        self._cuts.append(cut)
        try:
            yield cut
        finally:
            self._cuts.remove(cut)

    # --- carrying ---

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self._refusing:
            client.transport.abort()
            return
        try:
            from_server, server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            client.transport.abort()
            return
        self.connections += 1
        joint = _Joint(client, server)
        self._joints.add(joint)
        for source, target, way in ((reader, server, Way.UP), (from_server, client, Way.DOWN)):
            pump = asyncio.create_task(self._carry(joint, source, target, way))
            joint.pumps.append(pump)
            self._tasks.add(pump)
            pump.add_done_callback(self._tasks.discard)

    async def _carry(self, joint: _Joint, source: asyncio.StreamReader, target: asyncio.StreamWriter, way: Way) -> None:
        try:
            while data := await source.read(_PIECE_BYTES):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                if self._bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self._bytes_per_s)
                await self._open[way].wait()
                if not self._passes(joint, data, way):
                    joint.abort()
                    return
                target.write(data)
                await target.drain()
            await self._open[way].wait()
            target.close()
        except OSError:  # a side has gone: the other learns it
            joint.abort()
        except asyncio.CancelledError:
            joint.abort()
            raise
        finally:
            self._joints.discard(joint)

    def _passes(self, joint: _Joint, data: bytes, way: Way) -> bool:
        if way is Way.DOWN:
            if joint.answer_cut is not None:
                joint.answer_cut.done += 1
                return False
            return True
        seen = joint.seen + data
        for cut in self._cuts:
            if cut.left and cut.marker in seen:
                cut.left -= 1
                if not cut.forward:
                    cut.done += 1
                    return False
                joint.answer_cut = cut
        joint.seen = seen[-64:]
        return True


# --- servers that fail ---


@contextmanager
def stopped(redis: RedisServer) -> Iterator[None]:
    """SIGTERM; started again afterwards."""
    redis.stop()
    try:
        yield
    finally:
        redis.start()


@contextmanager
def killed(redis: RedisServer) -> Iterator[None]:
    """kill -9; started again afterwards, with what it has saved."""
    redis.kill()
    try:
        yield
    finally:
        redis.start()


@contextmanager
def paused(redis: RedisServer) -> Iterator[None]:
    """SIGSTOP: the kernel takes connections and commands, nobody answers. What was sent is done afterwards."""
    redis.pause()
    try:
        yield
    finally:
        redis.resume()


@contextmanager
def filled_up(redis: RedisServer) -> Iterator[None]:
    """Out of memory: every write is answered with OOM."""
    with configured(redis, "maxmemory", "1"):
        yield


@contextmanager
def without_replicas(redis: RedisServer) -> Iterator[None]:
    """Every write is answered with NOREPLICAS."""
    with configured(redis, "min-replicas-to-write", "1"):
        yield


@contextmanager
def demoted(redis: RedisServer) -> Iterator[None]:
    """A replica of nobody it can reach: every write is answered with READONLY."""
    redis.call("REPLICAOF", "127.0.0.1", free_port())
    try:
        yield
    finally:
        redis.call("REPLICAOF", "NO", "ONE")


def link_is_up(replica: RedisServer) -> None:
    """Wait until it has all that its primary has."""
    eventually(
        lambda: b"master_link_status:up" in replica.call("INFO", "replication"), what="a replica that is in step"
    )


@contextmanager
def unable_to_save(redis: RedisServer) -> Iterator[None]:
    """A snapshot has failed: every write is answered with MISCONF."""
    obstacle = redis.directory / "dump.rdb"
    obstacle.mkdir()
    try:
        with configured(redis, "save", "3600 1"):
            redis.call("BGSAVE")
            eventually(lambda: b"rdb_last_bgsave_status:err" in redis.call("INFO", "persistence"), what="a failed save")
            yield
    finally:
        obstacle.rmdir()
        redis.call("BGSAVE")
        eventually(lambda: b"rdb_last_bgsave_status:ok" in redis.call("INFO", "persistence"), what="a good save")


@contextmanager
def forbidden(redis: RedisServer, *rules: str) -> Iterator[None]:
    """ACL rules for everyone, as in ``-xadd`` or ``resetkeys ~other``; all is allowed again afterwards."""
    redis.call("ACL", "SETUSER", "default", *rules)
    try:
        yield
    finally:
        redis.call("ACL", "SETUSER", "default", "~*", "+@all")


@contextmanager
def configured(redis: RedisServer, name: str, value: str) -> Iterator[None]:
    """CONFIG SET, undone afterwards."""
    before = redis.call("CONFIG", "GET", name)[1]
    redis.call("CONFIG", "SET", name, value)
    try:
        yield
    finally:
        redis.call("CONFIG", "SET", name, before)


def command_calls(redis: RedisServer, name: str) -> int:
    """How often a command was carried out since the server's start, inside scripts too."""
    for line in redis.call("INFO", "commandstats").decode().split():
        if line.startswith(f"cmdstat_{name.lower()}:"):
            return int(line.partition("calls=")[2].partition(",")[0])
    return 0

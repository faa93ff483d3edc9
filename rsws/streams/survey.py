"""What there is: the streams of a server, or of all primaries of a cluster, looked at some at a time.

Nothing here keeps Redis from others for long: it scans some keys in a step, and asks for a few streams at once, fewer
where what is at their ends is large, as Redis handles all that comes together before it turns to others.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, NamedTuple, Self

from rsws.errors import LoginRefused, RedisRefused, RedisUnavailable
from rsws.protocol import ZERO, StreamId
from rsws.redis.connection import RedisConnection, ReplyError, pack
from rsws.redis.target import RedisTarget
from rsws.streams.scan import StreamScan, redis_glob
from rsws.streams.slots import parse_slots, slot_of_key

NAME = "rsws-ls"
AT_ONCE = 100
"""The most streams that are asked for at once; each costs Redis some 5 us."""
AT_ONCE_BYTES = 512 * 1024
"""About how many bytes the entries at their ends may have together; a megabyte costs Redis a millisecond or more."""
AT_ONCE_UNKNOWN = 4
"""The most streams that are asked for at once where Redis does not say how large they are."""
SAMPLES = b"5"
"""Of how many nodes of a stream Redis estimates its size."""


class StreamFacts(NamedTuple):
    """What Redis says of a stream."""

    name: str
    entries: int
    first: StreamId | None
    """The first entry; None where there is none."""
    last: StreamId
    """The last id that it has ever generated."""
    bytes: int | None
    """The memory that it takes, estimated; None where Redis does not say."""
    groups: int
    """The consumer groups that others keep."""
    added: int | None
    """The entries that were ever added; None before Redis 7."""
    deleted: StreamId | None
    """The greatest id that was deleted, but not by trimming; None before Redis 7."""
    at: float
    """When that was, in seconds of the monotonic clock."""


class Group(NamedTuple):
    """A consumer group."""

    name: str
    consumers: int
    pending: int
    """The entries that were handed out and not acknowledged yet."""
    last: StreamId
    """The last entry that was handed out."""
    lag: int | None
    """The entries that were not handed out yet; None where Redis does not know, and before Redis 7."""


class StreamEntry(NamedTuple):
    """An entry as it is stored."""

    id: StreamId
    fields: list[tuple[bytes, bytes]]


class Survey:
    """Connections to all servers that streams are in, to ask what there is; an asynchronous context manager.

    Replicas answer, too. A stream that is on its way between two nodes of a cluster may be left out, or come twice.

    Args:
        target: What the URL leads to.

    Raises:
        RedisUnavailable: On entry, or in any of the calls: Redis can't be reached.
        LoginRefused: Likewise: Redis refuses the login, or a command that is needed.
        SetupError: On entry: it is a sentinel.

    Attributes:
        sizes_refused: Why Redis does not say how much memory a stream takes; None as long as it does.
    """

    def __init__(self, target: RedisTarget) -> None:
        self._target = target
        self._servers: list[_Server] = []
        self._stack = AsyncExitStack()
        self.sizes_refused: str | None = None

    async def __aenter__(self) -> Self:
        target = self._target
        target.takes_replicas = True
        try:
            first = await self._open(target)
            self._servers = [first]
            if target.is_cluster:
                asked = (target.url.nodes or [(str(target.url.arguments.get("host", "")), 0)])[0][0]
                ranges = parse_slots(await first.reply(b"CLUSTER", b"SLOTS"), asked)
                self._servers = []
                for node in sorted({each.primary for each in ranges}):
                    server = await self._open(target.at(node))
                    server.slots = [range(each.first, each.last + 1) for each in ranges if each.primary == node]
                    self._servers.append(server)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _open(self, target: RedisTarget) -> _Server:
        connection = await target.connect(NAME, any_node=True)
        self._stack.push_async_callback(connection.close)
        return _Server(target, connection)

    async def names(self, pattern: str) -> AsyncIterator[tuple[_Server, list[bytes]]]:
        """Yield keys of streams that match a pattern, in which ``*`` alone is special, and where they are."""
        if "*" not in pattern:
            yield self._server_of(pattern.encode()), [pattern.encode()]
            return
        for server in self._servers:
            scan, cursor = StreamScan(server), b"0"
            while True:
                try:
                    cursor, keys = await scan.step(cursor, redis_glob(pattern))
                except ReplyError as error:
                    raise server.refused("SCAN", error) from None
                yield server, keys
                if cursor == b"0":
                    break

    async def facts(self, server: _Server, keys: Sequence[bytes]) -> AsyncIterator[StreamFacts]:
        """Yield what a server says of each of its streams; nothing of what is none (any more).

        XINFO brings the first and the last entry, which may be a megabyte each: sizes and lengths are asked for first,
        so that few streams with large entries are asked for at once. A script that sends the ids alone would keep Redis
        from others for longer.
        """
        for begin in range(0, len(keys), AT_ONCE):
            some = keys[begin : begin + AT_ONCE]
            sizes = await self._sizes(server, some)
            for asked in _portions(some, sizes):
                replies = await server.ask(*[pack(b"XINFO", b"STREAM", key) for key in asked])
                at = time.monotonic()
                for key, reply in zip(asked, replies, strict=True):
                    if not isinstance(reply, ReplyError):
                        yield _facts(key, _pairs(reply), sizes[key][0], at)
                    elif reply.forbids_command:
                        raise server.refused("XINFO STREAM", reply)
                    # else it is gone, no stream, elsewhere by now, or not for this user

    async def _sizes(self, server: _Server, keys: Sequence[bytes]) -> dict[bytes, tuple[int | None, int]]:
        """Return the size of each stream, None where it is not known, and its length."""
        commands = [pack(b"XLEN", key) for key in keys]
        if self.sizes_refused is None:
            commands += [pack(b"MEMORY", b"USAGE", key, b"SAMPLES", SAMPLES) for key in keys]
        replies = await server.ask(*commands)
        lengths, sizes = replies[: len(keys)], replies[len(keys) :] or [None] * len(keys)
        for reply in sizes:
            if isinstance(reply, ReplyError) and reply.forbids_command:
                self.sizes_refused = str(reply)
        return {
            key: (size if isinstance(size, int) else None, length if isinstance(length, int) else 0)
            for key, size, length in zip(keys, sizes, lengths, strict=True)
        }

    async def look(self, channel: str) -> StreamFacts | None:
        """Return what there is of one stream; None where there is no such stream.

        Raises:
            RedisRefused: There is such a key, and it is no stream.
        """
        key = channel.encode()
        server = self._server_of(key)
        async for facts in self.facts(server, [key]):
            return facts
        kind = await server.reply(b"TYPE", key)
        if isinstance(kind, bytes) and kind not in (b"none", b"stream"):
            raise RedisRefused(f"{channel!r} is no stream, it is a {kind.decode(errors='replace')}")
        return None

    async def groups(self, channel: str) -> list[Group] | None:
        """Return the consumer groups of a stream; None where Redis does not say."""
        key = channel.encode()
        reply = await self._server_of(key).reply(b"XINFO", b"GROUPS", key)
        return None if isinstance(reply, ReplyError) else [_group(_pairs(each)) for each in reply]

    async def ends(self, channel: str) -> list[StreamEntry]:
        """Return the first and the last entry of a stream as they are stored, or the only one."""
        key = channel.encode()
        server = self._server_of(key)
        replies = await server.ask(
            pack(b"XRANGE", key, b"-", b"+", b"COUNT", b"1"), pack(b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1")
        )
        found: dict[StreamId, StreamEntry] = {}
        for reply in replies:
            for raw_id, flat in [] if isinstance(reply, ReplyError) else reply:
                stream_id = StreamId.from_redis(raw_id)
                found[stream_id] = StreamEntry(stream_id, list(zip(flat[::2], flat[1::2], strict=True)))
        return [found[each] for each in sorted(found)]

    def _server_of(self, key: bytes) -> _Server:
        slot = slot_of_key(key)
        found = [each for each in self._servers if any(slot in slots for slots in each.slots)]
        return found[0] if found else self._servers[0]


class _Server:
    """One server."""

    def __init__(self, target: RedisTarget, connection: RedisConnection) -> None:
        self._target = target
        self._connection = connection
        self.slots: list[range] = []
        """Those that it has in a cluster."""

    async def ask(self, *commands: bytes) -> list[Any]:
        """Return the replies to commands that are packed, errors of Redis included."""
        try:
            return await self._connection.ask(*commands, timeout_s=self._target.timeout_s)
        except OSError as error:
            raise RedisUnavailable(f"{self._target.shown} has stopped answering: {error}") from None

    async def reply(self, *words: bytes) -> Any:
        """Return the reply to one command, or the error."""
        return (await self.ask(pack(*words)))[0]

    async def call(self, *words: bytes) -> Any:
        """See :class:`rsws.streams.scan.Calls`."""
        reply = await self.reply(*words)
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def refused(self, command: str, reply: ReplyError) -> LoginRefused:
        return LoginRefused(f"Redis at {self._target.shown} refuses {command}: {reply}")


def _pairs(reply: Any) -> dict[bytes, Any]:
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))  # a map in RESP3


def _facts(key: bytes, info: dict[bytes, Any], size: int | None, at: float) -> StreamFacts:
    first, deleted = info.get(b"first-entry"), info.get(b"max-deleted-entry-id")
    return StreamFacts(
        key.decode(errors="surrogateescape"),
        info.get(b"length", 0),
        StreamId.from_redis(first[0]) if first else None,
        StreamId.from_redis(info.get(b"last-generated-id", b"0-0")),
        size,
        info.get(b"groups", 0),
        info.get(b"entries-added"),
        None if deleted is None else StreamId.from_redis(deleted),
        at,
    )


def _portions(keys: Sequence[bytes], sizes: dict[bytes, tuple[int | None, int]]) -> Iterator[list[bytes]]:
    """Yield the streams that are asked for together, so that their ends have AT_ONCE_BYTES or less as far as known."""
    portion: list[bytes] = []
    left = AT_ONCE_BYTES
    for key in keys:
        size, length = sizes[key]
        ends = AT_ONCE_BYTES // AT_ONCE_UNKNOWN if size is None else 2 * size // max(length, 2)
        if portion and ends > left:
            yield portion
            portion, left = [], AT_ONCE_BYTES
        portion.append(key)
        left -= ends
    if portion:
        yield portion


def _group(info: dict[bytes, Any]) -> Group:
    return Group(
        info.get(b"name", b"").decode(errors="backslashreplace"),
        info.get(b"consumers", 0),
        info.get(b"pending", 0),
        StreamId.from_redis(info.get(b"last-delivered-id", b"0-0")),
        info.get(b"lag"),
    )


FIRST_TIME_MS = 10**12
"""Ids below this are no times (it is in 2001)."""
AHEAD_MS = 24 * 3600 * 1000
"""How far ahead of this machine's clock that of Redis may be for an id to count as a time."""


def age_s(last: StreamId, now_s: float) -> float | None:
    """Return how long ago an id was made; None where it is ``0-0``, or was chosen by somebody and is no time.

    Args:
        now_s: The time now, in seconds since 1970.
    """
    now_ms = now_s * 1000
    if last == ZERO or not FIRST_TIME_MS <= last.ms <= now_ms + AHEAD_MS:
        return None
    return round(max(0.0, now_ms - last.ms) / 1000, 3)

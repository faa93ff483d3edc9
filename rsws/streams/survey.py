"""What there is: the streams of a server, or of all primaries of a cluster, looked at some at a time.

Nothing here keeps Redis from others for long: it scans some keys in a step, and asks for a few streams at once, fewer
where what is at their ends is large, as Redis handles all that comes together before it turns to others.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, NamedTuple, Self

from rsws.errors import LoginRefused, RedisRefused, RedisUnavailable
from rsws.protocol import ZERO, StreamId
from rsws.redis.connection import RedisConnection, ReplyError, pack
from rsws.redis.target import RedisTarget
from rsws.streams.scan import StreamScan, redis_glob
from rsws.streams.scripts import Script
from rsws.streams.slots import parse_slots, slot_of_key

NAME = "rsws-ls"
AT_ONCE = 32
"""The most streams that are asked for at once; each costs Redis some 20 us."""
AT_ONCE_BYTES = 1024 * 1024
"""About how many bytes the entries at their ends may have together: Redis looks at them in about a millisecond."""
SAMPLES = b"5"
"""Of how many nodes of a stream Redis estimates its size."""

INFO = Script(b"""
local info, bytes = redis.pcall('XINFO', 'STREAM', KEYS[1]), 0
if info.err then return info end
for index = 2, #info, 2 do
  if type(info[index]) == 'table' then
    for _, text in ipairs(info[index][2]) do bytes = bytes + #text end
    info[index] = info[index][1]
  end
end
info[#info + 1], info[#info + 2] = 'bytes', bytes
return info
""")
"""``XINFO STREAM`` with the ids of the first and the last entry in place of them, and their size in bytes.

They may be a megabyte each.
"""


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
        self._has_scripts = True
        self._at_once = AT_ONCE // 4

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
        """Yield what a server says of each of its streams; nothing of what is none (any more)."""
        left = list(keys)
        while left:
            asked, left = left[: self._at_once], left[self._at_once :]
            asks_size = self.sizes_refused is None
            commands = [self._info(key) for key in asked]
            if asks_size:
                commands += [pack(b"MEMORY", b"USAGE", key, b"SAMPLES", SAMPLES) for key in asked]
            replies = await server.ask(*commands)
            at = time.monotonic()
            infos, sizes = replies[: len(asked)], replies[len(asked) :]
            if self._has_scripts and any(isinstance(each, ReplyError) and each.forbids_command for each in infos):
                self._has_scripts = False
                left = [*asked, *left]
                continue
            for reply in sizes:
                if isinstance(reply, ReplyError) and reply.forbids_command:
                    self.sizes_refused = str(reply)
            ends_bytes = 0
            for key, reply, size in zip(asked, infos, sizes or [None] * len(asked), strict=True):
                if isinstance(reply, ReplyError):
                    if reply.forbids_command:
                        raise server.refused("XINFO STREAM", reply)
                    continue  # it is gone, no stream, elsewhere by now, or not for this user
                info = _pairs(reply)
                ends_bytes += info.get(b"bytes") or sum(map(_size, (info.get(b"first-entry"), info.get(b"last-entry"))))
                yield _facts(key, info, size if isinstance(size, int) else None, at)
            each_bytes = max(1, ends_bytes // len(asked))
            self._at_once = max(1, min(AT_ONCE, 2 * self._at_once, AT_ONCE_BYTES // each_bytes))

    def _info(self, key: bytes) -> bytes:
        return INFO.call_in_full(key) if self._has_scripts else pack(b"XINFO", b"STREAM", key)

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

    async def groups(self, channel: str) -> list[Group]:
        """Return the consumer groups of a stream; none where Redis does not say."""
        key = channel.encode()
        reply = await self._server_of(key).reply(b"XINFO", b"GROUPS", key)
        return [] if isinstance(reply, ReplyError) else [_group(_pairs(each)) for each in reply]

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
        None if not first else StreamId.from_redis(first if isinstance(first, bytes) else first[0]),
        StreamId.from_redis(info.get(b"last-generated-id", b"0-0")),
        size,
        info.get(b"groups", 0),
        info.get(b"entries-added"),
        None if deleted is None else StreamId.from_redis(deleted),
        at,
    )


def _size(entry: Any) -> int:
    return sum(map(len, entry[1] or ())) if isinstance(entry, list) else 0


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

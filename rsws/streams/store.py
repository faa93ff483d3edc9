"""What the gateway asks of Redis: append to a stream, find its end, read a page of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from rsws.errors import ChannelUnreadable, RedisRefused, RedisUnavailable, StoreError
from rsws.protocol import FIELD, ZERO, StreamId
from rsws.streams.link import Link, RedisTarget, error_text

_FIELD = FIELD.encode()
_TAIL_PAGE = 500


class Entry(NamedTuple):
    """One entry of a stream."""

    id: StreamId
    raw_id: bytes
    """The id as Redis wrote it."""
    data: bytes | None
    """The value of its ``messageData`` field, unchecked (of several the last); None where there is none."""


class Tip(NamedTuple):
    """The two ends of a stream at one moment."""

    first: StreamId | None
    """The id of the first entry; None where the stream is empty or missing."""
    last: StreamId
    """The last id the stream ever generated, ``0-0`` where it is missing; no entry beyond it exists."""


class Store:
    """One Redis, over two shared connections: one for writes and positions, one for history.

    What goes over the first is carried out in the order in which it was asked for: a subscription made before a
    publish starts before it.

    Args:
        target: Which Redis.
        on_change: Called with None when Redis can be reached, and with the cause when it can't any more.
    """

    def __init__(self, target: RedisTarget, on_change: Callable[[str | None], None]) -> None:
        self.commands = Link(target, "rsws-commands", on_change)
        self._history = Link(target, "rsws-history")

    @property
    def up(self) -> bool:
        """Whether Redis could be reached the last time anything was heard of it."""
        return self.commands.up

    async def run(self) -> None:
        """Keep both connections up, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.commands.run())
            tasks.create_task(self._history.run())

    async def drained(self) -> None:
        """Wait until each append so far has its result."""
        await self.commands.drained()

    def append(self, channel: str, data: bytes, on_result: Callable[[StreamId | StoreError], None]) -> None:
        """Add one entry at the end of ``channel``.

        Args:
            data: JSON text.
            on_result: Called exactly once, maybe before this returns: with the new entry's id once Redis has
                answered, else with an error whose ``outcome`` says whether it may be stored all the same.
        """
        key = channel.encode()
        command = b"*5\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            len(key), key, len(_FIELD), _FIELD, len(data), data
        )  # fmt: skip

        def on_reply(reply: Any) -> None:
            on_result(StreamId.from_redis(reply) if isinstance(reply, bytes) else store_error(channel, reply))

        self.commands.submit(command, on_reply)

    def tip(self, channel: str) -> Awaitable[Tip]:
        """Both ends of ``channel``, as they are before anything that is appended after this call.

        Raises:
            StoreError: (when awaited) See :func:`store_error`.
        """
        return self._tip(channel, self.commands.call(b"XINFO", b"STREAM", channel.encode()))

    async def _tip(self, channel: str, reply: asyncio.Future[Any]) -> Tip:
        try:
            return _tip(await reply)
        except (RedisError, RedisUnavailable) as error:
            if isinstance(error, RedisError) and "no such key" in str(error):
                return Tip(None, ZERO)
            raise store_error(channel, error) from None

    async def page(self, channel: str, after: StreamId, count: int) -> list[Entry]:
        """The next entries of ``channel``, at most ``count``; fewer mean that the end was reached.

        Raises:
            StoreError: See :func:`store_error`.
        """
        # An exclusive start, "(id", came with Redis 6.2; the id that follows is the same in any version.
        start = StreamId(after.ms, after.seq + 1) if after.seq < 2**64 - 1 else StreamId(after.ms + 1, 0)
        reply = await self._ask(
            channel, b"XRANGE", channel.encode(), str(start).encode(), b"+", b"COUNT", b"%d" % count
        )
        return parse_entries(reply)

    async def before_last(self, channel: str, count: int, end: StreamId) -> StreamId:
        """The position with exactly ``count`` entries after it up to ``end``; ``0-0`` where there are no more.

        It is the id of an entry, so that continuity after it can be proven later.

        Raises:
            StoreError: See :func:`store_error`.
        """
        if count == 0:
            return end
        left = count + 1
        while True:
            ask = min(left, _TAIL_PAGE)
            reply = await self._ask(
                channel, b"XREVRANGE", channel.encode(), str(end).encode(), b"-", b"COUNT", b"%d" % ask
            )
            if len(reply) < ask:
                return ZERO
            left -= ask
            first = StreamId.from_redis(reply[-1][0])
            if left == 0:
                return first
            end = first.before()

    async def _ask(self, channel: str, *command: bytes) -> Any:
        try:
            return await self._history.call(*command)
        except (RedisError, RedisUnavailable) as error:
            raise store_error(channel, error) from None


def parse_entries(reply: Sequence[Any]) -> list[Entry]:
    """The entries of one stream in a reply to XRANGE or XREAD."""
    return [Entry(StreamId.from_redis(raw_id), raw_id, _data(fields)) for raw_id, fields in reply]


def _data(fields: Sequence[bytes] | None) -> bytes | None:
    if fields is None:  # an entry deleted under the hands of an old server
        return None
    for index in range(len(fields) - 2, -1, -2):
        if fields[index] == _FIELD:
            return fields[index + 1]
    return None


def _tip(reply: Sequence[Any]) -> Tip:
    facts = dict(zip(reply[::2], reply[1::2], strict=True))
    first = facts[b"first-entry"]
    return Tip(StreamId.from_redis(first[0]) if first else None, StreamId.from_redis(facts[b"last-generated-id"]))


def store_error(channel: str, error: Any) -> StoreError:
    """What Redis answered instead of doing it, as one of ours.

    ChannelUnreadable where it concerns this key alone (no stream, or forbidden), RedisUnavailable as it is,
    RedisRefused with Redis' own words for everything else.
    """
    if isinstance(error, StoreError):
        return error
    text = error_text(error)
    if text.startswith("WRONGTYPE"):
        return ChannelUnreadable(f"the key {channel!r} in Redis is no stream ({text})")
    if text.startswith("NOPERM"):
        return ChannelUnreadable(f"Redis forbids the gateway to use {channel!r} ({text})")
    return RedisRefused(f"Redis refused: {text}")

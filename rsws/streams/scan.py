"""Looking for the streams of one server, some at a time."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol

from rsws.redis.connection import ReplyError

_KEYS = b"1000"
"""How many keys Redis looks at in one step, of whatever type."""
BEGIN = b"0"
"""The cursor of the first step, and after the last one."""


_SPECIAL = re.compile(r"[\[\]?\\^]")


def redis_glob(pattern: str) -> bytes:
    """Return a pattern in which ``*`` alone is special as one of Redis."""
    return _SPECIAL.sub(r"\\\g<0>", pattern).encode(errors="surrogateescape")


class Calls(Protocol):
    """A connection that Redis can be asked over; a ``RedisLink`` is one."""

    def call(self, *arguments: bytes) -> Awaitable[Any]:
        """Return the reply to a command; raise ``ReplyError`` where it is an error."""


class StreamScan:
    """The search for streams over one connection."""

    def __init__(self, link: Calls) -> None:
        self._link = link
        self._only_streams: tuple[bytes, ...] = (b"TYPE", b"stream")

    async def step(self, cursor: bytes, pattern: bytes) -> tuple[bytes, list[bytes]]:
        """Return the next cursor and some of the keys that match a glob pattern of Redis; one may come twice.

        Raises:
            ReplyError: Redis does not allow it.
            RedisUnavailable: Redis can't be reached.
        """
        while True:
            arguments = (b"MATCH", pattern, b"COUNT", _KEYS, *self._only_streams)
            try:
                following, keys = await self._link.call(b"SCAN", cursor, *arguments)
            except ReplyError as error:
                if "syntax" not in str(error) or not self._only_streams:
                    raise
                self._only_streams = ()  # TYPE came with Redis 6
                continue
            return following, keys

    async def all(self, pattern: bytes) -> AsyncIterator[bytes]:
        """Yield all keys that match; see :meth:`step`."""
        cursor = BEGIN
        while True:
            cursor, keys = await self.step(cursor, pattern)
            for key in keys:
                yield key
            if cursor == BEGIN:
                return

"""Waits at the ends of streams that have no last entry to go by: XREAD BLOCK on connections of its own.

What comes while Redis waits for it is the next entry, with none before it that was trimmed: it is answered the moment
it is added. What is there already proves nothing, and is left to others to read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from rsws.errors import LoginRefused, RedisUnavailable
from rsws.streams.limits import DEFAULTS, Limits
from rsws.streams.link import RedisLink
from rsws.streams.redis_connection import RedisConnection, ReplyError, pack
from rsws.streams.target import RedisTarget

log = logging.getLogger("rsws.reader")

SHARD_STREAMS = 64
"""Streams of one connection: one XREAD over N keys costs Redis 0.2 ms at N = 50, but 1.2 ms at 1,000."""
REPLY_ENTRIES = b"1"
"""Of each stream: what follows the first is read with a bound in bytes, and is there for all that."""
PAUSE_S = 0.001


class _Waiting(NamedTuple):
    position: bytes
    on_news: Callable[[list[Any]], None]


class TailWaiter:
    """Waits for the next entries of streams.

    Args:
        target: Which Redis.
        commands: The connection over which a blocked read is woken when its set of streams changes.
    """

    def __init__(self, target: RedisTarget, commands: RedisLink, *, limits: Limits = DEFAULTS) -> None:
        self._target = target
        self._commands = commands
        self._limits = limits
        self._shards: list[_Shard] = []
        self._shard_of: dict[bytes, _Shard] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Wait until cancelled. Nothing may be waited for before this runs."""
        async with asyncio.TaskGroup() as self._tasks:
            self._add_shard()  # which takes a while to connect
            await asyncio.get_running_loop().create_future()

    def _add_shard(self) -> _Shard:
        assert self._tasks is not None, "the ends are not running"
        shard = _Shard(self._target, self._commands, self._tasks, self._limits)
        self._shards.append(shard)
        return shard

    def wait(self, key: bytes, position: bytes, on_news: Callable[[list[Any]], None]) -> None:
        """Wait for what comes after ``position``, the end of the stream ``key``.

        Args:
            on_news: Called once: with the entries that came, as Redis has them; with none when there may be some of
                which nothing proves that they are the next.
        """
        shard = self._shard_of.get(key)
        if shard is None:
            shard = next((shard for shard in self._shards if len(shard.waiting) < SHARD_STREAMS), None)
        if shard is None:
            shard = self._add_shard()
        self._shard_of[key] = shard
        shard.add(key, _Waiting(position, on_news))

    def forget(self, key: bytes) -> None:
        """Wait for this one no more, if anybody does: nobody is called."""
        shard = self._shard_of.pop(key, None)
        if shard is not None:
            shard.remove(key)


class _Shard:
    """The streams of one connection."""

    def __init__(self, target: RedisTarget, commands: RedisLink, tasks: asyncio.TaskGroup, limits: Limits) -> None:
        self.waiting: dict[bytes, _Waiting] = {}
        self._target = target
        self._commands = commands
        self._tasks = tasks
        self._limits = limits
        self._changed = asyncio.Event()
        self._client_id = b""
        self._blocked = False
        self._waking = False
        self._block_s = limits.block_s
        tasks.create_task(self._run())

    def add(self, key: bytes, waiting: _Waiting) -> None:
        self.waiting[key] = waiting
        self._wake()

    def remove(self, key: bytes) -> None:
        self.waiting.pop(key, None)
        if not self.waiting:
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        if self._blocked and not self._waking:
            self._waking = True
            self._tasks.create_task(self._unblock())

    async def _unblock(self) -> None:
        """Make the blocked read return, however soon after it was sent this comes."""
        try:
            while self._blocked and self._changed.is_set():
                await self._commands.call(b"CLIENT", b"UNBLOCK", self._client_id)
                # Once need not do: Redis may not have seen the read yet, or this one may have been the read before.
                await asyncio.sleep(PAUSE_S)
        except RedisUnavailable:
            pass  # the read ends with the same outage, or after the block time
        except ReplyError as error:
            self._block_s = min(self._block_s, self._limits.refused_block_s)
            log.warning("CLIENT UNBLOCK refused, some messages may wait %g s: %s", self._block_s, error)
        finally:
            self._waking = False

    async def _run(self) -> NoReturn:
        failures = 0
        while True:
            try:
                connection = await self._target.connect("rsws-ends")
            except (RedisUnavailable, LoginRefused):  # the store, which has the same trouble, says so
                failures += 1
                await self._limits.reconnect.wait(failures)
                continue
            try:
                (client_id,) = await self._ask(connection, pack(b"CLIENT", b"ID"))
                self._client_id = b"%d" % client_id
                while True:
                    while not self.waiting:
                        self._changed.clear()
                        await self._changed.wait()
                    await self._read(connection)
                    failures = 0
            except (ReplyError, OSError) as error:
                log.info("waiting interrupted: %s", error)
                self._give_back(self.waiting.copy())
                failures += 1
                await self._limits.reconnect.wait(failures)
            finally:
                self._blocked = False
                await connection.close()

    async def _read(self, connection: RedisConnection) -> None:
        """One XREAD that waits, and one before that shows whether there was anything to wait for."""
        asked = self.waiting.copy()
        self._changed.clear()
        streams = (b"STREAMS", *asked, *[waiting.position for waiting in asked.values()])
        look = pack(b"XREAD", b"COUNT", REPLY_ENTRIES, *streams)
        wait = pack(b"XREAD", b"COUNT", REPLY_ENTRIES, b"BLOCK", b"%d" % (self._block_s * 1000), *streams)
        self._blocked = True
        there, came = await self._ask(connection, look, wait, wait_s=self._block_s)
        self._blocked = False
        if there:
            self._give_back({key: asked[key] for key, _ in [*there, *(came or ())]})
        else:
            for key, raw in came or ():
                self._answer(key, asked[key], raw)

    def _give_back(self, asked: dict[bytes, _Waiting]) -> None:
        for key, waiting in asked.items():
            self._answer(key, waiting, [])

    def _answer(self, key: bytes, asked: _Waiting, raw: list[Any]) -> None:
        if self.waiting.get(key) is asked:
            del self.waiting[key]
            asked.on_news(raw)

    async def _ask(self, connection: RedisConnection, *commands: bytes, wait_s: float = 0) -> list[Any]:
        """The replies to commands sent in one write.

        Raises:
            ReplyError: Redis answers one of them with an error.
        """
        replies = await connection.ask(*commands, timeout_s=wait_s + self._target.timeout_s)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise reply
        return replies

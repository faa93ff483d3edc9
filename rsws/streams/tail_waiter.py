"""The tail waiter, for streams without an entry at their position: XREAD BLOCK on connections of its own.

An entry that comes while Redis waits for it is the next one, with none before it that was trimmed: Redis returns it the
moment it is added. Entries that are already there prove nothing, and are left to the reader.

In a cluster one XREAD may have keys of one slot only, so that a connection waits for the streams of one slot. There are
many slots, so the connections have a bound, and what there is none for is refused: the reader sees to that otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from rsws.errors import RedisUnavailable, SetupError
from rsws.redis.connection import RedisConnection, ReplyError, pack
from rsws.redis.limits import DEFAULTS, Limits
from rsws.redis.link import RedisLink
from rsws.redis.target import RedisTarget
from rsws.streams.refusals import Refusals

log = logging.getLogger("rsws.reader")

SHARD_STREAMS = 64
"""The maximum streams per connection: one XREAD over N keys costs Redis 0.2 ms at N = 50, but 1.2 ms at 1,000."""
SLOT_SHARDS = 8
"""The maximum connections where each waits for the streams of one slot."""
REPLY_ENTRIES = b"1"
"""The entries returned of each stream: those after the first are left to the reader, which has a bound in bytes."""
PAUSE_S = 0.001


class _Waiting(NamedTuple):
    position: bytes
    on_news: Callable[[list[Any]], None]


class TailWaiter:
    """The blocking reads that wait for the next entries of streams.

    Args:
        target: The Redis to connect to.
        commands: The connection used to unblock a blocking read when its set of streams changes.
        refusals: Says what the server refuses.
        slot_of: Returns a key's slot, where a connection may wait for the streams of one slot only; None where it may
            wait for any.
    """

    def __init__(
        self,
        target: RedisTarget,
        commands: RedisLink,
        refusals: Refusals | None = None,
        *,
        slot_of: Callable[[bytes], int] | None = None,
        limits: Limits = DEFAULTS,
    ) -> None:
        self._target = target
        self._commands = commands
        self._refusals = refusals or Refusals()
        self._slot_of = slot_of
        self._limits = limits
        self._shards: list[_Shard] = []
        self._shard_of: dict[bytes, _Shard] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Run until cancelled. :meth:`wait` may be called only once this runs."""
        async with asyncio.TaskGroup() as self._tasks:
            self._add_shard()  # early, as connecting takes a while
            await asyncio.get_running_loop().create_future()

    def _add_shard(self) -> _Shard:
        assert self._tasks is not None, "run() has not started"
        shard = _Shard(self._target, self._commands, self._refusals, self._tasks, self._limits)
        self._shards.append(shard)
        return shard

    @property
    def trouble(self) -> str | None:
        """Why there is no connection to wait over, where something has to be waited for; None when there is."""
        return next((shard.trouble for shard in self._shards if shard.waiting and shard.trouble), None)

    def wait(self, key: bytes, position: bytes, on_news: Callable[[list[Any]], None]) -> bool:
        """Wait for the entry after ``position``, the end of the stream ``key``.

        Returns:
            Whether there is a connection for it; if not, nothing is waited for.

        Args:
            on_news: Called once: with the entries that came, as in Redis' reply; or with an empty list when there may
                be entries that nothing proves to be the next.
        """
        slot = None if self._slot_of is None else self._slot_of(key)
        shard = self._shard_of.get(key)
        if shard is None or not shard.takes(slot):
            shard = self._find_shard(slot)
        if shard is None:
            self._shard_of.pop(key, None)
            return False
        self._shard_of[key] = shard
        shard.slot = slot
        shard.add(key, _Waiting(position, on_news))
        return True

    def _find_shard(self, slot: int | None) -> _Shard | None:
        """Return a shard with room for a stream of that slot: one that has such streams, an empty one or a new one."""
        with_room = (shard for shard in self._shards if shard.takes(slot) and len(shard.waiting) < SHARD_STREAMS)
        if slot is None:
            return next(with_room, None) or self._add_shard()
        shard = min(with_room, key=lambda shard: not shard.waiting, default=None)
        return self._add_shard() if shard is None and len(self._shards) < SLOT_SHARDS else shard

    def forget(self, key: bytes) -> None:
        """Stop waiting for a stream, if it is waited for; its callback is not called."""
        shard = self._shard_of.pop(key, None)
        if shard is not None:
            shard.remove(key)


class _Shard:
    """The streams of one connection."""

    def __init__(
        self,
        target: RedisTarget,
        commands: RedisLink,
        refusals: Refusals,
        tasks: asyncio.TaskGroup,
        limits: Limits,
    ) -> None:
        self.waiting: dict[bytes, _Waiting] = {}
        self.slot: int | None = None
        """The slot of the streams that wait; None if they may be of any."""
        self.trouble: str | None = None
        """Why there is no connection, since an attempt to connect has failed."""
        self._target = target
        self._commands = commands
        self._refusals = refusals
        self._tasks = tasks
        self._limits = limits
        self._changed = asyncio.Event()
        self._client_id = b""
        """The connection's id, by which a read is unblocked; empty while that is not allowed."""
        self._blocked = False
        self._waking = False
        self._block_s = limits.block_s
        tasks.create_task(self._run())

    def takes(self, slot: int | None) -> bool:
        """Whether a stream of that slot may wait beside those that do."""
        return self.slot == slot or not self.waiting

    def add(self, key: bytes, waiting: _Waiting) -> None:
        self.waiting[key] = waiting
        self._wake()

    def remove(self, key: bytes) -> None:
        self.waiting.pop(key, None)
        if not self.waiting:
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        if self._blocked and self._client_id and not self._waking:
            self._waking = True
            self._tasks.create_task(self._unblock())

    async def _unblock(self) -> None:
        """Make the blocking read return, even if it has only just been sent."""
        try:
            while self._blocked and self._changed.is_set():
                await self._commands.call(b"CLIENT", b"UNBLOCK", self._client_id)
                # Once may not suffice: Redis may not have received the read yet, or this unblocked the previous one.
                await asyncio.sleep(PAUSE_S)
        except RedisUnavailable:
            pass  # the read ends with the same outage, or after the block time
        except ReplyError as error:
            self._cannot_unblock("CLIENT UNBLOCK", error)
        finally:
            self._waking = False

    def _cannot_unblock(self, command: str, error: ReplyError) -> None:
        self._client_id = b""
        self._block_s = min(self._block_s, self._limits.refused_block_s)
        self._refusals.say(command, error)

    async def _run(self) -> NoReturn:
        failures = 0
        while True:
            try:
                connection = await self._target.connect("rsws-ends")
            except (RedisUnavailable, SetupError) as error:
                self.trouble = error.cause if isinstance(error, RedisUnavailable) else str(error)
                failures += 1
                await self._limits.reconnect.wait(failures)
                continue
            self.trouble = None
            try:
                await self._learn_id(connection)
                while True:
                    while not self.waiting:
                        self._changed.clear()
                        await self._changed.wait()
                    try:
                        await self._read(connection)
                    except ReplyError as error:
                        if not error.forbids_command:
                            raise
                        await self._poll(error)
                    failures = 0
            except (ReplyError, OSError) as error:
                log.info("waiting interrupted: %s", error)
                self._answer_unproven(self.waiting.copy())
                failures += 1
                await self._limits.reconnect.wait(failures)
            finally:
                await connection.close()

    async def _learn_id(self, connection: RedisConnection) -> None:
        try:
            (client_id,) = await self._ask(connection, pack(b"CLIENT", b"ID"))
        except ReplyError as error:
            if not error.is_forbidden:
                raise
            self._cannot_unblock("CLIENT ID", error)
        else:
            self._client_id = b"%d" % client_id
            self._block_s = self._limits.block_s

    async def _poll(self, error: ReplyError) -> None:
        """Have the streams looked at after a while: XREAD is forbidden."""
        self._refusals.say("XREAD", error)
        await asyncio.sleep(self._limits.refused_block_s)
        self._answer_unproven(self.waiting.copy())

    async def _read(self, connection: RedisConnection) -> None:
        """Send an XREAD that blocks, after one that does not, which shows whether entries were already there."""
        asked = self.waiting.copy()
        self._changed.clear()
        streams = (b"STREAMS", *asked, *[waiting.position for waiting in asked.values()])
        look = pack(b"XREAD", b"COUNT", REPLY_ENTRIES, *streams)
        wait = pack(b"XREAD", b"COUNT", REPLY_ENTRIES, b"BLOCK", b"%d" % (self._block_s * 1000), *streams)
        self._blocked = True
        try:
            there, came = await self._ask(connection, look, wait, wait_s=self._block_s)
        finally:
            self._blocked = False
        if there:
            self._answer_unproven({key: asked[key] for key, _ in [*there, *(came or ())]})
        else:
            for key, raw in came or ():
                self._answer(key, asked[key], raw)

    def _answer_unproven(self, asked: dict[bytes, _Waiting]) -> None:
        for key, waiting in asked.items():
            self._answer(key, waiting, [])

    def _answer(self, key: bytes, asked: _Waiting, raw: list[Any]) -> None:
        if self.waiting.get(key) is asked:
            del self.waiting[key]
            asked.on_news(raw)

    async def _ask(self, connection: RedisConnection, *commands: bytes, wait_s: float = 0) -> list[Any]:
        """Return the replies to commands sent in one write.

        Raises:
            ReplyError: Redis answered one of them with an error.
        """
        replies = await connection.ask(*commands, timeout_s=wait_s + self._target.timeout_s)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise reply
        return replies

"""Follows many streams at once: XREAD BLOCK on connections of its own, a shard of the channels on each.

The reader knows no channel and no client: whoever follows a stream gives it a callable that takes the entries.
Positions are always explicit ids. Whatever is delivered follows what was delivered before without a gap; where that
can't be proven reading stops, and whoever follows looks for himself where to go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

from rsws.errors import ChannelUnreadable, LoginRefused, RedisUnavailable, StoreError
from rsws.protocol import StreamId
from rsws.streams.link import Link, RedisTarget, backoff
from rsws.streams.redis_connection import RedisConnection, ReplyError, pack
from rsws.streams.store import Entry, parse_entries, store_error

log = logging.getLogger("rsws.reader")

SHARD_CHANNELS = 64
"""Channels of one connection: one XREAD over N keys costs Redis 0.2 ms at N = 50, but 1.2 ms at 1,000."""
BLOCK_S = 5.0
REPLY_ENTRIES = 200
REPLY_BYTES = 1024 * 1024
PAUSE_S = 0.001
QUARANTINE_S = 30.0


class Follower(NamedTuple):
    """What whoever follows a stream is called with.

    Attributes:
        deliver: Every entry after the position, in order, once.
        unreadable: Redis won't read this stream; again at each vain attempt, every 30 s.
        interrupted: Reading has stopped and nothing more is delivered: the link broke, the stream was unreadable and is
            not any more, or entries may have been trimmed before they were read. Whoever follows finds out where to go
            on, and follows again.
    """

    deliver: Callable[[list[Entry]], None]
    unreadable: Callable[[StoreError], None]
    interrupted: Callable[[], None]


class _Followed:
    """One stream being read."""

    __slots__ = ("follower", "key", "name", "position", "reading", "retry_at")

    def __init__(self, name: str, after: StreamId, follower: Follower) -> None:
        self.name = name
        self.key = name.encode()
        self.position = str(after).encode()
        self.follower = follower
        self.reading = True
        self.retry_at: float | None = None
        """When a stream that Redis won't read is tried again; None for a good one."""

    def stop(self) -> None:
        """Read no more until it is followed again."""
        if self.reading:
            self.reading = False
            self.follower.interrupted()


class Reader:
    """Reads what comes new in the streams it is told to follow.

    Args:
        target: Which Redis.
        commands: The connection over which a blocked read is woken when its set of channels changes.
    """

    def __init__(self, target: RedisTarget, commands: Link) -> None:
        self._target = target
        self._commands = commands
        self._shards: list[_Shard] = []
        self._shard_of: dict[str, _Shard] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Read until cancelled. Nothing may be followed before this runs."""
        async with asyncio.TaskGroup() as self._tasks:
            await asyncio.get_running_loop().create_future()

    def follow(self, name: str, after: StreamId, follower: Follower) -> None:
        """Hand every entry of the stream ``name`` after a position to ``follower``.

        Following a name again replaces what was followed: nothing read for the old position arrives any more.
        """
        assert self._tasks is not None, "the reader is not running"
        shard = self._shard_of.get(name)
        if shard is None:
            shard = next((shard for shard in self._shards if len(shard.followed) < SHARD_CHANNELS), None)
        if shard is None:
            shard = _Shard(self._target, self._commands, self._tasks)
            self._shards.append(shard)
        self._shard_of[name] = shard
        shard.add(_Followed(name, after, follower))

    def unfollow(self, name: str) -> None:
        """Read this stream no more; nothing of it is delivered after this call."""
        shard = self._shard_of.pop(name, None)
        if shard is not None:
            shard.remove(name)


class _Shard:
    """The channels of one connection."""

    def __init__(self, target: RedisTarget, commands: Link, tasks: asyncio.TaskGroup) -> None:
        self.followed: dict[bytes, _Followed] = {}
        self._target = target
        self._commands = commands
        self._tasks = tasks
        self._changed = asyncio.Event()
        self._client_id = b""
        self._blocked = False
        self._busy = False
        """Whether there was something to read without waiting the last time."""
        self._waking = False
        self._block_s = BLOCK_S
        self._count = REPLY_ENTRIES
        tasks.create_task(self._run())

    def add(self, followed: _Followed) -> None:
        self.followed[followed.key] = followed
        self._wake()

    def remove(self, name: str) -> None:
        del self.followed[name.encode()]
        if not self.followed:
            self._wake()

    def stop(self) -> None:
        """Read none of them until they are followed again."""
        for followed in self.followed.values():
            followed.stop()

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
            self._block_s = min(self._block_s, 0.5)
            log.warning("CLIENT UNBLOCK refused, new channels may wait %g s: %s", self._block_s, error)
        finally:
            self._waking = False

    async def _run(self) -> NoReturn:
        attempt = 0
        while True:
            if not self.followed:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                connection = await self._target.connect("rsws-reader")
            except (RedisUnavailable, LoginRefused):  # the store, which has the same trouble, says so
                attempt += 1
                await backoff(attempt)
                continue
            try:
                (client_id,) = await self._ask(connection, pack(b"CLIENT", b"ID"))
                if isinstance(client_id, ReplyError):
                    raise client_id
                self._client_id = b"%d" % client_id
                self._busy = False
                while self.followed:
                    await self._read(connection)
                    attempt = 0
            except (ReplyError, OSError) as error:
                log.info("reading interrupted: %s", error)
                self.stop()
                attempt += 1
                await backoff(attempt)
            finally:
                self._blocked = False
                await connection.close()

    async def _read(self, connection: RedisConnection) -> None:
        """One XREAD over all good channels of this shard."""
        loop = asyncio.get_running_loop()
        await self._probe_due(connection, loop.time())
        asked = {key: followed for key, followed in self.followed.items() if followed.reading}
        self._changed.clear()
        if not asked:
            await self._wait(self._block_s)
            return
        streams = (b"STREAMS", *asked, *[followed.position for followed in asked.values()])
        look = (b"XREAD", b"COUNT", b"%d" % self._count)
        if self._busy:
            replies = await self._ask(connection, pack(*look, *streams))
        else:
            wait = pack(*look, b"BLOCK", b"%d" % (self._block_s * 1000), *streams)
            self._blocked = True
            replies = await self._ask(connection, pack(*look, *streams), wait, wait_s=self._block_s)
            self._blocked = False
        there, reply = replies[0], replies[-1]
        # What comes while Redis waits for it is all that came. What was there already may be the rest of more, the
        # beginning of which was trimmed.
        self._busy = bool(there)
        if isinstance(reply, ReplyError):
            await self._quarantine(connection, asked.values(), reply)
        elif reply:
            if self._busy:
                await self._prove(connection, [asked[key] for key, _ in reply])
            self._deliver(asked, reply)
        if self._busy:  # one call more would find few entries: let some gather
            await asyncio.sleep(PAUSE_S)

    async def _prove(self, connection: RedisConnection, items: list[_Followed]) -> None:
        """Stop those whose last entry is no longer in the stream: what followed it may be gone with it."""
        items = [item for item in items if item.position != b"0-0"]
        if not items:
            return
        commands = [pack(b"XRANGE", item.key, item.position, item.position) for item in items]
        for item, reply in zip(items, await self._ask(connection, *commands), strict=True):
            if not reply or isinstance(reply, ReplyError):
                item.stop()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass  # time to look after the quarantined ones

    def _deliver(self, asked: dict[bytes, _Followed], reply: Iterable[Any]) -> None:
        size = total = largest = 0
        for key, raw in reply:
            followed = asked[key]
            if not raw or not followed.reading or self.followed.get(key) is not followed:
                continue
            entries = parse_entries(raw)
            followed.position = entries[-1].raw_id
            followed.follower.deliver(entries)
            size += sum([len(entry.data or b"") for entry in entries])
            total += len(entries)
            largest = max(largest, len(entries))
        if total:
            streams = max(1, total // largest)
            self._count = max(1, min(REPLY_ENTRIES, REPLY_BYTES * total // ((size or 1) * streams)))

    async def _quarantine(self, connection: RedisConnection, asked: Iterable[_Followed], error: ReplyError) -> None:
        """One bad key fails a whole XREAD: find it, set it aside, and go on with the rest."""
        bad = await self._probe(connection, list(asked))
        if not bad:
            raise error
        retry_at = asyncio.get_running_loop().time() + QUARANTINE_S
        for followed, reason in bad:
            followed.reading = False
            followed.retry_at = retry_at
            log.warning("channel unreadable channel=%r: %s", followed.name, reason)
            followed.follower.unreadable(reason)

    async def _probe_due(self, connection: RedisConnection, now: float) -> None:
        due = [item for item in self.followed.values() if item.retry_at is not None and item.retry_at <= now]
        if not due:
            return
        bad = dict(await self._probe(connection, due))
        for followed in due:
            followed.retry_at = now + QUARANTINE_S if followed in bad else None
            if followed in bad:
                followed.follower.unreadable(bad[followed])
            else:
                log.info("channel readable again channel=%r", followed.name)
                followed.follower.interrupted()

    async def _probe(
        self, connection: RedisConnection, items: list[_Followed]
    ) -> list[tuple[_Followed, ChannelUnreadable]]:
        """Those of ``items`` that Redis won't read, each with the reason."""
        commands = [pack(b"XREAD", b"COUNT", b"1", b"STREAMS", item.key, item.position) for item in items]
        replies = await self._ask(connection, *commands)
        bad = []
        for item, reply in zip(items, replies, strict=True):
            if isinstance(reply, ReplyError):
                error = store_error(item.name, reply)
                if isinstance(error, ChannelUnreadable):
                    bad.append((item, error))
        return bad

    async def _ask(self, connection: RedisConnection, *commands: bytes, wait_s: float = 0) -> list[Any]:
        """The replies to commands sent in one write; what Redis answers with an error is that error."""
        return await connection.ask(*commands, timeout_s=wait_s + self._target.timeout_s)

"""The store: the gateway's access to streams in Redis, to append, to find a stream's bounds and to read pages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

import msgspec

from rsws.errors import Conflict, NotPossible, RedisUnavailable, StoreError
from rsws.protocol import ZERO, StreamId
from rsws.redis.command_queue import BATCH_BYTES
from rsws.redis.connection import ReplyError, pack
from rsws.redis.limits import DEFAULTS, Limits
from rsws.redis.link import Submits, future_reply
from rsws.streams.caution import Caution
from rsws.streams.fields import ALL, DEFAULT_FIELDS, MessageFields
from rsws.streams.lookback import LookBack
from rsws.streams.refusals import Refusals
from rsws.streams.replication import ReplicaWait
from rsws.streams.replies import (
    Entry,
    History,
    StreamBounds,
    broken_continuity,
    insert_arguments,
    parse_entries,
    parse_look,
    parse_read,
    read_arguments,
    store_error,
    too_large,
    xadd_arguments,
)
from rsws.streams.script_runner import ScriptRunner, ScriptsForbidden
from rsws.streams.scripts import INSERT, LOOK, RAISE_LAST, READ, STEP_BACK, STORE_ONCE
from rsws.streams.slots import slot_tag

PLAIN_READ_ENTRIES = 4
"""The number of entries read without a bound in bytes: the script that has one costs Redis several times as much."""
HISTORY_READS = 16
"""The reads of history that may be under way simultaneously."""
READ_WEIGHT = BATCH_BYTES // 4
"""The weight of a script that reads history. Few of them fit into a batch: each may take Redis milliseconds, and Redis
serves no other connection before the whole batch is done.
"""
LOOK_WEIGHT = BATCH_BYTES // 64
"""The least weight of LOOK, for a stream with small entries. A megabyte at both ends takes a hundred times as long."""
STEP_BYTES = 256 * 1024
"""The size of the entries visited, in bytes, at which a step of counting back ends."""
APPEND_COMMANDS = 1000
"""The channels of which the command that appends to them is remembered."""
CAUTIONS = 1000
"""The channels of which it is remembered that a link broke while they were read."""


_NO_FIELD = (
    "nothing can be published to this channel: its messages are all fields of an entry together (--field PATTERN=*); "
    "write entries with XADD"
)
_NO_PRODUCER = (
    "Redis does not allow scripts (EVAL), without which a message can't be stored only once: publish it without "
    "`producer`, or have EVAL and EVALSHA allowed"
)


class Stored(msgspec.Struct, frozen=True, gc=False):
    """The result for a message that is stored in its stream."""

    raw_id: bytes
    """The id as Redis wrote it."""
    duplicate: bool = False
    """Whether it was stored before, with the same idempotency key."""

    @property
    def id(self) -> StreamId:
        """The id to compare with others."""
        return StreamId.from_redis(self.raw_id)


class IdempotencyKey(NamedTuple):
    """The key with which a message is stored at most once in its channel within a window of time."""

    producer: str
    message_id: str
    window_s: float


class _Append(msgspec.Struct, frozen=True):
    """An XADD under way. One is made for each message: with its method it takes two thirds of a ``partial``'s time."""

    refusals: Refusals
    channel: str
    on_result: Callable[[Stored | StoreError], None]

    def answered(self, reply: Any) -> None:
        self.on_result(Stored(reply) if isinstance(reply, bytes) else _append_error(self.refusals, self.channel, reply))


def _append_error(refusals: Refusals, channel: str, reply: Any) -> StoreError:
    """Return the error for an XADD that was refused, or not answered."""
    if isinstance(reply, ReplyError) and reply.forbids_command:
        refusals.say("XADD", reply)
    return store_error(channel, reply)


class Streams(Protocol):
    """What can be asked of streams, in one server or in several."""

    def append(
        self,
        channel: str,
        data: bytes,
        on_result: Callable[[Stored | StoreError], None],
        once: IdempotencyKey | None = None,
    ) -> None:
        """See :meth:`Store.append`."""

    def append_all(
        self, channel: str, data: Sequence[bytes], on_results: Callable[[Sequence[bytes | StoreError]], None]
    ) -> None:
        """Add entries at the end of ``channel``, one after the other; others' may come in between.

        Args:
            data: The JSON text of each.
            on_results: Called exactly once, maybe before this returns, when it is known what became of all of them:
                with the id of each as Redis wrote it, or the error, as of :meth:`append`.
        """
        results: list[Any] = [None] * len(data)

        def on_result(number: int, result: Stored | StoreError) -> None:
            results[number] = result.raw_id if isinstance(result, Stored) else result
            if None not in results:
                on_results(results)

        for number, each in enumerate(data):
            self.append(channel, each, partial(on_result, number))

    def insert(
        self,
        channel: str,
        entries: Sequence[Entry],
        on_result: Callable[[int | StoreError], None],
        maxlen: int | None = None,
    ) -> None:
        """See :meth:`Store.insert`."""

    def raise_last(self, channel: str, last: StreamId, on_result: Callable[[StoreError | None], None]) -> None:
        """See :meth:`Store.raise_last`."""

    def look(self, channel: str, on_bounds: Callable[[StreamBounds | StoreError], None]) -> None:
        """See :meth:`Store.look`."""

    def bounds(self, channel: str) -> asyncio.Future[StreamBounds]:
        """Return the bounds of ``channel``: see :meth:`look`.

        Raises:
            StoreError: (the future) See :func:`store_error`.
        """
        future, on_bounds = future_reply()
        future.add_done_callback(ignore_result)  # the caller may be gone
        self.look(channel, on_bounds)
        return future

    async def page(self, channel: str, after: StreamId, limit: int, limit_bytes: int) -> History:
        """See :meth:`Store.page`."""

    async def before_last(self, channel: str, count: int, bounds: StreamBounds) -> StreamId:
        """See :meth:`Store.before_last`."""


class Store(Streams):
    """The streams of one server, over two shared connections: one for publishes and bounds, one for history.

    Commands on the first connection are executed in the order of the calls: a subscription made before a publish starts
    before it.

    Args:
        commands: The connection for publishes and bounds.
        history: The connection for history.
        replica_wait: Holds back what is stored until replicas have it; None where nothing has to wait.
        refusals: Says what the server refuses.
        fields: Which field of an entry holds the message.
    """

    def __init__(
        self,
        commands: Submits,
        history: Submits,
        replica_wait: ReplicaWait | None = None,
        refusals: Refusals | None = None,
        fields: MessageFields = DEFAULT_FIELDS,
        *,
        limits: Limits = DEFAULTS,
    ) -> None:
        self._commands = commands
        self._history = history
        self._refusals = refusals or Refusals()
        self._scripts = ScriptRunner(commands, self._refusals)
        self._history_scripts = ScriptRunner(history, self._refusals)
        self._replica_wait = replica_wait
        self._fields = fields
        self._append_command = lru_cache(APPEND_COMMANDS)(self._make_append_command)
        self._reads = asyncio.Semaphore(HISTORY_READS)
        self._cautions: dict[str, Caution] = {}
        """How much to ask for of channels that were read when the link for history broke."""
        self._look_back = LookBack(self._step_back, step_s=limits.step_s)
        self._look_weight = LOOK_WEIGHT
        """The weight of LOOK, estimated from the last ones; see :meth:`rsws.redis.link.RedisLink.submit`."""
        self._may_insert = True
        """Whether several entries may be inserted by one script, as far as is known."""
        self._looks: dict[str, tuple[int, list[Callable[[StreamBounds | StoreError], None]]]] = {}
        """Who waits for the last look under way at each channel, and the link's batch count when it was submitted."""

    def append(
        self,
        channel: str,
        data: bytes,
        on_result: Callable[[Stored | StoreError], None],
        once: IdempotencyKey | None = None,
    ) -> None:
        """Add one entry at the end of ``channel``.

        Args:
            data: JSON text.
            on_result: Called exactly once, maybe before this returns: with the result once Redis has answered, else
                with an error whose ``outcome`` says whether the message may be stored all the same.
            once: The key with which it is stored at most once; None stores it in any case.
        """
        command = self._append_command(channel)
        if command is None:
            on_result(NotPossible(_NO_FIELD))
            return
        if self._replica_wait is not None:
            on_result = self._replica_wait.hold(on_result)
        if once is not None:
            self._append_once(channel, data, on_result, once)
            return
        self._commands.submit(command % (len(data), data), _Append(self._refusals, channel, on_result).answered)

    def append_all(
        self, channel: str, data: Sequence[bytes], on_results: Callable[[Sequence[bytes | StoreError]], None]
    ) -> None:
        command = self._append_command(channel)
        if command is None or self._replica_wait is not None:
            super().append_all(channel, data, on_results)
            return
        replies: list[Any] = []

        def on_last_reply(reply: Any) -> None:
            replies.append(reply)
            if set(map(type, replies)) == {bytes}:
                on_results(replies)
            else:
                on_results(
                    [each if type(each) is bytes else _append_error(self._refusals, channel, each) for each in replies]
                )

        commands = [command % (len(each), each) for each in data]
        self._commands.submit_all(commands, [*[replies.append] * (len(data) - 1), on_last_reply])

    def _make_append_command(self, channel: str) -> bytes | None:
        """Return a channel's XADD, to be filled (``%``) with the data's size and the data; None without a field."""
        key, field = channel.encode(), self._fields.of(channel)
        if field == ALL:
            return None
        start = b"*5\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n$%d\r\n%b\r\n" % (len(key), key, len(field), field)
        return start.replace(b"%", b"%%") + b"$%d\r\n%b\r\n"

    def _append_once(
        self,
        channel: str,
        data: bytes,
        on_result: Callable[[Stored | StoreError], None],
        once: IdempotencyKey,
    ) -> None:
        digest = sha256(data).hexdigest().encode()

        def on_reply(reply: Any) -> None:
            if isinstance(reply, ScriptsForbidden):
                on_result(NotPossible(f"{_NO_PRODUCER} ({reply})"))
            elif not isinstance(reply, list):
                on_result(store_error(channel, reply))
            elif reply[1] == digest:
                on_result(Stored(reply[0], duplicate=reply[2] == 1))
            else:
                on_result(Conflict(f"messageId {once.message_id[:100]!r} was used for other data before"))

        keys = (channel.encode(), idempotency_key_name(channel, once))
        must_write = b"0" if self._replica_wait is None else b"1"
        arguments = (self._fields.of(channel), data, digest, b"%d" % (once.window_s * 1000), must_write)
        self._scripts.run(STORE_ONCE, keys, arguments, on_reply)

    def insert(
        self,
        channel: str,
        entries: Sequence[Entry],
        on_result: Callable[[int | StoreError], None],
        maxlen: int | None = None,
    ) -> None:
        """Add entries with their ids, in order, up to the first that Redis refuses.

        Args:
            entries: At least one; their data is ``PACKED``, and the id may be ``*``.
            on_result: Called exactly once: with how many were stored, at least one; which may be fewer than all without
                any being refused. Else with the error of the first; IdTaken where the stream is beyond it.
            maxlen: About how many of the newest entries the stream keeps; None keeps all.
        """
        arguments = insert_arguments(entries, maxlen) if self._may_insert else ()
        if not arguments:
            command = pack(b"XADD", channel.encode(), *xadd_arguments(entries[0], maxlen))
            self._commands.submit(command, partial(self._inserted, channel, on_result))
            return

        def on_reply(reply: Any) -> None:
            if isinstance(reply, ScriptsForbidden):
                self._may_insert = False
                self.insert(channel, entries, on_result, maxlen)
            else:
                self._inserted(channel, on_result, reply)

        self._scripts.run(INSERT, (channel.encode(),), arguments, on_reply)

    def _inserted(self, channel: str, on_result: Callable[[int | StoreError], None], reply: Any) -> None:
        if isinstance(reply, Exception):
            on_result(store_error(channel, reply))
        else:
            on_result(reply if isinstance(reply, int) else 1)

    def raise_last(self, channel: str, last: StreamId, on_result: Callable[[StoreError | None], None]) -> None:
        """Make ``last`` the last id that the stream has generated; it may have no entry, or not be there at all."""

        def on_reply(reply: Any) -> None:
            on_result(store_error(channel, reply) if isinstance(reply, Exception) else None)

        self._scripts.run(RAISE_LAST, (channel.encode(),), (str(last).encode(),), on_reply)

    def look(self, channel: str, on_bounds: Callable[[StreamBounds | StoreError], None]) -> None:
        """Call ``on_bounds`` with the bounds of ``channel``, or why there are none; maybe before this returns.

        They are those of a moment after this call and before anything appended after it. Calls before the command is
        sent share it.
        """
        turn, waiting = self._looks.get(channel, (None, []))
        if turn == self._commands.batches:
            waiting.append(on_bounds)
            return
        waiting = [on_bounds]
        self._looks[channel] = self._commands.batches, waiting
        on_reply = partial(self._looked, channel, waiting)
        self._scripts.run(LOOK, (channel.encode(),), (), on_reply, self._look_weight)

    def _looked(self, channel: str, waiting: list[Callable[[StreamBounds | StoreError], None]], reply: Any) -> None:
        if self._looks.get(channel, (0, None))[1] is waiting:
            del self._looks[channel]
        if isinstance(reply, Exception):
            bounds: StreamBounds | StoreError = store_error(channel, reply)
        else:
            bounds = parse_look(reply)
            self._look_weight = max(LOOK_WEIGHT, reply[3], self._look_weight * 3 // 4)
        for on_bounds in waiting:
            on_bounds(bounds)

    async def page(self, channel: str, after: StreamId, limit: int, limit_bytes: int) -> History:
        """Return the next entries of ``channel`` and whether they follow ``after`` without a gap.

        Args:
            limit: The approximate maximum number of entries.
            limit_bytes: The size at which reading stops; ignored for a ``limit`` of up to ``PLAIN_READ_ENTRIES``.

        Raises:
            StoreError: See :func:`store_error`.
        """
        caution = self._cautions.get(channel)
        room_bytes = limit_bytes if caution is None else min(limit_bytes, caution.room_bytes)
        async with self._reads:
            try:
                if caution is not None and not caution.is_over:  # on its own, as a server's limit is for all replies
                    history = await self._read(channel, after, limit if room_bytes > 1 else 1, room_bytes, BATCH_BYTES)
                else:
                    history = await self._read_freely(channel, after, limit, limit_bytes)
            except (ReplyError, RedisUnavailable) as error:
                if isinstance(error, RedisUnavailable) and error.was_reset:
                    self._broke(channel, limit_bytes, room_bytes)
                raise store_error(channel, error) from None
        if caution is not None and history.entries:
            caution.worked(max([len(entry.data or b"") for entry in history.entries]))
        return history

    def _broke(self, channel: str, usual_bytes: int, asked_bytes: int) -> None:
        """Take note that the link broke while a channel was read.

        Raises:
            ChannelUnreadable: Its next entry alone is too large for the link.
        """
        caution = self._cautions.pop(channel, None) or Caution(usual_bytes)
        self._cautions[channel] = caution
        if len(self._cautions) > CAUTIONS:
            del self._cautions[next(iter(self._cautions))]
        caution.broke(asked_bytes)
        if caution.is_hopeless:
            raise too_large(channel)

    async def _read_freely(self, channel: str, after: StreamId, limit: int, limit_bytes: int) -> History:
        if limit <= PLAIN_READ_ENTRIES:
            history = await self._read_few(channel, after, limit)
            if history is not None:
                return history
        return await self._read(channel, after, limit, limit_bytes)

    async def _read_few(self, channel: str, after: StreamId, limit: int) -> History | None:
        """Return what follows ``after``; None if its entry is gone, so that the stream's bounds have to be checked."""
        count = limit if after == ZERO else limit + 1
        start = str(after).encode()
        reply = await self._history.call(b"XRANGE", channel.encode(), start, b"+", b"COUNT", b"%d" % count)
        entries, is_end = parse_entries(reply, self._fields.of(channel)), len(reply) < count
        if after == ZERO:
            return History(entries, is_end)
        return History(entries[1:], is_end) if entries and entries[0].id == after else None

    async def _read(
        self, channel: str, after: StreamId, limit: int, limit_bytes: int, weight: int = READ_WEIGHT
    ) -> History:
        field = self._fields.of(channel)
        arguments = read_arguments(str(after).encode(), limit, limit_bytes, field)
        reply = await self._history_scripts.ask(READ, (channel.encode(),), arguments, weight)
        entries, is_end, bounds, _ = parse_read(reply, field)
        return History(entries, is_end, None if bounds is None else broken_continuity(after, bounds), bounds)

    async def before_last(self, channel: str, count: int, bounds: StreamBounds) -> StreamId:
        """Return the position with exactly ``count`` entries after it up to ``bounds``; ``0-0`` if there are no more.

        The position is the id of an entry, so that continuity after it can be proven later.

        Raises:
            StoreError: See :func:`store_error`.
        """
        if count == 0 or count >= bounds.length:
            return ZERO if count else bounds.last
        return await self._look_back.position(channel, count, bounds.last)

    async def _step_back(self, channel: str, end: StreamId, limit: int) -> tuple[int, StreamId, bool]:
        """See :data:`rsws.streams.lookback.Step`."""
        arguments = (str(end).encode(), b"%d" % limit, b"%d" % STEP_BYTES)
        try:
            reply = await self._history_scripts.ask(STEP_BACK, (channel.encode(),), arguments, READ_WEIGHT)
        except (ReplyError, RedisUnavailable) as error:
            raise store_error(channel, error) from None
        found, first, is_first = reply
        return found, ZERO if first is None else StreamId.from_redis(first), is_first == 1


def ignore_result(future: asyncio.Future[Any]) -> None:
    """Take note of the exception that the future may have, so that asyncio does not report it as never retrieved."""
    if not future.cancelled():
        future.exception()


def idempotency_key_name(channel: str, once: IdempotencyKey) -> bytes:
    """Return the name of the Redis key that records a stored message, in the same cluster slot as its channel."""
    name = sha256(msgspec.json.encode([channel, once.producer, once.message_id])).hexdigest()
    return b"rsws:once:{%b}:%b" % (slot_tag(channel.encode()), name.encode())

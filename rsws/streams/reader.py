"""The reader, which follows many streams simultaneously: Redis tells which one has changed, and that one is read.

The reader knows no channels and no clients: it calls the follower of a stream with new entries. Positions are always
explicit ids. Entries are delivered without a gap after those delivered before; where that can't be proven, reading
stops, and the follower has to find out where to continue.

Redis remembers which connection has read a key, and tells it once when the key changes (``CLIENT TRACKING``). So a
message costs one read of one stream, however many others are followed; the cost of an XREAD over all of them would grow
with their number. What Redis remembers for that stays in its memory longer than it is of use (see :mod:`.tracking`), so
it is bounded: beyond that Redis tells of every change of every key (``BCAST``), for which it remembers nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rsws.errors import ChannelUnreadable, RedisUnavailable
from rsws.log_lines import LogLine
from rsws.protocol import ZERO, StreamId
from rsws.redis.command_queue import BATCH_BYTES
from rsws.redis.connection import ReplyError, pack
from rsws.redis.limits import DEFAULTS, Limits
from rsws.redis.link import AskingLink, RedisLink, Submits
from rsws.redis.target import RedisTarget
from rsws.streams.caution import Caution
from rsws.streams.fields import DEFAULT_FIELDS, MessageFields
from rsws.streams.follower import Followed, Follower
from rsws.streams.refusals import Refusals
from rsws.streams.replies import (
    Entry,
    lasting_error,
    parse_entries,
    parse_read,
    read_arguments,
    store_error,
    too_large,
)
from rsws.streams.script_runner import ScriptRunner
from rsws.streams.scripts import READ, checksum
from rsws.streams.slots import Redirected
from rsws.streams.tail_waiter import TailWaiter
from rsws.streams.tracking import TrackingTable

log = logging.getLogger("rsws.reader")

READ_ENTRIES = 200
"""The maximum number of entries in one read of a stream."""
FEW_ENTRIES = 20
"""The number of entries read without a bound in bytes: the script that has one costs Redis several times as much."""

_BEGINNING = b"0-0"
_TRACK = pack(b"CLIENT", b"TRACKING", b"ON")
_TRACK_ALL = pack(b"CLIENT", b"TRACKING", b"ON", b"BCAST")
_POLL_S = 1.0
_POLLS_PER_S = 100
"""How often a stream is read where nothing tells that it has changed, and how many of them in all."""


class Reader:
    """The reader of new entries in all followed streams.

    Args:
        target: The Redis to connect to.
        on_redirect: Called where another node of a cluster has a stream that is followed, with its name; it is not read
            any more until it is followed anew.
        refusals: Says what the server refuses.
        fields: Which field of an entry holds the message.
        slot_of: Returns a key's slot, if the server is one of a cluster.
    """

    def __init__(
        self,
        target: RedisTarget,
        on_redirect: Callable[[str, Redirected], None] | None = None,
        refusals: Refusals | None = None,
        fields: MessageFields = DEFAULT_FIELDS,
        *,
        slot_of: Callable[[bytes], int] | None = None,
        limits: Limits = DEFAULTS,
    ) -> None:
        self._on_redirect = on_redirect
        self._fields = fields
        self._is_in_cluster = slot_of is not None
        self._gather_s = limits.gather_s
        self._read_bytes = limits.read_bytes
        self._refused_retry_s = limits.refused_retry_s
        self._unreadable_retry_s = limits.unreadable_retry_s
        self._greeting = [pack(b"HELLO", b"3"), _TRACK]
        self._link = RedisLink(
            target,
            "rsws-reader",
            self._greeting,
            on_greeting=self._greeted,
            on_change=self._connected,
            on_push=self._invalidated,
            limits=limits,
        )
        self._asking_link = AskingLink(self._link)
        self._lasting_s = limits.lasting_s
        self._refusals = refusals or Refusals()
        self._scripts = ScriptRunner(self._link, self._refusals)
        self._asking_scripts = ScriptRunner(self._asking_link, self._refusals)
        self._tail_waiter = TailWaiter(target, self._link, self._refusals, slot_of=slot_of, limits=limits)
        self._polled = 0
        """The number of streams that Redis does not tell of and no connection waits for: they are read now and then."""
        self._followed: dict[bytes, Followed] = {}
        self._in_trouble: set[bytes] = set()
        """The streams that can't be read, though neither they nor a command are forbidden."""
        self._tracks_changes = True
        """Whether Redis tells which streams change; an old version does not, or a user may not be allowed to ask."""
        self._is_told_all = False
        """Whether Redis tells of every key that changes, and remembers none."""
        self._table = TrackingTable(limits.table_bytes)
        self._client_id = 0
        self._due: list[Followed] = []
        """The streams that are read a moment later."""
        self._read_at = 0.0

    @property
    def trouble(self) -> str | None:
        """Why Redis can't be asked what is new; None when it can."""
        return self._link.trouble or self._tail_waiter.trouble

    @property
    def is_down(self) -> bool:
        """Whether Redis could not be reached when that was tried last: what is followed now is read once it can be."""
        return self._link.is_down

    async def run(self) -> None:
        """Read until cancelled. Streams may be followed only once this runs."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._link.run())
            tasks.create_task(self._tail_waiter.run())

    def follow(self, name: str, after: StreamId, follower: Follower, *, is_asking: bool = False) -> None:
        """Deliver every entry of the stream ``name`` after a position to ``follower``.

        Following a name again replaces its follower and position: nothing read for the old ones is delivered any more.

        Args:
            is_asking: Whether the stream's slot is on its way to this server of a cluster.
        """
        followed = Followed(name, after, follower, self._fields.of(name), is_asking=is_asking)
        before = self._remove(followed.key)
        if before is not None:
            followed.tail_trimmed = before.tail_trimmed
            followed.is_unreadable = before.is_unreadable
            followed.failing_since = before.failing_since
            followed.caution = before.caution
        self._followed[followed.key] = followed
        if self._is_remembered:
            self._table.add(followed.key)
            self._check_table()
        self._read_bounded(followed)

    def read_behind(self, name: str) -> None:
        """Read a quiet stream behind what is appended to it in this turn of the event loop, without waiting to be told.

        Redis mostly executes that first, so that it is delivered a round trip sooner. Where it reads first it tells of
        the change, as always.
        """
        followed = self._followed.get(name.encode())
        if followed is not None and followed.at_tail and self._is_remembered and self._is_quiet(followed):
            self._read_now(followed)

    def unfollow(self, name: str) -> StreamId:
        """Stop reading this stream, and return up to where it was delivered. Nothing more of it is after this call."""
        followed = self._remove(name.encode())
        self._leave_trouble(name.encode())
        return ZERO if followed is None else StreamId.from_redis(followed.position)

    def unfollow_all(self) -> list[tuple[str, StreamId, Follower]]:
        """Stop reading all streams; return their names, up to where they were delivered, and their followers."""
        before = [(each.name, each.follower) for each in self._followed.values()]
        return [(name, self.unfollow(name), follower) for name, follower in before]

    def is_at_tail(self, name: str) -> bool:
        """Whether this stream was read to its end, and Redis says when there is more."""
        return self._followed[name.encode()].at_tail

    def is_told_of(self, name: str) -> bool:
        """Whether Redis says, of its own accord, when anything has become of this stream.

        It does not say that a stream was deleted while its next entry is waited for, nor in a cluster that the slot of
        one that never was has moved.
        """
        followed = self._followed.get(name.encode())
        if followed is None:
            return False
        if followed.position == _BEGINNING:  # there is nothing that could be deleted
            return not (self._is_in_cluster and followed.at_tail)
        return followed.at_tail

    def _remove(self, key: bytes) -> Followed | None:
        followed = self._followed.pop(key, None)
        if followed is not None and self._is_remembered:
            self._table.leave(key)
        self._tail_waiter.forget(key)
        return followed

    # --- what Redis remembers ---

    @property
    def _is_remembered(self) -> bool:
        """Whether Redis keeps a table of what is read."""
        return self._tracks_changes and not self._is_told_all

    def _check_table(self) -> None:
        if self._table.is_full:
            self._be_told_all("it would keep too much of what was read in its memory")

    def _note_vain_read(self) -> None:
        if self._is_remembered and self._table.is_too_small(len(self._followed)):
            self._be_told_all("it forgets what was read (tracking-table-max-keys is too small)")

    def _be_told_all(self, why: str) -> None:
        """Have Redis tell of every key that changes from now on, on this connection and all further ones."""
        self._is_told_all = True
        self._table.restart(())
        self._greeting[1] = _TRACK_ALL
        log.warning("Redis tells of every key that changes from now on, which costs more where others write: %s", why)
        self._link.submit(pack(b"CLIENT", b"TRACKING", b"OFF"), lambda _: None)
        self._link.submit(_TRACK_ALL, self._told_all)

    def _told_all(self, reply: Any) -> None:
        """Read what may have changed while Redis told nothing; reads that are under way come after that."""
        if not isinstance(reply, RedisUnavailable):  # else all that is followed is read on the next connection
            self._greeted(reply)
            self._read_all_at_tail()

    # --- callbacks of the link ---

    def _greeted(self, reply: Any) -> None:
        if isinstance(reply, ReplyError):
            self._tracks_changes = False
            self._table.restart(())
            self._refusals.say("CLIENT TRACKING", reply)
        elif isinstance(reply, dict):
            before, self._client_id = self._client_id, reply.get(b"id", 0)
            if self._client_id < before and self._is_remembered:  # it has started since, as it counts them upwards
                self._table.restart(self._followed)

    def _connected(self, cause: str | None) -> None:
        """Read all streams on a new connection: Redis has forgotten what was read on the last one."""
        if cause is None:
            if self._client_id and self._is_remembered:
                self._table.add_connection(self._followed)
                self._check_table()
            self._tracks_changes = True
            self._table.begin_counting_reads()
            self._read_all_at_tail()

    def _invalidated(self, push: list[Any]) -> None:
        """Read the streams that Redis says have changed since they were read.

        Redis tells of changes in order with its replies: a change told while a read is under way happened before that
        read, which returns it. Where it tells of all changes it does so after the replies to what it has executed
        before, so that this holds there, too.
        """
        kind, keys = push
        if kind != b"invalidate":
            return
        if keys is None:  # which stands for all keys
            self._read_all_at_tail()
            return
        for key in keys:
            self._table.forget(key)
            followed = self._followed.get(key)
            if followed is not None and followed.at_tail:
                self._read_soon(followed)

    def _read_all_at_tail(self) -> None:
        for followed in self._followed.values():
            if followed.at_tail:
                self._read(followed)

    # --- reading ---

    def _read_soon(self, followed: Followed) -> None:
        """Read a quiet stream immediately, and a busy one a moment later, together with others.

        In a cluster all streams are busy when one of them is: what comes is divided among several connections, and each
        would send and receive for every message by itself.
        """
        if self._is_quiet(followed):
            self._read_now(followed)
            return
        followed.at_tail = False
        if not self._due:
            asyncio.get_running_loop().call_later(self._gather_s, self._read_due)
        self._due.append(followed)

    def _is_quiet(self, followed: Followed) -> bool:
        last = max(followed.delivered_at, self._read_at) if self._is_in_cluster else followed.delivered_at
        return time.monotonic() - last >= self._gather_s

    def _read_now(self, followed: Followed) -> None:
        self._read_at = time.monotonic()
        self._read(followed)

    def _read_due(self) -> None:
        due, self._due = self._due, []
        self._read_at = time.monotonic()
        for followed in due:
            self._read(followed)

    def _read(self, followed: Followed) -> None:
        """Read from the position, inclusive: without the entry there, some entries after it may have been trimmed."""
        if self._followed.get(followed.key) is not followed:
            return
        followed.at_tail = False
        if followed.is_busy or (followed.caution is not None and not followed.caution.is_over):
            self._read_bounded(followed)
            return
        count = 1 + min(followed.limit, FEW_ENTRIES)
        command = pack(b"XRANGE", followed.key, followed.position, b"+", b"COUNT", b"%d" % count)
        self._link_for(followed).submit(command, partial(self._handle_few, followed, count))

    def _read_bounded(self, followed: Followed) -> None:
        """Read after the position, with a bound in bytes; the reply has the stream's ends if that entry is gone."""
        limit, read_bytes, weight = followed.limit, self._read_bytes, 0
        if followed.caution is not None and not followed.caution.is_over:
            read_bytes, weight = followed.caution.room_bytes, BATCH_BYTES  # on its own, as the limit is for all replies
            limit = READ_ENTRIES if read_bytes > 1 else 1
        arguments = read_arguments(followed.position, limit, read_bytes, followed.field, with_check=True)
        scripts = self._asking_scripts if followed.is_asking else self._scripts
        scripts.run(READ, (followed.key,), arguments, partial(self._handle_read, followed), weight)

    def _link_for(self, followed: Followed) -> Submits:
        return self._asking_link if followed.is_asking else self._link

    def _handle_few(self, followed: Followed, count: int, reply: Any) -> None:
        if self._followed.get(followed.key) is not followed:
            return
        if isinstance(reply, Exception):
            self._failed(followed, reply)
        elif followed.position == _BEGINNING or (reply and reply[0][0] == followed.position):
            entries = parse_entries(reply, followed.field)
            if followed.position != _BEGINNING and self._is_replaced(followed, checksum(entries.pop(0).data)):
                return
            if not entries:
                self._note_vain_read()
            self._resume(followed, entries, is_end=len(reply) < count)
        else:  # no entry at the position: only the stream's bounds tell whether something is missing
            self._read_bounded(followed)

    def _handle_read(self, followed: Followed, reply: Any) -> None:
        if self._followed.get(followed.key) is not followed:
            return
        if isinstance(reply, Exception):
            self._failed(followed, reply)
            return
        entries, is_end, bounds, check = parse_read(reply, followed.field)
        if bounds is None:
            if check is not None and self._is_replaced(followed, check):
                return
            self._resume(followed, entries, is_end=is_end)
        elif followed.failing_since and self._works_again(followed):
            followed.follower.interrupted()
        elif not entries and bounds.last == StreamId.from_redis(followed.position):
            self._wait(followed)
        else:
            followed.tail_trimmed = bool(entries)
            followed.follower.interrupted()

    def _is_replaced(self, followed: Followed, check: bytes) -> bool:
        """Whether the entry at the position is another one than before, which ends the reading of this stream."""
        is_other = followed.checksum is not None and followed.checksum != check
        followed.checksum = check
        if is_other:
            followed.follower.replaced()
        return is_other

    def _resume(self, followed: Followed, entries: list[Entry], *, is_end: bool) -> None:
        """Continue with entries that provably follow the position without a gap."""
        if followed.failing_since and self._works_again(followed):
            followed.follower.interrupted()
            return
        if entries and followed.position != _BEGINNING:
            followed.tail_trimmed = False
        self._deliver_and_read_on(followed, entries, has_more=not is_end)

    def _deliver_and_read_on(self, followed: Followed, entries: list[Entry], has_more: bool) -> None:
        """Deliver the entries, if there are any, and continue reading after them."""
        if entries:
            self._table.read_with_news()
            followed.position = entries[-1].raw_id
            followed.checksum = checksum(entries[-1].data)
            size = sum([len(entry.data or b"") for entry in entries])
            if followed.caution is not None:
                followed.caution.worked(max([len(entry.data or b"") for entry in entries]))
            followed.limit = max(1, min(READ_ENTRIES, self._read_bytes * len(entries) // (size or 1)))
        followed.is_busy = len(entries) >= FEW_ENTRIES
        if has_more:
            self._read(followed)
        elif self._tracks_changes and not followed.tail_trimmed:
            followed.at_tail = True
        else:
            self._wait(followed)
        if entries:
            followed.follower.deliver(entries)
            followed.delivered_at = time.monotonic()

    def _wait(self, followed: Followed) -> None:
        """Wait with a blocking read: without an entry at the position only that proves that an entry is the next.

        Where there is no connection for that, what comes is read when Redis tells of it, or by and by, without a proof.
        """
        if followed.is_asking and self._tracks_changes:  # a blocking read can't ask
            followed.at_tail = True
        elif self._tail_waiter.wait(followed.key, followed.position, partial(self._handle_tail, followed)):
            pass
        elif self._tracks_changes:
            followed.at_tail = True
            self._note_vain_read()
        else:
            self._polled += 1
            pause_s = max(_POLL_S, self._polled / _POLLS_PER_S)
            asyncio.get_running_loop().call_later(pause_s, self._poll, followed)

    def _poll(self, followed: Followed) -> None:
        self._polled -= 1
        if self._followed.get(followed.key) is followed:
            self._read_bounded(followed)

    def _handle_tail(self, followed: Followed, raw: list[Any]) -> None:
        if raw:  # the last entry may already have been trimmed again
            self._deliver_and_read_on(followed, parse_entries(raw, followed.field), has_more=True)
        else:
            self._read(followed)

    def _failed(self, followed: Followed, error: Exception) -> None:
        reason = store_error(followed.name, error)
        if isinstance(error, RedisUnavailable):  # never because the queue is full: at most one read per stream waits
            if not error.was_reset or not self._is_too_large(followed):
                followed.at_tail = True  # it is read again on the next connection
                return
            reason = too_large(followed.name)
        if isinstance(reason, Redirected) and reason.address is not None and self._on_redirect is not None:
            self._on_redirect(followed.name, reason)
            return
        now = time.monotonic()
        followed.failing_since = followed.failing_since or now
        retry_s = self._refused_retry_s
        if isinstance(reason, ChannelUnreadable):
            retry_s = self._unreadable_retry_s
            if isinstance(error, ReplyError) and error.forbids_command:
                self._refusals.say("XRANGE", error)
            elif not followed.is_unreadable:
                log.warning(LogLine("channel unreadable", channel=followed.name, cause=str(reason)))
        elif now - followed.failing_since < self._lasting_s:
            asyncio.get_running_loop().call_later(retry_s, self._read, followed)
            return
        elif not followed.is_unreadable:
            if not self._in_trouble:
                log.warning(LogLine("channels can't be read, trying again", first=followed.name, cause=str(error)))
            self._in_trouble.add(followed.key)
        followed.is_unreadable = True
        followed.follower.unreadable(lasting_error(reason))
        asyncio.get_running_loop().call_later(retry_s, self._read, followed)

    def _is_too_large(self, followed: Followed) -> bool:
        """Take note that the connection broke while a stream was read; return whether its next entry is to blame."""
        caution = followed.caution = followed.caution or Caution(self._read_bytes)
        caution.broke(caution.room_bytes)
        return caution.is_hopeless

    def _works_again(self, followed: Followed) -> bool:
        """Note that a stream was read after it could not be; return whether its follower was told that it can't."""
        was_told = followed.is_unreadable
        followed.failing_since = 0.0
        followed.is_unreadable = False
        if was_told and followed.key not in self._in_trouble:
            log.info(LogLine("channel readable again", channel=followed.name))
        self._leave_trouble(followed.key)
        return was_told

    def _leave_trouble(self, key: bytes) -> None:
        if key in self._in_trouble:
            self._in_trouble.remove(key)
            if not self._in_trouble:
                log.info("channels can be read again")

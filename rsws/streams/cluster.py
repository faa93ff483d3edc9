"""A cluster: each channel is in one slot, each slot belongs to one primary, and slots move.

The map of slots is learnt from redirects, and asked for on each of them, while a primary does not answer or says that
the cluster is down, and every 30 s. That Redis says that a stream has changed proves nothing: old servers say nothing
when a slot changes hands.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from rsws.errors import RedisUnavailable, StoreError
from rsws.protocol import StreamId
from rsws.redis.limits import DEFAULTS, Limits
from rsws.redis.target import RedisTarget
from rsws.streams.cluster_map import Ask, ask_map, ask_node, ask_primary
from rsws.streams.follower import Follower
from rsws.streams.lanes import Lanes, OnResult, Send
from rsws.streams.primary import Primary
from rsws.streams.replies import Entry, History, StreamBounds
from rsws.streams.slots import SLOTS, Patience, Redirected, Slots, slot_of
from rsws.streams.store import IdempotencyKey, Store, Stored, Streams
from rsws.urls import HostPort

log = logging.getLogger("rsws.redis")

T = TypeVar("T")
MakePrimary = Callable[[RedisTarget, Callable[[str, Redirected], None]], Primary]
"""Makes what the gateway has of one primary; the callback is told which streams have moved."""


class _Followed:
    """A stream that is followed, at one of the primaries; at none while nobody has its slot."""

    __slots__ = ("after", "follower", "is_asking", "primary", "redirected_at", "redirects", "slot")

    def __init__(self, slot: int, after: StreamId, follower: Follower) -> None:
        self.slot = slot
        self.after = after
        self.follower = follower
        self.primary: Primary | None = None
        self.is_asking = False
        self.redirects = 0
        self.redirected_at = 0.0


class Cluster(Streams):
    """The streams of a cluster.

    Args:
        target: What the URL leads to.
        make_primary: Makes what the gateway has of one primary.
        on_trouble: Called with the reason when no node says which primary has which slot.
    """

    def __init__(
        self,
        target: RedisTarget,
        make_primary: MakePrimary,
        on_trouble: Callable[[str], None],
        *,
        limits: Limits = DEFAULTS,
    ) -> None:
        self._target = target
        self._make_primary = make_primary
        self._on_trouble = on_trouble
        self._limits = limits
        self._lanes = Lanes(self._find, target.timeout_s, limits.pending_bytes)
        self._slots: list[Primary | None] = [None] * SLOTS
        self._primaries: dict[HostPort, Primary] = {}
        """All that there are connections to; those in the map, and others that have no slot any more, or none yet."""
        self._running: dict[Primary, asyncio.Task[None]] = {}
        self._unused_since: dict[Primary, float] = {}
        self._mapped: set[Primary] = set()
        """Those in the last map."""
        self._left: set[Primary] = set()
        """Those that have been in the map, and are no more: after a failover."""
        self._nodes: list[HostPort] = []
        """All nodes of the last map, replicas included."""
        self._followed: dict[str, _Followed] = {}
        self._hint: HostPort | None = None
        """The node that knows best: the one that a redirect has named since the map was asked for."""
        self._stale = asyncio.Event()
        self._early: list[Callable[[], None]] | None = []
        """What was asked before the first attempt to get the map was over."""
        self._known = asyncio.Event()
        self._trouble: str | None = None
        self._tasks: asyncio.TaskGroup | None = None

    # --- state ---

    @property
    def primaries(self) -> list[Primary]:
        """The primaries that have slots."""
        return [primary for primary in dict.fromkeys(self._slots) if primary is not None]

    @property
    def ready(self) -> bool:
        """Whether each slot has a primary that answers, and does not say that the cluster is down."""
        return None not in self._slots and all(each.ready and not each.is_cut_off for each in self.primaries)

    @property
    def _is_settled(self) -> bool:
        """Whether nothing speaks for another map."""
        return self.ready and all(primary.commands.is_answering for primary in self.primaries)

    @property
    def is_crowded(self) -> bool:
        """Whether so much waits to be sent to a primary that answers that only small requests should be added."""
        return any(each.is_crowded and each.commands.is_answering for each in self._primaries.values())

    @property
    def reading_trouble(self) -> str | None:
        """See :attr:`rsws.streams.primary.Primary.reading_trouble`."""
        return next((trouble for each in self.primaries if (trouble := each.reading_trouble)), None)

    def reading_trouble_of(self, channel: str) -> str | None:
        """See :meth:`rsws.streams.router.Router.reading_trouble_of`."""
        followed = self._followed.get(channel)
        primary = followed.primary if followed is not None else None
        return primary.reading_trouble if primary is not None else None

    # --- what is asked of a channel ---

    def append(
        self,
        channel: str,
        data: bytes,
        on_result: Callable[[Stored | StoreError], None],
        once: IdempotencyKey | None = None,
    ) -> None:
        if self._early is not None:
            self._early.append(partial(self.append, channel, data, on_result, once))
            return
        keys = 1 if once is None else 2
        self._lanes.submit(
            channel, lambda store, done: store.append(channel, data, done, once), on_result, len(data), keys
        )

    def insert(
        self,
        channel: str,
        entries: Sequence[Entry],
        on_result: Callable[[int | StoreError], None],
        maxlen: int | None = None,
    ) -> None:
        size = sum(len(entry.data or b"") for entry in entries)
        self._submit(channel, lambda store, done: store.insert(channel, entries, done, maxlen), on_result, size)

    def raise_last(self, channel: str, last: StreamId, on_result: Callable[[StoreError | None], None]) -> None:
        self._submit(channel, lambda store, done: store.raise_last(channel, last, done), on_result)

    def look(self, channel: str, on_bounds: Callable[[StreamBounds | StoreError], None]) -> None:
        self._submit(channel, lambda store, done: store.look(channel, done), on_bounds)

    def _submit(self, channel: str, send: Send, on_result: OnResult, size: int = 0) -> None:
        """Have a store asked for something once the map is known, after all that was asked of the channel before."""
        ask = partial(self._lanes.submit, channel, send, on_result, size)
        if self._early is not None:
            self._early.append(ask)
        else:
            ask()

    async def page(self, channel: str, after: StreamId, limit: int, limit_bytes: int) -> History:
        return await self._read(channel, lambda store: store.page(channel, after, limit, limit_bytes))

    async def before_last(self, channel: str, count: int, bounds: StreamBounds) -> StreamId:
        return await self._read(channel, lambda store: store.before_last(channel, count, bounds))

    async def _read(self, channel: str, ask: Callable[[Store], Awaitable[T]]) -> T:
        await self._known.wait()
        store = self._find(channel, None)
        patience = Patience(self._target.timeout_s)
        while True:
            try:
                return await ask(store)
            except Redirected as redirect:
                await asyncio.sleep(patience.next_pause(redirect))
                store = self._find(channel, redirect)
            except RedisUnavailable as error:
                before, store = store, self._find(channel, None)
                if store is before:
                    raise
                await asyncio.sleep(patience.next_pause(Redirected.elsewhere(error)))

    # --- what is followed ---

    def follow(self, name: str, after: StreamId, follower: Follower) -> None:
        """See :meth:`rsws.streams.reader.Reader.follow`."""
        self.unfollow(name)
        self._followed[name] = followed = _Followed(slot_of(name), after, follower)
        self._place(name, followed)

    def unfollow(self, name: str) -> None:
        """See :meth:`rsws.streams.reader.Reader.unfollow`."""
        followed = self._followed.pop(name, None)
        if followed is not None and followed.primary is not None:
            followed.primary.reader.unfollow(name)

    def read_behind(self, name: str) -> None:
        """See :meth:`rsws.streams.primary.Primary.read_behind`."""
        followed = self._followed.get(name)
        if followed is not None and followed.primary is not None:
            followed.primary.read_behind(name)

    def is_told_of(self, name: str) -> bool:
        """See :meth:`rsws.streams.reader.Reader.is_told_of`."""
        followed = self._followed.get(name)
        return followed is not None and followed.primary is not None and followed.primary.reader.is_told_of(name)

    def _place(self, name: str, followed: _Followed) -> None:
        """Follow a stream where the map says."""
        owner = self._slots[followed.slot]
        if owner is not None and (owner is not followed.primary or followed.is_asking):
            self._move(name, followed, owner, is_asking=False)

    def _move(self, name: str, followed: _Followed, primary: Primary, *, is_asking: bool) -> None:
        """Go on at another primary, from the same position: the entry there proves that nothing is missing."""
        if followed.primary is not None:
            followed.after = followed.primary.reader.unfollow(name)
        followed.primary, followed.is_asking = primary, is_asking
        primary.reader.follow(name, followed.after, followed.follower, is_asking=is_asking)

    def _read_redirected(self, name: str, redirect: Redirected) -> None:
        """Follow a stream where a node has said; after a pause where nodes have disagreed for a while."""
        followed = self._followed.get(name)
        if followed is None:
            return
        now = time.monotonic()
        followed.redirects = followed.redirects + 1 if now - followed.redirected_at < 1 else 1
        followed.redirected_at = now
        if followed.redirects > self._limits.free_redirects:
            pause_s = self._limits.redirect_pause_s
            asyncio.get_running_loop().call_later(pause_s, self._follow_redirect, name, followed, redirect)
        else:
            self._follow_redirect(name, followed, redirect)

    def _follow_redirect(self, name: str, followed: _Followed, redirect: Redirected) -> None:
        if self._followed.get(name) is not followed:
            return
        before = followed.primary
        primary = self._redirected(name, redirect)
        if primary is before:  # else it has been moved
            self._move(name, followed, primary, is_asking=redirect.is_ask)

    # --- who has what ---

    def _find(self, channel: str, redirect: Redirected | None) -> Store:
        """See :data:`rsws.streams.lanes.Find`."""
        if redirect is not None and redirect.is_down:
            self._stale.set()
        if redirect is not None and redirect.address is not None:
            primary = self._redirected(channel, redirect)
            return primary.importing if redirect.is_ask else primary.store
        owner = self._slots[slot_of(channel)]
        if owner is None:
            raise RedisUnavailable(self._trouble or f"no primary has the slot {slot_of(channel)}")
        return owner.store

    def _redirected(self, channel: str, redirect: Redirected) -> Primary:
        """Return the primary that a redirect names, and take note that it has the channel's slot, if it has."""
        assert redirect.address is not None
        slot = slot_of(channel)
        host, port = redirect.address
        before = self._slots[slot]
        if not host:  # that of the node that has answered
            known = before.target.node if before is not None else next(iter(self._primaries), None)
            host = known[0] if known is not None else host
        primary = self._primary_at((host, port))
        self._unused_since.pop(primary, None)
        if not redirect.is_ask:
            self._slots[slot] = primary
            self._hint = (host, port)
            self._stale.set()
        followed = self._followed.get(channel)  # a stream that never was leaves no trace where it is looked for
        if followed is not None and (followed.primary, followed.is_asking) != (primary, redirect.is_ask):
            self._move(channel, followed, primary, is_asking=redirect.is_ask)
        return primary

    def _primary_at(self, address: HostPort) -> Primary:
        primary = self._primaries.get(address)
        if primary is None:
            assert self._tasks is not None, "run() has not started"
            primary = self._make_primary(self._target.at(address), self._read_redirected)
            self._primaries[address] = primary
            self._running[primary] = self._tasks.create_task(primary.run())
        return primary

    # --- the map ---

    async def run(self, on_running: Callable[[], object] | None = None) -> None:
        """Keep the map, and the connections to all primaries, until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            if on_running is not None:
                on_running()
            while True:
                await self._refresh()
                await self._until_stale()
                self._stale.clear()
                await asyncio.sleep(self._limits.map_pause_s)

    async def _until_stale(self) -> None:
        """Wait until something speaks for another map, or this one is old."""
        asked_at = time.monotonic()
        while not self._stale.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.map_retry_s):
                    await self._stale.wait()
            self._end_unused()
            if not self._is_settled or time.monotonic() - asked_at > self._limits.map_every_s:
                return

    def lost(self) -> None:
        """Ask for the map soon: a primary can't be reached."""
        self._stale.set()

    async def _refresh(self) -> None:
        try:
            ranges = await ask_map(self._whom_to_ask(), self._limits.map_timeout_s)
        except RedisUnavailable as error:
            if self._trouble is None:
                self._on_trouble(error.cause)
            self._trouble = error.cause
        else:
            self._trouble = None
            self._apply(ranges)
        self._known.set()
        early, self._early = self._early, None
        for ask in early or ():
            ask()

    def _apply(self, ranges: list[Slots]) -> None:
        slots: list[Primary | None] = [None] * SLOTS
        for first, last, address, _ in ranges:
            slots[first : last + 1] = [self._primary_at(address)] * (last + 1 - first)
        self._slots = slots
        self._nodes = list(dict.fromkeys(node for each in ranges for node in (each.primary, *each.replicas)))
        before, self._mapped = self._mapped, set(self.primaries)
        self._left = (self._left | before) - self._mapped
        if before != self._mapped:
            shown = ", ".join(sorted(each.target.shown for each in self._mapped))
            log.info("redis cluster of %d primaries: %s", len(self._mapped), shown)
        for name, followed in self._followed.items():
            self._place(name, followed)
        self._end_unused()

    def _end_unused(self) -> None:
        """End the connections to nodes that have no slot any more, once they are no use.

        That is when nothing has been under way for a while; at once where another node has taken over, and the old one
        does not answer or is a replica: what waits for it has to go to the new one.
        """
        used = set(self.primaries)
        now = time.monotonic()
        for address, primary in list(self._primaries.items()):
            if primary in used:
                self._unused_since.pop(primary, None)
                self._left.discard(primary)
                continue
            answers = primary.commands.ready and primary.commands.is_answering
            is_old = now - self._unused_since.setdefault(primary, now) > self._limits.unused_s
            if (primary in self._left and not answers) or (is_old and primary.is_idle):
                self._end(address, primary)

    def _end(self, address: HostPort, primary: Primary) -> None:
        del self._primaries[address]
        self._unused_since.pop(primary, None)
        self._left.discard(primary)
        running = self._running.pop(primary)
        running.add_done_callback(lambda _: primary.close("the node has no slot any more"))  # what comes till then, too
        running.cancel()

    def _whom_to_ask(self) -> Iterator[tuple[Ask, HostPort]]:
        """Yield who may know the map, and where: primaries that answer, then other nodes, then what the URL says."""
        hint, self._hint = self._hint, None  # once: it may be the next that is lost
        up = [each for each in self.primaries if each.commands.ready and each.commands.is_answering]
        asked = set()
        for primary in dict.fromkeys([self._primaries.get(hint) if hint is not None else None, *up]):
            if primary is not None and primary.target.node is not None:
                asked.add(primary.target.node)
                yield partial(ask_primary, primary), primary.target.node
        with suppress(RedisUnavailable):  # whoever connects is told
            self._target.read_again()
        url = self._target.url
        for node in dict.fromkeys([*self._nodes, *url.nodes]):  # each for itself: one that hangs takes all its time
            if node not in asked:
                yield partial(ask_node, self._target.at(node)), node
        if not url.nodes:
            place = str(url.arguments.get("host", "")), int(url.arguments.get("port", 6379))
            yield partial(ask_node, self._target), place

"""The router: all streams, wherever they are, in one server or in the primaries of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from rsws.errors import RedisRefused, RedisUnavailable, StoreError
from rsws.protocol import StreamId
from rsws.redis.connection import ReplyError
from rsws.redis.limits import DEFAULTS, Limits
from rsws.redis.target import RedisTarget
from rsws.streams.cluster import Cluster
from rsws.streams.fields import DEFAULT_FIELDS, MessageFields
from rsws.streams.follower import Follower
from rsws.streams.primary import Primary
from rsws.streams.reader import Reader
from rsws.streams.replies import Entry, History, StreamBounds
from rsws.streams.retention import Rule
from rsws.streams.scan import BEGIN
from rsws.streams.slots import Redirected
from rsws.streams.store import IdempotencyKey, Stored, Streams

OnChange = Callable[[str, str | None], None]
"""Called with the server, and None when it can be reached, or the cause when it no longer can."""


class Router(Streams):
    """The streams that a URL leads to.

    Whether they are in a cluster is known once a server has answered: the URL may only say ``redis://``.

    Args:
        target: What the URL leads to.
        on_change: See :data:`OnChange`.
        rules: The retention rules to apply.
        wait_replicas: How many replicas are to have a message before it counts as stored.
        fields: Which field of an entry holds the message.
    """

    def __init__(
        self,
        target: RedisTarget,
        on_change: OnChange,
        *,
        rules: Sequence[Rule] = (),
        wait_replicas: int = 0,
        fields: MessageFields = DEFAULT_FIELDS,
        limits: Limits = DEFAULTS,
    ) -> None:
        self._target = target
        self._on_change = on_change
        self._rules = rules
        self._wait_replicas = wait_replicas
        self.fields = fields
        self._limits = limits
        self._found_cluster = asyncio.Event()
        target.on_cluster = self._found_cluster.set
        if target.is_cluster:
            self._lead_to(self._cluster())
        else:
            self._lead_to(self._primary(target))

    def _lead_to(self, servers: Primary | Cluster) -> None:
        self._servers = servers
        self._streams: Streams = servers if isinstance(servers, Cluster) else servers.store
        self._reader: Reader | Cluster = servers if isinstance(servers, Cluster) else servers.reader

    def _primary(self, target: RedisTarget, on_redirect: Callable[[str, Redirected], None] | None = None) -> Primary:
        return Primary(
            target,
            partial(self._changed, target),
            on_redirect,
            rules=self._rules,
            wait_replicas=self._wait_replicas,
            fields=self.fields,
            limits=self._limits,
        )

    def _cluster(self) -> Cluster:
        return Cluster(
            self._target,
            self._primary,
            lambda trouble: self._on_change(self._target.shown, trouble),
            limits=self._limits,
        )

    def _changed(self, target: RedisTarget, trouble: str | None) -> None:
        if isinstance(self._servers, Cluster):
            if trouble is not None:
                self._servers.lost()
        elif target.is_cluster:
            return  # its nodes are asked next
        self._on_change(target.shown, trouble)

    @property
    def primaries(self) -> list[Primary]:
        """The servers that streams are in."""
        return self._servers.primaries if isinstance(self._servers, Cluster) else [self._servers]

    @property
    def ready(self) -> bool:
        """Whether all streams can be read and written."""
        return self._servers.ready

    @property
    def is_crowded(self) -> bool:
        """Whether so much waits to be sent to Redis that only small requests should be added."""
        return self._servers.is_crowded

    @property
    def reading_trouble(self) -> str | None:
        """See :attr:`rsws.streams.primary.Primary.reading_trouble`."""
        return self._servers.reading_trouble

    def reading_trouble_of(self, channel: str) -> str | None:
        """Return why nothing can be read of a channel that can be published to; None when it can."""
        if isinstance(self._servers, Cluster):
            return self._servers.reading_trouble_of(channel)
        return self._servers.reading_trouble

    async def run(self, on_running: Callable[[], object] | None = None) -> None:
        """Keep the connections up, until cancelled. Streams may be followed once ``on_running`` is called."""
        if isinstance(self._servers, Primary):
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(self._servers.run(on_running))
                await self._found_cluster.wait()
                running.cancel()
            followed = self._servers.reader.unfollow_all()
            self._servers.close("Redis is a cluster")
            self._lead_to(self._cluster())
            for name, after, follower in followed:
                self.follow(name, after, follower)
            on_running = None
        await self._servers.run(on_running)

    # --- what is asked of a channel, and followed ---

    def append(
        self,
        channel: str,
        data: bytes,
        on_result: Callable[[Stored | StoreError], None],
        once: IdempotencyKey | None = None,
    ) -> None:
        self._streams.append(channel, data, on_result, once)

    def append_all(
        self, channel: str, data: Sequence[bytes], on_results: Callable[[Sequence[bytes | StoreError]], None]
    ) -> None:
        self._streams.append_all(channel, data, on_results)

    def insert(
        self,
        channel: str,
        entries: Sequence[Entry],
        on_result: Callable[[int | StoreError], None],
        maxlen: int | None = None,
    ) -> None:
        self._streams.insert(channel, entries, on_result, maxlen)

    def raise_last(self, channel: str, last: StreamId, on_result: Callable[[StoreError | None], None]) -> None:
        self._streams.raise_last(channel, last, on_result)

    def look(self, channel: str, on_bounds: Callable[[StreamBounds | StoreError], None]) -> None:
        self._streams.look(channel, on_bounds)

    async def page(self, channel: str, after: StreamId, limit: int, limit_bytes: int) -> History:
        return await self._streams.page(channel, after, limit, limit_bytes)

    async def scan(self, cursor: tuple[int, bytes], pattern: bytes) -> tuple[tuple[int, bytes] | None, list[bytes]]:
        """Return where to go on, None at the end, and some of the streams whose names match a glob pattern of Redis.

        Args:
            cursor: The number of the primary, and where to go on there. If primaries change meanwhile, streams may be
                left out or come twice.

        Raises:
            StoreError: Redis can't be reached, or refuses it.
        """
        number, at = cursor
        primaries = sorted(self.primaries, key=lambda each: each.target.shown)
        if not primaries:
            raise RedisUnavailable("it is not known yet which servers the cluster has")
        if number >= len(primaries):
            return None, []
        try:
            at, keys = await primaries[number].scan.step(at, pattern)
        except ReplyError as error:
            raise RedisRefused(f"Redis refused: {error}") from None
        if at == BEGIN:
            number += 1
        return (number, at) if number < len(primaries) else None, keys

    async def before_last(self, channel: str, count: int, bounds: StreamBounds) -> StreamId:
        return await self._streams.before_last(channel, count, bounds)

    def follow(self, name: str, after: StreamId, follower: Follower) -> None:
        """See :meth:`rsws.streams.reader.Reader.follow`."""
        self._reader.follow(name, after, follower)

    def unfollow(self, name: str) -> None:
        """See :meth:`rsws.streams.reader.Reader.unfollow`."""
        self._reader.unfollow(name)

    def read_behind(self, name: str) -> None:
        """See :meth:`rsws.streams.primary.Primary.read_behind`."""
        self._servers.read_behind(name)

    def is_told_of(self, name: str) -> bool:
        """See :meth:`rsws.streams.reader.Reader.is_told_of`."""
        return self._reader.is_told_of(name)

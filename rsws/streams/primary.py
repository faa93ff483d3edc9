"""A primary: one server that takes writes, and all that the gateway has of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from rsws.errors import RedisUnavailable
from rsws.redis.connection import ReplyError
from rsws.redis.limits import DEFAULTS, Limits
from rsws.redis.link import AskingLink, RedisLink
from rsws.redis.target import RedisTarget
from rsws.streams.fields import DEFAULT_FIELDS, MessageFields
from rsws.streams.reader import Reader
from rsws.streams.refusals import Refusals
from rsws.streams.replication import ReplicaWait
from rsws.streams.retention import Retention, Rule
from rsws.streams.scan import StreamScan
from rsws.streams.scripts import LOOK, READ, STEP_BACK, STORE_ONCE
from rsws.streams.slots import Redirected, slot_of_key
from rsws.streams.store import Store


class Primary:
    """The connections to one primary, and what uses them.

    Args:
        target: The server, which may be another one after a failover.
        on_change: Called with None when it can be reached, and with the cause when it no longer can.
        on_redirect: See :class:`rsws.streams.reader.Reader`.
        rules: The retention rules to apply there.
        wait_replicas: How many replicas are to have a message before it counts as stored.
        fields: Which field of an entry holds the message.

    Attributes:
        target: As given.
        commands: The connection for publishes and bounds.
        history: The connection for history and trims.
        store: Access to the streams.
        importing: The same for streams of slots that are on their way to this server.
        reader: What is new in them.
        scan: Looks for streams.
        is_cut_off: Whether it said last that its cluster is down: it refuses everything, and another one may have
            taken over.
    """

    def __init__(
        self,
        target: RedisTarget,
        on_change: Callable[[str | None], None],
        on_redirect: Callable[[str, Redirected], None] | None = None,
        *,
        rules: Sequence[Rule] = (),
        wait_replicas: int = 0,
        fields: MessageFields = DEFAULT_FIELDS,
        limits: Limits = DEFAULTS,
    ) -> None:
        self.target = target
        self.commands = RedisLink(
            target, "rsws-commands", [STORE_ONCE.load, LOOK.load], on_change=on_change, watch_role=True, limits=limits
        )
        self.history = RedisLink(target, "rsws-history", [READ.load, STEP_BACK.load], limits=limits)
        wait_s = min(limits.replica_wait_s, target.timeout_s / 2)
        replica_wait = ReplicaWait(self.commands, wait_replicas, wait_s) if wait_replicas else None
        refusals = Refusals()
        self.store = Store(self.commands, self.history, replica_wait, refusals, fields, limits=limits)
        asking = AskingLink(self.commands), AskingLink(self.history)
        self.importing = Store(*asking, replica_wait, refusals, fields, limits=limits)
        slot_of = None if target.node is None else slot_of_key
        self.reader = Reader(target, on_redirect, refusals, fields, slot_of=slot_of, limits=limits)
        self.is_cut_off = False
        self._state_check_s = limits.role_check_s
        self.scan = StreamScan(self.history)
        self._retention = Retention(rules, self.history, refusals, every_s=limits.trim_every_s)

    @property
    def ready(self) -> bool:
        """Whether all connections served commands when last checked, at most some seconds ago."""
        return self.commands.ready and self.history.ready and self.reader.trouble is None

    @property
    def reading_trouble(self) -> str | None:
        """Why nothing can be read while publishes are taken; None when it can, or publishes are not taken either."""
        return self.reader.trouble or self.history.trouble if self.commands.ready else None

    @property
    def is_crowded(self) -> bool:
        """Whether so much waits to be sent to it that only small requests should be added."""
        return self.commands.is_crowded

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits for it."""
        return not self.commands.held_bytes and not self.history.held_bytes

    def read_behind(self, name: str) -> None:
        """Read a followed stream behind what was appended to it just now, if that leaves at the end of this turn."""
        if not self.commands.is_busy:
            self.reader.read_behind(name)

    def close(self, cause: str) -> None:
        """Refuse what waits and all that is still asked: :meth:`run` has ended for good."""
        self.commands.close(cause)
        self.history.close(cause)

    async def run(self, on_running: Callable[[], object] | None = None) -> None:
        """Keep the connections up, until cancelled. Streams may be followed once ``on_running`` is called."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.commands.run())
            tasks.create_task(self.history.run())
            tasks.create_task(self.reader.run())
            tasks.create_task(self._retention.run())
            tasks.create_task(self.target.watch())
            if self.target.node is not None:
                tasks.create_task(self._watch_state())
            await asyncio.sleep(0)  # each has run up to its first wait
            await asyncio.sleep(0)  # and the group has noticed one that has failed
            if on_running is not None:
                on_running()

    async def _watch_state(self) -> None:
        """Keep asking whether it serves: one that is cut off goes on answering all that is for no key."""
        while True:
            await asyncio.sleep(self._state_check_s)
            try:
                state = await self.commands.call(b"CLUSTER", b"INFO")
            except ReplyError:
                return  # it is forbidden
            except RedisUnavailable:
                continue
            self.is_cut_off = isinstance(state, bytes) and b"cluster_state:fail" in state

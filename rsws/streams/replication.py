"""Acks that wait for replicas: one WAIT for all that was appended in a turn of the event loop.

WAIT speaks of all writes that came before it over the same connection, and replies come in the order of the commands.
So it stands behind what it speaks of, and the results are held until its own reply.
See https://redis.io/docs/latest/commands/wait/.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from rsws.errors import NotReplicated, Outcome, RedisUnavailable, StoreError
from rsws.streams.link import RedisLink
from rsws.streams.redis_connection import pack

OnResult: TypeAlias = Callable[[Any], None]
"""Gets what became of an append: that it is stored, or the error."""


class _Group:
    """The appends of one turn of the event loop."""

    __slots__ = ("is_open", "stored")

    def __init__(self) -> None:
        self.stored: list[tuple[OnResult, Any]] = []
        """What is stored of them, with whom to tell."""
        self.is_open = True
        """Whether the reply to their WAIT has not come."""


class ReplicaWait:
    """Holds the results of appends until enough replicas have them.

    Args:
        link: The connection over which they are appended.
        replicas: How many replicas are to have a message before it is acked.
        timeout_s: How long they may take; nothing else goes over the connection meanwhile.
    """

    def __init__(self, link: RedisLink, replicas: int, timeout_s: float) -> None:
        self._link = link
        self._replicas = replicas
        self._command = pack(b"WAIT", b"%d" % replicas, b"%d" % (timeout_s * 1000))
        self._group: _Group | None = None
        """The appends since the last turn of the event loop."""

    def hold(self, on_result: OnResult) -> OnResult:
        """Return the callback to append with immediately after this; ``on_result`` gets the result when it may."""
        if self._group is None:
            self._group = _Group()
            asyncio.get_running_loop().call_soon(self._wait, self._group)
        return partial(self._appended, self._group, on_result)

    def _wait(self, group: _Group) -> None:
        self._group = None
        self._link.submit(self._command, partial(self._waited, group))

    def _appended(self, group: _Group, on_result: OnResult, result: Any) -> None:
        if isinstance(result, StoreError):
            on_result(result)
        elif group.is_open:
            group.stored.append((on_result, result))
        else:  # a script that Redis had forgotten was run again, after the WAIT
            self.hold(on_result)(result)

    def _waited(self, group: _Group, reply: Any) -> None:
        group.is_open = False
        fault: StoreError | None = None
        if isinstance(reply, RedisUnavailable):
            fault = RedisUnavailable(reply.cause, Outcome.UNKNOWN)
        elif isinstance(reply, Exception):
            fault = NotReplicated(f"Redis does not wait for replicas ({reply})", Outcome.UNKNOWN)
        elif reply < self._replicas:
            fault = NotReplicated(f"only {reply} of {self._replicas} replicas have it", Outcome.UNKNOWN)
        for on_result, stored in group.stored:
            on_result(stored if fault is None else fault)

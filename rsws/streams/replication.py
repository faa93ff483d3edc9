"""Acks that wait for replicas: one WAIT for all that was appended since the last one.

WAIT speaks of all writes that came before it over the same connection, so it is sent once they are answered, and what
was appended over another connection than it came over is not acked. See https://redis.io/docs/latest/commands/wait/.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from rsws.errors import NotReplicated, Outcome, RedisUnavailable, StoreError
from rsws.redis.connection import pack
from rsws.redis.link import RedisLink

OnResult: TypeAlias = Callable[[Any], None]
"""Gets what became of an append: that it is stored, or the error."""


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
        self._stored: list[tuple[int, OnResult, Any]] = []
        """What is stored and was not waited for yet: over which connection, whom to tell, and what."""
        self._is_waiting = False

    def hold(self, on_result: OnResult) -> OnResult:
        """Return the callback to append with; ``on_result`` gets the result when it may."""
        return partial(self._appended, on_result)

    def _appended(self, on_result: OnResult, result: Any) -> None:
        if isinstance(result, StoreError):
            on_result(result)
            return
        self._stored.append((self._link.connections, on_result, result))
        if not self._is_waiting:
            self._is_waiting = True
            asyncio.get_running_loop().call_soon(self._wait)  # with all that the same batch has brought

    def _wait(self) -> None:
        group, self._stored = self._stored, []
        self._link.submit(self._command, partial(self._waited, group))

    def _waited(self, group: list[tuple[int, OnResult, Any]], reply: Any) -> None:
        fault: StoreError | None = None
        if isinstance(reply, RedisUnavailable):
            fault = RedisUnavailable(reply.cause, Outcome.UNKNOWN)
        elif isinstance(reply, Exception):
            fault = NotReplicated(f"Redis does not wait for replicas ({reply})", Outcome.UNKNOWN)
        elif reply < self._replicas:
            fault = NotReplicated(f"only {reply} of {self._replicas} replicas have it", Outcome.UNKNOWN)
        lost = NotReplicated("the connection was lost before replicas could be asked", Outcome.UNKNOWN)
        for connection, on_result, stored in group:
            on_result(fault or (stored if connection == self._link.connections else lost))
        self._is_waiting = bool(self._stored)
        if self._is_waiting:
            self._wait()

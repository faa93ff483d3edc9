"""What the clients of one process share."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from websockets.uri import parse_uri

from rsws.bench.counters import Count
from rsws.bench.histogram import Histogram
from rsws.bench.messages import now_us
from rsws.bench.plan import Plan
from rsws.bench.socket import Reader, Socket
from rsws.client.address import Address
from rsws.errors import CannotConnect, ConnectionLost, Unauthorized

T = TypeVar("T")

POLL_S = 0.02
STOPPING_S = 2.0
"""How long nothing may come at the end of a run that is ended early."""


class Crew:
    """What the clients of one process share.

    Args:
        plan: The run.
        process: Which process this is, from 0.
        token: Of the gateway.
        row: Where this process counts.

    Attributes:
        last_us: When the last message or ack came.
        latencies: By what they measure.
        gaps: How often the gateway said that it can't prove continuity.
        foreign: How many messages came that nobody of this run has published.
        refused: How many publishes the gateway said it has not stored.
        refusal: What it said about the first of them.
        refusal_code: The ``code`` of that.
        unknown: How many publishes may be stored or not.
        is_rsws: Whether the server does more than the Node.js server: it stores what names its producer at most once.
        stopping: Set when the run is to end early.
    """

    def __init__(self, plan: Plan, process: int, token: str, row: memoryview[int]) -> None:
        self.plan = plan
        self.process = process
        self.row = row
        self.last_us = 0
        self.latencies: dict[str, Histogram] = {}
        self.gaps = 0
        self.foreign = 0
        self.refused = 0
        self.refusal = ""
        self.refusal_code = ""
        self.unknown = 0
        self.is_rsws = False
        self.stopping = asyncio.Event()
        address = Address.of(plan.url, token)
        self._shown = address.url
        self._uri = parse_uri(address.full_url)
        self._tls = ssl.create_default_context() if urlsplit(plan.url).scheme == "wss" else None
        self._failure: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()

    def latency(self, name: str) -> Histogram:
        return self.latencies.setdefault(name, Histogram())

    # --- what goes wrong ---

    def fail(self, error: BaseException) -> None:
        """End the work with ``error``, unless it has ended already."""
        if not self._failure.done():
            self._failure.set_exception(error)

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work``, or as much of it as there is time for until something fails, and raise that."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait((task, self._failure), return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            return task.result()
        finally:
            self._failure.cancel()
            for each in (task, *self._tasks):
                each.cancel()
            await asyncio.wait((task, *self._tasks))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do ``work`` beside everything else; if it fails, all fails."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.fail(error)

    # --- waiting ---

    async def until(self, condition: Callable[[], object], waiting: Callable[[], object] = lambda: True) -> bool:
        """Wait until ``condition()`` is true; false when nothing has come for as long as the plan is ready to wait.

        Args:
            waiting: Whether something has to come now.
        """
        seen: list[int] = []
        moved_us = now_us()
        while not condition():
            patience_s = STOPPING_S if self.stopping.is_set() else self.plan.timeout_s
            if (counts := list(self.row)) != seen or not waiting():
                seen, moved_us = counts, now_us()
            elif now_us() - moved_us > patience_s * 1e6:
                return False
            await asyncio.sleep(POLL_S)
        return True

    # --- connections ---

    def new_socket(self, reader: Reader) -> Socket:
        return Socket(self._uri, reader)

    async def connect(self, connection: Socket) -> None:
        """
        Raises:
            CannotConnect: Nobody answers there.
        """
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: connection, self._uri.host, self._uri.port, ssl=self._tls)
        except OSError as error:
            raise self.cannot_connect(os.strerror(error.errno) if error.errno else str(error)) from None

    def cannot_connect(self, reason: str) -> CannotConnect:
        made = self.row[Count.CONNECTED]
        return CannotConnect(
            f"can't connect to {self._shown}: {reason}" + (f" (after {made} connections)" if made else "")
        )

    def connection_lost(self, reason: str) -> ConnectionLost:
        return ConnectionLost(f"the connection to {self._shown} is lost: {reason}; its log may say why")

    def unauthorized(self) -> Unauthorized:
        return Unauthorized(f"the gateway at {self._shown} refuses the token; give the one it was started with")


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Do them all at once; when one fails, end the others and raise that."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for work in works:
                tasks.create_task(work)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None

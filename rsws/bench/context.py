"""The state that the clients of one worker process share, and its talk with the coordinator."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from websockets.uri import parse_uri

from rsws.bench.counters import Count, Counters
from rsws.bench.histogram import Histogram
from rsws.bench.messages import now_us
from rsws.bench.plan import (
    MAX_LINE_BYTES,
    Assignment,
    Findings,
    FromWorker,
    Go,
    Phase,
    Published,
    Ready,
    Stop,
    decode_to_worker,
    encode,
)
from rsws.bench.socket import Socket
from rsws.client.address import Address, explain
from rsws.errors import CannotConnect

T = TypeVar("T")

POLL_S = 0.02
STOPPING_S = 2.0
"""How long nothing may arrive at the end of a run that is ended early."""


class CoordinatorGone(Exception):
    """The coordinator wants the report immediately, or has exited."""


class WorkerContext:
    """The state that the clients of one worker process share.

    Attributes:
        plan: What the run measures.
        process: The number of this process, from 0.
        address: The gateway's address.
        uri: The gateway's URL, parsed.
        counters: The counters of all processes.
        row: The counters of this process.
        findings: What this process has found so far.
        last_us: When the last message or ack arrived.
        is_rsws: Whether the server is rsws, which unlike the Node.js server stores a message that names its producer at
            most once.
        stopping: Set when the run is to end early.
    """

    def __init__(self, assignment: Assignment, lines: asyncio.StreamReader, descriptor: int) -> None:
        """Make the context.

        Args:
            assignment: The coordinator's first message.
            lines: The coordinator's further messages.
            descriptor: The descriptor of the counters' memory.
        """
        self.plan = assignment.plan
        self.process = assignment.process
        self.address = Address.of(self.plan.url, assignment.token)
        self.counters = Counters(descriptor, self.plan.processes)
        self.row = self.counters.row(self.process)
        self.findings = Findings()
        self.last_us = 0
        self.is_rsws = False
        self.stopping = asyncio.Event()
        self.uri = parse_uri(self.address.full_url)
        self._tls = self.plan.tls or ssl.create_default_context() if self.uri.secure else None
        self._lines = lines
        self._go: asyncio.Queue[Go] = asyncio.Queue(1)
        self._failure: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, descriptor: int) -> WorkerContext:
        """Read the assignment of the coordinator from standard input, and make the context for it."""
        lines = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        assignment = decode_to_worker(await lines.readline())
        assert isinstance(assignment, Assignment)
        return cls(assignment, lines, descriptor)

    def latency(self, name: str) -> Histogram:
        return self.findings.latencies.setdefault(name, Histogram())

    # --- the coordinator ---

    async def step(self, phase: Phase, published: dict[int, Published] | None = None) -> dict[int, Published]:
        """Wait until all processes are ready for ``phase``, which they begin together.

        Args:
            published: What this process published in the phase before.

        Returns:
            What all processes published in the phase before.
        """
        self.tell(Ready(phase, published or {}))
        return (await self._go.get()).published

    def tell(self, what: FromWorker) -> None:
        """Send a message to the coordinator.

        Raises:
            CoordinatorGone: The coordinator has exited.
        """
        try:
            sys.stdout.buffer.write(encode(what) + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise CoordinatorGone from None

    async def _listen(self) -> None:
        while line := await self._lines.readline():
            match decode_to_worker(line):
                case Go() as go:
                    await self._go.put(go)
                case Stop():
                    self.stopping.set()
        raise CoordinatorGone

    # --- tasks and their errors ---

    def fail(self, error: BaseException) -> None:
        """End the work with ``error``, unless it has ended already."""
        if not self._failure.done():
            self._failure.set_exception(error)

    async def guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` to its end, or cancel it when a client fails or the coordinator wants the report.

        Raises:
            RswsError: A client has failed.
            CoordinatorGone: The coordinator wants the report immediately, or has exited.
        """
        self.spawn(self._listen())
        task = asyncio.create_task(work)
        try:
            await asyncio.wait((task, self._failure), return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            task.result()
        finally:
            self._failure.cancel()
            for each in (task, *self._tasks):
                each.cancel()
            await asyncio.wait((task, *self._tasks))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` in a task of its own; if it fails, :meth:`guard` raises its error."""
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
        """Wait until ``condition()`` is true; return False when the counters stood still for the plan's timeout before.

        Args:
            waiting: Returns whether something has to arrive now; else the timeout does not run.
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

    async def connect(self, connection: Socket) -> None:
        """Make the TCP or TLS connection to the gateway.

        Raises:
            CannotConnect: No server answers there.
        """
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: connection, self.uri.host, self.uri.port, ssl=self._tls)
        except OSError as error:
            raise self.cannot_connect(explain(error)) from None

    def cannot_connect(self, reason: str) -> CannotConnect:
        made = self.row[Count.CONNECTED]
        return self.address.cannot_connect(reason + (f" (after {made} connections)" if made else ""))

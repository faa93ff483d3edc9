"""Copying streams from one Redis to another, entry by entry with their ids, and going on with what comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from rsws.errors import RedisUnavailable, StoreError
from rsws.options import MIB
from rsws.patterns import Patterns
from rsws.protocol import channel_fault
from rsws.redis.target import RedisTarget, probe
from rsws.streams.copied import CopiedStream, Ends, Room
from rsws.streams.fields import PACKED_FIELDS
from rsws.streams.inserting import Inserter, Persistence
from rsws.streams.router import Router
from rsws.streams.scan import redis_glob

WORKERS = 16
"""How many streams are copied at the same time."""
KEPT_BYTES = 16 * MIB
"""How much may be kept of what was read and is not copied yet, of all streams together."""
SCAN_EVERY_S = 2.0
"""How often new streams are looked for; less often where that takes long, so that it is a tenth of the time."""
END_S = 1.0
"""How long what is under way may take when it is to stop."""
READY_S = 0.01
"""How often it is looked whether all connections are there."""

Tell = Callable[[str], None]
"""Called with a sentence for whoever watches."""


class Progress(NamedTuple):
    """How far a copy has come."""

    streams: int
    copied: int
    there: int
    """How many entries were there before."""
    behind: int
    """About how many entries are still to be copied."""
    refused: int
    """Of how many streams nothing more is copied."""
    gaps: int
    is_level: bool
    """Whether all is copied that is known of."""


@asynccontextmanager
async def running(target: RedisTarget, tell: Tell) -> AsyncIterator[Router]:
    """Run a router that reads ``PACKED``; it is entered once all of its streams can be reached.

    Raises:
        RedisUnavailable: On entry: Redis can't be reached.
        LoginRefused: On entry: Redis refused the login.
    """
    await probe(target)

    def changed(server: str, cause: str | None) -> None:
        if is_entered:
            tell(f"{server} can be reached again" if cause is None else f"lost Redis: {cause}")

    is_entered = False
    router = Router(target, changed, fields=PACKED_FIELDS)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(router.run())
            until = time.monotonic() + target.timeout_s
            while not router.ready:
                if time.monotonic() > until:
                    raise RedisUnavailable(f"{target.shown}: not all of it can be reached")
                await asyncio.sleep(READY_S)
            is_entered = True
            yield router
            running.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


class Copier:
    """A copy of streams, which goes on as long as it runs.

    Args:
        source: Whose streams are copied; it runs, and reads ``PACKED``.
        target: Where to; likewise.
        patterns: The names of the streams, or patterns of them; none for all.
        warn: Told what whoever copies has to know: refusals, gaps, outages.
        scan_every_s: How often new streams are looked for.
        kept_bytes: How much may be kept of what was read and is not copied yet.

    Attributes:
        streams: The streams that are copied, by name.
    """

    def __init__(
        self,
        source: Router,
        target: Router,
        patterns: Sequence[str],
        warn: Tell,
        *,
        scan_every_s: float = SCAN_EVERY_S,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._warn = warn
        self._scan_every_s = scan_every_s
        reading, writing = (Persistence(None, self._trouble(which)) for which in ("source", "target"))
        self._ends = Ends(source, target, reading, writing, Inserter(target, writing))
        self._glob = redis_glob(patterns[0] if len(patterns) == 1 else "*")
        self._patterns = Patterns(patterns or ["*"])
        self._names = [name for name in patterns if "*" not in name]
        self.streams: dict[str, CopiedStream] = {}
        self._unnamed: set[bytes] = set()
        """The keys that are streams and can't be channels."""
        self._room = Room(kept_bytes)
        self._behind: set[CopiedStream] = set()
        """The streams of which something is to be copied."""
        self._due: asyncio.Queue[CopiedStream | None] = asyncio.Queue()
        self._gaps = self._past_copied = self._past_there = 0
        self._was_scanned = False
        self._stopping = asyncio.Event()
        self._follow = True

    def _trouble(self, which: str) -> Callable[[str | None], None]:
        return lambda cause: self._warn(f"the {which} works again" if cause is None else f"the {which}: {cause}")

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        all_ = self.streams.values()
        return Progress(
            len(all_),
            self._past_copied + sum(each.copied for each in all_),
            self._past_there + sum(each.there for each in all_),
            max(sum(each.behind for each in all_), 0 if self._is_level else 1),
            sum(each.refusal is not None for each in all_),
            self._gaps,
            self._is_level,
        )

    @property
    def _is_level(self) -> bool:
        return self._was_scanned and not self._behind

    @property
    def refused(self) -> Collection[CopiedStream]:
        """The streams of which nothing more is copied."""
        return [each for each in self.streams.values() if each.refusal is not None]

    @property
    def missing(self) -> list[str]:
        """The names of which the source has no stream; none before it has been looked for."""
        return [name for name in self._names if name not in self.streams] if self._was_scanned else []

    async def run(self, *, follow: bool) -> None:
        """Copy until :meth:`stop` is called; without ``follow`` until the end of each stream.

        Raises:
            StoreError: Streams can't be looked for.
        """
        self._follow = follow
        try:
            async with asyncio.TaskGroup() as tasks:
                working = [tasks.create_task(self._work()) for _ in range(WORKERS)]
                scanning = tasks.create_task(self._scan_on())
                await self._stopping.wait()
                scanning.cancel()
                for _ in working:
                    self._due.put_nowait(None)
                await asyncio.wait(working, timeout=END_S)
                for each in working:
                    each.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    def stop(self) -> None:
        """Have :meth:`run` end as soon as what is under way is done, or soon where it is not."""
        self._stopping.set()

    async def _scan_on(self) -> None:
        while True:
            started = time.monotonic()
            await self._scan()
            is_first, self._was_scanned = not self._was_scanned, True
            if is_first:
                for name in self.missing:
                    self._warn(f"{name}: no such stream in the source{' yet' if self._follow else ''}")
            self._settle()
            if not self._follow:
                return
            await asyncio.sleep(max(self._scan_every_s, 9 * (time.monotonic() - started)))

    async def _scan(self) -> None:
        """Begin with the streams that are new."""
        at: tuple[int, bytes] | None = (0, b"0")
        while at is not None:
            here = at
            at, keys = await self._ends.reading.ask(lambda here=here: self._ends.source.scan(here, self._glob))  # type: ignore[misc]
            for key in keys:
                self._found(key)

    def _found(self, key: bytes) -> None:
        name = key.decode(errors="surrogateescape")
        if name in self.streams or name not in self._patterns or name.startswith("rsws:"):
            return
        if (fault := channel_fault(name)) is not None:
            if key not in self._unnamed and len(self._unnamed) < 1000:
                self._unnamed.add(key)
                self._warn(f"{name!r} is not copied: {fault}")
            return
        stream = CopiedStream(name, self._ends, self._has_news, self._room)
        self.streams[name] = stream
        self._has_news(stream)

    def _has_news(self, stream: CopiedStream) -> None:
        if not stream.is_due and stream.refusal is None:
            stream.is_due = True
            self._behind.add(stream)
            self._due.put_nowait(stream)

    async def _work(self) -> None:
        """Copy whichever stream is next, one step of it at a time."""
        while True:
            stream = await self._due.get()
            if stream is None or self._stopping.is_set():
                return
            try:
                more = await stream.advance(follow=self._follow)
            except StoreError as error:
                stream.refuse(str(error))
                more = False
            stream.is_due = False
            self._tell(stream)
            if more:
                self._has_news(stream)
            else:
                self._behind.discard(stream)
                if stream.is_gone:
                    self._forget(stream)
            self._settle()

    def _tell(self, stream: CopiedStream) -> None:
        for gap in stream.gaps:
            self._gaps += 1
            self._warn(f"{stream.name}: {gap}")
        stream.gaps = []
        if stream.refusal is not None:
            self._warn(f"{stream.name}: refused, {stream.refusal}; of this stream nothing more is copied")

    def _forget(self, stream: CopiedStream) -> None:
        """Leave a stream that is gone to be found again."""
        del self.streams[stream.name]
        self._past_copied += stream.copied
        self._past_there += stream.there

    def _settle(self) -> None:
        if not self._follow and self._is_level:
            self.stop()

"""The channels that there are, as Redis or a gateway lists them, with what changes between two looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from rsws.cli.gateway_http import list_channels
from rsws.cli.sources import Sources, reading_redis
from rsws.patterns import Patterns
from rsws.protocol import StreamId, channel_fault


class Sort(StrEnum):
    """What a list is sorted by."""

    NAME = "name"
    ENTRIES = "entries"
    BYTES = "bytes"
    AGE = "age"
    RATE = "rate"
    SUBSCRIBERS = "subscribers"


@dataclass(frozen=True, slots=True)
class Row:
    """A channel; what is None is not known."""

    channel: str
    entries: int
    first: StreamId | None
    """None where nothing is there."""
    last: StreamId
    age: float | None
    """The seconds since its last id was made."""
    at: float
    """When that was, in seconds of the monotonic clock."""
    bytes: int | None = None
    groups: int | None = None
    subscribers: int | None = None
    added: int | None = None
    """The entries that were ever added."""
    rate: float | None = None
    """The entries added in a second, from two looks."""

    def since(self, before: Row | None) -> Row:
        """Return it with its rate since an earlier look; one that was not there had nothing."""
        if before is None or self.at <= before.at:
            return self
        if self.last == before.last:
            new: int | None = 0
        elif self.added is not None and before.added is not None:
            new = self.added - before.added
        else:
            new = self.entries - before.entries
            new = new if new > 0 else None  # trimmed meanwhile: nothing tells how many have come
        return self if new is None or new < 0 else replace(self, rate=round(new / (self.at - before.at), 3))


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What one look has found."""

    rows: list[Row]
    warning: str | None = None
    """What could not be found out, and why."""


async def look(sources: Sources, pattern: str, channels: Patterns | None) -> Catalogue:
    """Look which channels there are.

    Args:
        pattern: Which of them; ``*`` alone is special.
        channels: Which keys are channels at all; None for all but the gateway's own.

    Raises:
        RswsError: Whoever is asked does not answer, or refuses it.
    """
    listed = await _listed(sources, pattern)
    if sources.redis is None:
        return Catalogue(list(listed.values()))
    from rsws.streams.survey import Survey, age_s

    rows = {}
    with reading_redis():
        async with Survey(sources.redis) as survey:
            async for server, keys in survey.names(pattern):
                names = [key for key in keys if _is_channel(key.decode(errors="surrogateescape"), channels)]
                async for each in survey.facts(server, names):
                    there = listed.get(each.name)
                    rows[each.name] = Row(
                        each.name,
                        each.entries,
                        each.first,
                        each.last,
                        age_s(each.last, time.time()),
                        each.at,
                        each.bytes,
                        each.groups,
                        (there.subscribers if there else 0) if sources.gateway is not None else None,
                        each.added,
                    )
            refused = survey.sizes_refused
    why = None if refused is None else f"no sizes: Redis refuses MEMORY USAGE: {refused}"
    return Catalogue(list(rows.values()), why)


def _is_channel(name: str, channels: Patterns | None) -> bool:
    return channel_fault(name) is None and (channels is None or name in channels)


async def _listed(sources: Sources, pattern: str) -> dict[str, Row]:
    from rsws.streams.survey import age_s

    rows: dict[str, Row] = {}
    if sources.gateway is not None:
        async for page in list_channels(sources.gateway, pattern):
            at, now_s = time.monotonic(), time.time()
            for each in page:
                first = None if each.first_id is None else StreamId.parse(each.first_id)
                last = StreamId.parse(each.last_id)
                rows[each.channel] = Row(
                    each.channel, each.entries, first, last, age_s(last, now_s), at, subscribers=each.subscribers
                )
    return rows


def with_rates(rows: Iterable[Row], before: Iterable[Row]) -> list[Row]:
    """Return the rows of a look with the rates since an earlier one."""
    known = {each.channel: each for each in before}
    return [each.since(known.get(each.channel)) for each in rows]


_KEYS: dict[Sort, Callable[[Row], Any]] = {
    Sort.ENTRIES: lambda row: row.entries,
    Sort.BYTES: lambda row: row.bytes,
    Sort.AGE: lambda row: None if row.age is None else -row.age,
    Sort.RATE: lambda row: row.rate,
    Sort.SUBSCRIBERS: lambda row: row.subscribers,
}


def arranged(rows: Iterable[Row], sort: Sort, limit: int | None, *, reverse: bool = False) -> list[Row]:
    """Return rows by name, else the greatest first and of ages the least; what is not known comes last."""
    by_name = sorted(rows, key=lambda row: row.channel, reverse=reverse and sort is Sort.NAME)
    if sort is Sort.NAME:
        return by_name[:limit]
    key = _KEYS[sort]
    known = [row for row in by_name if key(row) is not None]
    known.sort(key=key, reverse=not reverse)
    return [*known, *(row for row in by_name if key(row) is None)][:limit]

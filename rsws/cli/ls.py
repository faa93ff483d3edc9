"""``rsws ls``: which channels there are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated

import typer

from rsws.cli import channel_names, stdio, terminal
from rsws.cli.catalogue import Catalogue, Row, Sort, arranged, look, with_rates
from rsws.cli.endpoint import REDIS_OPTIONS
from rsws.cli.exits import ExitCode, Failure, epilog
from rsws.cli.options import finite, from_settings
from rsws.cli.sources import Sources, find_sources
from rsws.errors import UsageError
from rsws.patterns import Patterns
from rsws.protocol import channel_fault, json_text
from rsws.settings import ClientSettings, Settings

EPILOG = epilog(
    "rsws ls 'chat.*' --sort bytes --limit 10",
    "rsws ls --watch --sort rate",
    "rsws ls --url wss://news.example.com | jq .channel",
)
RATE_S = 1.0
"""The time between the two looks of ``--rate``."""


@from_settings(Settings, panel="Redis", only=(*REDIS_OPTIONS, "channels"), argument="redis")
@from_settings(ClientSettings, panel="Gateway", argument="client")
def ls(
    redis: Settings,
    client: ClientSettings,
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN",
            help="Which channels: a name, or a pattern such as 'chat.*'.",
            autocompletion=channel_names.at_sources,
        ),
    ] = "*",
    sort: Annotated[
        Sort, typer.Option("--sort", help="What comes first: the most of it, by age the newest, else by name.")
    ] = Sort.NAME,
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Stop after N channels.")] = None,
    rate: Annotated[
        bool, typer.Option("--rate", help="Look twice, a second apart, and say how much comes; --sort rate does, too.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on looking, until Ctrl-C; also when Redis or the gateway is away.")
    ] = False,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.2, callback=finite, help="How often --watch looks.")
    ] = 2,
) -> None:
    """List the channels: entries, memory, first and last id, age, and with --rate what comes in a second.

    Redis is asked, as `rsws xadd` finds it. Where --url or RSWS_URL names a gateway, that is asked: it tells the
    subscribers, and no memory. Where both are named, both are; a flag overrules the environment.
    """
    fault = channel_fault(pattern)
    if fault is not None:
        raise UsageError(fault)
    sources = find_sources(redis, client)
    if sort is Sort.SUBSCRIBERS and sources.gateway is None:
        raise UsageError("--sort subscribers: a gateway tells them, name it with --url")
    if sort is Sort.BYTES and sources.redis is None:
        raise UsageError("--sort bytes: Redis tells them, and a gateway alone is asked")
    listing = _Listing(sources, pattern, Patterns.of(redis.channels), sort, limit, reverse=reverse)
    if watch:
        asyncio.run(listing.watch(every))
    else:
        asyncio.run(listing.print(twice=rate or sort is Sort.RATE))


class _Listing:
    """One run of the command."""

    def __init__(
        self,
        sources: Sources,
        pattern: str,
        channels: Patterns | None,
        sort: Sort,
        limit: int | None,
        *,
        reverse: bool,
    ) -> None:
        self._sources = sources
        self._pattern = pattern
        self._channels = channels
        self._sort = sort
        self._limit = limit
        self._reverse = reverse
        self._on_terminal = os.isatty(stdio.STDOUT)
        self._warned: str | None = None
        self._before: list[Row] = []

    async def print(self, *, twice: bool) -> None:
        """Print one list."""
        rows = await self._look()
        if twice:
            await asyncio.sleep(RATE_S)
            rows = await self._look()
        await self._write(rows, has_rates=twice)

    async def watch(self, every_s: float) -> None:
        """Print lists until cancelled: in place on a terminal, else one after the other."""
        if not self._on_terminal:
            await stdio.while_read(self._print_all(every_s))
            return
        from rsws.cli.ls_display import LiveTable

        with LiveTable(self._sources) as table:
            async for rows in self._looks(every_s):
                if isinstance(rows, Failure):
                    table.show_trouble(str(rows))
                else:
                    table.show(arranged(rows, self._sort, self._limit, reverse=self._reverse), len(rows))

    async def _print_all(self, every_s: float) -> None:
        is_away = False
        async for rows in self._looks(every_s):
            if not isinstance(rows, Failure):
                await self._write(rows, has_rates=True)
            elif not is_away:
                terminal.print_line(terminal.format_warning(f"{rows}; trying again"))
            is_away = isinstance(rows, Failure)

    async def _looks(self, every_s: float) -> AsyncIterator[list[Row] | Failure]:
        """Yield what is found, again and again; or why nobody can be asked, where that was not so at the beginning."""
        found: list[Row] | Failure = await self._look()
        while True:
            yield found
            await asyncio.sleep(every_s)
            try:
                found = await self._look()
            except Failure as error:
                if error.code is not ExitCode.NOT_CONNECTED:
                    raise
                found = error

    async def _look(self) -> list[Row]:
        found: Catalogue = await look(self._sources, self._pattern, self._channels)
        if found.warning is not None and self._warned is None:
            self._warned = found.warning
            terminal.print_line(terminal.format_warning(found.warning))
        rows = with_rates(found.rows, self._before)
        self._before = found.rows
        return rows

    async def _write(self, rows: list[Row], *, has_rates: bool) -> None:
        shown = arranged(rows, self._sort, self._limit, reverse=self._reverse)
        if not self._on_terminal:
            for first in range(0, len(shown), 1000):
                lines = [_line(row, self._sources, has_rates) for row in shown[first : first + 1000]]
                await stdio.write(b"".join(lines))
            return
        from rsws.cli.ls_display import format_table

        await stdio.write(format_table(shown, len(rows), self._sources, has_rates=has_rates).encode())


def _line(row: Row, sources: Sources, has_rates: bool) -> bytes:
    said = {
        "channel": row.channel,
        "entries": row.entries,
        "firstId": None if row.first is None else str(row.first),
        "lastId": str(row.last),
        "age": row.age,
    }
    if has_rates:
        said["rate"] = row.rate
    if sources.redis is not None:
        said |= {"bytes": row.bytes, "groups": row.groups}
    if sources.gateway is not None:
        said["subscribers"] = row.subscribers
    return json_text(said) + b"\n"

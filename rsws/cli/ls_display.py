"""The table of ``rsws ls``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

from rich.live import Live
from rich.table import Table
from rich.text import Text

from rsws.cli import terminal
from rsws.cli.catalogue import Row
from rsws.cli.sources import Sources
from rsws.cli.units import count, shortened, size, span

LEAST_NAME = 18
"""The columns that names need; others give way where a terminal leaves fewer."""
AROUND = 4
"""The lines of a live table that are no rows."""


class _Column(NamedTuple):
    title: str
    text: Callable[[Row], str]
    is_there: Callable[[Sources, bool], bool] = lambda sources, has_rates: True
    gives_way: int = 0
    """The greatest goes first where there is no room."""


_COLUMNS = (
    _Column("entries", lambda row: count(row.entries)),
    _Column("bytes", lambda row: size(row.bytes), lambda sources, has_rates: sources.redis is not None),
    _Column("first id", lambda row: str(row.first or ""), gives_way=2),
    _Column("last id", lambda row: str(row.last), gives_way=1),
    _Column("age", lambda row: span(row.age)),
    _Column("per s", lambda row: count(row.rate), lambda sources, has_rates: has_rates),
    _Column("subs", lambda row: count(row.subscribers), lambda sources, has_rates: sources.gateway is not None),
)


def format_table(rows: Sequence[Row], total: int, sources: Sources, *, has_rates: bool) -> str:
    """Return the table for standard output, and what it is of; ``total`` channels there are."""
    table = _table(rows, sources, has_rates=has_rates) if rows else Text()
    return (terminal.render(table) if rows else "") + terminal.render(_summary(rows, total, sources))


class LiveTable:
    """A table that changes in place, at most as high as the terminal."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._table = Table()
        self._live = Live(console=terminal.stdout(), auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, rows: Sequence[Row], total: int) -> None:
        """Show other rows."""
        shown = rows[: max(1, terminal.stdout().height - AROUND)]
        self._table = _table(shown, self._sources, has_rates=True)
        self._show(_summary(shown, total, self._sources))

    def show_trouble(self, why: str) -> None:
        """Show below the rows of before why there are no new ones."""
        self._show(Text(why, style="red"))

    def _show(self, caption: Text) -> None:
        self._table.caption = caption
        self._table.caption_justify = "left"
        self._live.update(self._table, refresh=True)


def _table(rows: Sequence[Row], sources: Sources, *, has_rates: bool) -> Table:
    columns = [each for each in _COLUMNS if each.is_there(sources, has_rates)]
    texts = {each: [each.text(row) for row in rows] for each in columns}
    widths = {each: max([len(each.title), *map(len, texts[each])]) for each in columns}
    longest = max([len("channel"), *(len(terminal.safe(row.channel)) for row in rows)])

    def room() -> int:
        return terminal.stdout().width - sum(widths[each] + 2 for each in columns)

    while room() < min(longest, LEAST_NAME) and (least := max(columns, key=lambda each: each.gives_way)).gives_way:
        columns.remove(least)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    width = max(8, min(longest, room()))
    table.add_column("channel", width=width, no_wrap=True, style="cyan")
    for each in columns:
        table.add_column(each.title, justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        table.add_row(Text(shortened(row.channel, width)), *(texts[each][index] for each in columns))
    return table


def _summary(rows: Sequence[Row], total: int, sources: Sources) -> Text:
    shown = f"{len(rows):,} of {total:,} channels" if len(rows) < total else f"{total:,} channels"
    if total == 1:
        shown = "1 channel"
    return Text(f"{shown if total else 'no channels'} of {sources.text}", style="dim")

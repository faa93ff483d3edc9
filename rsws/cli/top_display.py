"""The screen of ``rsws top``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rsws.cli import terminal
from rsws.cli.activity import RATES, Activity
from rsws.cli.units import count, shortened, size, span
from rsws.urls import redact_url

WIDE = 110
"""The columns from which on the two tables stand side by side."""
POINTS = 200
"""The looks that are remembered for the lines."""
_BLOCKS = " ▁▂▃▄▅▆▇█"
_LABELS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "delivered": ("delivered", count),
    "deliveredBytes": ("bytes", lambda value: size(int(value or 0))),
    "published": ("published", count),
    "read": ("read", count),
    "historyRead": ("history", count),
}
_TROUBLES = {"lagged": "lagged", "gaps": "gaps", "notStored": "not stored", "refused": "refused"}


class Screen:
    """The whole terminal, until the block is left.

    Attributes:
        trouble: Why the gateway can't be reached; None while it can.
    """

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self._history = {name: deque[float](maxlen=POINTS) for name in RATES}
        self._live = Live(console=terminal.stdout(), screen=True, auto_refresh=False)
        self.trouble: str | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def looked(self) -> None:
        """Note that there was another look."""
        self.trouble = None
        for name, value in self._activity.per_s.items():
            self._history[name].append(value)

    def show(self) -> None:
        """Draw it anew, in the size that the terminal has now."""
        console = terminal.stdout()
        width, height = console.size
        said = self._activity.told()
        head: list[RenderableType] = [self._title(said, width), self._sums(said), Text(), *self._rates(said, width)]
        head += [self._troubles(said), Text()]
        left = max(4, height - len(head))
        if width >= WIDE:
            half = (width - 3) // 2
            tables = Table.grid(padding=(0, 3, 0, 0))
            tables.add_row(_busiest(said["busiest"][: left - 2], half), _slowest(said["slowest"][: left - 2], half))
            body: list[RenderableType] = [tables]
        else:
            each = max(1, (left - 3) // 2 - 1)
            body = [_busiest(said["busiest"][:each], width), Text(), _slowest(said["slowest"][:each], width)]
        self._live.update(Group(*head, *body), refresh=True)

    def _title(self, said: dict[str, Any], width: int) -> Text:
        if self.trouble is not None:
            line = Text(terminal.safe(f"trying again: {self.trouble}"), style="bold red")
        else:
            redis = ("up", "green") if said["redisUp"] else ("DOWN", "bold red")
            workers = f"{said['workers']}"
            if said["workersTold"] < said["workers"]:
                workers += f" ({said['workersTold']} seen)"
            line = Text.assemble(
                (f"rsws {said['version']} ", "bold"),
                redact_url(said["url"]),
                ("  up ", "dim"),
                span(said["upSeconds"]),
                ("  Redis ", "dim"),
                redis,
                ("  workers ", "dim"),
                workers,
                ("  CPU ", "dim"),
                "" if said["cpu"] is None else f"{said['cpu']:.0%}",
            )
        line.truncate(width, overflow="ellipsis")
        return line

    def _sums(self, said: dict[str, Any]) -> Text:
        behind = said["behind"]
        return Text.assemble(
            ("clients ", "dim"),
            f"{said['clients']:,}",
            ("  channels ", "dim"),
            f"{said['channels']:,}",
            ("  subscriptions ", "dim"),
            f"{said['subscriptions']:,}",
            ("  behind ", "dim"),
            (f"{behind:,}", "yellow" if behind else ""),
        )

    def _rates(self, said: dict[str, Any], width: int) -> list[Text]:
        lines = []
        for name, (label, text) in _LABELS.items():
            points = [*self._history[name]][-max(1, width - 24) :]
            value = text(said["perSecond"][name])
            lines.append(Text.assemble((f"{label:10}", "dim"), (f"{value:>7}/s  ", "bold"), (spark(points), "cyan")))
        return lines

    def _troubles(self, said: dict[str, Any]) -> Text:
        line = Text()
        for name, label in _TROUBLES.items():
            value = said["perSecond"][name]
            line.append(f"{label} ", "dim").append(f"{count(value)}/s  ", "bold yellow" if value else "")
        return line


def spark(points: Sequence[float]) -> str:
    """Return a line of blocks, the greatest as high as a line is."""
    most = max(points, default=0.0)
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round(top * each / most) or int(each > 0)] if most else _BLOCKS[0] for each in points)


def _table(name: str, columns: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(name, no_wrap=True, style="cyan", ratio=1)
    for each in columns:
        table.add_column(each, justify="right", no_wrap=True)
    return table


def _busiest(channels: Sequence[dict[str, Any]], width: int) -> Table:
    table = _table("busiest channels", ("per s", "subs", "behind", "gaps"))
    table.width = width
    for each in channels:
        table.add_row(
            Text(shortened(each["channel"], width - 32)),
            *(count(each[name]) for name in ("perSecond", "subscribers", "behind", "gaps")),
        )
    return table


def _slowest(clients: Sequence[dict[str, Any]], width: int) -> Table:
    table = _table("slowest clients", ("who", "subs", "behind", "lag", "queued"))
    table.width = width
    for each in clients:
        lag = "start" if each["lag"] is None else span(each["lag"]) if each["lag"] else ""
        table.add_row(
            Text(shortened(each["client"], max(21, width - 48))),
            Text(shortened(each["who"] or "", 12)),
            count(each["subscriptions"]),
            count(each["behind"]),
            lag,
            size(each["queuedBytes"]) if each["queuedBytes"] else "",
        )
    return table

"""The output of ``rsws bench``: the progress of a run, and its result."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Self

from rich import box
from rich.console import Group, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from rsws.bench.counters import Count
from rsws.bench.histogram import Histogram
from rsws.bench.plan import Phase, Plan, Workload
from rsws.bench.report import QUANTILES, Report
from rsws.cli import terminal
from rsws.cli.exits import wire_error

RATE_OVER = 10
"""The number of calls of :meth:`LiveDisplay.show` over which the live rate is measured."""
PLOT_COLUMNS = 64
PLOT_ROWS = 5
LABEL_COLUMNS = 8

_BLOCKS = " ▁▂▃▄▅▆▇█"
_PLOTTED = {
    Workload.FANOUT: ("delivery", "delivery"),
    Workload.PAIRS: ("delivery", "delivery"),
    Workload.CATCHUP: ("history", "reading the whole history"),
    Workload.CONNECT: ("subscribed", "connecting and subscribing"),
}
_MEASURED = {
    "delivery": "publish to delivery",
    "ack": "publish to ack",
    "history": "whole history",
    "connected": "connect to welcome",
    "subscribed": "connect to subscribed",
    "resumed": "cut to subscribed",
}


class LiveDisplay:
    """The live display on standard error, if that is a terminal: the phase, its progress, the last second's rates."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._seen: deque[tuple[float, list[int]]] = deque(maxlen=RATE_OVER)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(20),
            TaskProgressColumn(),
            TextColumn("{task.fields[rates]}", style="dim"),
            console=terminal.stderr(),
            transient=True,
            disable=not terminal.stderr().is_terminal,
        )
        self._task = self._progress.add_task(Phase.STARTING, total=None, rates="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @property
    def has_begun(self) -> bool:
        """Whether the workers run."""
        return bool(self._seen)

    def show(self, phase: Phase, seconds: float, counts: list[int]) -> None:
        """Show the current progress: see :data:`rsws.bench.coordinator.OnProgress`."""
        if self._seen and seconds < self._seen[-1][0]:
            self._seen.clear()  # a new phase has begun
        self._seen.append((seconds, counts))
        done, total = self._extent(phase, seconds, counts)
        self._progress.update(self._task, description=phase, completed=done, total=total, rates=self._rates())

    def stopping(self) -> None:
        """Show that the run is to end early."""
        if not self._progress.disable:
            self._progress.print(terminal.format_note("stopping; Ctrl-C again ends it at once"))

    def _extent(self, phase: Phase, seconds: float, counts: list[int]) -> tuple[float, float | None]:
        """Return how much of the phase is done, and the total; None for an unknown total."""
        plan = self._plan
        match phase, plan.workload:
            case Phase.CONNECTING, Workload.CATCHUP:
                return 0, None
            case (Phase.CONNECTING, _) | (Phase.MEASURING, Workload.CONNECT):
                return counts[Count.CONNECTED], plan.connections
            case Phase.MEASURING, _ if plan.duration_s is not None:
                return min(seconds, plan.duration_s), plan.duration_s
            case ((Phase.LOADING | Phase.MEASURING), _):
                return counts[Count.PUBLISHED], plan.messages
        return 0, None

    def _rates(self) -> str:
        (since, before), (now, counts) = self._seen[0], self._seen[-1]
        if now <= since:
            return ""
        names = {Count.CONNECTED: "connected", Count.PUBLISHED: "published", Count.DELIVERED: "delivered"}
        rates = {name: (counts[count] - before[count]) / (now - since) for count, name in names.items()}
        return "  ".join(f"{_short(rate)} {name}/s" for name, rate in rates.items() if rate)


def format_report(report: Report, *, on_terminal: bool) -> str:
    """Return the result as text; for a pipe it is plain lines of any length."""
    latency, what = _PLOTTED[report.plan.workload]
    counts, latencies = _format_counts(report), _format_latencies(report)
    parts: list[RenderableType] = [_headline(report), Text(), counts, Text(), latencies]
    if (histogram := report.findings.latencies.get(latency)) is not None:
        parts += [Text(), Text(f"distribution of {what}", "bold"), *map(Text, plot(histogram))]
    parts += [Text(), *_verdict(report)]
    if on_terminal:
        counts.box = latencies.box = box.SIMPLE_HEAD
        return terminal.render(Group(*parts))
    return "".join(f"{line.rstrip()}\n" for part in parts for line in terminal.render(part).splitlines() or [""])


def _headline(report: Report) -> Text:
    plan = report.plan
    facts = {
        Workload.FANOUT: [_count(plan.clients, "subscriber")],
        Workload.PAIRS: [_count(plan.clients, "pair")],
        Workload.CATCHUP: [_count(plan.clients, "client"), _count(plan.messages or 0, "message")],
        Workload.CONNECT: [f"{_count(plan.clients, 'client')}, {plan.window:,} at a time"],
    }[plan.workload]
    if plan.size_bytes:
        facts.append(f"{plan.size_bytes:,} bytes each")
    if plan.workload in (Workload.FANOUT, Workload.PAIRS):
        facts.append(f"{plan.rate:,g}/s" if plan.rate else f"window {plan.window:,}")
    if plan.kill_every_s is not None:
        facts.append(f"cuts every {plan.kill_every_s:g} s")
    facts.append(f"{report.findings.seconds:.1f} s, {_count(plan.processes, 'process', 'processes')}")
    return Text.assemble((f"{plan.workload} ", "bold"), (f"{plan.url}\n", "cyan"), (", ".join(facts), "dim"))


def _format_counts(report: Report) -> Table:
    table = _table("", "total", "per second")
    counts = report.counts
    rows: dict[str, int] = {}
    if report.plan.workload is Workload.CONNECT:
        rows["connected"] = counts[Count.CONNECTED]
    elif report.plan.workload is Workload.CATCHUP:
        rows["histories read"] = report.findings.rounds
    else:
        rows["published"] = counts[Count.PUBLISHED]
    if counts[Count.DELIVERED]:
        rows["delivered"] = counts[Count.DELIVERED]
    for name, count in rows.items():
        table.add_row(name, f"{count:,}", f"{report.per_second(count):,.0f}")
    if received := counts[Count.BYTES]:
        table.add_row("received, MB", f"{received / 1e6:,.1f}", f"{report.per_second(received) / 1e6:,.1f}")
    if counts[Count.CUTS]:
        table.add_row("cut and resumed", f"{counts[Count.CUTS]:,}", "")
    return table


def _format_latencies(report: Report) -> Table:
    table = _table("", *(name.replace("_", ".") for name in QUANTILES), "max")
    for name, what in _MEASURED.items():
        histogram = report.findings.latencies.get(name)
        if histogram is not None and (report.plan.workload is not Workload.CATCHUP or name != "ack"):
            values = [*map(histogram.quantile_us, QUANTILES.values()), histogram.max_us]
            table.add_row(what, *map(_duration, values))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, min_width=21)
    for name in others:
        table.add_column(name, justify="right", min_width=9)
    return table


def _verdict(report: Report) -> list[Text]:
    plan, found = report.plan, report.findings
    lines = []
    if plan.publishers:
        text = ", ".join(f"{count:,} {name}" for name, count in report.faults.items())
        lines.append(Text(f"checked: {text}", "green" if report.is_right else "bold red"))
    if found.outstanding:
        lines.append(Text(f"{found.outstanding:,} had not come when it was ended", "yellow"))
    if found.refused:
        refused = _count(found.refused, "publish", "publishes")
        reason = terminal.safe(wire_error(found.refusal, found.refusal_code))
        lines.append(Text(f"refused: {refused}; {reason}", "red"))
    if found.unknown:
        unknown = _count(found.unknown, "publish", "publishes")
        lines.append(Text(f"outcome unknown: {unknown}, stored or not", "yellow"))
    if found.gaps:
        lines.append(Text(f"the gateway has reported {_count(found.gaps, 'gap')}", "yellow"))
    reached = report.per_second(report.counts[Count.PUBLISHED])
    if plan.rate and reached < 0.95 * plan.rate:
        lines.append(Text(f"the rate was not reached: {reached:,.0f} of {plan.rate:,g} messages/s", "yellow"))
    lines.append(_bottleneck(report))
    return lines


def _bottleneck(report: Report) -> Text:
    waited = report.findings.waiting
    shares = f"its busiest process has used {report.findings.cpu:.0%} of a CPU"
    match report.bottleneck:
        case "benchmark":
            return Text(
                f"the benchmark itself is the bottleneck ({shares}): these figures are a lower bound; "
                "use more --processes, or another machine",
                "yellow",
            )
        case "machine":
            return Text(
                f"this machine is the bottleneck ({shares} and waited for one for {waited:.0%} of the time): "
                "these figures are a lower bound; run the benchmark on another machine than the gateway",
                "yellow",
            )
    return Text(f"the benchmark was not the limit: {shares}", "dim")


def plot(histogram: Histogram, columns: int = PLOT_COLUMNS, rows: int = PLOT_ROWS) -> list[str]:
    """Return the histogram as lines of block characters, with a logarithmic axis of durations."""
    low, high = _axis(histogram)
    scale = columns / math.log(high / low)

    def column(value_us: float) -> float:
        return min(max(math.log(max(value_us, low) / low) * scale, 0.0), columns - 1e-9)

    heights = [0.0] * columns
    for first, stop, count in histogram.buckets():
        begin, end = column(first), column(stop)
        for place in range(int(begin), int(end) + 1):
            part = (min(end, place + 1) - max(begin, place)) / (end - begin) if end > begin else 1.0
            heights[place] += count * part
    top = max(heights)
    eighths = [math.ceil(height / top * rows * 8) if height else 0 for height in heights]
    label = f"{top / histogram.count:.0%}"
    lines = []
    for row in reversed(range(rows)):
        bars = "".join(_BLOCKS[min(max(each - row * 8, 0), 8)] for each in eighths)
        lines.append(f"{label if row == rows - 1 else '':>5} │{bars}".rstrip())
    return lines + _format_axis(low, high, columns, column, histogram)


def _axis(histogram: Histogram) -> tuple[float, float]:
    """Return where the axis begins and ends: at 1, 2 or 5 times a power of ten, at least a factor of 10 apart."""
    ticks = _ticks((1, 2, 5))
    low = max((tick for tick in ticks if tick <= histogram.min_us), default=ticks[0])
    high = min((tick for tick in ticks if tick > histogram.max_us), default=ticks[-1])
    return low, max(high, 10 * low)


def _ticks(digits: Sequence[int]) -> list[float]:
    return [digit * 10.0**power for power in range(12) for digit in digits]


def _format_axis(
    low: float, high: float, columns: int, column: Callable[[float], float], histogram: Histogram
) -> list[str]:
    line, labels, marks = ["─"] * columns, [" "] * (columns + 8), [" "] * (columns + 8)
    free = 0
    digits = (1, 2, 5) if column(2 * low) >= LABEL_COLUMNS else (1,)
    for tick in _ticks(digits):
        place = int(column(tick))
        if low <= tick <= high and place >= free:
            text = _duration(tick)
            line[place] = "┬"
            labels[place : place + len(text)] = text
            free = place + LABEL_COLUMNS
    free = 0
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        place = int(column(histogram.quantile_us(share)))
        if place >= free:
            marks[place : place + 4] = f"↑{name}"
            free = place + 5
    return [f"{'':5} └{''.join(line)}", *(f"{'':7}{''.join(each).rstrip()}" for each in (labels, marks))]


def _duration(value_us: float) -> str:
    """Return a duration with three digits and a unit."""
    for unit, size in (("µs", 1), ("ms", 1e3), ("s", 1e6)):
        value = value_us / size
        if value < 999.5 or unit == "s":
            break
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def _short(value: float) -> str:
    """Return a rate in a short form, for a line that changes all the time."""
    if value < 9_999.5:
        return f"{value:,.0f}"
    return f"{value / 1e3:,.0f}k" if value < 999_500 else f"{value / 1e6:.2f}M"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"

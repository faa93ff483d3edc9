"""``rsws bench``: load a gateway, measure it, and check every message."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shlex
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from rsws.cli import stdio, terminal
from rsws.cli.endpoint import find_gateway
from rsws.cli.exits import ExitCode, Failure, StdoutClosed, describe, epilog, wire_error
from rsws.cli.options import finite, from_settings
from rsws.cli.redis_cli import redis_cli
from rsws.errors import ErrorCode, UsageError
from rsws.options import MIB, options
from rsws.settings import ClientSettings, Settings
from rsws.urls import is_loopback

if TYPE_CHECKING:
    from rsws.bench.plan import Plan
    from rsws.bench.report import Report

HELP = """Load a gateway with many clients, measure it, and check that every message comes once and in order.

It needs a server of this protocol, not Redis: the Node.js server can be measured as well. Its messages go to channels
of its own, and stay there; it says which."""
EPILOG = epilog(
    "rsws bench fanout",
    "rsws bench pairs --clients 500 --rate 10000 --kill-every 1",
    "rsws bench catchup --messages 100000 --json > result.json",
)
DURATION_S = 10.0
PREFIX = "rsws-bench:"
MAX_IN_FLIGHT_BYTES = 64 * MIB

_PREFIX_TEXT = re.compile(r"[A-Za-z0-9._:/-]{0,100}")


def _number(help: str, least: float, most: float, type_: Any = int, metavar: str = "N") -> Any:
    return Annotated[type_, typer.Option(help=help, min=least, max=most, metavar=metavar, callback=finite)]


def _seconds(help: str, least: float, most: float = 86_400, type_: Any = float) -> Any:
    return _number(help, least, most, type_, "SECONDS")


_CLIENTS = _number("How many clients, or pairs of them.", 1, 100_000)
_MESSAGES = _number("Publish N messages, in place of as many as --duration allows.", 1, 1_000_000_000, int | None)
_HISTORY = _number("How many messages the history has.", 1, 10_000_000)
_DURATION = _seconds(
    f"Measure that long. Not given: {DURATION_S:g}, or until --messages are published.", 0.1, type_=float | None
)
_READING = _seconds("For how long clients begin to read again; each reads to the end.", 0.1)
_SIZE = _number("Of a message's data.", 36, MIB // 2, metavar="BYTES")
_RATE = _number(
    "Messages published a second, by all publishers together; 0: as many as --window allows.", 0, 10_000_000, float
)
_WINDOW = _number("Messages of a publisher under way at once: not acked, or not delivered.", 1, 10_000)
_LOADING = _number("Messages under way while the history is published.", 1, 10_000)
_CONCURRENCY = _number("How many connections are being made at once.", 1, 10_000)
_KILL_EVERY = _seconds(
    "Cut a tenth of the connections that often, one after the other; they resume. Publishers name themselves then, so "
    "that rsws stores what they repeat once; of another server the outcome remains unknown.",
    0.05,
    type_=float | None,
)
_PROCESSES = _number("Processes that make the load. Not given: two less than CPUs, 1 to 8.", 1, 256, int | None)
_TIMEOUT = _seconds("How long nothing may come before what is awaited counts as lost.", 1, 3600)
_PREFIX = Annotated[
    str,
    typer.Option(metavar="TEXT", help="What the names of the channels begin with; what follows no other run has."),
]
_JSON = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]

_ALL = {
    "processes": (_PROCESSES, None),
    "timeout": (_TIMEOUT, 10),
    "prefix": (_PREFIX, PREFIX),
    "as_json": (_JSON, False),
}
"""The options of all these commands: the type and the default, by name."""


def _command(workload: str, summary: str, **own: tuple[Any, Any]) -> Callable[..., None]:
    """Make the command of one workload.

    Args:
        workload: The workload's name.
        summary: The command's help text.
        own: The command's options beside those of all: type and default, by name, in the order of the help.
    """

    def command(settings: ClientSettings, **values: Any) -> None:
        _measure(settings, workload, values)

    takes = {"settings": (ClientSettings, Parameter.empty), **own, **_ALL}
    command.__name__ = workload
    command.__doc__ = summary
    command.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for name, (annotation, default) in takes.items()
        ]
    )
    return from_settings(ClientSettings, panel="Gateway")(command)


_MADE = (
    _command(
        "fanout",
        "One publisher, and many clients that all subscribe to its channel.",
        clients=(_CLIENTS, 100),
        messages=(_MESSAGES, None),
        duration=(_DURATION, None),
        size=(_SIZE, 128),
        rate=(_RATE, 0),
        window=(_WINDOW, 32),
        kill_every=(_KILL_EVERY, None),
    ),
    _command(
        "pairs",
        "Pairs of a publisher and a subscriber, each with a channel of its own.",
        clients=(_CLIENTS, 50),
        messages=(_MESSAGES, None),
        duration=(_DURATION, None),
        size=(_SIZE, 128),
        rate=(_RATE, 0),
        window=(_WINDOW, 8),
        kill_every=(_KILL_EVERY, None),
    ),
    _command(
        "catchup",
        "Clients that each connect, read the whole history of a channel, leave, and begin again.",
        clients=(_CLIENTS, 10),
        messages=(_HISTORY, 20_000),
        duration=(_READING, DURATION_S),
        size=(_SIZE, 128),
        window=(_LOADING, 256),
        kill_every=(_KILL_EVERY, None),
    ),
    _command(
        "connect",
        "Clients that connect, subscribe, and stay until the last of them is in.",
        clients=(_CLIENTS, 1000),
        concurrency=(_CONCURRENCY, 50),
    ),
)
COMMANDS: dict[str, Callable[..., None]] = {each.__name__: each for each in _MADE}


def _measure(settings: ClientSettings, workload: str, values: Mapping[str, Any]) -> None:
    """Run the benchmark, print its result, and exit as the result requires."""
    gateway = find_gateway(settings)
    chosen = dict(values)
    as_json = chosen.pop("as_json")
    plan = _plan(workload, gateway.url, settings, **chosen)
    report = asyncio.run(_run(plan, gateway.token or ""))
    asyncio.run(_print(report, as_json=as_json))
    _end(report)


def _plan(
    workload: str,
    url: str,
    settings: ClientSettings,
    *,
    clients: int,
    processes: int | None,
    timeout: float,
    prefix: str,
    messages: int | None = None,
    duration: float | None = None,
    size: int = 0,
    rate: float = 0.0,
    window: int = 0,
    concurrency: int = 0,
    kill_every: float | None = None,
) -> Plan:
    """Make the plan of a run from the command's options.

    Raises:
        UsageError: The options can't be used, alone or together.
    """
    from rsws.bench.plan import Plan, Workload

    if not _PREFIX_TEXT.fullmatch(prefix):
        raise UsageError("--prefix takes up to 100 letters, digits and . _ : / -")
    window = window or concurrency
    plan = Plan(
        workload=Workload(workload),
        url=url,
        ca=None if settings.ca is None else str(settings.ca.absolute()),
        insecure=settings.insecure,
        run_id=secrets.token_hex(4),
        prefix=prefix,
        clients=clients,
        processes=min(clients, processes or _default_processes(), concurrency or clients),
        size_bytes=size,
        messages=messages,
        duration_s=duration or (None if messages else DURATION_S),
        rate=rate,
        window=window,
        kill_every_s=kill_every,
        timeout_s=timeout,
    )
    if plan.publishers * window * size > plan.processes * MAX_IN_FLIGHT_BYTES:
        raise UsageError(
            f"{plan.publishers:,} publishers with {window:,} messages of {size:,} bytes under way each are more than "
            f"{plan.processes} x {MAX_IN_FLIGHT_BYTES // MIB} MiB: take a smaller --window"
        )
    return plan


def _default_processes() -> int:
    """Return two less than the number of CPUs, 1 to 8: one is for the gateway and one for Redis, if they run here."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cpus - 2, 1), 8)


async def _run(plan: Plan, token: str) -> Report:
    from rsws.bench import coordinator
    from rsws.cli.bench_display import LiveDisplay

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    stop = asyncio.Event()

    with LiveDisplay(plan) as display:

        def on_interrupt() -> None:
            if stop.is_set() or not display.has_begun:
                task.cancel()
                loop.add_signal_handler(signal.SIGINT, lambda: None)  # the workers are being ended
            else:
                display.stopping()
                stop.set()

        loop.add_signal_handler(signal.SIGINT, on_interrupt)
        try:
            return await coordinator.run(plan, token, display.show, stop)
        except asyncio.CancelledError:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        finally:
            loop.remove_signal_handler(signal.SIGINT)


async def _print(report: Report, *, as_json: bool) -> None:
    from rsws.bench.counters import Count
    from rsws.cli.bench_display import format_report

    plan = report.plan
    with suppress(StdoutClosed):  # the result decides the exit code, even if nobody reads it
        if as_json:
            await stdio.write(json.dumps(report.as_json()).encode() + b"\n")
        elif report.findings.seconds:
            await stdio.write(format_report(report, on_terminal=os.isatty(stdio.STDOUT)).encode())
    if report.counts[Count.PUBLISHED]:
        streams = "a stream" if plan.channels == 1 else f"{plan.channels:,} streams"
        client = _redis_cli(plan)
        remove = f"{client} --scan --pattern '{plan.pattern}' | xargs {client} UNLINK"
        terminal.print_line(terminal.format_note(f"left in Redis: {streams}; to remove: {remove}"))


def _redis_cli(plan: Plan) -> str:
    """Return the ``redis-cli`` command line for the Redis that holds the streams, as far as the client knows it."""
    from rsws.redis.url import parse_redis_url

    said = options(Settings)
    url = os.environ.get(said["redis_url"].env)
    if not url and not is_loopback(urlsplit(plan.url).hostname or ""):
        return "redis-cli -h HOST -p PORT"
    port = os.environ.get(said["local_redis_port"].env) or Settings().local_redis_port
    try:
        return shlex.join(redis_cli(parse_redis_url(url or f"redis://127.0.0.1:{port}")))
    except UsageError:  # the variable is not a URL, or sentinels know the server
        return "redis-cli"


def _end(report: Report) -> None:
    """Raise what makes the command exit with the code for ``report``; return for a run without faults.

    Raises:
        typer.Exit: The run was interrupted.
        RswsError: The run failed, or messages were lost, doubled, reordered, foreign or refused.
    """
    if report.interrupted:
        if report.failure is not None:
            terminal.print_line(terminal.format_error(describe(report.failure)))
        raise typer.Exit(ExitCode.INTERRUPTED)
    if report.failure is not None:
        raise report.failure
    if not report.is_right:
        faults = ", ".join(f"{name}: {count:,}" for name, count in report.faults.items())
        raise Failure(f"messages {faults}", ExitCode.GAP)
    found = report.findings
    if found.refused:
        text = f"publishes refused: {found.refused:,}; the first: {wire_error(found.refusal, found.refusal_code)}"
        down = found.refusal_code == ErrorCode.REDIS_UNAVAILABLE
        raise Failure(text, ExitCode.NOT_CONNECTED if down else ExitCode.ERROR)
    if found.unknown and report.plan.kill_every_s is None:  # with it any server but rsws leaves some
        raise Failure(f"publishes not acked, stored or not: {found.unknown:,}", ExitCode.ERROR)

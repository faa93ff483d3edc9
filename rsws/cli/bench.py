"""``rsws bench``: load a gateway, measure it, and check every message."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shlex
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from rsws.cli import stdio, terminal
from rsws.cli.exits import ExitCode, Failure, StdoutClosed, epilog, wire_error
from rsws.cli.options import find_gateway, finite, from_settings
from rsws.cli.redis_cli import redis_cli
from rsws.errors import ErrorCode, UsageError
from rsws.settings import MIB, ClientSettings, Settings, options
from rsws.urls import is_loopback

if TYPE_CHECKING:
    from rsws.bench.plan import Plan, Work
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

_PREFIX = re.compile(r"[A-Za-z0-9._:/-]{0,100}")

Clients = Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="How many clients, or pairs of them.")]
Messages = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, max=1_000_000_000, help="Publish N messages, in place of as many as --duration allows."
    ),
]
Duration = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        max=86_400,
        callback=finite,
        help=f"Measure that long. Not given: {DURATION_S:g}, or until --messages are published.",
    ),
]
Size = Annotated[int, typer.Option(metavar="BYTES", min=36, max=MIB // 2, help="Of a message's data.")]
Rate = Annotated[
    float,
    typer.Option(
        metavar="N",
        min=0,
        max=10_000_000,
        callback=finite,
        help="Messages published a second, by all publishers together; 0: as many as --window allows.",
    ),
]
Window = Annotated[
    int,
    typer.Option(
        metavar="N", min=1, max=10_000, help="Messages of a publisher under way at once: not acked, or not delivered."
    ),
]
KillEvery = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0.05,
        max=86_400,
        callback=finite,
        help="Cut a tenth of the connections that often, one after the other; they resume. Publishers name themselves "
        "then, so that rsws stores what they repeat once; of another server the outcome remains unknown.",
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, max=256, help="Processes that make the load. Not given: two less than CPUs, 1 to 8."
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=1,
        max=3600,
        callback=finite,
        help="How long nothing may come before what is awaited counts as lost.",
    ),
]
Prefix = Annotated[
    str, typer.Option(metavar="TEXT", help="What the names of the channels begin with; what follows no other run has.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


@from_settings(ClientSettings, panel="Gateway")
def fanout(
    settings: ClientSettings,
    clients: Clients = 100,
    messages: Messages = None,
    duration: Duration = None,
    size: Size = 128,
    rate: Rate = 0,
    window: Window = 32,
    kill_every: KillEvery = None,
    processes: Processes = None,
    timeout: Timeout = 10,
    prefix: Prefix = PREFIX,
    as_json: Json = False,
) -> None:
    """One publisher, and many clients that all subscribe to its channel."""
    _measure(settings, "fanout", locals())


@from_settings(ClientSettings, panel="Gateway")
def pairs(
    settings: ClientSettings,
    clients: Clients = 50,
    messages: Messages = None,
    duration: Duration = None,
    size: Size = 128,
    rate: Rate = 0,
    window: Window = 8,
    kill_every: KillEvery = None,
    processes: Processes = None,
    timeout: Timeout = 10,
    prefix: Prefix = PREFIX,
    as_json: Json = False,
) -> None:
    """Pairs of a publisher and a subscriber, each with a channel of its own."""
    _measure(settings, "pairs", locals())


@from_settings(ClientSettings, panel="Gateway")
def catchup(
    settings: ClientSettings,
    clients: Clients = 10,
    messages: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000_000, help="How many messages the history has.")
    ] = 20_000,
    duration: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            max=86_400,
            callback=finite,
            help="For how long clients begin to read again; each reads to the end.",
        ),
    ] = DURATION_S,
    size: Size = 128,
    window: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="Messages under way while the history is published.")
    ] = 256,
    kill_every: KillEvery = None,
    processes: Processes = None,
    timeout: Timeout = 10,
    prefix: Prefix = PREFIX,
    as_json: Json = False,
) -> None:
    """Clients that each connect, read the whole history of a channel, leave, and begin again."""
    _measure(settings, "catchup", locals())


@from_settings(ClientSettings, panel="Gateway")
def connect(
    settings: ClientSettings,
    clients: Clients = 1000,
    concurrency: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="How many connections are being made at once.")
    ] = 50,
    processes: Processes = None,
    timeout: Timeout = 10,
    prefix: Prefix = PREFIX,
    as_json: Json = False,
) -> None:
    """Clients that connect, subscribe, and stay until the last of them is in."""
    _measure(settings, "connect", locals())


COMMANDS: tuple[Callable[..., None], ...] = (fanout, pairs, catchup, connect)


def _measure(settings: ClientSettings, work: str, options: dict[str, Any]) -> None:
    """Run it, print what it shows, and end as that says."""
    from rsws.bench.plan import Work

    gateway = find_gateway(settings)
    plan = _plan(Work(work), gateway.url, options)
    report = asyncio.run(_run(plan, gateway.token or ""))
    asyncio.run(_print(report, as_json=options["as_json"]))
    _end(report)


def _plan(work: Work, url: str, options: dict[str, Any]) -> Plan:
    """
    Raises:
        UsageError: The options don't go together.
    """
    from rsws.bench.plan import Plan

    if not _PREFIX.fullmatch(options["prefix"]):
        raise UsageError("--prefix takes up to 100 letters, digits and . _ : / -")
    clients, size, messages = options["clients"], options.get("size", 0), options.get("messages")
    window = options.get("window") or options["concurrency"]
    plan = Plan(
        work=work,
        url=url,
        run=secrets.token_hex(4),
        prefix=options["prefix"],
        clients=clients,
        processes=min(clients, options["processes"] or _processes()),
        size_bytes=size,
        messages=messages,
        duration_s=options.get("duration") or (None if messages else DURATION_S),
        rate=options.get("rate", 0.0),
        window=window,
        kill_every_s=options.get("kill_every"),
        timeout_s=options["timeout"],
    )
    if plan.publishers * window * size > plan.processes * MAX_IN_FLIGHT_BYTES:
        raise UsageError(
            f"{plan.publishers:,} publishers with {window:,} messages of {size:,} bytes under way each are more than "
            f"{plan.processes} x {MAX_IN_FLIGHT_BYTES // MIB} MiB: take a smaller --window"
        )
    return plan


def _processes() -> int:
    """One CPU is left to the gateway and one to Redis, in case they are here."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cpus - 2, 1), 8)


async def _run(plan: Plan, token: str) -> Report:
    from rsws.bench import coordinator
    from rsws.cli.bench_display import LiveDisplay

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    with LiveDisplay(plan) as display:

        def on_interrupt() -> None:
            loop.remove_signal_handler(signal.SIGINT)  # so that a second one raises KeyboardInterrupt
            display.stopping()
            stop.set()

        loop.add_signal_handler(signal.SIGINT, on_interrupt)
        try:
            return await coordinator.run(plan, token, display.show, stop)
        finally:
            loop.remove_signal_handler(signal.SIGINT)


async def _print(report: Report, *, as_json: bool) -> None:
    from rsws.bench.counters import Count
    from rsws.cli.bench_display import format_report

    plan = report.plan
    with suppress(StdoutClosed):  # how it went decides how it ends, whoever reads it
        if as_json:
            await stdio.write(json.dumps(report.as_json()).encode() + b"\n")
        elif report.seconds:
            await stdio.write(format_report(report, on_terminal=os.isatty(stdio.STDOUT)).encode())
    if report.counts[Count.PUBLISHED]:
        streams = "a stream" if plan.channels == 1 else f"{plan.channels:,} streams"
        client = _redis_cli(plan)
        remove = f"{client} --scan --pattern '{plan.pattern}' | xargs {client} UNLINK"
        terminal.print_line(terminal.format_note(f"left in Redis: {streams}; to remove: {remove}"))


def _redis_cli(plan: Plan) -> str:
    """``redis-cli`` for the Redis that holds the streams, as far as this side of the gateway knows."""
    said = options(Settings)
    url = os.environ.get(said["redis_url"].env)
    if not url and not is_loopback(urlsplit(plan.url).hostname or ""):
        return "redis-cli -h HOST -p PORT"
    port = os.environ.get(said["local_redis_port"].env) or Settings().local_redis_port
    try:
        return shlex.join(redis_cli(url or f"redis://127.0.0.1:{port}"))
    except ValueError:  # no URL
        return "redis-cli"


def _end(report: Report) -> None:
    """
    Raises:
        typer.Exit: It was interrupted.
        RswsError: It is not well.
    """
    if report.interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if report.failure is not None:
        raise report.failure
    if not report.is_right:
        raise Failure(
            f"messages lost: {report.lost:,}, duplicated: {report.duplicated:,}, reordered: {report.reordered:,}, "
            f"foreign: {report.foreign:,}",
            ExitCode.GAP,
        )
    if report.refused:
        text = f"publishes refused: {report.refused:,}; the first: {wire_error(report.refusal, report.refusal_code)}"
        down = report.refusal_code == ErrorCode.REDIS_UNAVAILABLE
        raise Failure(text, ExitCode.NOT_CONNECTED if down else ExitCode.ERROR)

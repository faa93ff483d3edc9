"""``rsws sub``: print the messages that are published.

What it runs with is imported when it runs, so that its help and the shell, which want the options alone, don't wait.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsws.cli import channel_names, completing
from rsws.cli.exits import epilog
from rsws.cli.options import finite, from_settings
from rsws.cli.sub.choices import OnGap, Output
from rsws.errors import UsageError, naming
from rsws.settings import ClientSettings

EPILOG = epilog(
    "rsws sub news -f 0 --no-follow | wc -l",
    "rsws sub 'chat.*' -f 10m --format '{time:%H:%M} {channel} {data.user}: {data.text}'",
    "rsws sub orders --state orders.state --exec ./handle-order",
)
FROM_HELP = (
    "Where to start: 0 (the whole history), $ (only what is new), -N (the last N), an ID (what follows it), "
    "10m (that long ago, also s, h, d), or a time such as 2026-11-23T10:00."
)


WANTED, FORM, CONSUMER = "Which messages", "How they are printed", "Consumers"
"""The headings of groups of options in the help."""
MAX_PARALLEL = 1000


@from_settings(ClientSettings, panel="Gateway")
def sub(
    channels: Annotated[
        list[str],
        typer.Argument(
            metavar="CHANNEL",
            help="What to subscribe to. With a * it is a pattern, such as 'chat.*': all channels that match, and those "
            "that come later, from their beginning.",
            autocompletion=channel_names.at_gateway,
        ),
    ],
    settings: ClientSettings,
    start: Annotated[str, typer.Option("--from", "-f", metavar="START", help=FROM_HELP)] = "$",
    until: Annotated[
        str | None,
        typer.Option(
            metavar="END",
            help="Stop once all before a time is printed (+10m from now, 10m ago, 2026-11-23T10:00), or all up to "
            "an ID.",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            metavar="N",
            min=1,
            help="Stop after N messages that are printed, or before, with exit code 0, where the channels end "
            "(see --no-end).",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            "-t",
            metavar="SECONDS",
            min=0,
            callback=finite,
            help="Stop after that long, with exit code 6 unless --count, --until or --no-follow has ended it before.",
        ),
    ] = None,
    no_follow: Annotated[
        bool, typer.Option("--no-follow", help="Stop at the end of the channels as it was at the start.")
    ] = False,
    end: Annotated[
        bool, typer.Option("--end/--no-end", help="Stop where the channels end (`rsws xadd --end`), or go on.")
    ] = True,
    literal: Annotated[
        bool, typer.Option("--literal", help="CHANNEL is a name, not a pattern, also where there is a * in it.")
    ] = False,
    no_merge: Annotated[
        bool,
        typer.Option("--no-merge", help="Print the history of several channels as it comes, not in the order of time."),
    ] = False,
    on_gap: Annotated[
        OnGap,
        typer.Option(help="Where it can't be proven that nothing is missing: warn and go on, or exit with code 5."),
    ] = OnGap.WARN,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGEX",
            help="Only messages whose data, as JSON text, match; may be repeated: one of them.",
            rich_help_panel=WANTED,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX", help="No messages whose data match; may be repeated.", rich_help_panel=WANTED),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH=VALUE",
            help="Only messages where that is so, as in data.type=alert or data.items.0.price>=5; also !=, <, <=, > "
            "and ~ (a regular expression). May be repeated: all of them.",
            rich_help_panel=WANTED,
        ),
    ] = None,
    output: Annotated[
        Output | None,
        typer.Option(
            "--output",
            "-o",
            help="pretty, for reading; json, one object a line with channel, id, time and data; raw, the data alone. "
            "Not given: pretty on a terminal, json in a pipe.",
            rich_help_panel=FORM,
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="TEMPLATE",
            help=r"A line of your own, as in '{time:%H:%M} {channel} {data.user}: {data.text}': channel, id, time, "
            r"ms, seq, data, data.PATH; \n, \t, \0.",
            rich_help_panel=FORM,
        ),
    ] = None,
    pretty: Annotated[
        bool,
        typer.Option("--pretty", help="Indent JSON, and colour it on a terminal.", rich_help_panel=FORM),
    ] = False,
    highlight: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX", help="Mark what matches, on a terminal; may be repeated.", rich_help_panel=FORM),
    ] = None,
    execute: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="COMMAND",
            help="Print nothing, but run a command of the shell for each message, with the data on its standard input "
            "and RSWS_CHANNEL, RSWS_ID and RSWS_TIME in its environment; stop where it fails.",
            rich_help_panel=CONSUMER,
        ),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(
            "--exec-parallel",
            metavar="N",
            min=1,
            max=MAX_PARALLEL,
            help="How many of these commands may run at the same time; not given: one, so that they run in order.",
            rich_help_panel=CONSUMER,
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep the position of each channel in a file, and go on there the next time, whatever --from says. "
            "One run at a time may have a file.",
            autocompletion=completing.files,
            rich_help_panel=CONSUMER,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on standard error but errors.")] = False,
) -> None:
    """Print what is published on channels: from a position on, then live.

    Standard output carries messages alone; everything else goes to standard error. A lost connection is made again,
    and each channel goes on after the last message printed.
    """
    import asyncio

    from rsws.cli.data import check_channel
    from rsws.cli.endpoint import find_gateway
    from rsws.cli.sub.ending import end_by_sigterm, within
    from rsws.cli.sub.filters import Filter, Where, regexes
    from rsws.cli.sub.names import is_pattern
    from rsws.cli.sub.notices import Notices
    from rsws.cli.sub.output import form_of
    from rsws.cli.sub.reading import Extent
    from rsws.cli.sub.run import Plan, Run
    from rsws.cli.sub.sinks import Executing, Printing, Sink
    from rsws.cli.sub.state import Positions
    from rsws.starts import parse_start, parse_until

    channels = list(dict.fromkeys(channels))
    for channel in channels:
        check_channel(channel)
    form = form_of(channels, output, template, pretty=pretty, highlight=regexes("--highlight", highlight))
    if execute is not None and (output or template is not None or pretty or highlight):
        raise UsageError("--exec prints nothing: leave --output, --format, --pretty and --highlight out")
    if execute is not None and not execute.strip():
        raise UsageError("--exec: the command is empty")
    if parallel is not None and execute is None:
        raise UsageError("--exec-parallel is of use with --exec alone")
    wanted = Filter.of(regexes("--include", include), regexes("--exclude", exclude), map(Where.parse, where or ()))
    with naming("--until"):
        last = None if until is None else parse_until(until)
    with naming("--from"):
        first = parse_start(start)
    extent = Extent(
        follow=not no_follow,
        until=last,
        end=end,
        exit_on_gap=on_gap is OnGap.EXIT,
    )
    patterns = [] if literal else [channel for channel in channels if is_pattern(channel)]
    plan = Plan(
        channels=[channel for channel in channels if channel not in patterns],
        patterns=patterns,
        start=first,
        extent=extent,
        count=count,
        merge=not no_merge and (len(channels) > 1 or bool(patterns)),
    )
    gateway = find_gateway(settings)
    with Positions(state) as positions:
        sink: Sink = Printing(form, positions) if execute is None else Executing(execute, parallel or 1, positions)
        notices = Notices(quiet=quiet, rules=execute is None and form.is_for_reading)
        run = Run(plan, sink, notices=notices, positions=positions, wanted=wanted)
        is_done = asyncio.run(within(timeout, run.run(gateway)))
    if not is_done:
        end_by_sigterm()

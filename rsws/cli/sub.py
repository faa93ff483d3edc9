"""``rsws sub``: print the messages that are published."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from rsws.cli import stdio, terminal
from rsws.cli.data import check_channel
from rsws.cli.endpoint import Endpoint, find_gateway
from rsws.cli.exits import ExitCode, Failure, epilog, wire_error
from rsws.cli.options import finite, from_settings
from rsws.cli.start import Following
from rsws.errors import ErrorCode
from rsws.protocol import CaughtUp, End, Error, Gap, Message, StreamId, Subscribed
from rsws.settings import ClientSettings
from rsws.starts import Start, parse_start

if TYPE_CHECKING:
    from rsws.client import Client, ConnectionEvent, Event

EPILOG = epilog(
    "rsws sub news",
    "rsws sub news weather --from 10m",
    "rsws sub news --from 0 --no-follow | wc -l",
)
FROM_HELP = (
    "Where to start: 0 (the whole history), $ (only what is new), -N (the last N), an ID (what follows it), "
    "10m (that long ago, also s, h, d), or a time such as 2026-11-23T10:00."
)


class Output(StrEnum):
    """The format in which messages are printed."""

    PRETTY = "pretty"
    JSON = "json"
    RAW = "raw"


class OnGap(StrEnum):
    """What to do where messages may be missing."""

    WARN = "warn"
    EXIT = "exit"


@from_settings(ClientSettings, panel="Gateway")
def sub(
    channels: Annotated[list[str], typer.Argument(metavar="CHANNEL", help="What to subscribe to.")],
    settings: ClientSettings,
    start: Annotated[str, typer.Option("--from", metavar="START", help=FROM_HELP)] = "$",
    count: Annotated[int | None, typer.Option(metavar="N", min=1, help="Stop after N messages.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            callback=finite,
            help="Stop after that long, with exit code 6 unless --count or --no-follow has ended it before.",
        ),
    ] = None,
    no_follow: Annotated[
        bool, typer.Option("--no-follow", help="Stop at the end of the channels as it was at the start.")
    ] = False,
    end: Annotated[
        bool, typer.Option("--end/--no-end", help="Stop where the channels end (`rsws xadd --end`), or go on.")
    ] = True,
    output: Annotated[
        Output | None,
        typer.Option(
            "--output",
            "-o",
            help="pretty, for reading; json, one object a line with channel, id, time and data; raw, the data alone. "
            "Not given: pretty on a terminal, json in a pipe.",
        ),
    ] = None,
    on_gap: Annotated[
        OnGap,
        typer.Option(help="Where it can't be proven that nothing is missing: warn and go on, or exit with code 5."),
    ] = OnGap.WARN,
) -> None:
    """Print what is published on channels: from a position on, then live.

    Standard output carries messages alone; everything else goes to standard error. A lost connection is made again,
    and each channel goes on after the last message printed.
    """
    channels = list(dict.fromkeys(channels))
    for channel in channels:
        check_channel(channel)
    position = parse_start(start)
    gateway = find_gateway(settings)
    printer = _Printer(channels, output, count=count, follow=not no_follow, end=end, on_gap=on_gap)
    asyncio.run(_follow(gateway, position, printer, timeout))


async def _follow(gateway: Endpoint, start: Start, printer: _Printer, timeout_s: float | None) -> None:
    try:
        async with asyncio.timeout(timeout_s) as deadline:
            await stdio.while_read(_print_all(gateway, start, printer))
    except TimeoutError:
        if not deadline.expired():
            raise
        raise Failure(f"timeout: stopped after {timeout_s:g} s", ExitCode.TIMEOUT) from None


async def _print_all(gateway: Endpoint, start: Start, printer: _Printer) -> None:
    async with gateway.connect(printer.connection_changed) as client:
        try:
            async with asyncio.TaskGroup() as tasks:
                printing = [
                    tasks.create_task(_print_channel(client, channel, start, printer)) for channel in printer.channels
                ]
                await printer.done.wait()
                for each in printing:
                    each.cancel()
        except ExceptionGroup as group:  # an error that ended one channel ends all; the first one is raised
            raise group.exceptions[0] from None


async def _print_channel(client: Client, channel: str, start: Start, printer: _Printer) -> None:
    # The client ends the subscription: to wait for the gateway to confirm its end would delay Ctrl-C.
    async for event in Following(client, channel, start, end=printer.ends):
        await printer.handle(event)


class _Printer:
    """The printer of one run of the command, which also decides when the run is done.

    Args:
        channels: The channels that the command subscribes to.
        output: The format; None chooses the one that suits standard output.
        count: How many messages to print; None for any number.
        follow: Whether to go on after the last message that each channel had at the start.
        end: Whether to stop where the channels end.
        on_gap: What to do at a gap.
    """

    def __init__(
        self,
        channels: Sequence[str],
        output: Output | None,
        *,
        count: int | None,
        follow: bool,
        end: bool,
        on_gap: OnGap,
    ) -> None:
        self.channels = channels
        self.ends = end
        self._on_terminal = os.isatty(stdio.STDOUT)
        self._output = output or (Output.PRETTY if self._on_terminal else Output.JSON)
        self._format = self._formatter()
        self.done = asyncio.Event()
        """Set when the run is done."""
        self._printing = asyncio.Lock()  # keeps lines whole, also where a slow reader accepts them in pieces
        self._left = count
        self._follow = follow
        self._on_gap = on_gap
        self._latest: dict[str, StreamId] = {}
        """The last id that each channel had at the start, once that is known."""
        self._open = set(channels)
        """The channels of which more is printed: without ``follow`` until that id."""
        self._in_history = set(channels)
        self._resuming: dict[str, bool] = {}
        """After a reconnect: the channels that have not caught up, and whether they are subscribed to again."""
        self._outage_s = 0.0
        self._caught_up = 0

    def _formatter(self) -> Callable[[Message], str]:
        match self._output:
            case Output.PRETTY:
                lines = terminal.MessageFormat(self.channels)
                return lambda message: terminal.render(lines.format(message))
            case Output.JSON:
                plain: Callable[[Message], str] = terminal.format_json
            case Output.RAW:
                plain = lambda message: terminal.one_line(message.json)  # noqa: E731
        if self._on_terminal:
            return lambda message: terminal.safe(plain(message)) + "\n"
        return lambda message: plain(message) + "\n"

    def connection_changed(self, event: ConnectionEvent) -> None:
        from rsws.client import Disconnected

        if isinstance(event, Disconnected):
            terminal.print_line(terminal.format_disconnected(event.reason))
        else:
            self._outage_s = event.after_s
            self._resuming = dict.fromkeys(self._open, False)
            self._caught_up = 0

    async def handle(self, event: Event) -> None:
        """Print one event."""
        async with self._printing:
            if self.done.is_set():
                return
            match event:
                case Message():
                    await self._handle_message(event)
                case Subscribed():
                    self._handle_subscribed(event)
                case CaughtUp(channel=channel):
                    self._handle_caught_up(channel)
                case End(channel=channel):
                    if self._output is Output.PRETTY:
                        terminal.print_line(terminal.format_rule(f"{channel} has ended"))
                    self._in_history.discard(channel)
                    self._close(channel)
                case Gap():
                    if self._on_gap is OnGap.EXIT:
                        raise Failure(terminal.gap_text(event), ExitCode.GAP)
                    terminal.print_line(terminal.format_gap(event))
                case Error(error=text, code=code, channel=str(channel)) if self._will_pass(code, channel):
                    terminal.print_line(terminal.format_warning(f"{channel}: {wire_error(text, code)}"))
                case Error():
                    pass  # it ends the channel, and the client raises it

    def _will_pass(self, code: str, channel: str) -> bool:
        was_good = channel in self._latest
        return code == ErrorCode.REDIS_UNAVAILABLE or (
            was_good and code in (ErrorCode.REDIS_REFUSED, ErrorCode.CHANNEL_UNREADABLE)
        )

    async def _handle_message(self, message: Message) -> None:
        channel = message.channel
        if channel not in self._open:
            return
        if self._follow or message.id <= self._latest[channel]:
            await stdio.write(self._format(message).encode())
            if self._resuming.get(channel):
                self._caught_up += 1
            if self._left is not None:
                self._left -= 1
                if self._left == 0:
                    self.done.set()
        if message.id >= self._latest[channel]:
            self._at_latest(channel)

    def _handle_subscribed(self, event: Subscribed) -> None:
        channel = event.channel
        if channel in self._resuming:
            self._resuming[channel] = True
        self._latest.setdefault(channel, event.latest_id)
        if event.last_message_id == self._latest[channel]:
            self._at_latest(channel)

    def _handle_caught_up(self, channel: str) -> None:
        self._at_latest(channel)
        if channel in self._in_history:
            self._in_history.discard(channel)
            if not self._in_history and self._output is Output.PRETTY and self._follow:
                terminal.print_line(terminal.format_rule("live"))
        if self._resuming.get(channel):
            del self._resuming[channel]
            if not self._resuming:
                terminal.print_line(terminal.format_reconnected(self._outage_s, self._caught_up))

    def _at_latest(self, channel: str) -> None:
        """Handle that a channel has reached the last message that it had at the start."""
        if not self._follow:
            self._close(channel)

    def _close(self, channel: str) -> None:
        self._open.discard(channel)
        if not self._open:
            self.done.set()

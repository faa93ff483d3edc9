"""``rsws pub``: publish through a gateway."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from rsws.cli import channel_names, stdio, terminal
from rsws.cli.data import as_message, check_channel, read_message
from rsws.cli.endpoint import Endpoint, find_gateway
from rsws.cli.exits import ExitCode, epilog
from rsws.cli.lines import Send, Sending, check_no_data, go_on, publish_all
from rsws.cli.making import TEMPLATE_HELP, Pace, Template, make, paced
from rsws.cli.message_display import format_disconnected, format_reconnected
from rsws.cli.options import finite, from_settings
from rsws.errors import UsageError
from rsws.settings import ClientSettings

if TYPE_CHECKING:
    from rsws.client import ConnectionEvent

EPILOG = epilog(
    """rsws pub news '{"text":"hi"}'""",
    "rsws pub news --lines < messages.jsonl",
    """rsws pub news --count 100 --rate 10 --template '{"n":{{n}},"at":"{{time}}"}'""",
)


@from_settings(ClientSettings, panel="Gateway")
def pub(
    channel: Annotated[
        str, typer.Argument(metavar="CHANNEL", help="Where to publish.", autocompletion=channel_names.at_gateway)
    ],
    settings: ClientSettings,
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA|-", help="The message, JSON; - reads it from standard input. Left out: a prompt."),
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Each line of standard input is a message.")] = False,
    text: Annotated[bool, typer.Option("--text", help='DATA is plain text, sent as {"text": DATA}.')] = False,
    count: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Publish N messages: DATA each time, or what --template makes."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0.001,
            callback=finite,
            help="Publish so many a second. Without --count and --lines until Ctrl-C.",
        ),
    ] = None,
    template: Annotated[str | None, typer.Option(metavar="TEXT", help=TEMPLATE_HELP)] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.001, callback=finite, help="How long to wait for an ack; exit code 6 after it."
        ),
    ] = 30,
) -> None:
    """Publish a message on a channel, wait until it is stored, and print its stream id.

    Without DATA on a terminal it is a prompt: each line is published, and what others publish on the channel
    appears above it. Without DATA in a pipe it reads the message from standard input.
    """
    check_channel(channel)
    if lines:
        check_no_data(data)
    if lines and (count is not None or template is not None):
        raise UsageError("--lines sends what it reads: leave --count and --template out")
    if template is not None and data is not None:
        raise UsageError("--template makes the messages: leave DATA out")
    fill = None if template is None else _checked(Template(template), text=text)
    what = _What(channel, data, lines, text, count, rate, fill)
    gateway = find_gateway(settings)
    if data is None and not lines and not what.is_made and os.isatty(stdio.STDIN):
        if not os.isatty(stdio.STDOUT):
            raise UsageError("the prompt needs a terminal: give DATA, or - to read standard input")
        from rsws.cli.prompt.talk import talk
        from rsws.datadir import DataDir

        if asyncio.run(talk(gateway, channel, DataDir(settings.data_dir), timeout)):
            raise typer.Exit(ExitCode.INTERRUPTED)
    else:
        asyncio.run(_publish(gateway, what, timeout))


def _checked(template: Template, *, text: bool) -> Callable[[int], bytes]:
    """Return what makes the messages of a template.

    Raises:
        UsageError: It makes no message.
    """
    filled = template.fill(1)
    try:
        as_message(filled, text=text)
    except UsageError as fault:
        raise UsageError(f"--template makes no message: {fault}") from None
    return template.fill


@dataclass(frozen=True, slots=True)
class _What:
    """What is to be published."""

    channel: str
    argument: str | None
    lines: bool
    text: bool
    count: int | None
    rate: float | None
    fill: Callable[[int], bytes] | None
    """What makes each message, where a template was given."""

    @property
    def is_made(self) -> bool:
        """Whether the messages are made here: of a template, or one of them many times."""
        return not self.lines and any(each is not None for each in (self.count, self.rate, self.fill))

    @property
    def number(self) -> int | None:
        """How many messages are made; None for any number."""
        return self.count if self.count is not None or self.rate is not None else 1

    async def maker(self) -> Callable[[int], bytes]:
        """Return what makes each message. Raises what :func:`read_message` raises."""
        if self.fill is not None:
            return self.fill
        message = await read_message(self.argument, text=self.text)
        return lambda number: message


async def _publish(gateway: Endpoint, what: _What, timeout_s: float) -> None:
    if what.lines:
        sending = Sending("line", go_on("pub", what.channel, text=what.text))
    else:
        sending = Sending("message" if what.is_made else None)
    async with sending.told():
        message = None if what.lines or what.is_made else await read_message(what.argument, text=what.text)
        fill = await what.maker() if what.is_made else None
        async with gateway.connect(_tell) as client:
            send = partial(publish_all, client, what.channel, timeout_s)
            if fill is not None:
                await _send_made(sending, send, what, fill)
            elif message is not None:
                await stdio.write(f"{await sending.send_one(send, message)}\n".encode())
            else:
                await sending.send_all(send, paced(stdio.read_lines(), Pace(what.rate)), text=what.text)


async def _send_made(sending: Sending, send: Send, what: _What, fill: Callable[[int], bytes]) -> None:
    since = time.monotonic()
    is_text = what.text and what.fill is not None  # a repeated DATA has been made into JSON already
    made = make(fill, what.number, Pace(what.rate))
    await sending.send_all(send, made, text=is_text, while_read=what.number is None)
    if os.isatty(stdio.STDERR):
        took_s = max(0.001, time.monotonic() - since)
        text = f"{sending.stored:,} stored in {took_s:.1f} s, {sending.stored / took_s:,.1f} a second"
        terminal.print_line(terminal.format_note(text))


def _tell(event: ConnectionEvent) -> None:
    from rsws.client import Disconnected

    if isinstance(event, Disconnected):
        terminal.print_line(format_disconnected(event.reason))
    else:
        terminal.print_line(format_reconnected(event.after_s))

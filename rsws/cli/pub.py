"""``rsws pub``: publish through a gateway."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from rsws.cli import stdio, terminal
from rsws.cli.data import check_channel, read_message
from rsws.cli.endpoint import Endpoint, find_gateway
from rsws.cli.exits import ExitCode, epilog
from rsws.cli.lines import Sending, check_no_data, publish_all
from rsws.cli.options import finite, from_settings
from rsws.errors import UsageError
from rsws.settings import ClientSettings

if TYPE_CHECKING:
    from rsws.client import ConnectionEvent

EPILOG = epilog(
    """rsws pub news '{"text":"hi"}'""",
    "rsws pub news --lines < messages.jsonl",
    "rsws pub news",
)


@from_settings(ClientSettings, panel="Gateway")
def pub(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="Where to publish.")],
    settings: ClientSettings,
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA|-", help="The message, JSON; - reads it from standard input. Left out: a prompt."),
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Each line of standard input is a message.")] = False,
    text: Annotated[bool, typer.Option("--text", help='DATA is plain text, sent as {"text": DATA}.')] = False,
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
    gateway = find_gateway(settings)
    if data is None and not lines and os.isatty(stdio.STDIN):
        if not os.isatty(stdio.STDOUT):
            raise UsageError("the prompt needs a terminal: give DATA, or - to read standard input")
        from rsws.cli.prompt import talk
        from rsws.datadir import DataDir

        if asyncio.run(talk(gateway, channel, DataDir(settings.data_dir), timeout)):
            raise typer.Exit(ExitCode.INTERRUPTED)
    else:
        asyncio.run(_publish(gateway, channel, data, lines=lines, text=text, timeout_s=timeout))


async def _publish(
    gateway: Endpoint, channel: str, argument: str | None, *, lines: bool, text: bool, timeout_s: float
) -> None:
    async with Sending(by_line=lines).told() as sending:
        message = None if lines else await read_message(argument, text=text)
        async with gateway.connect(_tell) as client:
            send = partial(publish_all, client, channel, timeout_s)
            if message is None:
                await sending.send_stdin(send, text=text)
            else:
                await stdio.write(f"{await sending.send_one(send, message)}\n".encode())


def _tell(event: ConnectionEvent) -> None:
    from rsws.client import Disconnected

    if isinstance(event, Disconnected):
        terminal.print_line(terminal.format_disconnected(event.reason))
    else:
        terminal.print_line(terminal.format_reconnected(event.after_s))

"""``rsws xadd``: write directly to Redis, as any backend does."""

from __future__ import annotations

import asyncio
import os
import shlex
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from rsws.cli import channel_names, stdio
from rsws.cli.data import check_channel, read_message
from rsws.cli.endpoint import REDIS_OPTIONS, find_redis
from rsws.cli.exits import Failure, describe, epilog, exit_code
from rsws.cli.lines import Sending, check_no_data, go_on, line_message
from rsws.cli.options import from_settings
from rsws.cli.redis_cli import redis_cli
from rsws.errors import Outcome, RedisUnavailable, UsageError
from rsws.protocol import FIELD
from rsws.settings import Settings
from rsws.text import safe

if TYPE_CHECKING:
    from rsws.redis.target import RedisTarget
    from rsws.redis.url import RedisUrl

EPILOG = epilog(
    """rsws xadd pending '{"type":"ALERT"}'""",
    "rsws xadd pending --lines --maxlen 100000 < messages.jsonl",
    """rsws xadd pending '{"type":"ALERT"}' --print-command""",
)


@from_settings(Settings, panel="Redis", only=REDIS_OPTIONS)
def xadd(
    channel: Annotated[
        str, typer.Argument(metavar="CHANNEL", help="The stream to add to.", autocompletion=channel_names.in_redis)
    ],
    settings: Settings,
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA|-", help="The message, JSON; - or nothing reads it from standard input."),
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Each line of standard input is a message.")] = False,
    text: Annotated[bool, typer.Option("--text", help='DATA is plain text, stored as {"text": DATA}.')] = False,
    maxlen: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Keep about the N newest messages of the stream.")
    ] = None,
    field: Annotated[
        str, typer.Option(metavar="FIELD", help="The field that holds the message, as `rsws serve --field` has it.")
    ] = FIELD,
    end: Annotated[
        bool,
        typer.Option(
            "--end",
            help="End the channel with this message; without DATA with none, and with --lines after the last one.",
        ),
    ] = False,
    print_command: Annotated[
        bool, typer.Option("--print-command", help="Print the same thing as a redis-cli line, and don't do it.")
    ] = False,
) -> None:
    """Add a message to a channel's stream in Redis, without a gateway. Prints its id.

    Redis is the one of REDIS_URL, else the local one that `rsws serve` finds or starts.
    """
    from rsws.streams.fields import field_fault

    check_channel(channel)
    fault = field_fault(field)
    if fault is not None:
        raise UsageError(f"--field: {fault}")
    if lines:
        check_no_data(data)
    target = find_redis(settings)
    what = _What(channel=channel, argument=data, lines=lines, text=text, maxlen=maxlen, field=field, end=end)
    asyncio.run(_print(target.url, what) if print_command else _add(target, what))


@dataclass(frozen=True, slots=True, kw_only=True)
class _What:
    """What is to be added."""

    channel: str
    argument: str | None
    lines: bool
    text: bool
    maxlen: int | None
    field: str
    end: bool

    async def message(self) -> bytes:
        """Return the one message; nothing where only the end is to be marked."""
        return b"" if self.end and self.argument is None else await read_message(self.argument, text=self.text)


async def _add(target: RedisTarget, what: _What) -> None:
    from rsws.streams.publisher import Publisher

    try:
        again = go_on("xadd", what.channel, text=what.text)
        async with (Sending("line", again) if what.lines else Sending()).told() as sending:
            message = b"" if what.lines else await what.message()
            async with Publisher(target) as publisher:
                send = partial(publisher.add, what.channel, maxlen=what.maxlen, field=what.field)
                if what.lines:
                    await sending.send_all(send, stdio.read_lines(), text=what.text)
                if what.end or not what.lines:
                    added = await sending.send_one(partial(send, ends=what.end), message)
                    await stdio.write(f"{added}\n".encode())
    except RedisUnavailable as error:
        if error.outcome is Outcome.UNKNOWN:
            raise
        hint = "start one with `rsws serve`, or say where it is with --redis-url or REDIS_URL"
        raise Failure(f"{describe(error)}; {hint}", exit_code(error)) from None


async def _print(url: RedisUrl, what: _What) -> None:
    from rsws.streams.publisher import xadd

    client = redis_cli(url)

    async def show(message: bytes, *, ends: bool = False) -> None:
        arguments = xadd(what.channel, message, what.maxlen, field=what.field, ends=ends)
        words = [*client, *(word.decode() for word in arguments)]
        line = shlex.join(words)
        shown = safe(line) if os.isatty(stdio.STDOUT) else line  # safe() keeps the meaning of JSON
        await stdio.write(f"{shown}\n".encode())

    if what.lines:
        async for batch in stdio.read_lines():
            for line in batch:
                await show(line_message(line, text=what.text))
    if what.end or not what.lines:
        await show(b"" if what.lines else await what.message(), ends=what.end)

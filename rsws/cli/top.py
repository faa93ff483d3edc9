"""``rsws top``: what a gateway is doing, live."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer

from rsws.cli import stdio
from rsws.cli.activity import Activity
from rsws.cli.endpoint import find_gateway
from rsws.cli.exits import ExitCode, Failure, epilog
from rsws.cli.keys import Keys
from rsws.cli.options import finite, from_settings
from rsws.errors import UsageError
from rsws.protocol import json_text
from rsws.settings import ClientSettings, Settings
from rsws.urls import parse_place

EPILOG = epilog(
    "rsws top",
    "rsws top --url wss://news.example.com --admin 9090",
    "rsws top --once | jq .perSecond.delivered",
)
ONCE_S = 1.0
"""The time between the two looks of ``--once``."""


@from_settings(Settings, panel="Gateway", only=("admin",), argument="gateway")
@from_settings(ClientSettings, panel="Gateway", argument="client")
def top(
    gateway: Settings,
    client: ClientSettings,
    once: Annotated[
        bool, typer.Option("--once", help="Look twice, a second apart, and print one JSON object, for scripts.")
    ] = False,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.2, callback=finite, help="How often to look.")] = 2,
) -> None:
    """Show what a gateway is doing: rates, the busiest channels, the slowest clients, Redis, workers. `q` quits.

    It needs the secret key. Give --admin as to the gateway: its metrics are there then, the clients are asked for at
    --url all the same. A gateway that goes away is awaited.
    """
    activity = Activity(find_gateway(client), parse_place(gateway.admin) if gateway.admin is not None else None)
    if once:
        asyncio.run(_print(activity))
    elif os.isatty(stdio.STDOUT):
        asyncio.run(_show(activity, every))
    else:
        raise UsageError("standard output is no terminal: --once prints JSON")


async def _print(activity: Activity) -> None:
    await activity.look()
    await asyncio.sleep(ONCE_S)
    await activity.look()
    await stdio.write(json_text(activity.told()) + b"\n")


async def _show(activity: Activity, every_s: float) -> None:
    from rsws.cli.top_display import Screen

    await activity.look()  # what can't be reached or is refused at the start ends it
    with Keys() as keys, Screen(activity) as screen:
        while keys.pressed != "q":
            screen.show()
            await keys.wait(every_s)
            try:
                await activity.look()
            except Failure as error:
                if error.code is not ExitCode.NOT_CONNECTED:
                    raise
                screen.trouble = str(error)
            else:
                screen.looked()

"""``rsws profile``: names for gateways and Redis servers, with where their secrets are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from rsws.cli import completing, stdio, terminal
from rsws.cli.exits import epilog
from rsws.cli.options import from_settings
from rsws.cli.origins import FLAGS
from rsws.errors import UsageError
from rsws.options import options
from rsws.profiles import FILES, PROFILED, Profiles, check_profile, read_profiles, shown_path, write_profiles
from rsws.protocol import json_text
from rsws.settings import ClientSettings, ProfileSettings, Settings
from rsws.urls import redact_url, websocket_url

HELP = """Name gateways and Redis servers, and choose between them: `rsws sub news --profile prod`.

A profile has no secret in it, but says which file has it. It is used where --profile or RSWS_PROFILE names it, or where
`rsws profile use` has chosen it."""
EPILOG = epilog(
    "rsws profile add prod --url wss://news.example.com --token-file ~/.prod-token",
    "rsws sub news --profile prod",
    "rsws profile use prod",
)

_NewName = Annotated[str, typer.Argument(metavar="NAME", help="The profile's name.")]
_Name = Annotated[str, typer.Argument(metavar="NAME", help="The profile's name.", autocompletion=completing.profiles)]


@from_settings(Settings, only=PROFILED, argument="redis", panel="Redis", profiles=False, environment=False)
@from_settings(ClientSettings, only=PROFILED, panel="Gateway", profiles=False, environment=False)
def add(
    name: _NewName,
    settings: ClientSettings,
    redis: Settings,
    token: Annotated[str | None, typer.Option("--token", hidden=True)] = None,
) -> None:
    """Add a profile: a gateway, a Redis, or both."""
    if token is not None:
        raise UsageError(
            "--token: no secret is kept in a profile: write it into a file, and give that with --token-file"
        )
    given = {
        each: str(getattr(settings if each in options(ClientSettings) else redis, each))
        for each in PROFILED
        if each in FLAGS.get()
    }
    if not given:
        raise UsageError("say which gateway or which Redis it is: --url, --redis-url or --redis-url-file")
    given |= {each: os.path.abspath(os.path.expanduser(given[each])) for each in FILES if each in given}
    check_profile(name, given)
    if "url" in given:
        given["url"] = websocket_url(given["url"])
    if "redis_url" in given:
        from rsws.redis.url import parse_redis_url

        parse_redis_url(given["redis_url"])
    profiles = read_profiles()
    if name in profiles.of:
        raise UsageError(f"there is a profile {name!r} already; `rsws profile rm {name}` removes it")
    profiles.of[name] = given
    write_profiles(profiles)
    for each in FILES:
        if each in given and not os.path.exists(given[each]):
            _say_warning(f"there is no file {given[each]} yet")
    _say(f"added to {shown_path()}; use it with --profile {name}, or always after `rsws profile use {name}`")


def list_() -> None:
    """List the profiles; in a pipe as one JSON object a line. The one that is used is marked with *."""
    profiles = read_profiles()
    current = os.environ.get(options(ProfileSettings)["profile"].env) or profiles.default
    if os.isatty(stdio.STDOUT):
        text = _for_people(profiles, current)
    else:
        text = b"".join(
            json_text({"name": name, "current": name == current, **settings}) + b"\n"
            for name, settings in profiles.of.items()
        ).decode()
    asyncio.run(stdio.write(text.encode()))
    if not profiles.of:
        _say("there is no profile; `rsws profile add` makes one")


def _for_people(profiles: Profiles, current: str | None) -> str:
    width = max(map(len, profiles.of), default=0)
    return "".join(
        f"{'*' if name == current else ' '} {name:{width}}  {terminal.safe(_shown(settings))}\n"
        for name, settings in profiles.of.items()
    )


def _shown(settings: Mapping[str, str]) -> str:
    said = {
        name.replace("_", "-"): redact_url(value) if name == "redis_url" else value for name, value in settings.items()
    }
    return "  ".join([f"{name} {value}" for name, value in said.items()])


def use(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="The profile's name. Not given: none from now on.",
            autocompletion=completing.profiles,
        ),
    ] = None,
) -> None:
    """Choose the profile that is used where none is named."""
    profiles = read_profiles()
    if name is not None:
        profiles.get(name)
    profiles.default = name
    write_profiles(profiles)
    _say("no profile is used any more unless it is named" if name is None else f"{name} is used where none is named")


def remove(name: _Name) -> None:
    """Remove a profile; the files that it names stay."""
    profiles = read_profiles()
    profiles.get(name)
    del profiles.of[name]
    if profiles.default == name:
        profiles.default = None
        _say_warning(f"{name} was used where none is named; now none is")
    write_profiles(profiles)


def _say(text: str) -> None:
    if os.isatty(stdio.STDERR):
        terminal.print_line(terminal.format_note(text))


def _say_warning(text: str) -> None:
    terminal.print_line(terminal.format_warning(text))


COMMANDS: dict[str, Callable[..., None]] = {"add": add, "ls": list_, "use": use, "rm": remove}

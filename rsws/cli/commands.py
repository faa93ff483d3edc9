"""The commands, each of which is imported and made when it is asked for: the others cost a command no time."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer

from rsws.cli import usage
from rsws.cli.exits import epilog

_STYLE: dict[str, Any] = {
    "context_settings": {"help_option_names": ["--help", "-h"]},
    "rich_markup_mode": "rich",
    "pretty_exceptions_enable": False,
}

SUMMARIES = {
    "serve": "Run the gateway: WebSocket clients on one side, Redis Streams on the other.",
    "sub": "Print what is published on channels: from a position on, then live.",
    "pub": "Publish a message on a channel, wait until it is stored, and print its stream id.",
    "xadd": "Add a message to a channel's stream in Redis, without a gateway. Prints its id.",
    "ls": "List the channels: entries, memory, first and last id, age, and with --rate what comes in a second.",
    "info": "Say what there is of a channel: its ends, sizes, consumer groups, retention, and who subscribes.",
    "top": "Show what a gateway is doing: rates, the busiest channels, the slowest clients, Redis, workers. `q` quits.",
    "restore": "Read what `rsws sub --from 0 --no-follow -o json` has printed, and write it into streams of Redis.",
    "copy": "Copy streams from one Redis to another, with all fields and with their ids, and go on with what comes.",
    "token": "Print a JWT that allows what the patterns say, signed with the gateway's --jwt-key or its file.",
    "check": "Look for what loses messages, and try whether they arrive: at the gateway and its Redis.",
    "bench": "Load a gateway with many clients, measure it, and check that every message comes once and in order.",
    "profile": "Name gateways and Redis servers, and choose between them: `rsws sub news --profile prod`.",
}
"""The commands in the order of the help, and the first paragraph of each one's own help."""


class _Commands(usage.Group):
    """The group ``rsws``, whose commands are not made before they are asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: usage.Unmade(name, summary, make) for name, summary in SUMMARIES.items()}


def make(name: str) -> Any:
    """Import a command or a group of them, and return it as typer makes it."""
    module = import_module(f"rsws.cli.{name}")
    if not hasattr(module, "COMMANDS"):
        return _made(typer.Typer(add_completion=False, **_STYLE), {name: getattr(module, name)}, module.EPILOG)
    group = typer.Typer(
        name=name,
        cls=usage.Group,
        help=_help(module.HELP),
        epilog=module.EPILOG,
        no_args_is_help=True,
        add_completion=False,
        **_STYLE,
    )
    return _made(group, module.COMMANDS, module.EPILOG)


def _made(typed: typer.Typer, functions: dict[str, Callable[..., Any]], epilog: str) -> Any:
    for name, function in functions.items():
        typed.command(name, cls=usage.Command, help=_help(function.__doc__), epilog=epilog)(function)
    return typer.main.get_command(typed)


def _help(text: str | None) -> str:
    """Return a docstring with each paragraph in one line, so that the terminal's width decides where lines break."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


app = typer.Typer(
    name="rsws",
    cls=_Commands,
    help="A WebSocket gateway over Redis Streams, and the command-line kit around it.",
    epilog=epilog("rsws serve", "rsws sub news --from 0", """rsws pub news '{"text":"hi"}'"""),
    no_args_is_help=True,
    **_STYLE,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"rsws {version('rsws')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass

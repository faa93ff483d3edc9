"""The command line: its commands, and how each of them exits."""

from __future__ import annotations

import inspect
import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from rsws.cli import bench, check, copy, info, ls, profile, pub, restore, serve, terminal, token, top, usage, xadd
from rsws.cli.exits import ExitCode, StdoutClosed, describe, epilog, exit_code
from rsws.cli.sub import command as sub
from rsws.env_file import load_env_file
from rsws.errors import RswsError, UsageError

ENV_FILE = Path(".env")

app = typer.Typer(
    name="rsws",
    cls=usage.Group,
    help="A WebSocket gateway over Redis Streams, and the command-line kit around it.",
    epilog=epilog("rsws serve", "rsws sub news --from 0", """rsws pub news '{"text":"hi"}'"""),
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _help(text: str | None) -> str:
    """Return a docstring with each paragraph in one line, so that the terminal's width decides where lines break."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


for _command, _epilog in (
    (serve.serve, serve.EPILOG),
    (sub.sub, sub.EPILOG),
    (pub.pub, pub.EPILOG),
    (xadd.xadd, xadd.EPILOG),
    (ls.ls, ls.EPILOG),
    (info.info, info.EPILOG),
    (top.top, top.EPILOG),
    (restore.restore, restore.EPILOG),
    (copy.copy, copy.EPILOG),
    (token.token, token.EPILOG),
    (check.check, check.EPILOG),
):
    app.command(cls=usage.Command, help=_help(_command.__doc__), epilog=_epilog)(_command)

_bench = typer.Typer(cls=usage.Group, no_args_is_help=True)
for _command in bench.COMMANDS:
    _bench.command(cls=usage.Command, help=_help(_command.__doc__), epilog=bench.EPILOG)(_command)
app.add_typer(_bench, name="bench", help=_help(bench.HELP), epilog=bench.EPILOG)

_profile = typer.Typer(cls=usage.Group, no_args_is_help=True)
for _name, _work in profile.COMMANDS.items():
    _profile.command(_name, cls=usage.Command, help=_help(_work.__doc__), epilog=profile.EPILOG)(_work)
app.add_typer(_profile, name="profile", help=_help(profile.HELP), epilog=profile.EPILOG)


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


def main() -> None:
    """Run the command line and exit with a code of :class:`ExitCode`: the entry point of the console script."""
    _open_standard_streams()
    terminal.show_logs()
    sys.exit(_flushed(_run()))


def _open_standard_streams() -> None:
    """Open standard streams that were closed at the start: a socket must not get their number, and then their data."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
    if sys.stderr is sys.__stderr__:  # unless somebody else, such as a test, has replaced it
        raw = io.BufferedWriter(_StandardError(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)


class _StandardError(io.FileIO):
    """Standard error that drops what can't be written: an error in writing there must not change how a command ends."""

    def write(self, data: Any) -> int:
        written: int | None = None
        with suppress(OSError):
            written = super().write(data)
        return len(data) if written is None else written  # None, too, where a write would block


def _run() -> int:
    """Run the command, and turn any error into a line on standard error and an exit code, here and nowhere else."""
    try:
        _load_env_file()
        code = app(prog_name="rsws", standalone_mode=False)
    except SystemExit as end:  # typer exits by itself when standard output seems closed
        return end.code if isinstance(end.code, int) else ExitCode.DONE
    except usage.CommandLineError as error:
        if error.__class__.__name__ != "NoArgsIsHelpError":  # that one has printed the help already
            terminal.print_line(terminal.format_error(usage.describe_usage(error)))
        return ExitCode.USAGE
    except StdoutClosed:
        return ExitCode.DONE
    except (RswsError, OSError) as error:
        terminal.print_line(terminal.format_error(describe(error)))
        return exit_code(error)
    return code if isinstance(code, int) else ExitCode.DONE


def _load_env_file() -> None:
    try:
        for line in load_env_file(ENV_FILE):
            terminal.print_line(terminal.format_warning(f"{ENV_FILE} line {line} is no NAME=VALUE, and is left out"))
    except (OSError, ValueError) as error:  # a ValueError: not UTF-8, or a NUL
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{ENV_FILE} in the working directory can't be read: {reason}") from None


def _flushed(code: int) -> int:
    """Flush standard output here, where a closed pipe can be ignored, and return the exit code."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's own flush at exit succeeds
        if not isinstance(error, BrokenPipeError):
            terminal.print_line(terminal.format_error(describe(error)))
            return ExitCode.ERROR
    return code

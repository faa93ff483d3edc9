"""The command line from its start to its exit code."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

from rsws.cli import terminal, usage
from rsws.cli.commands import app
from rsws.cli.exits import ExitCode, StdoutClosed, describe, exit_code
from rsws.env_file import load_env_file
from rsws.errors import RswsError, UsageError
from rsws.text import show_bugs

ENV_FILE = Path(".env")


def main() -> None:
    """Run the command line and exit with a code of :class:`ExitCode`: the entry point of the console script."""
    _open_standard_streams()
    show_bugs()
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
        try:
            written: int | None = super().write(data)
        except OSError:
            written = None
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

"""Command-line options made from the settings classes, which define each option once."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from rsws.cli import terminal
from rsws.errors import Unauthorized, UsageError
from rsws.options import Option, options
from rsws.settings import ClientSettings

Command = TypeVar("Command", bound=Callable[..., Any])

FLAGS: ContextVar[frozenset[str]] = ContextVar("rsws_flags", default=frozenset())
"""The settings that are given on the current command line, not in the environment or in ``.env``."""

TOKEN_SOURCE: ContextVar[str] = ContextVar("rsws_token_source", default="")
"""The source of the token that the current command uses; "" where it uses none."""
_METAVARS = {
    "_s": "SECONDS",
    "_bytes": "BYTES",
    "port": "PORT",
    "url": "URL",
    "_file": "PATH",
    "_rate": "N[,BURST]",
    "max_channels": "N",
    "channels": "PATTERN",
    "retain": "PATTERN=COUNT[,AGE[,expire]]",
    "key_may": "PATTERN=r|w|rw",
    "admin": "HOST:PORT",
    "origin": "ORIGIN",
    "trusted_proxies": "CIDR",
}
"""The placeholder for the value of a flag in the help, by the end of the field's name."""


def flag(name: str) -> str:
    """Return the flag of a settings field: ``redis_timeout_s`` is ``--redis-timeout``, whose help has the unit."""
    return "--" + name.removesuffix("_s").replace("_", "-")


def from_settings(
    settings: type[Any],
    *,
    panel: str | None = None,
    only: Iterable[str] | None = None,
    argument: str = "settings",
) -> Callable[[Command], Command]:
    """Give a command the options of a settings class, whose values it gets as one argument.

    A command may have those of several classes.

    Args:
        settings: The settings class.
        panel: The heading of these options in ``--help``.
        only: The names of the fields that the command uses; None for all.
        argument: The name of that argument.
    """

    def decorate(command: Command) -> Command:
        chosen = {name: each for name, each in _parameters(settings, panel).items() if only is None or name in only}
        signature = inspect.signature(command, eval_str=True)
        takes_context = "context" in signature.parameters

        @functools.wraps(command)
        def wrapper(context: typer.Context, **arguments: Any) -> Any:
            values = {name: arguments.pop(name) for name in chosen}
            FLAGS.set(frozenset({name for name in context.params if _is_given(context, name)}))
            repeated = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
            made = settings(**_without_overruled(values) | repeated)
            TOKEN_SOURCE.set("")
            if isinstance(made, ClientSettings) and made.insecure:
                text = "--insecure: the certificate is not checked; whoever is in between can read all, the token too"
                terminal.print_line(terminal.format_warning(text))
            if takes_context:
                arguments["context"] = context
            try:
                return command(**{argument: made}, **arguments)
            except Unauthorized as error:
                source = TOKEN_SOURCE.get()
                TOKEN_SOURCE.set("")  # a command with the options of several classes comes here for each
                if not source:
                    raise
                raise Unauthorized(f"{error} ({source})") from None

        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        own = [each for each in signature.parameters.values() if each.name not in (argument, "context")]
        wrapper.__signature__ = signature.replace(parameters=[context, *own, *chosen.values()])  # type: ignore[attr-defined]
        return wrapper  # type: ignore[return-value]

    return decorate


def _parameters(settings: type[Any], panel: str | None) -> dict[str, inspect.Parameter]:
    types = get_type_hints(settings)
    said = options(settings)
    parameters = {}
    for each in fields(settings):
        option = said[each.name]
        assert each.default is not MISSING
        type_ = list[str] if types[each.name] == tuple[str, ...] else types[each.name]  # may be repeated
        parameters[each.name] = inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=[] if type_ == list[str] else each.default,
            annotation=Annotated[
                Literal[option.choices] if option.choices else type_,
                typer.Option(
                    flag(each.name) + (f"/--no-{flag(each.name)[2:]}" if type_ is bool and option.env else ""),
                    envvar=option.env or None,
                    help=option.help,
                    metavar=_metavar(each.name, type_, option),
                    min=option.minimum,
                    max=option.maximum,
                    callback=checked(each.name, option),
                    show_default=each.default not in (None, ()),
                    rich_help_panel=panel,
                ),
            ],
        )
    return parameters


def _metavar(name: str, type_: Any, option: Option) -> str | None:
    if option.choices or type_ is bool:
        return None
    for ending, metavar in _METAVARS.items():
        if name.endswith(ending):
            return metavar
    return {int: "N", int | None: "N", Path | None: "PATH"}.get(type_, "TEXT")


def checked(name: str, option: Option) -> Callable[[Any], Any]:
    """Return the callback that checks a setting; its error does not show the value, which may be secret."""

    def check(value: Any) -> Any:
        fault = option.fault(value)
        if fault is not None:
            raise UsageError(f"{flag(name)}{f' ({option.env})' if option.env else ''}: {fault}")
        return value

    return check


def finite(value: Any) -> Any:
    """Check the value of an option that may be a fraction: the callback refuses ``inf`` and ``nan``."""
    if isinstance(value, float) and not math.isfinite(value):
        raise typer.BadParameter("it must be a finite number")
    return value


def _without_overruled(values: dict[str, Any]) -> dict[str, Any]:
    """Drop what a flag overrules: of a setting and its ``_file`` setting, the one from the environment."""
    left = dict(values)
    for name, value in values.items():
        file = f"{name}_file"
        if value is None or values.get(file) is None:
            continue
        is_flag = name in FLAGS.get()
        if is_flag != (file in FLAGS.get()):
            left[file if is_flag else name] = None
    return left


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter is given on the command line, whatever the environment has for it."""
    return getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"

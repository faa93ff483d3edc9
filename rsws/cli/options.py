"""Command-line options made from the settings classes, which define each option once."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from rsws.cli import completing, terminal
from rsws.cli.origins import FLAGS as FLAGS
from rsws.cli.origins import PROFILE, Profile, variable_shown
from rsws.cli.origins import flag as flag
from rsws.errors import Unauthorized, UsageError
from rsws.options import Option, options
from rsws.profiles import FILES, GATEWAY, PROFILED, REDIS, file_of, read_profiles
from rsws.settings import ClientSettings, ProfileSettings

Command = TypeVar("Command", bound=Callable[..., Any])
Made = TypeVar("Made")

_TAKEN = "rsws.profile"
"""The key of a context's meta at which the profile of the command line is."""
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
    "profile": "NAME",
}
"""The placeholder for the value of a flag in the help, by the end of the field's name."""


def from_settings(
    settings: type[Any],
    *,
    panel: str | None = None,
    only: Iterable[str] | None = None,
    argument: str = "settings",
    profiles: bool = True,
    environment: bool = True,
) -> Callable[[Command], Command]:
    """Give a command the options of a settings class, whose values it gets as one argument.

    A command may have those of several classes.

    Args:
        settings: The settings class.
        panel: The heading of these options in ``--help``.
        only: The names of the fields that the command uses; None for all.
        argument: The name of that argument.
        profiles: Whether a profile may give some of them.
        environment: Whether the environment may give them.
    """

    def decorate(command: Command) -> Command:
        made = _parameters(settings, panel, environment=environment)
        chosen = {name: each for name, each in made.items() if only is None or name in only}
        signature = inspect.signature(command, eval_str=True)
        takes_context = "context" in signature.parameters
        has_profile = profiles and bool(chosen.keys() & set(PROFILED))
        adds_profile = has_profile and "profile" not in signature.parameters
        added = _parameters(ProfileSettings, panel) if adds_profile else {}

        @functools.wraps(command)
        def wrapper(context: typer.Context, **arguments: Any) -> Any:
            values = {name: arguments.pop(name) for name in chosen}
            if adds_profile:
                del arguments["profile"]
            made = _made(context, settings, values, has_profile=has_profile)
            TOKEN_SOURCE.set("")
            if isinstance(made, ClientSettings) and made.insecure and not context.params.get("quiet"):
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
        wrapper.__annotations__ = {}  # the signature has them; typer would make those of the command once more
        wrapper.__signature__ = signature.replace(parameters=[context, *own, *added.values(), *chosen.values()])  # type: ignore[attr-defined]
        return wrapper  # type: ignore[return-value]

    return decorate


def settings_of(context: typer.Context, settings: type[Made]) -> Made:
    """Return the settings that a command line leads to which is not complete, to run nothing.

    Raises:
        UsageError: The profile can't be used.
    """
    values = {name: context.params[name] for name in options(settings) if name in context.params}
    made = _made(context, settings, values, has_profile="profile" in context.params)
    missing = {each.name: each.default for each in fields(settings) if getattr(made, each.name) is None}  # type: ignore[arg-type]
    return replace(made, **missing)  # type: ignore[type-var]


def _made(context: typer.Context, settings: type[Made], values: dict[str, Any], *, has_profile: bool) -> Made:
    FLAGS.set(frozenset({name for name in context.params if _is_given(context, name)}))
    taken = context.meta.get(_TAKEN, Profile())  # for the options of another class
    context.meta[_TAKEN] = _take_profile(context, values, taken) if has_profile else taken
    PROFILE.set(context.meta[_TAKEN])
    repeated = {name: tuple(value) for name, value in values.items() if isinstance(value, list | tuple)}
    return settings(**_without_overruled(values) | repeated)


def _take_profile(context: typer.Context, values: dict[str, Any], before: Profile) -> Profile:
    """Take from the profile what nothing before it gives: flags, and the environment unless a flag names the profile.

    The settings of a gateway belong together, as do those of a Redis: where the profile does not say which one it is,
    neither does it say the token for it, or whom to trust.

    Raises:
        UsageError: There is no such profile, or the file of profiles can't be used.
        SetupError: That file is somebody else's.
    """
    wanted, by_flag = context.params.get("profile"), _is_given(context, "profile")
    if wanted == "":
        return before
    try:
        profiles = read_profiles()
        name = wanted or profiles.default
        said = profiles.get(name) if name is not None else {}
    except UsageError as fault:
        raise UsageError(
            f"{flag('profile') if by_flag else 'RSWS_PROFILE'}: {fault}" if wanted else str(fault)
        ) from None

    def is_before(name: str) -> bool:
        return _is_given(context, name) or (not by_flag and _source(context, name) == "ENVIRONMENT")

    taken: set[str] = set()
    for group, which in ((GATEWAY, {"url"}), (REDIS, {"redis_url", "redis_url_file"})):
        here = [each for each in group if each in values]
        if not which & said.keys() or any(is_before(each) for each in which) or _is_given(context, "local_redis_port"):
            continue
        taken |= {each for each in here if each in said and not is_before(each)}
        for each in which & values.keys() - said.keys():
            values[each] = None  # the environment's, which is another server
    if "token_file" in taken and not is_before("token"):
        values["token"] = None
    values |= {each: file_of(said[each]) if each in FILES else said[each] for each in taken}
    return Profile(name or "", before.settings | taken)


def _parameters(settings: type[Any], panel: str | None, *, environment: bool = True) -> dict[str, inspect.Parameter]:
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
                    envvar=(option.env if environment else None) or None,
                    help=option.help,
                    metavar=_metavar(each.name, type_, option),
                    min=option.minimum,
                    max=option.maximum,
                    callback=None if type_ in _NEVER_AT_FAULT else checked(each.name, option),
                    show_default=each.default not in (None, ()),
                    rich_help_panel=panel,
                    autocompletion=_completion(each.name, type_),
                ),
            ],
        )
    return parameters


_NEVER_AT_FAULT = (bool, Path, Path | None)
"""The types whose values :meth:`Option.fault` has nothing to say about; a callback is dear to typer."""


def _completion(name: str, type_: Any) -> Callable[[str], list[str]] | None:
    if name == "profile":
        return completing.profiles
    return completing.files if type_ in (Path, Path | None) else None


def _metavar(name: str, type_: Any, option: Option) -> str | None:
    if option.choices or type_ is bool:
        return None
    for ending, metavar in _METAVARS.items():
        if name.endswith(ending):
            return metavar
    return {int: "N", int | None: "N", Path | None: "PATH"}.get(type_, "TEXT")


def checked(name: str, option: Option) -> Callable[[typer.Context, Any], Any]:
    """Return the callback that checks a setting; its error does not show the value, which may be secret."""

    def check(context: typer.Context, value: Any) -> Any:
        raise_fault(name, option, value, by_flag=_is_given(context, name))
        return value

    return check


def raise_fault(name: str, option: Option, value: Any, *, by_flag: bool = False) -> None:
    """Check the value of a setting.

    Raises:
        UsageError: It can't be used; the text says where it came from.
    """
    fault = option.fault(value)
    if fault is not None:
        raise UsageError(f"{flag(name) if by_flag or not option.env else variable_shown(name)}: {fault}")


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
    return _source(context, name) == "COMMANDLINE"


def _source(context: typer.Context, name: str) -> str:
    return getattr(context.get_parameter_source(name), "name", "")

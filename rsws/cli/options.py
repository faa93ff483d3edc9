"""Command-line options made from the settings classes, where each is said once."""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_type_hints
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import typer

from rsws.cli.exits import ExitCode, Failure
from rsws.datadir import DataDir
from rsws.errors import UsageError
from rsws.settings import ClientSettings, Option, Settings, options
from rsws.urls import is_loopback, redact_url, websocket_url

Command = TypeVar("Command", bound=Callable[..., Any])


_METAVARS = {
    "_s": "SECONDS",
    "_bytes": "BYTES",
    "port": "PORT",
    "url": "URL",
    "retain": "PATTERN=COUNT[,AGE]",
}
"""What stands for the value of a flag: by the end of the field's name."""


def flag(name: str) -> str:
    """The flag of a settings field: ``redis_timeout_s`` is ``--redis-timeout``, whose help says the unit."""
    return "--" + name.removesuffix("_s").replace("_", "-")


def from_settings(
    settings: type[Any], *, panel: str | None = None, only: Iterable[str] | None = None
) -> Callable[[Command], Command]:
    """Give a command the options of a settings class; it gets them as one argument, ``settings``.

    Args:
        settings: The class.
        panel: The heading of these options in ``--help``.
        only: Names of the fields that the command has a use for; None for all.
    """

    def decorate(command: Command) -> Command:
        chosen = {name: each for name, each in _parameters(settings, panel).items() if only is None or name in only}

        @functools.wraps(command)
        def wrapper(**arguments: Any) -> Any:
            values = {name: arguments.pop(name) for name in chosen}
            repeated = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
            return command(settings=settings(**values | repeated), **arguments)

        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.name != "settings"]
        wrapper.__signature__ = signature.replace(parameters=[*own, *chosen.values()])  # type: ignore[attr-defined]
        return wrapper  # type: ignore[return-value]

    return decorate


def _parameters(settings: type[Any], panel: str | None) -> dict[str, inspect.Parameter]:
    types = get_type_hints(settings)
    said = options(settings)
    parameters = {}
    for field in fields(settings):
        option = said[field.name]
        assert field.default is not MISSING
        type_ = list[str] if types[field.name] == tuple[str, ...] else types[field.name]  # may be repeated
        parameters[field.name] = inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=[] if type_ == list[str] else field.default,
            annotation=Annotated[
                Literal[option.choices] if option.choices else type_,
                typer.Option(
                    flag(field.name) + (f"/--no-{flag(field.name)[2:]}" if type_ is bool else ""),
                    envvar=option.env,
                    help=option.help,
                    metavar=_metavar(field.name, type_, option),
                    min=option.minimum,
                    max=option.maximum,
                    callback=_checked(field.name, option),
                    show_default=field.default not in (None, ()),
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


def _checked(name: str, option: Option) -> Callable[[Any], Any]:
    """The callback of a setting, which says what can't be used, and not what it was: it may be secret."""

    def check(value: Any) -> Any:
        fault = option.fault(value)
        if fault is not None:
            raise UsageError(f"{flag(name)} ({option.env}): {fault}")
        return value

    return check


def finite(value: Any) -> Any:
    """The callback of an option that takes fractions: ``inf`` and ``nan`` would pass for such."""
    if isinstance(value, float) and not math.isfinite(value):
        raise typer.BadParameter("it must be a finite number")
    return value


class Gateway(NamedTuple):
    """Where a client command connects, and what lets it in."""

    url: str
    """Without the token."""
    token: str


def find_gateway(settings: ClientSettings) -> Gateway:
    """The gateway that flags, environment and data directory say.

    Raises:
        UsageError: The URL or the token file can't be used.
        Failure: There is no token.
    """
    url, token_in_url = _split_token(websocket_url(settings.url or f"ws://127.0.0.1:{_port()}"))
    given: dict[str, Callable[[], str | None]] = {
        "token": lambda: settings.token,
        "token_file": lambda: None if settings.token_file is None else _read_token(settings.token_file),
        "url": lambda: token_in_url,
    }
    for name in sorted(given, key=lambda name: not _is_flag(settings, name)):  # stable: flags before the environment
        token = given[name]()
        if token is not None:
            return Gateway(url, token)
    key = options(Settings)["secret_key"]
    token = _checked("secret_key", key)(os.environ.get(key.env))
    if not token and is_loopback(urlsplit(url).hostname or ""):
        token = DataDir(settings.data_dir).read_key()
    if not token:
        raise Failure(
            f"no token for {redact_url(url)}: give it with --token, --token-file, RSWS_TOKEN or WEBSOCKET_SECRET_KEY; "
            "`rsws serve` on this machine makes one for its user",
            ExitCode.REFUSED,
        )
    return Gateway(url, token)


def _port() -> int:
    """The port that ``rsws serve`` takes with this environment."""
    option = options(Settings)["port"]
    text = os.environ.get(option.env) or str(Settings().port)
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 65535):
        raise UsageError(f"{option.env} is {text!r}, which is no port; name the gateway with --url or RSWS_URL")
    return int(text)


def _split_token(url: str) -> tuple[str, str | None]:
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    tokens = query.pop("token", [None])
    return urlunsplit(parts._replace(query=urlencode(query, doseq=True), fragment="")), tokens[0]


def _is_flag(settings: ClientSettings, name: str) -> bool:
    """Whether a setting was given on the command line: it is not what the environment says."""
    value = getattr(settings, name)
    return value is not None and str(value) != os.environ.get(options(ClientSettings)[name].env)


def _read_token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the token file {path} can't be read: {getattr(error, 'strerror', None) or error}") from None
    if not token:
        raise UsageError(f"the token file {path} is empty")
    return token

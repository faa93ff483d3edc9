"""Command-line options made from the settings classes, which define each option once; and the gateway they lead to."""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, get_type_hints
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import typer

from rsws.cli import terminal
from rsws.cli.exits import ExitCode, Failure
from rsws.datadir import DataDir
from rsws.errors import Unauthorized, UsageError
from rsws.ownership import strangers
from rsws.settings import ClientSettings, Option, Settings, is_from_env_file, options, read_secret
from rsws.urls import is_loopback, redact_url, websocket_url

if TYPE_CHECKING:
    from rsws.streams.target import RedisTarget

Command = TypeVar("Command", bound=Callable[..., Any])

FLAGS: ContextVar[frozenset[str]] = ContextVar("rsws_flags", default=frozenset())
"""The settings that are given on the current command line, not in the environment or in ``.env``."""

_METAVARS = {
    "_s": "SECONDS",
    "_bytes": "BYTES",
    "port": "PORT",
    "url": "URL",
    "_file": "PATH",
    "retain": "PATTERN=COUNT[,AGE[,expire]]",
    "key_may": "PATTERN=r|w|rw",
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
            if takes_context:
                arguments["context"] = context
            try:
                return command(**{argument: made}, **arguments)
            except Unauthorized as error:
                if not isinstance(made, ClientSettings):
                    raise
                raise Unauthorized(f"{error} ({find_gateway(made).source})") from None

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
                    flag(each.name) + (f"/--no-{flag(each.name)[2:]}" if type_ is bool else ""),
                    envvar=option.env,
                    help=option.help,
                    metavar=_metavar(each.name, type_, option),
                    min=option.minimum,
                    max=option.maximum,
                    callback=_checked(each.name, option),
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


def _checked(name: str, option: Option) -> Callable[[Any], Any]:
    """Return the callback that checks a setting; its error does not show the value, which may be secret."""

    def check(value: Any) -> Any:
        fault = option.fault(value)
        if fault is not None:
            raise UsageError(f"{flag(name)} ({option.env}): {fault}")
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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The gateway that a client command connects to, and the token for it."""

    url: str
    """The URL without the token."""
    token: str | None = field(repr=False)
    """The token; None if the only one must not be sent there: a gateway that needs one then refuses the client."""
    source: str
    """Where the token came from, or why there is none: a part of the error when the gateway refuses it."""


class _Token(NamedTuple):
    """A token that could be used."""

    name: str
    """The name of the setting that holds it."""
    is_flag: bool
    is_from_env_file: bool
    """Whether ``.env`` has the token itself, not only the name of a file that holds it."""
    read: Callable[[], str | None]
    """Returns the token; None when it is not set."""

    @property
    def source(self) -> str:
        said = flag(self.name) if self.is_flag else _variable(self.name)
        return f"the token came from {said}" + (" in .env" if not self.is_flag and _in_env_file(self.name) else "")


def find_gateway(settings: ClientSettings) -> Endpoint:
    """Return the gateway that flags, environment and data directory specify.

    Raises:
        UsageError: The URL or the token file can't be used; or the token must not be sent to that URL.
        SetupError: The data directory is somebody else's.
        Failure: There is no token.
    """
    url, token_in_url = _split_url(settings)
    for each in _tokens(settings, token_in_url):
        token = each.read()
        if token is None:
            continue
        may_go = each.is_flag or each.is_from_env_file or not _url_is_from_env_file(settings)
        if not may_go and not _is_own(settings, url):
            raise UsageError(
                f".env in the working directory leads to {redact_url(url)}, and {each.source}, which is not for what "
                ".env names: take the address out of .env, or give the token with --token-file"
            )
        return Endpoint(url, token, each.source)
    key_file = DataDir(settings.data_dir).key_file
    key = DataDir(settings.data_dir).read_key() if _is_local(url) else None
    if key is None:
        raise Failure(
            f"no token for {redact_url(url)}: give it with --token, --token-file, RSWS_TOKEN or WEBSOCKET_SECRET_KEY; "
            "`rsws serve` on this machine makes one for its user",
            ExitCode.REFUSED,
        )
    if _is_own(settings, url):
        return Endpoint(url, key, f"the token came from {key_file}")
    return Endpoint(
        url,
        None,
        f"the key in {key_file} was not sent, as no gateway that was started with it is known to listen there; "
        "start that one again, or give the token with --token-file",
    )


def gateway_url(settings: ClientSettings) -> str:
    """Return the gateway's URL without the token.

    Raises:
        UsageError: It can't be used.
    """
    return _split_url(settings)[0]


def find_redis(settings: Settings) -> RedisTarget:
    """Return the Redis that flags and environment specify, else the one at the usual place of this machine.

    A warning says so if that is another user's.

    Raises:
        UsageError: It can't be used: the URL, the file that holds it, or a file for TLS.
    """
    from rsws.streams.target import redis_target

    url = f"redis://127.0.0.1:{settings.local_redis_port}"
    if not settings.names_redis and (owners := strangers("127.0.0.1", settings.local_redis_port)):
        terminal.print_line(terminal.format_warning(f"the Redis at {url} is not yours: it belongs to {owners}"))
    return redis_target(settings, url)


def _tokens(settings: ClientSettings, token_in_url: str | None) -> list[_Token]:
    """Return the tokens that could be used, in order of precedence: flags, then the environment."""
    key = _checked("secret_key", options(Settings)["secret_key"])(os.environ.get(_variable("secret_key")))
    key_file = os.environ.get(_variable("secret_key_file"))
    reads: dict[str, Callable[[], str | None]] = {
        "token": lambda: settings.token,
        "token_file": lambda: read_secret(settings.token_file, "token") if settings.token_file else None,
        "url": lambda: token_in_url,
        "secret_key": lambda: key or None,
        "secret_key_file": lambda: read_secret(Path(key_file), "secret key") if key_file else None,
    }
    found = []
    for name, read in reads.items():
        is_flag = name in FLAGS.get()
        found.append(_Token(name, is_flag, _in_env_file(name) and not name.endswith("_file"), read))
    return sorted(found, key=lambda token: not token.is_flag)  # a stable sort: the order of reads stays


def _is_local(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")


def _is_own(settings: ClientSettings, url: str) -> bool:
    """Whether this user's own gateway provably listens there."""
    parts = urlsplit(url)
    port = parts.port or {"ws": 80, "wss": 443}[parts.scheme]
    return _is_local(url) and DataDir(settings.data_dir).runs_gateway(parts.hostname or "", port)


def _url_is_from_env_file(settings: ClientSettings) -> bool:
    if settings.url is not None:
        return "url" not in FLAGS.get() and _in_env_file("url")
    return _in_env_file("port") and _port() != Settings().port


def _variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return (options(ClientSettings) | options(Settings))[name].env


def _in_env_file(name: str) -> bool:
    return is_from_env_file(_variable(name))


def _port() -> int:
    """Return the port that ``rsws serve`` listens on with this environment."""
    option = options(Settings)["port"]
    text = os.environ.get(option.env) or str(Settings().port)
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 65535):
        raise UsageError(f"{option.env} is {text!r}, which is no port; name the gateway with --url or RSWS_URL")
    return int(text)


def _split_url(settings: ClientSettings) -> tuple[str, str | None]:
    """Return the gateway's URL without the token, and the token that it has."""
    parts = urlsplit(websocket_url(settings.url or f"ws://127.0.0.1:{_port()}"))
    query = parse_qs(parts.query, keep_blank_values=True)
    tokens = query.pop("token", [None])
    return urlunsplit(parts._replace(query=urlencode(query, doseq=True), fragment="")), tokens[0]


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter is given on the command line, whatever the environment has for it."""
    return getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"

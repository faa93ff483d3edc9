"""``rsws serve``: run the gateway."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import typer

from rsws.certificates import read_certificate
from rsws.cli import terminal
from rsws.cli.exits import describe, epilog, exit_code
from rsws.cli.options import flag, from_settings
from rsws.env_file import is_from_env_file
from rsws.errors import RswsError
from rsws.options import options
from rsws.settings import Settings, default_data_dir
from rsws.urls import join_host_port, redact_url

if TYPE_CHECKING:
    from rsws.gateway.process.lifecycle import Gateway

log = logging.getLogger("rsws.gateway")

EPILOG = epilog(
    "rsws serve",
    "rsws serve --port 9000 --log-level warning",
    "REDIS_URL=redis://cache:6379 HOST=0.0.0.0 rsws serve",
)


@from_settings(Settings, profiles=False)
def serve(settings: Settings) -> None:
    """Run the gateway: WebSocket clients on one side, Redis Streams on the other.

    A flag beats the environment, which beats .env in the working directory, which beats the default. Without REDIS_URL
    a Redis on this machine is used, or the embedded server started. Ctrl-C stops it, a second one at once.
    """
    from rsws.gateway.process.lifecycle import run

    is_json = settings.log_format == "json"
    try:
        code = run(_gateway(settings), (lambda gateway: None) if is_json else _print_banner)
    except (RswsError, OSError) as error:
        if not is_json:
            raise
        log.critical(describe(error))
        code = exit_code(error)
    raise typer.Exit(code)


def _gateway(settings: Settings) -> Gateway:
    """Return the gateway; only its own module is imported, as a supervisor serves no clients and should stay small."""
    if settings.workers > 1:
        from rsws.gateway.process.supervisor import Supervisor

        return Supervisor(settings)
    from rsws.gateway.process.single import SingleProcess

    return SingleProcess(settings)


def _print_banner(gateway: Gateway) -> None:
    from importlib.metadata import version

    settings = gateway.settings
    if gateway.key_file is not None:
        token = f"kept in {gateway.key_file}, where this user's rsws commands find it"
    elif (settings.secret_key or "").strip():
        token = "the one of WEBSOCKET_SECRET_KEY, which the other terminal needs, too"
    else:
        token = f"kept in {settings.secret_key_file}"
    facts = {"URL": gateway.url, "Redis": gateway.redis_description, "Token": token}
    if settings.console:
        facts["Console"] = f"http{_reachable_url(gateway).removeprefix('ws')}/"
    if gateway.admin_url is not None:
        facts["Admin"] = f"{gateway.admin_url}/metrics, /healthz and /readyz"
    if settings.workers > 1:
        facts["Workers"] = str(settings.workers)
    steps = _first_steps(gateway)
    where = "in this directory" if steps.here else ""
    needs = f"with the same {' and '.join(steps.needs)} in its environment" if steps.needs else ""
    heading = ", ".join(filter(None, ["Try in another terminal", where, needs]))
    terminal.print_banner(f"rsws {version('rsws')}", facts, f"{heading}:", steps.lines)


def _reachable_url(gateway: Gateway) -> str:
    """Return the gateway's URL for this machine: a host that stands for all of its addresses can't be connected to."""
    url = urlsplit(gateway.url)
    if url.hostname in ("0.0.0.0", "::"):
        return f"{url.scheme}://{Settings().host}:{url.port}"
    return gateway.url


class _Steps(NamedTuple):
    """Example commands for a gateway that has started, to be run in another terminal."""

    lines: list[str]
    needs: list[str]
    """The environment variables that the commands need, as their secret values are not printed."""
    here: bool
    """Whether the commands need the ``.env`` of this directory."""


def _first_steps(gateway: Gateway) -> _Steps:
    """Return three commands, with the flags that lead to the same gateway and Redis."""
    settings, defaults, secret = gateway.settings, Settings(), []
    client, redis = [], []
    url = _reachable_url(gateway)
    host, port = urlsplit(url).hostname, urlsplit(url).port
    if settings.tls_cert is not None:
        client += _flags_for_tls(settings.tls_cert, host or "", port or 0)
    elif (host, port) != (defaults.host, defaults.port):
        client += [flag("url"), url]
    if gateway.key_file is not None:
        if gateway.key_file.parent != default_data_dir():
            client += [flag("data_dir"), str(gateway.key_file.parent.absolute())]
    elif (settings.secret_key or "").strip():
        secret.append("secret_key")
    else:
        client += [flag("token_file"), str(Path(settings.secret_key_file or "").absolute())]
    if settings.redis_url is not None:
        if redact_url(settings.redis_url) == settings.redis_url:
            redis += [flag("redis_url"), settings.redis_url]
        else:
            secret.append("redis_url")
    elif settings.redis_url_is_read_once:
        secret.append("redis_url")
    elif settings.redis_url_file is not None:
        redis += [flag("redis_url_file"), str(settings.redis_url_file.absolute())]
    elif settings.local_redis_port != defaults.local_redis_port:
        redis += [flag("local_redis_port"), str(settings.local_redis_port)]
    for name in ("redis_tls_ca", "redis_tls_cert", "redis_tls_key"):
        if (path := getattr(settings, name)) is not None:
            redis += [flag(name), str(path.absolute())]
    words = [["sub", "news", *client], ["pub", "news", *client, _DATA], ["xadd", "news", *redis, _DATA]]
    variables = [options(Settings)[name].env for name in secret]
    return _Steps(
        [shlex.join(["rsws", *each]) for each in words],
        [name for name in variables if not is_from_env_file(name)],
        any(is_from_env_file(name) for name in variables),
    )


def _flags_for_tls(path: Path, host: str, port: int) -> list[str]:
    """Return the flags that lead to a gateway by a name that its certificate has."""
    certificate = read_certificate(path)
    names = [name for name in certificate.names if "*" not in name]
    name = host if host in names or not names else names[0]
    ca = [flag("ca"), str(path.absolute())] if certificate.is_self_signed else []
    return [flag("url"), f"wss://{join_host_port((name, port))}", *ca]


_DATA = '{"text":"hi"}'

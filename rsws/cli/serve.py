"""``rsws serve``: run the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer

from rsws.cli import terminal
from rsws.cli.exits import epilog
from rsws.cli.options import flag, from_settings
from rsws.settings import Settings

if TYPE_CHECKING:
    from rsws.gateway.server import Server

EPILOG = epilog(
    "rsws serve",
    "rsws serve --port 9000 --log-level warning",
    "REDIS_URL=redis://cache:6379 HOST=0.0.0.0 rsws serve",
)


@from_settings(Settings)
def serve(settings: Settings) -> None:
    """Run the gateway: WebSocket clients on one side, Redis Streams on the other.

    A flag beats the environment, which beats .env in the working directory, which beats the default. Without REDIS_URL
    a Redis on this machine is used, or the embedded server started. Ctrl-C stops it, a second one at once.
    """
    from rsws.gateway.server import run

    raise typer.Exit(run(settings, _print_banner))


def _print_banner(server: Server) -> None:
    from importlib.metadata import version

    settings = server.settings
    if server.key_file is not None:
        token = f"kept in {server.key_file}, where this user's rsws commands find it"
    else:
        token = "the one of WEBSOCKET_SECRET_KEY, which the other terminal needs, too"
    terminal.print_banner(
        f"rsws {version('rsws')}",
        {"URL": server.url, "Redis": server.redis_description, "Token": token},
        "Try in another terminal:",
        _first_steps(server.url, settings),
    )


def _first_steps(url: str, settings: Settings) -> list[str]:
    """Three lines that work in another terminal, with the flags that it needs to find the same gateway and Redis."""
    defaults = Settings()
    gateway = redis = ""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    if host not in (defaults.host, "0.0.0.0", "::") or port != defaults.port:
        if host in ("0.0.0.0", "::"):  # every address of this machine, this one among them
            url = f"ws://{defaults.host}:{port}"
        gateway = f" --url {url}"
    if settings.redis_url is None and settings.local_redis_port != defaults.local_redis_port:
        redis = f" {flag('local_redis_port')} {settings.local_redis_port}"
    return [
        f"rsws sub news{gateway}",
        f"""rsws pub news{gateway} '{{"text":"hi"}}'""",
        f"""rsws xadd news{redis} '{{"text":"hi"}}'""",
    ]

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
    from rsws.gateway.process import Gateway

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
    from rsws.gateway.process import run

    raise typer.Exit(run(_gateway(settings), _print_banner))


def _gateway(settings: Settings) -> Gateway:
    """Imported as needed: a supervisor serves nobody itself, and should be small."""
    if settings.workers > 1:
        from rsws.gateway.supervisor import Supervisor

        return Supervisor(settings)
    from rsws.gateway.server import Server

    return Server(settings)


def _print_banner(gateway: Gateway) -> None:
    from importlib.metadata import version

    settings = gateway.settings
    if gateway.key_file is not None:
        token = f"kept in {gateway.key_file}, where this user's rsws commands find it"
    else:
        token = "the one of WEBSOCKET_SECRET_KEY, which the other terminal needs, too"
    facts = {"URL": gateway.url, "Redis": gateway.redis_description, "Token": token}
    if settings.workers > 1:
        facts["Workers"] = str(settings.workers)
    terminal.print_banner(
        f"rsws {version('rsws')}", facts, "Try in another terminal:", _first_steps(gateway.url, settings)
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

"""The names of channels, for the shell to complete: those at the gateway or in the Redis that the command leads to.

Whoever does not answer at once is not waited for, and what goes wrong is not said.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import redirect_stderr, suppress
from io import StringIO
from typing import TYPE_CHECKING, Any

import typer

from rsws.cli import completing
from rsws.cli.options import settings_of
from rsws.errors import RswsError
from rsws.settings import ClientSettings, Settings

if TYPE_CHECKING:
    from rsws.cli.endpoint import Endpoint
    from rsws.redis.target import RedisTarget

DEADLINE_S = 0.3
"""How long it may take to ask; what that needs is imported before."""
MARGIN_S = 0.05
"""How long before that what was found so far is taken."""
MOST = 1000
"""How many names are enough."""

_Pages = AsyncIterator[list[str]]


def at_gateway(context: typer.Context, incomplete: str) -> list[str]:
    """Return the channels at the gateway of the command that begin like that."""
    from rsws.cli.endpoint import find_gateway

    listed = _lister_of_gateway()
    return _found(lambda: listed(find_gateway(settings_of(context, ClientSettings)), incomplete), context)


def in_redis(context: typer.Context, incomplete: str) -> list[str]:
    """Return the channels in the Redis of the command that begin like that."""
    from rsws.cli.endpoint import find_redis

    listed = _lister_of_redis()
    return _found(lambda: listed(find_redis(settings_of(context, Settings)), incomplete), context)


def at_sources(context: typer.Context, incomplete: str) -> list[str]:
    """Return the channels that begin like that at the gateway of the command, or in its Redis where it has none."""
    from rsws.cli.sources import find_sources

    of_gateway, of_redis = _lister_of_gateway(), _lister_of_redis()

    def ask() -> _Pages:
        sources = find_sources(settings_of(context, Settings), settings_of(context, ClientSettings))
        if sources.gateway is not None:
            return of_gateway(sources.gateway, incomplete)
        assert sources.redis is not None
        return of_redis(sources.redis, incomplete)

    return _found(ask, context)


def at_source(context: typer.Context, incomplete: str) -> list[str]:
    """Return the channels that begin like that in the Redis that the argument SRC names."""
    from rsws.cli.endpoint import redis_of

    listed = _lister_of_redis()
    return _found(
        lambda: listed(redis_of(context.params["source"], "SRC", settings_of(context, Settings)), incomplete), context
    )


def _lister_of_gateway() -> Callable[[Endpoint, str], _Pages]:
    import rsws.client.address
    import rsws.client.pages  # noqa: F401  (what asks imports them itself, but then it counts)
    from rsws.cli.gateway_http import list_channels

    async def listed(gateway: Endpoint, begin: str) -> _Pages:
        async for page in list_channels(gateway, f"{begin}*"):
            yield [each.channel for each in page]

    return listed


def _lister_of_redis() -> Callable[[RedisTarget, str], _Pages]:
    from rsws.protocol import channel_fault
    from rsws.streams.survey import Survey

    async def listed(target: RedisTarget, begin: str) -> _Pages:
        async with Survey(target) as survey:
            async for _, keys in survey.names(f"{begin}*"):
                names = [key.decode(errors="surrogateescape") for key in keys]
                yield [name for name in names if channel_fault(name) is None]

    return listed


def _found(ask: Callable[[], _Pages], context: typer.Context) -> list[str]:
    """Return the names that were found in time, but for those that the command line has already."""
    import asyncio

    found: set[str] = set()
    if not completing.is_for_own_script():
        return []

    async def collect() -> None:
        with suppress(RswsError, OSError):
            async with asyncio.timeout(DEADLINE_S - MARGIN_S):
                async for page in ask():
                    found.update(page)
                    if len(found) >= MOST:
                        break

    def end(*_: Any) -> None:
        os._exit(0)

    # No deadline of asyncio ends the reading of a token from a pipe, or the wait for a name server.
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    try:
        with redirect_stderr(StringIO()):
            asyncio.run(collect())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    given = set(context.params.get("channels") or ())
    return sorted(found - given)[:MOST]

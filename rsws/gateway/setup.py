"""What a gateway decides once, before anybody can connect: its key, its Redis and its port."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

from rsws.datadir import DataDir
from rsws.errors import RedisUnavailable, SetupError
from rsws.settings import Settings
from rsws.streams.embedded import LocalRedis
from rsws.streams.link import RedisTarget, probe

BACKLOG = 4096
"""Connections that may wait to be accepted."""


class Key(NamedTuple):
    """The token that clients must give."""

    secret: str
    file: Path | None
    """Where it is kept; None when it was given."""


def choose_key(settings: Settings, data: DataDir) -> Key:
    """The key that was given, else the one of the data directory, made if there is none.

    Raises:
        SetupError: None was given, and others than this machine can connect.
    """
    if settings.secret_key and not settings.secret_key.isspace():
        return Key(settings.secret_key, None)
    if settings.on_loopback:
        return Key(data.make_key(), data.key_file)
    raise SetupError(
        f"WEBSOCKET_SECRET_KEY must be set to listen on {settings.host}, which others can reach; "
        "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(24))'"
    )


class FoundRedis(NamedTuple):
    """The Redis to use."""

    target: RedisTarget
    url: str
    description: str
    """For a person."""
    local: LocalRedis | None
    """This machine's, which has to be watched; None when an URL was given."""


async def find_redis(settings: Settings, data: DataDir, stack: AsyncExitStack) -> FoundRedis:
    """The Redis that the settings name, else a local one, which may be started, and is stopped by ``stack``.

    Raises:
        SetupError: There is none to use, or it refuses the login. One that can't be reached now will do.
        UsageError: The URL can't be used.
    """
    local: LocalRedis | None = None
    if settings.redis_url is not None:
        url = settings.redis_url
    else:
        local = await stack.enter_async_context(LocalRedis(data, settings.local_redis_port))
        url = local.url
    target = RedisTarget(url, settings.redis_timeout_s)
    description = local.description if local is not None else target.shown
    try:
        await probe(target)
    except RedisUnavailable:
        description += " (it can't be reached now; trying until it can)"
    return FoundRedis(target, url, description, local)


async def reserve_port(settings: Settings, stack: AsyncExitStack) -> list[socket.socket]:
    """Sockets bound to the host's addresses, not listening yet, which ``stack`` closes.

    Raises:
        SetupError: The port can't be had.
    """
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return _bind([(family, address) for family, _, _, _, address in addresses], stack)
    except (OSError, UnicodeError) as error:
        raise cannot_listen(settings, error) from None


def share_port(settings: Settings, reserved: list[socket.socket], stack: AsyncExitStack) -> list[list[socket.socket]]:
    """The listening sockets of each worker, which ``stack`` closes.

    Raises:
        SetupError: Somebody else listens there.
    """
    try:
        for each in reserved:  # alone: with SO_REUSEPORT another gateway of the same user would be no hindrance
            each.listen(BACKLOG)
        if sys.platform != "linux":
            return [reserved] * settings.workers
        addresses = [(each.family, each.getsockname()) for each in reserved]
        for each in reserved:
            each.close()
        shared = []
        for _ in range(settings.workers):
            sockets = _bind(addresses, stack, shared=True)
            for each in sockets:
                each.listen(BACKLOG)
            shared.append(sockets)
        return shared
    except OSError as error:
        raise cannot_listen(settings, error) from None


def _bind(addresses: Sequence[tuple[int, Any]], stack: AsyncExitStack, *, shared: bool = False) -> list[socket.socket]:
    """A socket for each family and address. That of ``::`` takes IPv4 as well, unless IPv4 has a socket of its own."""
    sockets = []
    for family, address in addresses:
        bound = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            beside_ipv4 = socket.AF_INET in [family for family, _ in addresses]
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, beside_ipv4)
        bound.bind(address)
        sockets.append(bound)
    return sockets


def cannot_listen(settings: Settings, error: OSError | UnicodeError) -> SetupError:
    """What to do about a port that can't be had."""
    where = f"{settings.host}:{settings.port}"
    if isinstance(error, UnicodeError):
        return SetupError(f"can't listen on {where}: {settings.host!r} is no name of a host; choose another --host")
    if error.errno == errno.EADDRINUSE:
        return SetupError(f"port {settings.port} is in use; choose another with --port or PORT")
    if error.errno == errno.EACCES:
        return SetupError(f"not allowed to listen on {where}; choose a port above 1023 with --port or PORT")
    return SetupError(f"can't listen on {where}: {error.strerror or error}; choose another --host or --port")


def url_of(listening: socket.socket) -> str:
    """What clients connect to."""
    address = listening.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"ws://{host}:{address[1]}"

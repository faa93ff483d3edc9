"""The choices a gateway makes once, before clients can connect: its key, its Redis and its port."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from rsws.certificates import server_context
from rsws.datadir import DataDir
from rsws.embedded.local import LocalRedis
from rsws.errors import RedisUnavailable, SetupError, UsageError, about
from rsws.gateway.access.control import AccessControl
from rsws.gateway.metrics import Metrics
from rsws.redis.target import RedisTarget, probe, redis_target
from rsws.settings import MIN_KEY_CHARS, Settings, read_secret
from rsws.streams.fields import MessageFields
from rsws.streams.retention import Rule
from rsws.urls import join_host_port, parse_place

BACKLOG = 4096
"""The number of connections that may wait to be accepted."""


_KEYS = {"secret_key": "secret key", "previous_secret_key": "previous secret key", "jwt_key": "JWT key"}


def read_pipes(settings: Settings) -> Settings:
    """Return the settings with the keys that come from pipes, which can't be read again, in place of the pipes' names.

    Raises:
        UsageError: A file can't be read or is empty.
    """
    read: dict[str, Any] = {}
    for name, what in _KEYS.items():
        file: Path | None = getattr(settings, f"{name}_file")
        if file is not None and file.is_fifo() and not (getattr(settings, name) or "").strip():
            with about(f"{name}_file"):
                read |= {name: read_secret(file, what), f"{name}_file": None}
    return replace(settings, **read)


def check_settings(settings: Settings) -> None:
    """Check what each process would notice otherwise, and not before a server is started for it.

    Raises:
        SetupError: The previous key can be guessed, or a library is missing.
        UsageError: Settings can't be used, alone or together, or a file of the certificate or of a key can't.
    """
    with about("retain"):
        for text in settings.retain:
            Rule.parse(text)
    with about("field"):
        MessageFields(settings.field)
    AccessControl.of(settings, "", Metrics())
    if settings.proxy_protocol and not settings.trusted_proxies:
        with about("proxy_protocol"):
            raise UsageError("--proxy-protocol needs --trusted-proxies: the addresses from which PROXY headers come")
    if settings.tls_cert is not None:
        with about("tls_cert", "tls_key"):
            server_context(settings.tls_cert, settings.tls_key or settings.tls_cert)
    elif settings.tls_key is not None:
        with about("tls_key"):
            raise UsageError("--tls-key needs --tls-cert: the file of the certificate that it is the key of")


@dataclass(frozen=True, slots=True)
class Key:
    """The secret key, which clients must send as their token."""

    secret: str = field(repr=False)
    file: Path | None
    """The file that keeps it; None when the key was given."""


def choose_key(settings: Settings, data: DataDir) -> Key:
    """Return the key that was given, else that of the data directory, which is made if there is none.

    Raises:
        SetupError: Other machines can connect, and no key was given, or one that is too short.
        UsageError: The file given for the key can't be used.
    """
    given = settings.given_key
    if given is None and settings.on_loopback:
        return Key(data.make_key(), data.key_file)
    fault = "must be set" if given is None else f"must have {MIN_KEY_CHARS} characters or more"
    if given is None or settings.can_guess(given):
        raise SetupError(
            f"WEBSOCKET_SECRET_KEY {fault} to listen on {settings.host}, which others can reach; "
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(24))'"
        )
    return Key(given, None)


@dataclass(frozen=True, slots=True)
class FoundRedis:
    """The Redis to use."""

    target: RedisTarget
    description: str
    """A description for people."""
    local: LocalRedis | None
    """The local Redis, which has to be watched; None when a URL was given."""


async def find_redis(settings: Settings, data: DataDir, stack: AsyncExitStack) -> FoundRedis:
    """Return the Redis in the settings, else a local one, which is started if necessary, and stopped by ``stack``.

    Raises:
        SetupError: There is no Redis to use, or it refuses the login. One that can't be reached now is no error.
        UsageError: The URL can't be used, or the file given for it.
    """
    local: LocalRedis | None = None
    if not settings.names_redis:
        local = await stack.enter_async_context(
            LocalRedis(data, settings.local_redis_port, settings.embedded_maxmemory_bytes)
        )
    target = redis_target(settings, local.url if local is not None else "")
    description = local.description if local is not None else target.shown
    try:
        await probe(target)
        if local is None:
            description = target.description
    except RedisUnavailable as error:
        description = f"{error.cause} (trying until it is ready)"
    return FoundRedis(target, description, local)


class Place(NamedTuple):
    """A place to listen on, and the options that choose it."""

    host: str
    port: int
    host_option: str
    port_option: str

    @classmethod
    def of_clients(cls, settings: Settings) -> Place:
        """Return where clients connect."""
        return cls(settings.host, settings.port, "--host", "--port or PORT")

    @classmethod
    def of_admin(cls, settings: Settings) -> Place | None:
        """Return where metrics and health are served; None where that has no place of its own."""
        return None if settings.admin is None else cls(*parse_place(settings.admin), "--admin", "--admin")

    def error(self, error: OSError | UnicodeError) -> SetupError:
        """Return the error for a port that can't be bound, whose text says what to do."""
        where = join_host_port((self.host, self.port))
        if isinstance(error, UnicodeError):
            why = f"{self.host!r} is not the name of a host; choose another {self.host_option}"
        elif error.errno == errno.EADDRINUSE:
            return SetupError(f"port {self.port} is in use; choose another with {self.port_option}")
        elif error.errno == errno.EACCES:
            return SetupError(f"not allowed to listen on {where}; choose a port above 1023 with {self.port_option}")
        else:
            why = f"{error.strerror or error}; choose another {self.host_option} or port"
        return SetupError(f"can't listen on {where}: {why}")


async def reserve_port(place: Place | None, stack: AsyncExitStack) -> list[socket.socket]:
    """Return sockets bound to the host's addresses, not listening yet, which ``stack`` closes; none for no place.

    Raises:
        SetupError: The port can't be bound.
    """
    if place is None:
        return []
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(
            place.host or None, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return _bind([(family, address) for family, _, _, _, address in addresses], stack)
    except (OSError, UnicodeError) as error:
        raise place.error(error) from None


def share_port(
    place: Place | None, workers: int, reserved: list[socket.socket], stack: AsyncExitStack
) -> list[list[socket.socket]]:
    """Return the listening sockets of each worker, which ``stack`` closes; none for no place.

    Raises:
        SetupError: Another process listens there.
    """
    if place is None:
        return [[]] * workers
    try:
        for each in reserved:  # exclusively: with SO_REUSEPORT another gateway of the same user would go unnoticed
            each.listen(BACKLOG)
        if sys.platform != "linux":
            return [reserved] * workers
        addresses = [(each.family, each.getsockname()) for each in reserved]
        for each in reserved:
            each.close()
        shared = []
        for _ in range(workers):
            sockets = _bind(addresses, stack, shared=True)
            for each in sockets:
                each.listen(BACKLOG)
            shared.append(sockets)
        return shared
    except OSError as error:
        raise place.error(error) from None


def _bind(addresses: Sequence[tuple[int, Any]], stack: AsyncExitStack, *, shared: bool = False) -> list[socket.socket]:
    """Return a socket bound to each address. That of ``::`` accepts IPv4, too, unless IPv4 has a socket of its own."""
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


def announce(
    settings: Settings, data: DataDir, key: Key, listening: Iterable[socket.socket], stack: AsyncExitStack
) -> None:
    """Tell this user's commands, until ``stack`` is closed, that a gateway with the data directory's key listens there.

    Raises:
        SetupError: The data directory can't be written.
    """
    if key.file is not None:
        stack.enter_context(data.announce([each.getsockname()[:2] for each in listening], settings.scheme))


def url_of(listening: socket.socket, scheme: str) -> str:
    """Return the URL to connect to."""
    host, port, *_ = listening.getsockname()
    return f"{scheme}://{join_host_port((host, port))}"

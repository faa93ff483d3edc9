"""The gateway and the Redis that a command line, the environment and the data directory lead to."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from rsws.certificates import client_context
from rsws.cli import terminal
from rsws.cli.exits import ExitCode, Failure
from rsws.cli.options import TOKEN_SOURCE, raise_fault
from rsws.cli.origins import FLAGS, flag, is_in_env_file, origin, variable
from rsws.datadir import DataDir
from rsws.errors import UsageError, about, naming
from rsws.options import options
from rsws.ownership import strangers
from rsws.settings import ClientSettings, Settings, read_secret
from rsws.urls import is_loopback, redact_url, websocket_url

if TYPE_CHECKING:
    from rsws.client import Client, ConnectionEvent
    from rsws.redis.target import RedisTarget


REDIS_ADDRESS_OPTIONS = (
    "redis_url",
    "redis_url_file",
    "redis_tls_ca",
    "redis_tls_cert",
    "redis_tls_key",
    "local_redis_port",
)
"""The settings by which a command finds its Redis."""
REDIS_OPTIONS = (*REDIS_ADDRESS_OPTIONS, "redis_timeout_s")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The gateway that a client command connects to, and the token for it."""

    url: str
    """The URL without the token."""
    token: str | None = field(repr=False)
    """The token; None if the only one must not be sent there: a gateway that needs one then refuses the client."""
    source: str
    """Where the token came from, or why there is none: a part of the error when the gateway refuses it."""
    tls: SSLContext | None
    """With ``wss://``: which certificates to trust; None for the usual ones."""
    token_file: Path | None = None
    """The file that the token came from, if it can be read again."""

    def connect(self, on_connection: Callable[[ConnectionEvent], None]) -> AbstractAsyncContextManager[Client]:
        """Return a client of that gateway, which is not connected yet. A token from a file is read again as needed."""
        from rsws.client import connect

        return connect(self.url, token=self._lasting_token, ssl=self.tls, on_connection=on_connection)

    def read_token(self) -> str | None:
        """Return the token of now: that of a file is read again.

        Raises:
            UsageError: The file can't be read any more.
        """
        return self.token if self.token_file is None else read_secret(self.token_file, "token")

    @property
    def _lasting_token(self) -> str | Callable[[], Awaitable[str]] | None:
        path = self.token_file
        if path is None:
            return self.token

        async def read() -> str:
            return read_secret(path, "token")

        return read


class _Token(NamedTuple):
    """A token that could be used."""

    name: str
    """The name of the setting that holds it."""
    is_flag: bool
    is_from_env_file: bool
    """Whether ``.env`` has the token itself, not only the name of a file that holds it."""
    read: Callable[[], str | None]
    """Returns the token; None when it is not set."""
    file: Path | None = None
    """The file that holds it."""

    @property
    def source(self) -> str:
        return f"the token came from {origin(self.name)}"


def find_gateway(settings: ClientSettings) -> Endpoint:
    """Return the gateway that flags, environment and data directory specify.

    Raises:
        UsageError: The URL or a file can't be used; or the token must not be sent to that URL.
        SetupError: The data directory is somebody else's.
        Failure: There is no token.
    """
    url, token_in_url = _split_url(settings)
    if not url.startswith("wss:") and (useless := FLAGS.get() & {"ca", "insecure"}):
        raise UsageError(f"{flag(min(useless))} is of use with wss:// alone, and the gateway is {redact_url(url)}")
    with about("ca"):
        tls = client_context(settings.ca, insecure=settings.insecure)
    endpoint = _with_token(settings, url, token_in_url, tls)
    TOKEN_SOURCE.set(endpoint.source)
    return endpoint


def _with_token(settings: ClientSettings, url: str, token_in_url: str | None, tls: SSLContext | None) -> Endpoint:
    """Return the gateway with the token for ``url``: see :func:`find_gateway` for the errors."""
    for each in _tokens(settings, token_in_url):
        with about(each.name):
            token = each.read()
        if token is None:
            continue
        leads = "leads to" if _url_is_from_env_file(settings) else None
        if leads is None and is_in_env_file("ca"):
            leads = "says whom to trust as"
        may_go = each.is_flag or each.is_from_env_file or leads is None
        if not may_go and not _is_own(settings, url):
            what = "the address" if leads == "leads to" else variable("ca")
            raise UsageError(
                f".env in the working directory {leads} {redact_url(url)}, and {each.source}, which is not for what "
                f".env names: take {what} out of .env, or give the token with --token-file"
            )
        can_be_read_again = each.file is not None and each.file.is_file()  # a pipe can't
        return Endpoint(url, token, each.source, tls, each.file if can_be_read_again else None)
    key_file = DataDir(settings.data_dir).key_file
    key = DataDir(settings.data_dir).read_key() if _is_local(url) else None
    if key is None:
        raise Failure(
            f"no token for {redact_url(url)}: give it with --token, --token-file, RSWS_TOKEN or WEBSOCKET_SECRET_KEY; "
            "`rsws serve` on this machine makes one for its user",
            ExitCode.REFUSED,
        )
    if _is_own(settings, url):
        return Endpoint(url, key, f"the token came from {key_file}", tls)
    return Endpoint(
        url,
        None,
        f"the key in {key_file} was not sent, as no gateway that was started with it is known to listen there; "
        "start that one again, or give the token with --token-file",
        tls,
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
    from rsws.redis.target import redis_target

    url = f"redis://127.0.0.1:{settings.local_redis_port}"
    if not settings.names_redis and (owners := strangers("127.0.0.1", settings.local_redis_port)):
        terminal.print_line(terminal.format_warning(f"the Redis at {url} is not yours: it belongs to {owners}"))
    return redis_target(settings, url)


def redis_of(text: str, what: str, settings: Settings) -> RedisTarget:
    """Return the Redis that an argument names: a URL, or ``@FILE`` for one that a file holds.

    Args:
        what: What the argument is called.

    Raises:
        UsageError: It can't be used.
    """
    from rsws.redis.target import RedisTarget
    from rsws.redis.url import TlsFiles

    tls = TlsFiles(settings.redis_tls_ca, settings.redis_tls_cert, settings.redis_tls_key)
    with naming(what):
        if not text.startswith("@"):
            return RedisTarget(text, settings.redis_timeout_s, tls)
        path = Path(text[1:])
        read = partial(read_secret, path, "Redis URL")
        return RedisTarget(read if path.is_file() else read(), settings.redis_timeout_s, tls)


def _tokens(settings: ClientSettings, token_in_url: str | None) -> list[_Token]:
    """Return the tokens that could be used, in order of precedence: flags, then the environment."""
    key = os.environ.get(variable("secret_key"))
    raise_fault("secret_key", options(Settings)["secret_key"], key)
    key_file = os.environ.get(variable("secret_key_file"))
    reads: dict[str, Callable[[], str | None]] = {
        "token": lambda: settings.token,
        "token_file": lambda: read_secret(settings.token_file, "token") if settings.token_file else None,
        "url": lambda: token_in_url,
        "secret_key": lambda: key or None,
        "secret_key_file": lambda: read_secret(Path(key_file), "secret key") if key_file else None,
    }
    files = {"token_file": settings.token_file, "secret_key_file": Path(key_file) if key_file else None}
    found = []
    for name, read in reads.items():
        is_flag = name in FLAGS.get()
        found.append(_Token(name, is_flag, is_in_env_file(name) and name not in files, read, files.get(name)))
    return sorted(found, key=lambda token: not token.is_flag)  # a stable sort: the order of reads stays


def _default_url(settings: ClientSettings) -> str:
    """Return the URL of the gateway that ``rsws serve`` runs on this machine, with this environment."""
    port = _port()
    has_tls = os.environ.get(variable("tls_cert"))
    scheme = "wss" if has_tls else DataDir(settings.data_dir).scheme_at(port)
    return f"{scheme}://127.0.0.1:{port}"


def _is_local(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")


def _is_own(settings: ClientSettings, url: str) -> bool:
    """Whether this user's own gateway provably listens there."""
    parts = urlsplit(url)
    port = parts.port or {"ws": 80, "wss": 443}[parts.scheme]
    return _is_local(url) and DataDir(settings.data_dir).runs_gateway(parts.hostname or "", port)


def _url_is_from_env_file(settings: ClientSettings) -> bool:
    if settings.url is not None:
        return is_in_env_file("url")
    return is_in_env_file("port") and _port() != Settings().port


def _port() -> int:
    """Return the port that ``rsws serve`` listens on with this environment."""
    option = options(Settings)["port"]
    text = os.environ.get(option.env) or str(Settings().port)
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 65535):
        raise UsageError(f"{origin('port')} is {text!r}, which is no port; name the gateway with --url or RSWS_URL")
    return int(text)


def _split_url(settings: ClientSettings) -> tuple[str, str | None]:
    """Return the gateway's URL without the token, and the token that it has."""
    with about("url"):
        parts = urlsplit(websocket_url(settings.url or _default_url(settings)))
    query = parse_qs(parts.query, keep_blank_values=True)
    tokens = query.pop("token", [None])
    return urlunsplit(parts._replace(query=urlencode(query, doseq=True), fragment="")), tokens[0]

"""The URL that says which Redis to use: one server, a name that sentinels know, or a cluster."""

from __future__ import annotations

import inspect
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.exceptions import RedisError

from rsws.errors import UsageError, about
from rsws.urls import host_fault, redact_url

SENTINEL_PORT = 26379
PORT = 6379
_SENTINEL = "+sentinel"
_CLUSTER = "+cluster"
_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}
"""What redis-py calls each scheme."""
_CLASSES: dict[str, type[AbstractConnection]] = {
    "redis": Connection,
    "rediss": SSLConnection,
    "unix": UnixDomainSocketConnection,
}
_IGNORED = (
    "max_connections",
    "socket_timeout",
    "socket_connect_timeout",
    "client_name",
    "protocol",
    "decode_responses",
    "retry_on_timeout",
    "health_check_interval",
)
"""Options that people write for other programs, and that mean nothing here or are set otherwise."""
_ON_OFF = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_TAKEN = ("db", "username", "password", "socket_keepalive")
"""Options of redis-py that may be written, beside those that begin with ``ssl_``."""
_CERT_REQS = {"cert_none": "none", "cert_optional": "optional", "cert_required": "required"}
_NAME = re.compile(r"[a-z_]{1,30}")
_TLS_VERSIONS = {"1_2": ssl.TLSVersion.TLSv1_2, "1_3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files for TLS with Redis, each a path; None for none."""

    ca: Path | None = None
    """The certificates of the authorities that are trusted, in place of the system's."""
    cert: Path | None = None
    """The client's certificate."""
    key: Path | None = None
    """The key of that certificate."""


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """What a URL says."""

    shown: str
    """The URL without user, password and query, safe for a log line."""
    connection_class: type[AbstractConnection]
    arguments: dict[str, Any] = field(repr=False)
    """The arguments of that class, as redis-py reads them from the URL."""
    sentinels: tuple[tuple[str, int], ...] = ()
    """Host and port of each sentinel to ask for the primary; empty where the URL leads to the server itself."""
    service: str = ""
    """The name under which the sentinels know the primary."""
    nodes: tuple[tuple[str, int], ...] = ()
    """Host and port of each node of a cluster that is asked for its map; empty where the URL is not of a cluster."""
    sentinel_login: Mapping[str, str] | None = field(repr=False, default=None)
    """The login at the sentinels, as arguments; None for that of the servers, or none where they want none."""

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return issubclass(self.connection_class, SSLConnection)

    @property
    def has_certificate(self) -> bool:
        """Whether there is a certificate to show to the server."""
        return "ssl_certfile" in self.arguments


def parse_redis_url(url: str, tls: TlsFiles | None = None) -> RedisUrl:
    """Read a URL: ``redis://``, ``rediss://``, ``valkey://``, ``valkeys://``, ``unix://``, of sentinels or a cluster.

    Raises:
        UsageError: It can't be used; the text says what to write, and shows no password.
    """
    try:
        return _parse(url, tls or TlsFiles())
    except (ValueError, TypeError, AttributeError, RedisError):  # whatever they say, it may quote the password
        raise _unusable(url, "Redis' client can't read it") from None


def _parse(url: str, tls: TlsFiles) -> RedisUrl:
    scheme, _, rest = url.partition("://")
    for_sentinels, for_cluster = scheme.endswith(_SENTINEL), scheme.endswith(_CLUSTER)
    plain = scheme.removesuffix(_SENTINEL).removesuffix(_CLUSTER)
    if plain not in _SCHEMES or (plain != scheme and plain == "unix") or (for_sentinels and for_cluster):
        raise _unusable(url, "it does not begin with redis://, rediss:// or unix://")
    options = dict(parse_qsl(rest.partition("?")[2], keep_blank_values=True))
    kind = _SCHEMES[plain]
    if (wanted := options.pop("ssl", None)) is not None:
        is_on = _ON_OFF.get(wanted.lower())
        if is_on is None or kind == "unix" or (kind == "rediss" and not is_on):
            raise _unusable(url, "its option ssl has no valid value")
        kind = "rediss" if is_on else kind
    sentinel_login = _take_sentinel_login(options) if for_sentinels else None
    sentinels: tuple[tuple[str, int], ...] = ()
    nodes: tuple[tuple[str, int], ...] = ()
    service = ""
    base = f"{kind}://{rest.partition('?')[0]}"
    if for_sentinels:
        sentinels, service, base = _split_sentinels(url, base)
    elif for_cluster:
        nodes, path, base = _split_hosts(url, base, PORT)
        if path.strip("/") not in ("", "0") or options.get("db", "0") != "0":
            raise _unusable(url, "a cluster has no database but 0")
    _check(url, base)
    made = _CLASSES[kind]
    _check_options(url, base, made, options)
    try:
        arguments: dict[str, Any] = dict(parse_url(_with_options(base, options)))
        arguments.pop("connection_class", None)
        arguments |= _tls_arguments(made, arguments, tls)
        made(**{**arguments, "driver_info": None})  # else it looks up its own version, which takes milliseconds
    except (ValueError, TypeError, RedisError):
        raise _unusable(url, "Redis' client does not take its options") from None
    return RedisUrl(redact_url(url), made, arguments, sentinels, service, nodes, sentinel_login)


def _take_sentinel_login(options: dict[str, str]) -> dict[str, str] | None:
    login = {
        name: options.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in options
    }
    return login or None


def _with_options(base: str, options: Mapping[str, str]) -> str:
    kept = {name: value for name, value in options.items() if name not in _IGNORED}
    if version := _TLS_VERSIONS.get(kept.get("ssl_min_version", "").lower().replace(".", "_").removeprefix("tlsv")):
        kept["ssl_min_version"] = str(int(version))
    if "ssl_cert_reqs" in kept:
        kept["ssl_cert_reqs"] = _CERT_REQS.get(kept["ssl_cert_reqs"].lower(), kept["ssl_cert_reqs"])
    return base + (f"?{urlencode(kept)}" if kept else "")


def _split_sentinels(url: str, base: str) -> tuple[tuple[tuple[str, int], ...], str, str]:
    """Return the sentinels, the name they know, and the URL of a server without its address."""
    sentinels, path, base = _split_hosts(url, base, SENTINEL_PORT)
    service, _, database = path.partition("/")
    if not service:
        raise _unusable(url, "it lacks the name under which the sentinels know the primary")
    return sentinels, unquote(service), f"{base}/{database}"


def _split_hosts(url: str, base: str, default_port: int) -> tuple[tuple[tuple[str, int], ...], str, str]:
    """Return the hosts and ports of a URL that has several, its path, and the URL with one host that stands for all."""
    scheme, _, rest = base.partition("://")
    login, _, place = rest.rpartition("@")
    address, _, path = place.partition("/")
    hosts = []
    for each in address.split(","):
        try:
            parts = urlsplit(f"//{each}")
            host, port = parts.hostname, parts.port or default_port
        except ValueError:
            raise _unusable(url, "it has no valid host and port") from None
        if not host or host_fault(host) is not None:
            raise _unusable(url, "its host is not a valid name")
        hosts.append((host, port))
    return tuple(hosts), path, f"{scheme}://{login}{'@' if login else ''}several"


def _tls_arguments(made: type[AbstractConnection], said: Mapping[str, Any], files: TlsFiles) -> dict[str, Any]:
    """Return redis-py's arguments for the files, after a look at whether they and those of the URL can be read.

    Raises:
        UsageError: One can't be read, or the URL is not one of TLS.
    """
    paths = {"ssl_ca_certs": files.ca, "ssl_certfile": files.cert, "ssl_keyfile": files.key}
    given = {name: str(path) for name, path in paths.items() if path is not None}
    with about("redis_tls_ca", "redis_tls_cert", "redis_tls_key"):
        _check_tls_files(made, {name: given.get(name) or said.get(name) for name in paths}, given, said)
    return given


def _check_tls_files(
    made: type[AbstractConnection], used: Mapping[str, Any], given: Mapping[str, str], said: Mapping[str, Any]
) -> None:
    if given and not issubclass(made, SSLConnection):
        raise UsageError("the certificates for Redis are of no use without TLS: write rediss:// in the Redis URL")
    for name, path in used.items():
        try:
            if path:
                Path(path).read_bytes()
        except OSError as error:
            raise UsageError(f"the file for Redis' TLS can't be read: {path}: {error.strerror} ({name})") from None
    ca, cert, key = used.values()
    if key and not cert:
        raise UsageError(f"the key for Redis' TLS, {key}, needs its certificate: --redis-tls-cert or ssl_certfile")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # for these files alone: reading the system's takes 50 ms
    try:
        if ca:
            context.load_verify_locations(ca)
    except ssl.SSLError:
        raise UsageError(f"the file for Redis' TLS has no certificate in PEM format: {ca} (ssl_ca_certs)") from None
    try:
        if cert:
            context.load_cert_chain(cert, key, said.get("ssl_password") or "")  # without one OpenSSL asks the terminal
    except ssl.SSLError as error:
        why = "they are not of each other" if error.reason == "KEY_VALUES_MISMATCH" else "it takes both, in PEM format"
        raise UsageError(
            f"the certificate and the key for Redis' TLS can't be used: {why}: {cert} (ssl_certfile), "
            f"{key or 'in the same file'} (ssl_keyfile)"
        ) from None


def _check_options(url: str, base: str, made: type[AbstractConnection], options: Mapping[str, str]) -> None:
    """Name the option that can't be used, unless it could be a part of a password.

    Raises:
        UsageError: It is not for this kind of connection, or its value is none.
    """
    if not options:
        return
    known = set().union(*map(_options_of, _CLASSES.values())) - set(_IGNORED)
    may_be_password = "@" in url.partition("?")[2]
    for name, value in options.items():
        if name not in known | {*_IGNORED} and _NAME.fullmatch(name) and not may_be_password:
            raise _unusable(url, f"Redis' client has no option {name}")
        if name in known and name not in _options_of(made):
            raise _unusable(url, f"its option {name} is not for this scheme")
        if name in known and name not in _TAKEN and not name.startswith("ssl_"):
            raise _unusable(url, f"its option {name} can't be written in a URL")
        try:
            parse_url(_with_options(base, {name: value}))
        except ValueError:
            if name in known:
                raise _unusable(url, f"its option {name} has no valid value") from None


def _options_of(made: type[AbstractConnection]) -> set[str]:
    return {name for each in made.__mro__ if each is not object for name in inspect.signature(each).parameters}


def _check(url: str, base: str) -> None:
    """Refuse a URL that redis-py would misread or not accept.

    Raises:
        UsageError: The reason.
    """
    try:
        parts = urlsplit(base)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise _unusable(url, "it has no valid host and port") from None
    database = parts.path.strip("/")
    if any(character.isspace() for character in url):
        raise _unusable(url, "it has white space in it")
    if "#" in url:
        raise _unusable(url, "it has a # in it")
    if parts.scheme == "unix":
        if not parts.path:
            raise _unusable(url, "it names no socket")
        return
    if not host:
        raise _unusable(url, "it names no host")
    if host_fault(host) is not None:
        raise _unusable(url, "its host is not a valid name")
    if database and not database.isdigit():
        raise _unusable(url, "the database is not a number")


def _unusable(url: str, reason: str) -> UsageError:
    """Return the error for a Redis URL, never in a parser's words: they quote what it took for a port or a host."""
    return UsageError(
        f"the Redis URL {redact_url(url)} can't be used: {reason}; write "
        "redis://[[user]:password@]host[:port][/database], redis+sentinel://[[user]:password@]host:port,.../NAME or "
        "redis+cluster://[[user]:password@]host:port,..., "
        "special characters of a password percent-encoded (/ as %2F, # as %23, @ as %40)"
    )

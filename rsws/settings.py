"""The one definition of every option: type, default, unit, environment name and help.

Flags override the environment, which overrides ``.env`` in the working directory, which overrides the defaults. The
commands make their flags from these fields, and a test compares the tables of docs/settings.md with them.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rsws.errors import UsageError, about
from rsws.options import KIB, MIB, SECONDS, option
from rsws.rates import rate_fault
from rsws.urls import host_fault, is_loopback, network_fault, origin_fault, place_fault

MIN_KEY_CHARS = 8
"""The minimum length of a key where other machines can connect: a shorter one can be guessed."""

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")


def channel_pattern_fault(text: str) -> str | None:
    """Return why a pattern can't name channels; None when it can."""
    if not text:
        return "it must be a pattern, such as 'chat.*'"
    return (
        "it is no pattern of channels: keys that begin with rsws: are the gateway's own"
        if text.startswith("rsws:")
        else None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The gateway's settings."""

    host: str = option("127.0.0.1", "HOST", "Address to listen on.", text_fault=host_fault)
    port: int = option(8080, "PORT", "Port to listen on; 0 takes any free one.", minimum=0, maximum=65535)
    admin: str | None = option(
        None,
        "RSWS_ADMIN",
        "HOST:PORT, or PORT of this machine, for /metrics, /healthz and /readyz. Not set: /metrics is on the port of "
        "clients, and needs the secret key where other machines can connect.",
        text_fault=place_fault,
    )
    origin: tuple[str, ...] = option(
        (),
        "RSWS_ORIGIN",
        "Origin of web pages that may connect, as https://example.com, or null; may be repeated. Not set: any, as a "
        "page needs a token, too.",
        text_fault=origin_fault,
    )
    console: bool = option(
        True, "RSWS_CONSOLE", "Give browsers the console, a page for people, at `/`; it can do what its token allows."
    )
    workers: int = option(
        1,
        "RSWS_WORKERS",
        "Processes that serve clients on the port, one for each core; each has its own connections to Redis.",
        minimum=1,
        maximum=64,
    )
    tls_cert: Path | None = option(
        None,
        "RSWS_TLS_CERT",
        "Speak TLS (wss://) with the certificate in this file: PEM, the whole chain; read again when it changes.",
    )
    tls_key: Path | None = option(
        None, "RSWS_TLS_KEY", "The key of that certificate, PEM. Not set: it is in the same file."
    )
    trusted_proxies: tuple[str, ...] = option(
        (),
        "RSWS_TRUSTED_PROXIES",
        "Addresses or networks of proxies, such as 10.0.0.0/8, that are believed whose connection it is: in "
        "`X-Forwarded-For`, `Forwarded` and PROXY headers; may be repeated.",
        text_fault=network_fault,
    )
    proxy_protocol: bool = option(
        False,
        "RSWS_PROXY_PROTOCOL",
        "Each connection begins with a PROXY header (version 1 or 2), and comes from `--trusted-proxies`.",
    )
    redis_url: str | None = option(
        None,
        "REDIS_URL",
        "Redis to use: redis://, rediss://, unix://, redis+sentinel://HOST:PORT,.../NAME or redis+cluster://HOST:PORT. "
        "Not set: a local one that answers, else the embedded server.",
        secret=True,
    )
    redis_url_file: Path | None = option(
        None,
        "REDIS_URL_FILE",
        "A file that holds the URL of Redis, for one with a password; it is read again at each attempt to connect.",
    )
    redis_tls_ca: Path | None = option(
        None,
        "RSWS_REDIS_TLS_CA",
        "With rediss://: the certificates of the authorities to trust for Redis. Not set: the system's.",
    )
    redis_tls_cert: Path | None = option(
        None, "RSWS_REDIS_TLS_CERT", "With rediss://: the certificate to show to Redis, where it wants one."
    )
    redis_tls_key: Path | None = option(None, "RSWS_REDIS_TLS_KEY", "The key of that certificate.")
    secret_key: str | None = option(
        None,
        "WEBSOCKET_SECRET_KEY",
        "The token clients must give. As a flag all users of the machine see it (`ps`): use the variable or a file. "
        "Not set: on loopback one is made and kept in the data directory.",
        secret=True,
    )
    secret_key_file: Path | None = option(
        None, "WEBSOCKET_SECRET_KEY_FILE", "A file that holds the token clients must give; read again when it changes."
    )
    previous_secret_key: str | None = option(
        None,
        "RSWS_PREVIOUS_SECRET_KEY",
        "The key before this one, which is taken, too, while keys are being changed. As a flag `ps` shows it.",
        secret=True,
    )
    previous_secret_key_file: Path | None = option(
        None, "RSWS_PREVIOUS_SECRET_KEY_FILE", "A file that holds the key before this one; read again when it changes."
    )
    key_may: tuple[str, ...] = option(
        (),
        "RSWS_KEY_MAY",
        "What the secret key may do, as PATTERN=r, PATTERN=w or PATTERN=rw: subscribe (r) and publish (w) to the "
        "channels that a pattern names; may be repeated. Not set: everything.",
    )
    jwt_key: str | None = option(
        None,
        "RSWS_JWT_KEY",
        "Take JWTs, too, signed for this key: a secret of 32 bytes or more (HS256), a public key as PEM, or a JWKS "
        "(RS256, ES256, EdDSA; extra `jwt`). As a flag `ps` shows it.",
        secret=True,
    )
    jwt_key_file: Path | None = option(
        None, "RSWS_JWT_KEY_FILE", "A file that holds the key of JWTs; read again when it changes, and on SIGHUP."
    )
    jwt_audience: str | None = option(
        None, "RSWS_JWT_AUDIENCE", "The `aud` that a JWT must have. Not set: it may have any."
    )
    jwt_issuer: str | None = option(
        None, "RSWS_JWT_ISSUER", "The `iss` that a JWT must have. Not set: it may have any."
    )
    data_dir: Path | None = option(
        None,
        "RSWS_DATA_DIR",
        "Where the embedded server's data and the key are kept. Not set: the user's data directory.",
    )
    local_redis_port: int = option(
        6379,
        "RSWS_LOCAL_REDIS_PORT",
        "Loopback port of the local Redis and of the embedded server.",
        minimum=1,
        maximum=65535,
    )
    embedded_maxmemory_bytes: int | None = option(
        None,
        "RSWS_EMBEDDED_MAXMEMORY_BYTES",
        "Bytes the embedded server's data may take; above it publishes are refused and nothing is dropped. "
        "Not set: no limit.",
        minimum=1 * MIB,
        maximum=2**53,
    )
    redis_timeout_s: float = option(
        5 * SECONDS,
        "RSWS_REDIS_TIMEOUT",
        "Seconds Redis may take to answer before the link counts as broken.",
        minimum=0.1,
    )
    wait_replicas: int = option(
        0,
        "RSWS_WAIT_REPLICAS",
        "Acknowledge a publish once so many replicas of Redis have it, too; 0: once the primary has.",
        minimum=0,
        maximum=100,
    )
    max_message_bytes: int = option(
        1 * MIB,
        "RSWS_MAX_MESSAGE_BYTES",
        "Bytes a client's message may have (close code 1009 above it).",
        minimum=1 * KIB,
    )
    max_clients: int | None = option(
        None,
        "RSWS_MAX_CLIENTS",
        "Clients that may be connected (close code 1013 above it). Not set: as many as the limit of open files allows.",
        minimum=1,
    )
    max_connections_per_address: int | None = option(
        None,
        "RSWS_MAX_CONNECTIONS_PER_ADDRESS",
        "Connections that one address (in IPv6 one /64 network) may have (close code 1013 above it; 429). Not set: "
        "20000, and from 127.0.0.1 and ::1 any number.",
        minimum=1,
    )
    attempt_rate: str | None = option(
        None,
        "RSWS_ATTEMPT_RATE",
        "Attempts to connect that one address may make in a second, as N or N,BURST (close code 1013 above it; 429); "
        "0: no limit. Not set: 1000,10000, and no limit for 127.0.0.1 and ::1.",
        text_fault=rate_fault,
    )
    handshake_timeout_s: float = option(
        10 * SECONDS,
        "RSWS_HANDSHAKE_TIMEOUT",
        "Seconds in which a connection must have sent its whole request; TLS and a PROXY header included.",
        minimum=0.1,
        maximum=3600,
    )
    max_header_bytes: int = option(
        16 * KIB,
        "RSWS_MAX_HEADER_BYTES",
        "Bytes that a request's line and headers may have together (431 above it).",
        minimum=256,
        maximum=1 * MIB,
    )
    publish_rate: str = option(
        "50000,500000",
        "RSWS_PUBLISH_RATE",
        "Messages a client may publish in a second, as N or N,BURST: so many in the long run, and so many at once; "
        "0: no limit.",
        text_fault=rate_fault,
    )
    publish_bytes_rate: str = option(
        f"{256 * MIB},{2560 * MIB}",
        "RSWS_PUBLISH_BYTES_RATE",
        "Bytes of data a client may publish in a second, likewise.",
        text_fault=rate_fault,
    )
    subscribe_rate: str | None = option(
        None,
        "RSWS_SUBSCRIBE_RATE",
        "Subscribes a client may send in a second, likewise. Not set: 1000, and 100 times `--max-subscriptions` at "
        "once.",
        text_fault=rate_fault,
    )
    max_subscriptions: int = option(1000, "RSWS_MAX_SUBSCRIPTIONS", "Subscriptions a connection may have.", minimum=1)
    max_channels: int = option(
        1_000_000, "RSWS_MAX_CHANNELS", "Channels that are followed at the same time, in each process.", minimum=1
    )
    channels: tuple[str, ...] = option(
        (),
        "RSWS_CHANNELS",
        "Which keys of Redis are channels, as a pattern such as 'chat.*'; may be repeated. What none of them names no "
        "client can reach, and `--retain` does not trim it. Not set: `*`, all but those that begin with `rsws:`.",
        text_fault=channel_pattern_fault,
    )
    field: tuple[str, ...] = option(
        (),
        "RSWS_FIELD",
        "Which field of an entry holds its message, as PATTERN=FIELD for the channels that a pattern names; publishes "
        "write it. PATTERN=*: all fields are the message, as an object of strings, and nobody can publish. May be "
        "repeated; the first that fits holds. Not set: messageData.",
    )
    producer_window_s: float = option(
        120 * SECONDS,
        "RSWS_PRODUCER_WINDOW",
        "Seconds in which a message that names its producer is stored at most once.",
        minimum=1,
    )
    high_water_bytes: int = option(
        64 * KIB,
        "RSWS_HIGH_WATER_BYTES",
        "Bytes queued for one client before it falls back to reading the stream.",
        minimum=4 * KIB,
    )
    compress: bool = option(
        False, "RSWS_COMPRESS", "Compress messages for clients that can read them so (permessage-deflate)."
    )
    ping_interval_s: float = option(
        20 * SECONDS, "RSWS_PING_INTERVAL", "Seconds of silence after which a client is pinged.", minimum=0.1
    )
    idle_timeout_s: float = option(
        60 * SECONDS,
        "RSWS_IDLE_TIMEOUT",
        "Seconds in which nothing came from a client and nothing drained to it, after which it is cut off.",
        minimum=0.2,
    )
    shutdown_delay_s: float = option(
        0 * SECONDS,
        "RSWS_SHUTDOWN_DELAY",
        "Seconds in which /readyz says 503 and clients are still accepted, before the gateway begins to stop: the time "
        "that a balancer needs to send new ones elsewhere.",
        minimum=0,
        maximum=600,
    )
    drain_s: float = option(
        0 * SECONDS,
        "RSWS_DRAIN",
        "Seconds over which clients are closed (with 1012) when the gateway stops, so that they don't all come back at "
        "once; 0 closes them together (with 1001).",
        minimum=0,
        maximum=600,
    )
    retain: tuple[str, ...] = option(
        (),
        "RSWS_RETAIN",
        "Trim the channels a pattern names to about COUNT entries, and to those younger than AGE (s, m, h, d); "
        "PATTERN=COUNT,AGE,expire deletes those with nothing new for AGE; may be repeated. Not set: nothing is ever "
        "trimmed.",
    )
    shutdown_timeout_s: float = option(
        8 * SECONDS, "RSWS_SHUTDOWN_TIMEOUT", "Seconds the gateway may take to stop.", minimum=0.1, maximum=600
    )
    log_format: str = option(
        "text",
        "RSWS_LOG_FORMAT",
        "How log lines are printed; as json nothing else is, no banner either.",
        choices=LOG_FORMATS,
    )
    log_level: str = option("info", "RSWS_LOG_LEVEL", "Least severe log line to print.", choices=LOG_LEVELS)

    @property
    def given_key(self) -> str | None:
        """The key that was given, directly or in a file; None when none was.

        Raises:
            UsageError: The file can't be read or is empty.
        """
        if self.secret_key and not self.secret_key.isspace():
            return self.secret_key
        if self.secret_key_file is None:
            return None
        with about("secret_key_file"):
            return read_secret(self.secret_key_file, "secret key")

    @property
    def key_is_in_file(self) -> bool:
        """Whether the key that was given is in a file."""
        return self.secret_key_file is not None and not (self.secret_key and not self.secret_key.isspace())

    @property
    def has_key_files(self) -> bool:
        """Whether any key is in a file that can be read again, that of TLS included."""
        files = (self.previous_secret_key_file, self.jwt_key_file, self.tls_cert)
        return self.key_is_in_file or any(each is not None for each in files)

    @property
    def stop_s(self) -> float:
        """The seconds that it may take to stop, from the first signal."""
        return self.shutdown_delay_s + self.drain_s + self.shutdown_timeout_s

    def can_guess(self, key: str) -> bool:
        """Whether others can connect, and a key is so short that they can guess it."""
        return len(key) < MIN_KEY_CHARS and not self.on_loopback

    @property
    def names_redis(self) -> bool:
        """Whether a Redis was given, directly or in a file."""
        return self.redis_url is not None or self.redis_url_file is not None

    @property
    def redis_url_is_read_once(self) -> bool:
        """Whether the file of Redis' URL is a pipe, which can't be read again."""
        return self.redis_url is None and self.redis_url_file is not None and not self.redis_url_file.is_file()

    @property
    def scheme(self) -> str:
        """The scheme of the gateway's URL."""
        return "ws" if self.tls_cert is None else "wss"

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """The settings by which a command finds its gateway and authenticates."""

    url: str | None = option(
        None,
        "RSWS_URL",
        "The gateway: ws://HOST:PORT or wss://... Not set: ws://127.0.0.1:PORT (wss:// if it has TLS), PORT as for "
        "`rsws serve`.",
        secret=True,
    )
    token: str | None = option(
        None,
        "RSWS_TOKEN",
        "The token. As a flag all users of the machine see it (`ps`): use the variable or a file. "
        "Not set: WEBSOCKET_SECRET_KEY or its file, or for the user's own gateway on this machine the user's own key.",
        secret=True,
    )
    token_file: Path | None = option(
        None,
        "RSWS_TOKEN_FILE",
        "A file that holds the token; read again at each attempt to connect, and before a token ends.",
    )
    ca: Path | None = option(
        None,
        "RSWS_CA",
        "With wss://: the certificates of the authorities to trust, PEM. Not set: the system's, or those of "
        "`SSL_CERT_FILE`.",
    )
    insecure: bool = option(
        False,
        "",
        "With wss://: trust any certificate, so that whoever is in between can read all. For trying out.",
    )
    data_dir: Path | None = option(
        None, "RSWS_DATA_DIR", "Where the user's own key is kept. Not set: the user's data directory."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSettings:
    """Which of the user's profiles a command uses."""

    profile: str | None = option(
        None,
        "RSWS_PROFILE",
        "The profile that says which gateway and which Redis (`rsws profile`); '' for none. Not set: the one of "
        "`rsws profile use`.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """The settings by which ``rsws token`` signs and checks JWTs: those of the gateway that is to take them."""

    jwt_key: str | None = option(
        None,
        "RSWS_JWT_KEY",
        "The key to sign with: a secret of 32 bytes or more (HS256), or a private key as PEM (RS256, ES256, EdDSA; "
        "extra `jwt`). To check a token, the gateway's will do. As a flag `ps` shows it.",
        secret=True,
    )
    jwt_key_file: Path | None = option(None, "RSWS_JWT_KEY_FILE", "A file that holds that key.")
    aud: str | None = option(None, "RSWS_JWT_AUDIENCE", "Whom the token is for, its `aud`. Not set: nobody is named.")
    iss: str | None = option(None, "RSWS_JWT_ISSUER", "Who has made the token, its `iss`. Not set: nobody is named.")

    @property
    def given_jwt_key(self) -> str | None:
        """The key that was given, directly or in a file; None when none was.

        Raises:
            UsageError: The file can't be read or is empty.
        """
        if self.jwt_key:
            return self.jwt_key
        if self.jwt_key_file is None:
            return None
        with about("jwt_key_file"):
            return read_secret(self.jwt_key_file, "JWT key")


def read_secret(path: Path, what: str) -> str:
    """Return the secret that a file holds, without the white space around it.

    Raises:
        UsageError: The file can't be read or is empty.
    """
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the file of the {what}, {path}, can't be read: {getattr(error, 'strerror', None) or 'it is no text'}"
        ) from None
    if not secret:
        raise UsageError(f"the file of the {what}, {path}, is empty")
    return secret


def default_data_dir() -> Path:
    """Return the user's data directory for rsws, where the platform's convention puts it."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "rsws"
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "share") / "rsws"


def config_dir() -> Path:
    """Return the user's directory for the configuration of rsws: see the XDG base directories."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "rsws"

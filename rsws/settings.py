"""Every option, said once: type, default, unit, environment name and help.

Flags beat the environment, which beats ``.env`` in the working directory, which beats the defaults. The commands
make their flags from these fields, and a test holds the README's table against them.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rsws.urls import host_fault, is_loopback

KIB = 1024
MIB = 1024 * KIB
SECONDS = 1.0
UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
"""Seconds that the letter after a number means: ``10m``."""
MAX_NUMBER = 2**31 - 1
"""Of every number; what takes them, from timers to Redis, has bounds of its own far above."""

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Option:
    """What is said of a setting beside its type and default."""

    env: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    text_fault: Callable[[str], str | None] | None = None
    """What to ask, of a text that can be encoded, why it can't be used."""

    def fault(self, value: object) -> str | None:
        """Why ``value`` can't be used, beside its type, range and choices; None when it can."""
        match value:
            case float() if not math.isfinite(value):
                return "it must be a finite number"
            case int() | float() if value > MAX_NUMBER:
                return f"it must be at most {MAX_NUMBER}"
            case str():
                try:
                    value.encode()
                except UnicodeEncodeError:
                    return "it is no valid UTF-8"
                return self.text_fault(value) if self.text_fault is not None else None
            case list():
                return next(filter(None, map(self.fault, value)), None)
            case _:
                return None


def option(
    default: Any,
    env: str,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    text_fault: Callable[[str], str | None] | None = None,
) -> Any:
    """A field of a settings class."""
    return field(default=default, metadata={"option": Option(env, help, minimum, maximum, choices, text_fault)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The gateway's settings."""

    host: str = option("127.0.0.1", "HOST", "Address to listen on.", text_fault=host_fault)
    port: int = option(8080, "PORT", "Port to listen on; 0 takes any free one.", minimum=0, maximum=65535)
    workers: int = option(
        1,
        "RSWS_WORKERS",
        "Processes that serve clients on the port, one for each core; each has its own connections to Redis.",
        minimum=1,
        maximum=64,
    )
    redis_url: str | None = option(
        None,
        "REDIS_URL",
        "Redis to use: redis://, rediss:// or unix://. Not set: a local one that answers, else the embedded server.",
    )
    secret_key: str | None = option(
        None,
        "WEBSOCKET_SECRET_KEY",
        "The token clients must give. Not set: on loopback one is made and kept in the data directory.",
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
    redis_timeout_s: float = option(
        5 * SECONDS,
        "RSWS_REDIS_TIMEOUT",
        "Seconds Redis may take to answer before the link counts as broken.",
        minimum=0.1,
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
    max_subscriptions: int = option(1000, "RSWS_MAX_SUBSCRIPTIONS", "Subscriptions a connection may have.", minimum=1)
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
        "may be repeated. Not set: nothing is ever trimmed.",
    )
    shutdown_timeout_s: float = option(
        8 * SECONDS, "RSWS_SHUTDOWN_TIMEOUT", "Seconds the gateway may take to stop.", minimum=0.1, maximum=600
    )
    log_level: str = option("info", "RSWS_LOG_LEVEL", "Least severe log line to print.", choices=LOG_LEVELS)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """How a command finds its gateway and is let in."""

    url: str | None = option(
        None,
        "RSWS_URL",
        "The gateway: ws://HOST:PORT or wss://... Not set: ws://127.0.0.1:PORT, PORT as for `rsws serve`.",
    )
    token: str | None = option(
        None,
        "RSWS_TOKEN",
        "The token. Not set: WEBSOCKET_SECRET_KEY, or for a gateway on this machine the user's own key.",
    )
    token_file: Path | None = option(None, "RSWS_TOKEN_FILE", "A file that holds the token.")
    data_dir: Path | None = option(
        None, "RSWS_DATA_DIR", "Where the user's own key is kept. Not set: the user's data directory."
    )


def options(settings: type[Any]) -> dict[str, Option]:
    """Field name -> what is said of it."""
    return {item.name: item.metadata["option"] for item in fields(settings)}


def load_env_file(path: Path = Path(".env")) -> None:
    """Take over what ``.env`` says, to the letter (a ``$`` is one), of names that are unset or empty otherwise."""
    if path.is_file():
        from dotenv import dotenv_values

        for name, value in dotenv_values(path, interpolate=False).items():
            if value and not os.environ.get(name):
                os.environ[name] = value


def default_data_dir() -> Path:
    """The user's data directory for rsws, as the platform has it."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "rsws"
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "share") / "rsws"

"""What a command looks at: Redis, a gateway, or both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rsws.cli.endpoint import Endpoint, find_gateway, find_redis
from rsws.cli.exits import ExitCode, Failure, wire_error
from rsws.cli.options import FLAGS
from rsws.errors import RedisUnavailable
from rsws.settings import ClientSettings, Settings

if TYPE_CHECKING:
    from rsws.redis.target import RedisTarget

_REDIS_FLAGS = {"redis_url", "redis_url_file", "local_redis_port"}


@dataclass(frozen=True, slots=True)
class Sources:
    """Whom to ask; at least one of them."""

    redis: RedisTarget | None
    gateway: Endpoint | None

    @property
    def text(self) -> str:
        """Who that is, for a person."""
        from rsws.urls import redact_url

        named = [self.redis.shown] if self.redis is not None else []
        return " and ".join([*named, *([redact_url(self.gateway.url)] if self.gateway is not None else [])])


def find_sources(redis: Settings, client: ClientSettings) -> Sources:
    """Return whom flags and environment name: a gateway, Redis, or both; where none is named the usual Redis.

    A flag that names one of them overrules the environment's naming the other.

    Raises:
        UsageError: What is named can't be used.
        Failure: There is no token for the gateway.
    """
    by_flag = bool(FLAGS.get() & _REDIS_FLAGS), "url" in FLAGS.get()
    names_redis, names_gateway = by_flag if any(by_flag) else (redis.names_redis, client.url is not None)
    gateway = find_gateway(client) if names_gateway else None
    return Sources(find_redis(redis) if names_redis or gateway is None else None, gateway)


@contextmanager
def reading_redis() -> Iterator[None]:
    """What is asked within only reads.

    Raises:
        Failure: Redis can't be reached; nothing is said of what may be stored.
    """
    try:
        yield
    except RedisUnavailable as error:
        hint = "say where it is with --redis-url or REDIS_URL, or name a gateway with --url"
        raise Failure(f"{wire_error(error.cause.rstrip('.'), error.code)}; {hint}", ExitCode.NOT_CONNECTED) from None

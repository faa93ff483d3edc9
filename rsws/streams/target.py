"""The Redis to use, and how to connect to it.

redis-py makes the connection (TCP, TLS or Unix socket, password, database). Its retries are off everywhere: on the
write path they would store a message twice when a reply is lost.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError

from rsws.errors import LoginRefused, RedisUnavailable, UsageError
from rsws.streams.redis_connection import RedisConnection
from rsws.urls import host_fault, redact_url


class RedisTarget:
    """The address of a Redis, and the way to connect to it.

    Args:
        url: A ``redis://``, ``rediss://`` or ``unix://`` URL, as redis-py reads it.
        timeout_s: The timeout for a connection attempt, in seconds.

    Raises:
        UsageError: The URL can't be parsed; the text says what to write.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        _check(url)
        self.shown = redact_url(url)
        self.timeout_s = timeout_s
        try:
            self._arguments: dict[str, Any] = dict(parse_url(url))
            self._class: type[AbstractConnection] = self._arguments.pop("connection_class", Connection)
            self.connection("rsws")
        except (ValueError, TypeError, RedisError):
            raise _unusable(url, "Redis' client does not take its options") from None

    def connection(self, name: str) -> AbstractConnection:
        """Return a connection, not connected yet, that replies in bytes and never retries.

        Its reads have no timeout of their own: each caller sets one that fits what it waits for.
        """
        return self._class(
            **{
                **self._arguments,
                "client_name": name,
                "protocol": 2,
                "decode_responses": False,
                "retry": Retry(NoBackoff(), 0),
                "retry_on_timeout": False,
                "socket_timeout": None,
                "socket_connect_timeout": self.timeout_s,
                "health_check_interval": 0,
                "driver_info": None,
            }
        )

    async def connect(self, name: str) -> RedisConnection:
        """Return a new connection that is up.

        Raises:
            RedisUnavailable: Redis can't be reached now.
            LoginRefused: Redis refused the password or the database.
        """
        connection = self.connection(name)
        try:
            async with asyncio.timeout(self.timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
            return RedisConnection(connection)
        except (AuthenticationError, AuthorizationError, ResponseError) as error:
            failure: Exception = LoginRefused(f"Redis at {self.shown} refused the login: {_login_error(error)}")
        except TimeoutError:
            failure = RedisUnavailable(f"{self.shown}: no answer within {self.timeout_s:g} s")
        except RedisError as error:
            failure = RedisUnavailable(f"{self.shown}: {_login_error(error)}")
        await connection.disconnect(nowait=True)
        raise failure


def _login_error(error: Exception) -> str:
    """Return the text of Redis' error, with the code that redis-py strips, or what happened to the connection."""
    code = getattr(error, "status_code", None)
    text = str(error) or type(error).__name__
    return text if code in (None, "ERR") else f"{code} {text}"


def _check(url: str) -> None:
    """Refuse a URL that redis-py would misread or not accept.

    Raises:
        UsageError: The reason.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise _unusable(url, "it has no valid host and port") from None
    database = parts.path.strip("/")
    if any(character.isspace() for character in url):
        raise _unusable(url, "it has white space in it")
    if parts.fragment:
        raise _unusable(url, "it has a # in it")
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise _unusable(url, "it does not begin with redis://, rediss:// or unix://")
    if parts.scheme == "unix" and not parts.path:
        raise _unusable(url, "it names no socket")
    if parts.scheme != "unix" and not host:
        raise _unusable(url, "it names no host")
    if host and host_fault(host) is not None:
        raise _unusable(url, "its host is not a valid name")
    if parts.scheme != "unix" and database and not database.isdigit():
        raise _unusable(url, "the database is not a number")


def _unusable(url: str, reason: str) -> UsageError:
    """Return the error for an unusable ``url``; a parser's text is left out, as it repeats supposed ports or hosts."""
    return UsageError(
        f"the Redis URL {redact_url(url)} (REDIS_URL or --redis-url) can't be used: {reason}; write "
        "redis://[[user]:password@]host[:port][/database], special characters of a password percent-encoded "
        "(/ as %2F, # as %23, @ as %40)"
    )


async def probe(target: RedisTarget) -> None:
    """Try to reach Redis once.

    Raises:
        RedisUnavailable: Redis can't be reached now.
        LoginRefused: Redis refused the login.
    """
    connection = await target.connect("rsws")
    await connection.close()

"""Which Redis, and how a connection to it is made.

redis-py makes it (TCP, TLS or Unix socket, password, database). Its retries stay off everywhere: on the write path
they would store a message twice when a reply is lost.
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
    """Which Redis, and how to connect to it.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads them.
        timeout_s: Seconds a connection attempt may take.

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
        """A connection, not yet connected, that answers in bytes and never tries anything twice.

        Its reads have no time limit of their own: each caller sets a deadline that fits what it waits for.
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
        """A connection that is up.

        Raises:
            RedisUnavailable: There is none to be had now.
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
    """What Redis said, with the error code that redis-py takes off, or what happened to the connection."""
    code = getattr(error, "status_code", None)
    text = str(error) or type(error).__name__
    return text if code in (None, "ERR") else f"{code} {text}"


def _check(url: str) -> None:
    """Refuse what redis-py would read as something else, or not at all.

    Raises:
        UsageError: With the reason.
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
    """That ``url`` can't be used; never in a parser's words, which repeat what it took for a port or a host."""
    return UsageError(
        f"the Redis URL {redact_url(url)} (REDIS_URL or --redis-url) can't be used: {reason}; write "
        "redis://[[user]:password@]host[:port][/database], special characters of a password percent-encoded "
        "(/ as %2F, # as %23, @ as %40)"
    )


async def probe(target: RedisTarget) -> None:
    """Try to reach Redis once.

    Raises:
        RedisUnavailable: It can't be reached now.
        LoginRefused: It refused the login.
    """
    connection = await target.connect("rsws")
    await connection.close()

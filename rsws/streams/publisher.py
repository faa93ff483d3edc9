"""A publisher that writes messages directly to Redis, without a gateway, for ``rsws xadd``."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rsws.errors import LoginRefused, Outcome, RedisUnavailable, StoreError
from rsws.protocol import FIELD, StreamId
from rsws.streams.redis_connection import RedisConnection, pack
from rsws.streams.store import store_error
from rsws.streams.target import RedisTarget


def xadd(channel: str, data: bytes, maxlen: int | None = None) -> list[bytes]:
    """Return the arguments of the XADD command that stores one message.

    Args:
        data: JSON text.
        maxlen: The approximate number of newest entries that the stream keeps; None keeps all.
    """
    trim = [] if maxlen is None else [b"MAXLEN", b"~", b"%d" % maxlen]
    return [b"XADD", channel.encode(), *trim, b"*", FIELD.encode(), data]


class Publisher:
    """A connection that adds messages to streams; an asynchronous context manager.

    Args:
        target: The Redis to connect to.

    Raises:
        RedisUnavailable: On entry: Redis can't be reached.
        LoginRefused: On entry: Redis refused the login.
    """

    def __init__(self, target: RedisTarget) -> None:
        self._target = target

    async def __aenter__(self) -> Self:
        self._connection: RedisConnection = await self._target.connect("rsws-xadd")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def add(
        self, channel: str, messages: Sequence[bytes], *, maxlen: int | None = None
    ) -> list[StreamId | StoreError]:
        """Add messages at the end of ``channel``, in one round trip.

        Args:
            messages: JSON texts.
            maxlen: As for :func:`xadd`.

        Returns:
            The id of each message, or the error why it has none. That is RedisUnavailable when the connection broke
            before the reply; the message may be stored all the same.

        Raises:
            LoginRefused: This Redis user may not write to ``channel``.
        """
        commands = [pack(*xadd(channel, data, maxlen)) for data in messages]
        replies: list[Any] = []
        lost: list[StreamId | StoreError] = []
        try:
            await self._connection.ask(*commands, timeout_s=self._target.timeout_s, replies=replies)
        except OSError as error:
            unknown = RedisUnavailable(f"lost Redis at {self._target.shown}: {error}", Outcome.UNKNOWN)
            lost = [unknown] * (len(messages) - len(replies))
        return [self._result(channel, reply) for reply in replies] + lost

    def _result(self, channel: str, reply: bytes | Exception) -> StreamId | StoreError:
        if isinstance(reply, bytes):
            return StreamId.from_redis(reply)
        text = str(reply)
        if text.startswith(("NOAUTH", "NOPERM")):
            raise LoginRefused(f"Redis at {self._target.shown} refuses to write to {channel!r}: {text}")
        return store_error(channel, reply)

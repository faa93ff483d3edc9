"""Writes messages straight to Redis, without a gateway: what ``rsws xadd`` does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from rsws.errors import LoginRefused, Outcome, RedisUnavailable, StoreError
from rsws.protocol import FIELD, StreamId
from rsws.streams.link import RedisTarget, error_text, pack, read_reply, send
from rsws.streams.store import store_error


def xadd(channel: str, data: bytes, maxlen: int | None = None) -> list[bytes]:
    """The command that stores one message, word by word.

    Args:
        data: JSON text.
        maxlen: About how many entries the stream keeps, the newest; None keeps all.
    """
    trim = [] if maxlen is None else [b"MAXLEN", b"~", b"%d" % maxlen]
    return [b"XADD", channel.encode(), *trim, b"*", FIELD.encode(), data]


class Publisher:
    """One connection that adds messages to streams; an asynchronous context manager.

    Args:
        target: Which Redis.

    Raises:
        RedisUnavailable: On entering: it can't be reached.
        LoginRefused: On entering: it refused the login.
    """

    def __init__(self, target: RedisTarget) -> None:
        self._target = target

    async def __aenter__(self) -> Self:
        self._connection: AbstractConnection = await self._target.connect("rsws-xadd")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.disconnect(nowait=True)

    async def add(
        self, channel: str, messages: Sequence[bytes], *, maxlen: int | None = None
    ) -> list[StreamId | StoreError]:
        """Add messages at the end of ``channel``, in one round trip.

        Args:
            messages: JSON texts.
            maxlen: As for :func:`xadd`.

        Returns:
            What became of each: its id, or why it has none. Where the link broke that is RedisUnavailable, and
            the message may be stored all the same.

        Raises:
            LoginRefused: This user may not write there.
        """
        commands = b"".join([pack(*xadd(channel, data, maxlen)) for data in messages])
        results: list[StreamId | StoreError] = []
        try:
            async with asyncio.timeout(self._target.timeout_s):
                await send(self._connection, commands)
                while len(results) < len(messages):
                    results.append(self._result(channel, await read_reply(self._connection)))
        except TimeoutError:
            cause = f"no answer within {self._target.timeout_s:g} s"
        except (RedisError, OSError) as error:
            cause = error_text(error)
        else:
            return results
        lost = RedisUnavailable(f"lost Redis at {self._target.shown}: {cause}", Outcome.UNKNOWN)
        return results + [lost] * (len(messages) - len(results))

    def _result(self, channel: str, reply: bytes | Exception) -> StreamId | StoreError:
        if isinstance(reply, bytes):
            return StreamId.from_redis(reply)
        text = error_text(reply)
        if text.startswith(("NOAUTH", "NOPERM")):
            raise LoginRefused(f"Redis at {self._target.shown} refuses to write to {channel!r}: {text}")
        return store_error(channel, reply)

"""A publisher that writes messages directly to Redis, without a gateway, for ``rsws xadd``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rsws.errors import LoginRefused, Outcome, RedisUnavailable, StoreError
from rsws.protocol import END_FIELD, FIELD, StreamId
from rsws.redis.connection import RedisConnection, pack
from rsws.redis.link import ASKING
from rsws.redis.target import RedisTarget
from rsws.streams.replies import store_error
from rsws.streams.slots import Patience, Redirected


def xadd(
    channel: str, data: bytes, maxlen: int | None = None, *, field: str = FIELD, ends: bool = False
) -> list[bytes]:
    """Return the arguments of the XADD command that stores one message.

    Args:
        data: JSON text; empty for an entry that only ends the channel.
        maxlen: The approximate number of newest entries that the stream keeps; None keeps all.
        field: The field that holds the message.
        ends: Whether the entry ends the channel.
    """
    trim = [] if maxlen is None else [b"MAXLEN", b"~", b"%d" % maxlen]
    message = [field.encode(), data] if data else []
    end = [END_FIELD.encode(), b"1"] if ends else []
    return [b"XADD", channel.encode(), *trim, b"*", *message, *end]


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
        self._host = str(target.url.nodes[0][0] if target.url.nodes else target.url.arguments.get("host", ""))
        """The host of the node that answers, for one of a cluster that does not know its own."""

    async def __aenter__(self) -> Self:
        self._connection: RedisConnection = await self._target.connect("rsws-xadd", any_node=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def add(
        self,
        channel: str,
        messages: Sequence[bytes],
        *,
        maxlen: int | None = None,
        field: str = FIELD,
        ends: bool = False,
    ) -> list[StreamId | StoreError]:
        """Add messages at the end of ``channel`` in order, in one round trip, or some more in a cluster.

        Args:
            messages: JSON texts.
            maxlen: As for :func:`xadd`; ``field`` and ``ends``, of each of the messages, likewise.

        Returns:
            The id of each message, or the error why it has none. That is RedisUnavailable when the connection broke
            before the reply; the message may be stored all the same.

        Raises:
            LoginRefused: This Redis user may not write to ``channel``.
        """
        commands = [pack(*xadd(channel, data, maxlen, field=field, ends=ends)) for data in messages]
        results: dict[int, StreamId | StoreError] = {}
        left = list(range(len(messages)))
        patience = Patience(self._target.timeout_s)
        is_asking = is_trying = False
        while True:
            sent = left[:1] if is_trying else left  # of two that are sent together a node may do the second only
            replies = await self._ask([commands[index] for index in sent], is_asking=is_asking)
            results |= {index: self._result(channel, reply) for index, reply in zip(sent, replies, strict=True)}
            left = self._left(results, left)
            if not left:
                return [results[index] for index in range(len(messages))]
            redirect = results.get(left[0])
            is_trying = isinstance(redirect, Redirected)
            if not isinstance(redirect, Redirected):
                continue
            try:
                await asyncio.sleep(patience.next_pause(redirect))
                await self._follow(redirect)
            except RedisUnavailable as error:
                return [results[index] if index not in left else error for index in range(len(messages))]
            is_asking = redirect.is_ask or (is_asking and redirect.address is None)

    @staticmethod
    def _left(results: dict[int, StreamId | StoreError], sent: Sequence[int]) -> list[int]:
        """Return what is not done yet; refuse what was redirected before a later one was stored."""
        last = max((index for index in sent if isinstance(results.get(index), StreamId)), default=-1)
        left = []
        for index in sent:
            result = results.get(index)
            if isinstance(result, Redirected) and index < last:
                results[index] = RedisUnavailable(f"a later one was done first: {result.reason}")
            elif result is None or isinstance(result, Redirected):
                left.append(index)
        return left

    async def _ask(self, commands: Sequence[bytes], *, is_asking: bool) -> list[Any]:
        """Return the reply to each command, or why there is none."""
        sent = [part for command in commands for part in (ASKING, command)] if is_asking else commands
        replies: list[Any] = []
        lost: list[StoreError] = []
        try:
            await self._connection.ask(*sent, timeout_s=self._target.timeout_s, replies=replies)
        except OSError as error:
            unknown = RedisUnavailable(f"lost Redis at {self._target.shown}: {error}", Outcome.UNKNOWN)
            lost = [unknown] * (len(sent) - len(replies))
        return [*replies, *lost][1::2] if is_asking else [*replies, *lost]

    async def _follow(self, redirect: Redirected) -> None:
        """Connect to the node that a redirect names.

        Raises:
            RedisUnavailable: It can't be reached.
        """
        if redirect.address is None:
            return
        self._host, port = redirect.address[0] or self._host, redirect.address[1]
        connection = await self._target.at((self._host, port)).connect("rsws-xadd", any_node=True)
        await self._connection.close()
        self._connection = connection

    def _result(self, channel: str, reply: bytes | Exception) -> StreamId | StoreError:
        if isinstance(reply, StoreError):
            return reply
        if isinstance(reply, bytes):
            return StreamId.from_redis(reply)
        text = str(reply)
        if text.startswith(("NOAUTH", "NOPERM")):
            raise LoginRefused(f"Redis at {self._target.shown} refuses to write to {channel!r}: {text}")
        return store_error(channel, reply)

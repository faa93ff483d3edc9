"""One connection to Redis: commands go out packed, and each reply to a plain callable, with nothing in between.

redis-py makes the connection and logs in. From then on its streams are bypassed: a coroutine per reply costs several
times what Redis itself needs for the command.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

import hiredis
from redis.asyncio.connection import AbstractConnection

OnReply: TypeAlias = Callable[[Any], None]
"""Gets Redis' reply as it came (bytes, int, list, None), or the error it answered with."""

_INCOMPLETE = object()


class ReplyError(Exception):
    """What Redis answered instead of doing it: its own words, the code in front (``WRONGTYPE ...``) but for ``ERR``."""

    def __init__(self, text: str) -> None:
        super().__init__(text.removeprefix("ERR "))


def pack(*arguments: bytes) -> bytes:
    """A command in Redis' wire format."""
    command: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]
    return command


class RedisConnection(asyncio.Protocol):
    """A connection that is up and logged in. Whoever has it closes it.

    Args:
        connection: Of redis-py, connected, and to be left alone from now on.

    Attributes:
        unanswered: What gets the replies that are still to come, in order.
        on_idle: Called whenever all that was sent has been answered.
        on_push: Gets what Redis says without being asked, which it does in RESP3 only.
        ended: Done as soon as the connection is of no use any more, with the reason: an OSError, or whatever a
            callable has raised. Not after :meth:`close`.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self.unanswered: deque[OnReply] = deque()
        self.on_idle: Callable[[], None] = _nothing
        self.on_push: OnReply = _refuse
        self.ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._parser = hiredis.Reader(replyError=ReplyError, notEnoughData=_INCOMPLETE)
        reader, writer = _streams(connection)
        self._transport = writer.transport
        self._transport.set_protocol(self)
        if reader.at_eof() or not self.is_open:  # they were told, and nobody is told twice
            self.connection_lost(None)

    @property
    def is_open(self) -> bool:
        """Whether it was open when the event loop last looked."""
        return not self._transport.is_closing()

    def send(self, commands: bytes, on_replies: Sequence[OnReply]) -> None:
        """Send commands as :func:`pack` makes them, at once.

        Args:
            on_replies: One for each command.

        Raises:
            ConnectionError: The connection is not open; nothing was sent.
        """
        if not self.is_open:  # uvloop's word for it would be RuntimeError
            raise ConnectionResetError("connection closed")
        self.unanswered.extend(on_replies)
        self._transport.write(commands)

    async def ask(self, *commands: bytes, timeout_s: float, replies: list[Any] | None = None) -> list[Any]:
        """Send commands and wait for the replies. One may ask at a time; who gives up has to close the connection.

        Args:
            replies: Where they are put as they come, for one who wants those before a failure, too.

        Returns:
            The replies; an error Redis answers with is one.

        Raises:
            TimeoutError: Not all replies came in ``timeout_s``.
            OSError: The connection ended before.
        """
        replies = [] if replies is None else replies
        answered = asyncio.get_running_loop().create_future()

        def wake(_: object = None) -> None:
            if not answered.done():
                answered.set_result(None)

        self.send(b"".join(commands), [replies.append] * len(commands))
        self.on_idle = wake
        self.ended.add_done_callback(wake)
        try:
            async with asyncio.timeout(timeout_s):
                await answered
        except TimeoutError:
            raise TimeoutError(f"no answer within {timeout_s:g} s") from None
        finally:
            self.ended.remove_done_callback(wake)
        if self.unanswered:
            raise self.ended.result()
        return replies

    async def close(self) -> None:
        """End it, whatever is under way: nothing is called any more."""
        self.unanswered.clear()
        self.on_idle = _nothing
        self.ended.cancel()
        self._transport.abort()
        await self._connection.disconnect(nowait=True)

    # --- what the event loop calls ---

    def data_received(self, data: bytes) -> None:
        unanswered, next_reply = self.unanswered, self._parser.gets
        was_idle = not unanswered
        self._parser.feed(data)
        try:
            while (reply := next_reply()) is not _INCOMPLETE:
                if type(reply) is hiredis.PushNotification:
                    self.on_push(reply)
                    continue
                if not unanswered:
                    _refuse(reply)
                unanswered.popleft()(reply)
        except hiredis.ProtocolError as error:
            self._end(ConnectionError(str(error)))
            return
        if not unanswered and not was_idle:
            self.on_idle()

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or ConnectionResetError("connection closed by Redis"))

    def _end(self, reason: Exception) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)
        self._transport.abort()


def _streams(connection: AbstractConnection) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The streams of a connection of redis-py, which keeps them to itself.

    Without them TCP, Unix sockets, TLS with all its options and the login would have to be done here. Redis has
    answered what it was asked, so that nothing is left in the reader.
    """
    reader, writer = connection._reader, connection._writer
    assert reader is not None
    assert writer is not None
    return reader, writer


def _refuse(reply: Any) -> NoReturn:
    raise hiredis.ProtocolError(f"an answer to nothing that was asked: {reply!r:.100}")


def _nothing() -> None:
    """For one who does not want to know."""

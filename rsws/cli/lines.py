"""What is sent, one message or line by line: the ids that come back, and how far it came when something ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Self

from rsws.cli import stdio, terminal
from rsws.cli.data import as_message
from rsws.cli.exits import ExitCode, Failure, StdoutClosed, describe, exit_code
from rsws.errors import Outcome, UsageError
from rsws.protocol import StreamId

if TYPE_CHECKING:
    from rsws.client import Client

WINDOW_MESSAGES = 500
"""How many are on their way at once."""
OUTCOME_TIMEOUT_S = 1.0
"""How long what was under way may take to notice that the connection is closed."""

Result = StreamId | BaseException
Send = Callable[[Sequence[bytes]], Awaitable[Sequence[Result]]]
"""Sends messages, and says what became of each: its id, or why it has none. Where it ends early, of the first ones."""


async def publish_all(client: Client, channel: str, timeout_s: float, messages: Sequence[bytes]) -> list[Result]:
    """Publish messages at once; returns what became of each."""
    under_way = [client.publish_json(channel, each, timeout_s=timeout_s) for each in messages]
    return await asyncio.gather(*under_way, return_exceptions=True)


def check_no_data(argument: str | None) -> None:
    """
    Raises:
        UsageError: DATA was given beside ``--lines``.
    """
    if argument not in (None, "-"):
        raise UsageError("--lines reads standard input: leave DATA out")


def line_message(line: stdio.Line, *, text: bool) -> bytes:
    """What :func:`rsws.cli.data.as_message` makes of a line.

    Raises:
        UsageError: It can't be sent; the text says which line it is.
    """
    try:
        return as_message(line.text, text=text)
    except UsageError as fault:
        raise UsageError(f"line {line.number}: {fault}") from None


class Sending:
    """Messages on their way, and how far they came.

    Those under way outlive a cancellation, until the connection is closed: that is when each has its outcome.

    Args:
        by_line: Whether they are lines, of which it is told by their numbers how far they came; or one message.
    """

    def __init__(self, *, by_line: bool) -> None:
        self._stored = 0
        self._last_id: StreamId | None = None
        self._lines: Sequence[stdio.Line] = ()
        """Those under way."""
        self._next_line = 1
        """The first line behind those."""
        self._by_line = by_line
        self._under_way: asyncio.Future[Sequence[Result]] | None = None

    async def send_one(self, send: Send, message: bytes) -> StreamId:
        """Send a message, and return its id.

        Raises:
            RswsError: Why it has none.
        """
        (result,) = await self._send(send, [message])
        if not isinstance(result, StreamId):
            raise result
        return result

    async def send_stdin(self, send: Send, *, text: bool) -> None:
        """Send the lines of standard input as they come, and print their ids, up to the first that has none.

        Nobody need read the ids: the lines are sent all the same.

        Args:
            text: As for :func:`rsws.cli.data.as_message`.

        Raises:
            UsageError: A line can't be sent. Those before it are stored.
            Failure: A message was not stored. The text says what became of those sent together with it.
        """
        with terminal.Tally(stdio.stdin_size()) as tally:
            async for batch in stdio.read_lines():
                for start in range(0, len(batch), WINDOW_MESSAGES):
                    lines = batch[start : start + WINDOW_MESSAGES]
                    messages: list[bytes] = []
                    fault: UsageError | None = None
                    for line in lines:
                        try:
                            messages.append(line_message(line, text=text))
                        except UsageError as error:
                            fault = error
                            break
                    results = await self.send_lines(send, lines[: len(messages)], messages)
                    ids = _leading_ids(results)
                    with suppress(StdoutClosed):
                        await tally.add(ids, sum(map(len, messages)))
                    if len(ids) < len(results):
                        raise _failure(lines[len(ids)], results[len(ids) :])
                    if fault is not None:
                        raise fault

    async def send_lines(self, send: Send, lines: Sequence[stdio.Line], messages: Sequence[bytes]) -> Sequence[Result]:
        """Send ``messages``, made of ``lines``, and return what became of each."""
        if not lines:
            return ()
        self._lines, self._next_line = lines, lines[-1].number + 1
        return await self._send(send, messages)

    async def _send(self, send: Send, messages: Sequence[bytes]) -> Sequence[Result]:
        self._under_way = asyncio.ensure_future(send(messages))
        await asyncio.wait((self._under_way,))
        results = self._under_way.result()
        self._under_way = None
        self._take(results)
        return results

    def _take(self, results: Sequence[Result]) -> None:
        ids = [result for result in results if isinstance(result, StreamId)]
        self._stored += len(ids)
        self._last_id = ids[-1] if ids else self._last_id

    # --- when it ends early ---

    @asynccontextmanager
    async def told(self) -> AsyncIterator[Self]:
        """Have Ctrl-C, and output that can't be written, say how far it came; the connection is closed before.

        Raises:
            Failure: In place of either.
        """
        try:
            yield self
        except asyncio.CancelledError:
            raise await self.interrupted() from None
        except OSError as error:
            raise Failure(f"{describe(error)}; {await self._outcome()}", ExitCode.ERROR) from None

    async def interrupted(self) -> Failure:
        """The end by Ctrl-C."""
        return Failure(f"interrupted: {await self._outcome()}", ExitCode.INTERRUPTED)

    async def _outcome(self) -> str:
        results = await self._results()
        unknown = sum(_may_be_stored(result) for result in results)
        if not self._by_line:
            return (
                f"stored as {self._last_id}" if self._stored else "the message may be stored" if unknown else "not sent"
            )
        unsent = [line for line, result in zip(self._lines, results, strict=False) if _was_not_sent(result)]
        maybe = f", {unknown:,} may be stored" if unknown else ""
        return f"{self._stored:,} stored{maybe}, line {unsent[0].number if unsent else self._next_line} on not sent"

    async def _results(self) -> Sequence[Result]:
        """What became of those that were under way; of those nobody knows anything of, that they may be stored."""
        if self._under_way is None:
            return ()
        await asyncio.wait((self._under_way,), timeout=OUTCOME_TIMEOUT_S)
        results: list[Result] = []
        if self._under_way.done() and not self._under_way.cancelled() and self._under_way.exception() is None:
            results += self._under_way.result()
            self._take(results)
        missing = max(1, len(self._lines)) - len(results)
        return results + [_UNKNOWN] * missing


class _Unknown(Exception):
    outcome = Outcome.UNKNOWN


_UNKNOWN = _Unknown()


def _may_be_stored(result: Result) -> bool:
    return getattr(result, "outcome", None) is Outcome.UNKNOWN


def _was_not_sent(result: Result) -> bool:
    return not isinstance(result, StreamId) and not _may_be_stored(result)


def _leading_ids(results: Sequence[Result]) -> list[StreamId]:
    ids: list[StreamId] = []
    for result in results:
        if not isinstance(result, StreamId):
            break
        ids.append(result)
    return ids


def _failure(line: stdio.Line, results: Sequence[Result]) -> Failure:
    """That ``line``, whose result is the first, was not stored; and what became of the others."""
    error = results[0]
    assert isinstance(error, BaseException)
    text = f"line {line.number}: {describe(error)}"
    stored = sum(isinstance(result, StreamId) for result in results)
    unknown = sum(map(_may_be_stored, results[1:]))
    if stored:
        text += f"; of those after it {stored} are stored"
    if unknown:
        text += f"; of those after it {unknown} may be stored"
    return Failure(text, exit_code(error))

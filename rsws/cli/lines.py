"""Sending one message or many lines: the ids that come back, and how much was stored when it ends early."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, Self

from rsws.cli import stdio
from rsws.cli.data import as_message
from rsws.cli.exits import MAY_BE_STORED, ExitCode, Failure, StdoutClosed, describe, exit_code
from rsws.cli.progress_display import Tally
from rsws.errors import ErrorCode, Outcome, PublishFailed, UsageError
from rsws.protocol import StreamId

if TYPE_CHECKING:
    from rsws.client import Client

WINDOW_MESSAGES = 500
"""The most messages that are sent together, before their answers have come."""
OUTCOME_TIMEOUT_S = 1.0
"""How long unanswered messages may take to get their outcome after the connection was closed."""

Result = StreamId | BaseException
Send = Callable[[Sequence[bytes]], Awaitable[Sequence[Result]]]
"""A function that sends messages and returns the result of each: its id, or why it has none. If it ends early, the list
has only the first results."""


async def publish_all(client: Client, channel: str, timeout_s: float, messages: Sequence[bytes]) -> list[Result]:
    """Publish messages concurrently, and return the result of each.

    Where the gateway limits the rate, and lets only some of them pass within ``timeout_s``, the others are tried again.
    """
    results: list[Result] = []
    while True:
        left = messages[len(results) :]
        under_way = [client.publish_json(channel, each, timeout_s=timeout_s) for each in left]
        answers = await asyncio.gather(*under_way, return_exceptions=True)
        ids = _leading_ids(answers)
        if not ids or not all(_is_limited(each) for each in answers[len(ids) :]):
            return results + answers
        results += ids
        if len(results) == len(messages):
            return results


def check_no_data(argument: str | None) -> None:
    """Check that ``--lines`` is given without DATA.

    Raises:
        UsageError: DATA was given beside ``--lines``.
    """
    if argument not in (None, "-"):
        raise UsageError("--lines reads standard input: leave DATA out")


def go_on(command: str, channel: str, *, text: bool) -> str:
    """Return the command line that goes on with the lines that an interrupted one has left."""
    dashes = ["--"] if channel.startswith("-") else []
    return shlex.join(["rsws", command, "--lines", *(["--text"] if text else []), *dashes, channel])


def line_message(line: stdio.Line, *, text: bool) -> bytes:
    """Make a line into a message with :func:`rsws.cli.data.as_message`.

    Raises:
        UsageError: The line can't be sent; the text says which line it is.
    """
    try:
        return as_message(line.text, text=text)
    except UsageError as fault:
        raise UsageError(f"line {line.number}: {fault}") from None


class Sending:
    """The sending of one message or of lines, and what was stored of them.

    Unanswered messages outlive a cancellation until the connection is closed: then the outcome of each is known.

    Args:
        each: What is sent, so that the report of an early end has its numbers: lines of standard input, or messages
            that are made; None for one message.
        again: The command that goes on with lines that are left, for that report; "" for none.
    """

    def __init__(self, each: Literal["line", "message"] | None = None, again: str = "") -> None:
        self._each = each
        self._again = again
        self._stored = 0
        self._last_id: StreamId | None = None
        self._lines: Sequence[stdio.Line] = ()
        """The lines that were sent last."""
        self._next_line = 1
        """The number of the first line after those."""
        self._under_way: asyncio.Future[Sequence[Result]] | None = None

    async def send_one(self, send: Send, message: bytes) -> StreamId:
        """Send a message, and return its id.

        Raises:
            RswsError: The message was not stored, or its outcome is unknown.
        """
        (result,) = await self._send(send, [message])
        if not isinstance(result, StreamId):
            raise result
        return result

    async def send_all(
        self, send: Send, batches: AsyncIterator[list[stdio.Line]], *, text: bool, while_read: bool = False
    ) -> None:
        """Send lines as they come, and print their ids, up to the first line without one.

        Args:
            text: Whether the lines are plain text: see :func:`rsws.cli.data.as_message`.
            while_read: Whether it ends when nobody reads the ids any more; else the lines are sent all the same.

        Raises:
            UsageError: A line can't be sent. Those before it are stored.
            Failure: A message was not stored, or may not be. The text says how far it came, and how to go on where that
                is plain.
            StdoutClosed: Nobody reads the ids, with ``while_read``.
        """
        with Tally(stdio.stdin_size() if self._each == "line" else None) as tally:
            async for batch in batches:
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
                    try:
                        await tally.add(ids, sum(map(len, messages)))
                    except StdoutClosed:
                        if while_read:
                            raise
                    if len(ids) < len(results):
                        raise self._stopped(lines[: len(messages)], results)
                    if fault is not None:
                        raise fault

    async def send_lines(self, send: Send, lines: Sequence[stdio.Line], messages: Sequence[bytes]) -> Sequence[Result]:
        """Send ``messages``, made of ``lines``, and return the result of each."""
        if not lines:
            return ()
        self._lines, self._next_line = lines, lines[-1].number + 1
        return await self._send(send, messages)

    async def _send(self, send: Send, messages: Sequence[bytes]) -> Sequence[Result]:
        self._under_way = asyncio.ensure_future(send(messages))
        await asyncio.wait((self._under_way,))
        results = self._under_way.result()
        self._under_way = None
        self._count_stored(results)
        return results

    def _count_stored(self, results: Sequence[Result]) -> None:
        ids = [result for result in results if isinstance(result, StreamId)]
        self._stored += len(ids)
        self._last_id = ids[-1] if ids else self._last_id

    # --- when it ends early ---

    @asynccontextmanager
    async def told(self) -> AsyncIterator[Self]:
        """Replace Ctrl-C and output errors by a failure that says what was stored; the connection is closed before.

        Raises:
            Failure: Ctrl-C ended the block, or standard output can't be written.
        """
        try:
            yield self
        except asyncio.CancelledError:
            raise await self.interrupted() from None
        except OSError as error:
            raise Failure(f"{describe(error)}; {await self._outcome()}", ExitCode.ERROR) from None

    async def interrupted(self) -> Failure:
        """Return the failure for an end by Ctrl-C, once the outcome is known."""
        return Failure(f"interrupted: {await self._outcome()}", ExitCode.INTERRUPTED)

    def _stopped(self, lines: Sequence[stdio.Line], results: Sequence[Result]) -> Failure:
        """Return the failure for the first line without an id."""
        first = len(_leading_ids(results))
        results = [*results, *[_NOT_SENT] * (len(lines) - len(results))]
        error, after = results[first], results[first + 1 :]
        assert isinstance(error, BaseException)
        text = f"{self._each} {lines[first].number}: {describe(error)}"
        kept = [not _was_not_sent(result) for result in results[first:]]
        if kept == sorted(kept, reverse=True) and not any(isinstance(result, StreamId) for result in after):
            text = f"{text.removesuffix(MAY_BE_STORED)}; {self._progress(lines, results)}"
        else:  # what goes on at the first line that is missing would send some twice
            stored, unknown = sum(isinstance(each, StreamId) for each in after), sum(map(_may_be_stored, after))
            text += f"; of those after it {stored:,} are stored" if stored else ""
            text += f"; of those after it {unknown:,} may be stored" if unknown else ""
            text += f"; {self._stored:,} stored in all, {self._each} {self._next_line} on not sent"
        return Failure(text, exit_code(error))

    async def _outcome(self) -> str:
        return self._progress(self._lines, await self._results())

    def _progress(self, lines: Sequence[stdio.Line], results: Sequence[Result]) -> str:
        """Return how far it came, and how to go on, from the results of the lines that were sent last."""
        unknown = sum(_may_be_stored(result) for result in results)
        if self._each is None:
            return (
                f"stored as {self._last_id}" if self._stored else "the message may be stored" if unknown else "not sent"
            )
        numbered = [*zip(lines, results, strict=False)]
        maybe = [line.number for line, result in numbered if _may_be_stored(result)]
        unsent = [line.number for line, result in numbered if _was_not_sent(result)]
        goes_on = unsent[0] if unsent else self._next_line
        said = f"{self._stored:,} stored"
        if unknown:
            said += f", {unknown:,} may be stored" + (f" (from {self._each} {maybe[0]} on)" if maybe else "")
        return f"{said}, {self._each} {goes_on} on not sent{self._how_to_go_on(goes_on)}"

    def _how_to_go_on(self, line: int) -> str:
        if not self._again or line == 1 or os.isatty(stdio.STDIN):
            return ""
        return f"; to go on, with the same options: tail -n +{line} FILE | {self._again}"

    @property
    def stored(self) -> int:
        """How many messages were stored."""
        return self._stored

    async def _results(self) -> Sequence[Result]:
        """Return the results of the messages that were unanswered; those still without one may be stored."""
        if self._under_way is None:
            return ()
        await asyncio.wait((self._under_way,), timeout=OUTCOME_TIMEOUT_S)
        results: list[Result] = []
        if self._under_way.done() and not self._under_way.cancelled() and self._under_way.exception() is None:
            results += self._under_way.result()
            self._count_stored(results)
        missing = max(1, len(self._lines)) - len(results)
        return results + [_UNKNOWN] * missing


class _Unknown(Exception):
    outcome = Outcome.UNKNOWN


_UNKNOWN = _Unknown()
_NOT_SENT = Exception()


def _may_be_stored(result: Result) -> bool:
    return getattr(result, "outcome", None) is Outcome.UNKNOWN


def _was_not_sent(result: Result) -> bool:
    return not isinstance(result, StreamId) and not _may_be_stored(result)


def _is_limited(result: Result) -> bool:
    """Whether a message was not stored, as the gateway limits the rate: it may be sent again, in its order."""
    return isinstance(result, PublishFailed) and result.code == ErrorCode.RATE_LIMITED and _was_not_sent(result)


def _leading_ids(results: Sequence[Result]) -> list[StreamId]:
    ids: list[StreamId] = []
    for result in results:
        if not isinstance(result, StreamId):
            break
        ids.append(result)
    return ids

"""``--lines``: each line of standard input is a message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from rsws.cli import stdio, terminal
from rsws.cli.data import as_message
from rsws.cli.exits import Failure, describe, exit_code
from rsws.errors import Outcome, UsageError
from rsws.protocol import StreamId

WINDOW_MESSAGES = 500
"""How many are on their way at once."""

Result = StreamId | BaseException
Send = Callable[[Sequence[bytes]], Awaitable[Sequence[Result]]]


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


async def send_lines(send: Send, *, text: bool) -> None:
    """Send the lines as they come in, and print their ids in the order of the lines, up to the first that has none.

    Args:
        send: Sends messages, and says what became of each: its id, or why it has none.
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
                results = await send(messages) if messages else ()
                ids = _leading_ids(results)
                await tally.add(ids, sum(map(len, messages)))
                if len(ids) < len(results):
                    raise _failure(lines[len(ids)], results[len(ids) :])
                if fault is not None:
                    raise fault


def _leading_ids(results: Iterable[Result]) -> list[StreamId]:
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
    unknown = sum(getattr(result, "outcome", None) is Outcome.UNKNOWN for result in results[1:])
    if stored:
        text += f"; of those after it {stored} are stored"
    if unknown:
        text += f"; of those after it {unknown} may be stored"
    return Failure(text, exit_code(error))

"""The message that a command sends: an argument, standard input or a typed line, made into JSON text."""

from __future__ import annotations

import os

from rsws.cli import stdio
from rsws.errors import UsageError
from rsws.protocol import channel_fault, is_json, json_text

SHOWN_CHARACTERS = 60


def check_channel(name: str) -> None:
    """Check a channel's name.

    Raises:
        UsageError: ``name`` can't be a channel.
    """
    fault = channel_fault(name)
    if fault is not None:
        raise UsageError(fault)


async def read_message(argument: str | None, *, text: bool) -> bytes:
    """Return the JSON text of one message, read from ``argument``, or from standard input where that is None or ``-``.

    Args:
        text: Whether it is plain text, to be sent as ``{"text": ...}``.

    Raises:
        UsageError: The message is not valid JSON or UTF-8, or there is none.
    """
    if argument is not None and argument != "-":
        try:
            return as_message(argument.encode(), text=text)
        except UnicodeEncodeError:
            raise UsageError("DATA is not valid UTF-8") from None
    if argument is None and os.isatty(stdio.STDIN):
        raise UsageError("nothing to send: give DATA, or - to read standard input")
    read = await stdio.read_all()
    if not read.strip():
        raise UsageError("nothing to send: standard input is empty")
    if not text and _is_json_lines(read):
        raise UsageError("not JSON, but lines of it: with --lines each line is a message")
    return as_message(read, text=text)


def _is_json_lines(raw: bytes) -> bool:
    lines = [line for line in raw.splitlines() if line.strip()]
    return len(lines) > 1 and all(map(is_json, lines))


def as_message(raw: bytes, *, text: bool) -> bytes:
    """Make ``raw`` into the JSON text of a message, without blanks and line ends around it.

    Args:
        text: Whether ``raw`` is plain text, to be sent as ``{"text": ...}``.

    Raises:
        UsageError: ``raw`` is not valid JSON, or not valid UTF-8.
    """
    if text:
        try:
            return json_text({"text": raw.rstrip(b"\r\n").decode()})
        except UnicodeDecodeError:
            raise UsageError("the text is not valid UTF-8") from None
    data = raw.strip(b" \t\r\n")
    if not is_json(data):
        shown = data.decode(errors="replace")
        if len(shown) > SHOWN_CHARACTERS:
            shown = shown[:SHOWN_CHARACTERS] + "..."
        raise UsageError(
            f"not JSON: {shown or '(empty)'} - send plain text with --text, or quote JSON for the shell: "
            """'{"text":"hi"}'"""
        )
    return data

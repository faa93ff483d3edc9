"""What is typed, pasted or edited at the prompt: its lines, their messages, and what may be completed."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.validation import ValidationError, Validator

from rsws.cli import terminal
from rsws.cli.data import SHOWN_CHARACTERS, as_message
from rsws.errors import UsageError
from rsws.protocol import is_json


class Command(NamedTuple):
    """A command of the prompt: a line that begins with ``/``."""

    usage: str
    help: str
    run: Callable[[str], Awaitable[None]]


def lines_of(text: str) -> list[str]:
    """Split what was typed or pasted into lines; JSON that spans several lines is one."""
    text = text.strip()
    return (
        [text] if is_json(text.encode()) else [line.strip() for line in re.split(r"\r\n|[\r\n]", text) if line.strip()]
    )


def message_of(line: bytes) -> bytes:
    """Return the message that a line stands for: the line itself if it is JSON, else an object with its text.

    Raises:
        UsageError: The line begins like JSON, and is not valid.
    """
    if line.startswith((b"{", b"[", b'"')) and not is_json(line):
        shown = line.decode(errors="replace")[:SHOWN_CHARACTERS]
        raise UsageError(f"not JSON: fix it, or send it as text with /text in front: {shown}")
    return as_message(line, text=not is_json(line))


def check(text: str) -> None:
    """Check each line before any of them is sent.

    Raises:
        UsageError: A line begins like JSON, and is not valid; of several lines the text says which.
    """
    fault = _first_fault(lines_of(text))
    if fault is not None:
        raise UsageError(fault.text)


class _Fault(NamedTuple):
    line: str
    text: str


def _first_fault(lines: list[str]) -> _Fault | None:
    for number, line in enumerate(lines, 1):
        try:
            message_of(line.encode())
        except UsageError as fault:
            return _Fault(line, f"line {number}: {fault}" if len(lines) > 1 else str(fault))
    return None


class Checked(Validator):
    """A validator that refuses a line that begins like JSON and is not valid, while the user can still fix it."""

    def validate(self, document: Document) -> None:
        fault = _first_fault(lines_of(document.text))
        if fault is not None:
            place = document.text.find(fault.line) + _place_of_fault(fault.line)
            raise ValidationError(place, terminal.safe(fault.text))


def _place_of_fault(line: str) -> int:
    """Return the position of the error in invalid JSON; the end of the line where none is known."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos
    return len(line)


class Completions(Completer):
    """A completer for commands and their arguments."""

    def __init__(self, commands: Mapping[str, Command], watched: Collection[str]) -> None:
        self._commands = commands
        self._watched = watched

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        name, space, argument = document.text_before_cursor.partition(" ")
        if not name.startswith("/"):
            return
        if not space:
            for command, said in self._commands.items():
                if command.startswith(name):
                    yield Completion(command, -len(name), display=said.usage, display_meta=said.help)
            return
        choices = {"/unsub": self._watched, "/from": ("0", "$", "-10", "10m")}.get(name, ())
        for choice in choices:
            if choice.startswith(argument):
                yield Completion(choice, -len(argument))

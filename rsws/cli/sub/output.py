"""The form in which messages are printed: pretty, json, raw, or a format of the user's."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import partial

from rsws.cli import stdio, terminal
from rsws.cli.message_display import MessageFormat, format_data, format_json, indented, marked
from rsws.cli.sub.choices import Output
from rsws.cli.sub.templates import Template
from rsws.errors import UsageError
from rsws.protocol import Message


class Form:
    """Makes the text of each message. In a pipe it has no colours, and data are what they are.

    Args:
        output: The format.
        on_terminal: Whether standard output is a terminal.
        channels: The channels that are expected, for the width of their column.
        template: The user's format, in place of ``output``.
        indent: Whether JSON is indented, in several lines.
        highlight: What to mark on a terminal.
    """

    def __init__(
        self,
        output: Output,
        *,
        on_terminal: bool,
        channels: Sequence[str] = (),
        template: Template | None = None,
        indent: bool = False,
        highlight: Sequence[re.Pattern[str]] = (),
    ) -> None:
        self.is_for_reading = template is None and output is Output.PRETTY
        """Whether it is for people, who want to know where history ends, too."""
        marks = highlight if on_terminal else ()
        self.text = _text_of(output, on_terminal, channels, template, indent, marks)
        """Returns the text for a message, its end included."""


def form_of(
    channels: list[str], output: Output | None, template: str | None, *, pretty: bool, highlight: list[re.Pattern[str]]
) -> Form:
    """Return the form that the options say.

    Raises:
        UsageError: They don't go together, or the template is none.
    """
    on_terminal = os.isatty(stdio.STDOUT)
    if template is not None and (output is not None or pretty):
        raise UsageError("--format says all of a line: leave --output and --pretty out")
    return Form(
        output or (Output.PRETTY if on_terminal else Output.JSON),
        on_terminal=on_terminal,
        channels=channels,
        template=None if template is None else Template.parse(template),
        indent=pretty,
        highlight=highlight,
    )


def _text_of(
    output: Output,
    on_terminal: bool,
    channels: Sequence[str],
    template: Template | None,
    indent: bool,
    marks: Sequence[re.Pattern[str]],
) -> Callable[[Message], str]:
    if template is not None:
        line = partial(template.format, on_terminal=on_terminal)
        return (lambda message: marked(line(message), marks)) if marks else line
    if output is Output.PRETTY:
        columns = MessageFormat(channels, indent=indent, highlight=marks)
        return lambda message: terminal.render(columns.format(message))
    plain = format_json if output is Output.JSON else _data
    if on_terminal and indent:
        return lambda message: terminal.render(format_data(indented(plain(message)), marks))
    if on_terminal:
        return lambda message: marked(terminal.safe(plain(message)), marks) + "\n"
    if indent:
        return lambda message: indented(plain(message)) + "\n"
    return lambda message: plain(message) + "\n"


def _data(message: Message) -> str:
    return terminal.one_line(message.json)

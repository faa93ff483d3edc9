"""The form in which messages are printed: pretty, json, raw, or a format of the user's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

from rsws.cli import terminal
from rsws.cli.sub.templates import Template
from rsws.protocol import Message


class Output(StrEnum):
    """The format in which messages are printed."""

    PRETTY = "pretty"
    JSON = "json"
    RAW = "raw"


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
        self._output = output
        self._on_terminal = on_terminal
        self._template = template
        self._indent = indent
        self._highlight = highlight if on_terminal else ()
        self._columns = terminal.MessageFormat(channels, indent=indent, highlight=self._highlight)

    @property
    def is_for_reading(self) -> bool:
        """Whether it is for people, who want to know where history ends, too."""
        return self._template is None and self._output is Output.PRETTY

    def text(self, message: Message) -> str:
        """Return the text for ``message``, its end included."""
        if self._template is not None:
            plain = self._template.format(message, on_terminal=self._on_terminal)
            return terminal.marked(plain, self._highlight)
        if self.is_for_reading:
            return terminal.render(self._columns.format(message))
        plain = terminal.format_json(message) if self._output is Output.JSON else terminal.one_line(message.json)
        if self._indent:
            plain = terminal.indented(plain)
        if not self._on_terminal:
            return f"{plain}\n"
        if self._indent:
            return terminal.render(terminal.format_data(plain, self._highlight))
        return terminal.marked(terminal.safe(plain), self._highlight) + "\n"

"""The terminal: lines on standard error, and colours on standard output. Only this and ``*_display`` import rich.

``format_*`` returns a text, ``print_*`` writes it to standard error: standard output is for data alone, and
:mod:`rsws.cli.stdio` writes it. Text from others is always made safe before it goes to a terminal.

rich takes a fifth of the time in which a command starts, so it is imported by what shows something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from rsws.text import one_line as one_line
from rsws.text import safe as safe

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.rule import Rule
    from rich.text import Text

Shown: TypeAlias = "Text | Rule"
"""The type of what ``format_*`` returns, to be shown on standard error or above the prompt."""


def render(what: RenderableType) -> str:
    """Return lines for standard output, coloured where that is a terminal that shows colours."""
    from rich.text import Text

    console = stdout()
    with console.capture() as capture:
        console.print(what, soft_wrap=isinstance(what, Text))
    return capture.get()


def _line(text: str, style: str) -> Text:
    from rich.text import Text

    return Text(text, style=style)


def format_error(text: str) -> Text:
    """Return a line that says why a command ends, or did not do what was asked."""
    return _line(safe(one_line(text)), "red")


def format_warning(text: str) -> Text:
    """Return a line that says what is wrong, while the command goes on."""
    return _line(safe(one_line(text)), "yellow")


def format_log(text: str) -> Text:
    """Return what the log says, made safe already, which may have several lines."""
    return _line(text, "yellow")


def format_note(text: str) -> Text:
    """Return a line with information."""
    return _line(safe(one_line(text)), "dim")


def format_rule(title: str) -> Rule:
    """Return a horizontal rule with a title."""
    from rich.rule import Rule

    return Rule(_line(safe(title), ""), style="dim")


def print_line(what: Shown) -> None:
    """Print on standard error; a long line is wrapped by the terminal."""
    from rich.text import Text

    if isinstance(what, Text):
        stderr().print(Text.assemble(("rsws: ", f"bold {what.style}"), what), soft_wrap=True)
    else:
        stderr().print(what)


def print_banner(title: str, facts: Mapping[str, str], heading: str, lines: Sequence[str]) -> None:
    """Print the title, facts and examples that introduce a server that has started."""
    from rich.text import Text

    text = Text.assemble((f"\n{title}\n\n", "bold"))
    width = max(map(len, facts))
    for name, fact in facts.items():
        text.append_text(Text.assemble((f"  {name:{width}}  ", "dim"), safe(fact), "\n"))
    text.append(f"\n  {heading}\n", "dim")
    for line in lines:
        text.append(f"    {safe(line)}\n", "bold cyan")
    stderr().print(text, soft_wrap=True)


class StatusLine:
    """A line at the bottom of a terminal that says how far something is; elsewhere nothing is shown."""

    def __init__(self) -> None:
        self._status = stderr().status("")

    def __enter__(self) -> Self:
        if stderr().is_terminal:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._status.stop()

    @property
    def is_shown(self) -> bool:
        """Whether there is a terminal."""
        return stderr().is_terminal

    def set(self, text: str) -> None:
        """Show another text."""
        if stderr().is_terminal:
            self._status.update(_line(safe(text), ""))


@cache
def stdout() -> Console:
    """Return the console that formats for standard output: see :func:`render`."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


@cache
def stderr() -> Console:
    """Return the console for standard error, where everything beside the data goes."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)

"""What a run says on standard error, beside the messages."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from rsws.cli import terminal
from rsws.cli.message_display import format_disconnected, format_gap, format_reconnected
from rsws.protocol import Gap

if TYPE_CHECKING:
    from rsws.client import ConnectionEvent


class Notices:
    """Says what happens beside the messages.

    Args:
        quiet: Whether to say nothing. Errors are not said here: they end the command.
        rules: Whether to say where history ends, and channels do: where somebody reads the messages as they come.
    """

    def __init__(self, *, quiet: bool = False, rules: bool = False) -> None:
        self.is_quiet = quiet
        self._rules = rules and not quiet
        self._returning: dict[str, bool] = {}
        """After a reconnect: the channels that have not caught up, and whether they are subscribed to again."""
        self._outage_s = 0.0
        self._caught_up = 0

    def _say(self, what: terminal.Shown) -> None:
        if not self.is_quiet:
            terminal.print_line(what)

    def note(self, text: str) -> None:
        self._say(terminal.format_note(text))

    def warn(self, text: str) -> None:
        self._say(terminal.format_warning(text))

    def gap(self, gap: Gap) -> None:
        self._say(format_gap(gap))

    def live(self) -> None:
        """Say that what follows is new."""
        if self._rules:
            terminal.print_line(terminal.format_rule("live"))

    def ended(self, channel: str) -> None:
        """Say that a channel has ended."""
        if self._rules:
            terminal.print_line(terminal.format_rule(f"{channel} has ended"))

    def connection_changed(self, event: ConnectionEvent, channels: Collection[str]) -> None:
        """Handle that the connection is lost, or there again.

        Args:
            channels: Those of which more is wanted.
        """
        from rsws.client import Disconnected

        if isinstance(event, Disconnected):
            self._say(format_disconnected(event.reason))
        else:
            self._outage_s = event.after_s
            self._returning = dict.fromkeys(channels, False)
            self._caught_up = 0

    def subscribed(self, channel: str) -> None:
        if channel in self._returning:
            self._returning[channel] = True

    def received(self, channel: str) -> None:
        """Handle that a message of a channel has come."""
        if self._returning.get(channel):
            self._caught_up += 1

    def caught_up(self, channel: str) -> None:
        if self._returning.get(channel):
            del self._returning[channel]
            if not self._returning:
                self._say(format_reconnected(self._outage_s, self._caught_up))

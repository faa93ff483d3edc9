"""Commands for one connection to Redis: what waits to be sent, and the batch that was sent. No I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from rsws.streams.redis_connection import OnReply

BATCH_COMMANDS = 1000
BATCH_BYTES = 256 * 1024
"""A longer command goes alone, so that no short one has to wait for its answer."""


class CommandQueue:
    """Commands in the order in which they are to be carried out, a batch at a time.

    Attributes:
        batches: How many were handed out: what was added since the last one has not been sent yet.
        held_bytes: Of what waits, and of the batch under way.
    """

    def __init__(self) -> None:
        self.batches = 0
        self.held_bytes = 0
        # What waits; three lists, as a tuple for each would be one more thing to collect.
        self._commands: list[bytes] = []
        self._on_replies: list[OnReply] = []
        self._weights: list[int] = []
        self._repeated = 0
        """How many of those are repeats, which stand in front."""
        self._batch_bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._commands

    @property
    def has_batch_under_way(self) -> bool:
        """Whether a batch was handed out that is not answered yet."""
        return self._batch_bytes > 0

    def add(self, command: bytes, on_reply: OnReply, weight: int = 0, *, again: bool = False) -> None:
        """Add one command.

        Args:
            weight: How much work it may be, in bytes of a command that is as much; by default its length.
            again: Whether it goes before all that came after the last batch, as it repeats a command of that.
        """
        if again:
            self._commands.insert(self._repeated, command)
            self._on_replies.insert(self._repeated, on_reply)
            self._weights.insert(self._repeated, weight or len(command))
            self._repeated += 1
        else:
            self._commands.append(command)
            self._on_replies.append(on_reply)
            self._weights.append(weight or len(command))
        self.held_bytes += len(command)

    def add_first(self, commands: Sequence[bytes], on_replies: Sequence[OnReply]) -> None:
        """Add commands in front of all others."""
        self._commands[:0] = commands
        self._on_replies[:0] = on_replies
        self._weights[:0] = map(len, commands)
        self._repeated = 0
        self.held_bytes += sum(map(len, commands))

    def next_batch(self) -> tuple[bytes, list[OnReply]]:
        """Hand out what goes in one write, at least one command, and who gets the replies."""
        weights = accumulate(self._weights[:BATCH_COMMANDS])
        count = max(1, bisect_right(list(weights), BATCH_BYTES))
        del self._weights[:count]
        commands, self._commands = b"".join(self._commands[:count]), self._commands[count:]
        on_replies, self._on_replies = self._on_replies[:count], self._on_replies[count:]
        self._repeated = 0
        self.batches += 1
        self._batch_bytes = len(commands)
        return commands, on_replies

    def batch_done(self) -> None:
        """The batch under way is answered, or never will be."""
        self.held_bytes -= self._batch_bytes
        self._batch_bytes = 0

    def clear(self) -> list[OnReply]:
        """Forget what waits; who would have got the replies."""
        refused, self._on_replies = self._on_replies, []
        self._commands = []
        self._weights = []
        self._repeated = 0
        self.held_bytes = self._batch_bytes
        return refused

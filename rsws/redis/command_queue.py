"""The queue of commands for one connection to Redis: commands that wait, and the batch under way. No I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from rsws.redis.connection import OnReply

BATCH_COMMANDS = 1000
BATCH_BYTES = 256 * 1024
"""The maximum weight of a batch; a longer command is sent alone, so that no short one waits for its reply."""


class CommandQueue:
    """A queue of commands in the order in which Redis is to execute them, returned in batches.

    Attributes:
        batches: The number of batches returned so far: commands added since the last one have not been sent yet.
        held_bytes: The size of the commands that wait and of the batch under way.
    """

    def __init__(self) -> None:
        self.batches = 0
        self.held_bytes = 0
        # The commands that wait; three lists, as a tuple for each would be one more object for the garbage collector.
        self._commands: list[bytes] = []
        self._on_replies: list[OnReply] = []
        self._weights: list[int] = []
        self._repeated = 0
        """The number of repeated commands, which are at the front."""
        self._batch_bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether no command waits."""
        return not self._commands

    @property
    def has_batch_under_way(self) -> bool:
        """Whether a batch was returned that is not answered yet."""
        return self._batch_bytes > 0

    def add(self, command: bytes, on_reply: OnReply, weight: int = 0, *, again: bool = False) -> bool:
        """Add one command; return whether none waited before it.

        Args:
            weight: The work it may cost Redis, as the length in bytes of a plain command that costs as much; by default
                its own length.
            again: Whether it repeats a command of the last batch, and so goes before all commands added since.
        """
        commands = self._commands
        was_empty = not commands
        size = len(command)
        if again:
            commands.insert(self._repeated, command)
            self._on_replies.insert(self._repeated, on_reply)
            self._weights.insert(self._repeated, weight or size)
            self._repeated += 1
        else:
            commands.append(command)
            self._on_replies.append(on_reply)
            self._weights.append(weight or size)
        self.held_bytes += size
        return was_empty

    def add_all(self, commands: Sequence[bytes], on_replies: Sequence[OnReply]) -> bool:
        """Add commands that are to leave in one batch; return whether none waited before them."""
        was_empty = not self._commands
        size = sum(map(len, commands))
        self._commands += commands
        self._on_replies += on_replies
        self._weights += [size, *[0] * (len(commands) - 1)]  # where there is room for the first, there is for all
        self.held_bytes += size
        return was_empty

    def add_first(self, commands: Sequence[bytes], on_replies: Sequence[OnReply]) -> None:
        """Add commands at the front of the queue."""
        self._commands[:0] = commands
        self._on_replies[:0] = on_replies
        self._weights[:0] = map(len, commands)
        self._repeated = 0
        self.held_bytes += sum(map(len, commands))

    def next_batch(self) -> tuple[bytes, list[OnReply]]:
        """Remove and return the next batch, at least one command, to be sent in one write, and its reply callbacks."""
        if len(self._commands) == 1:
            return self._only_command()
        weights = accumulate(self._weights[:BATCH_COMMANDS])
        count = max(1, bisect_right(list(weights), BATCH_BYTES))
        while count < len(self._weights) and not self._weights[count]:
            count += 1
        del self._weights[:count]
        commands, self._commands = b"".join(self._commands[:count]), self._commands[count:]
        on_replies, self._on_replies = self._on_replies[:count], self._on_replies[count:]
        self._repeated = 0
        self.batches += 1
        self._batch_bytes = len(commands)
        return commands, on_replies

    def _only_command(self) -> tuple[bytes, list[OnReply]]:
        """Return the one command that waits as a batch: :meth:`next_batch` takes three times as long for it."""
        command, on_replies = self._commands.pop(), self._on_replies
        self._on_replies = []
        self._weights.clear()
        self._repeated = 0
        self.batches += 1
        self._batch_bytes = len(command)
        return command, on_replies

    def batch_done(self) -> None:
        """Note that the batch under way is answered, or never will be."""
        self.held_bytes -= self._batch_bytes
        self._batch_bytes = 0

    def clear(self) -> list[OnReply]:
        """Drop the commands that wait; return their reply callbacks."""
        refused, self._on_replies = self._on_replies, []
        self._commands = []
        self._weights = []
        self._repeated = 0
        self.held_bytes = self._batch_bytes
        return refused

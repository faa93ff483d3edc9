"""Who follows a stream, and what the reader keeps of each stream that is followed."""

from __future__ import annotations

from typing import Protocol

from rsws.errors import StoreError
from rsws.protocol import StreamId
from rsws.streams.caution import Caution
from rsws.streams.replies import Entry


class Follower(Protocol):
    """A follower of a stream."""

    __slots__ = ()

    def deliver(self, entries: list[Entry], /) -> None:
        """Handle the next entries after the position; every entry is delivered once, in order."""

    def unreadable(self, error: StoreError, /) -> None:
        """Handle that this stream can't be read, and not only for a moment; called again after each failed retry."""

    def interrupted(self) -> None:
        """Find out where to continue, and follow again: reading has stopped, and nothing more is delivered.

        The stream was unreadable and is readable again, or entries may have been trimmed before they were read, or the
        stream was replaced by another.
        """

    def replaced(self) -> None:
        """Begin anew, and follow again: the entry at the position is another one, so the stream is, too."""


class Followed:
    """A stream that is followed."""

    __slots__ = (
        "at_tail",
        "caution",
        "checksum",
        "delivered_at",
        "failing_since",
        "field",
        "follower",
        "is_asking",
        "is_busy",
        "is_unreadable",
        "key",
        "limit",
        "name",
        "position",
        "tail_trimmed",
    )

    def __init__(self, name: str, after: StreamId, follower: Follower, field: bytes, *, is_asking: bool) -> None:
        self.name = name
        self.field = field
        """The field of an entry that holds the message; see :class:`rsws.streams.fields.MessageFields`."""
        self.key = name.encode()
        self.position = str(after).encode()
        self.follower = follower
        self.limit = 16
        """The maximum number of entries for the next read, estimated from the size of the last ones."""
        self.is_asking = is_asking
        """Whether the stream's slot is on its way to the server, so that ASKING has to precede each read."""
        self.is_busy = False
        """Whether the last read returned more than a few entries, so that the next may, too."""
        self.at_tail = False
        """Whether the stream was read to its end, and is read again when Redis tells that it has changed."""
        self.tail_trimmed = False
        """Whether the last entry read was gone when the next one came, as in a stream that is trimmed to one entry."""
        self.caution: Caution | None = None
        """How much to ask for since the connection broke while it was read; None if that has not happened."""
        self.is_unreadable = False
        """Whether the follower was told that it can't be read."""
        self.failing_since = 0.0
        """When the first of the last reads failed, all of which did; 0 if none has."""
        self.checksum: bytes | None = None
        """That of the data of the entry at the position, by which a stream made anew within its millisecond shows."""
        self.delivered_at = 0.0
        """The time of the last delivery, not by the event loop's clock, which stands still within a turn."""

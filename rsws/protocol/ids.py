"""Positions in a stream."""

from __future__ import annotations

import re
from typing import NamedTuple

_MAX_HALF = 2**64 - 1
_ID = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")


class StreamId(NamedTuple):
    """A position in a stream: the id of an entry, ordered as Redis orders them (as a pair of integers).

    Both halves are below 2^64. Ids sort as numbers, not as text: ``9-0 < 10-0``.
    """

    ms: int
    """Milliseconds since 1970 where Redis made the id; any number where a client of Redis chose it."""
    seq: int
    """The number of the entry within its millisecond."""

    @classmethod
    def parse(cls, text: str) -> StreamId:
        """Read ``ms`` or ``ms-seq``, strictly: ASCII digits, each half below 2^64; ``5`` means ``5-0``.

        Raises:
            ValueError: The text is not an id (``$``, ``+``, ``-``, ``*`` and ``>`` are not ids either).
        """
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError(f"not a stream id: {text[:60]!r}")
        ms, seq = int(match[1]), int(match[2] or 0)
        if ms > _MAX_HALF or seq > _MAX_HALF:
            raise ValueError(f"stream id out of range: {text!r}")
        return cls(ms, seq)

    @classmethod
    def from_redis(cls, raw: bytes) -> StreamId:
        """Read an id that Redis wrote (always ``ms-seq``), without the checks of :meth:`parse`."""
        ms, _, seq = raw.partition(b"-")
        return cls(int(ms), int(seq))

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    def before(self) -> StreamId:
        """Return the greatest id below this one, so that "after ``id.before()``" includes ``id``; ``0-0`` stays."""
        if self.seq:
            return StreamId(self.ms, self.seq - 1)
        return StreamId(self.ms - 1, _MAX_HALF) if self.ms else self


ZERO = StreamId(0, 0)
"""The position before the first entry: no entry can have this id."""

"""Text frames in another form, which is made once for all clients that are sent the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict

REMEMBERED_BYTES = 256 * 1024
"""The size of a translator's cache, in bytes, for clients that are sent the same a moment later.

The newest entry is kept even if it is larger.
"""


class Translator(ABC):
    """A maker of another form of a server's text frames, shared by all clients that take that form."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, bytes] = OrderedDict()
        """The other form of text frames, the newest last."""
        self._known_bytes = 0

    def translate(self, frames: bytes) -> bytes:
        """Return the other form of joined text frames."""
        known = self._known.get(frames)
        if known is None:
            known = self._known[frames] = self.make(frames)
            self._known_bytes += len(frames) + len(known)
            while self._known_bytes > REMEMBERED_BYTES and len(self._known) > 1:
                self._known_bytes -= sum(map(len, self._known.popitem(last=False)))
        return known

    @abstractmethod
    def make(self, frames: bytes) -> bytes:
        """Make the other form of joined text frames."""

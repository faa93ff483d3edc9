"""What a client's connection needs of those who handle what comes over it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from typing import Protocol as Interface

from rsws.errors import CloseCode


class TurnedAway(NamedTuple):
    """Why a connection is refused, whatever its request says."""

    reason: str
    come_back_s: int
    """The seconds after which it makes sense to try again."""


class MessageHandler(Interface):
    """The interface of a client's session that its connection needs."""

    __slots__ = ()

    @property
    def is_busy(self) -> bool:
        """Whether the handler can accept no more messages for now."""

    def texts_received(self, texts: Iterable[str]) -> None:
        """Handle messages of the client that have come together.

        They are decoded one by one: the next may raise UnicodeDecodeError, after those before it were handled.
        """


class Exchange(Interface):
    """The interface of a request of plain HTTP and its response, on a connection that is no WebSocket for that time."""

    __slots__ = ()

    @property
    def is_busy(self) -> bool:
        """Whether nothing more is to be read for now, as the response is being made."""

    @property
    def is_complete(self) -> bool:
        """Whether the whole request has come."""

    @property
    def rest(self) -> bytes:
        """What has come of the next request."""

    def receive(self, data: bytes) -> None:
        """Handle bytes from the client."""

    def drain(self, code: CloseCode, reason: str, timeout_s: float) -> None:
        """Finish soon; no other request may come over this connection."""

    def end(self) -> None:
        """Clean up: it is over, or its connection is lost."""

"""What a session needs of its client, whatever that speaks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol as Interface

from rsws.errors import CloseCode
from rsws.gateway.delivery.subscription import Outlet
from rsws.gateway.peer import Peer
from rsws.gateway.websocket.keepalive import Liveness


class Client(Outlet, Interface):
    """The interface of the way to a client that its session needs, whatever the client speaks."""

    __slots__ = ()

    @property
    def is_lasting(self) -> bool:
        """Whether the client has this way for all that it asks for; else its rates are counted beyond it."""

    @property
    def life(self) -> Liveness:
        """The client's signs of life."""

    @property
    def source(self) -> Peer:
        """Who the client is."""

    @property
    def peer(self) -> str:
        """The client's address, and its port where that is known, for log lines."""

    def request_started(self, size: int, count: int = 1) -> None:
        """Count so many requests, of ``size`` characters together, as under way: they are not answered at once."""

    def request_done(self, size: int, count: int = 1) -> None:
        """Count so many requests as answered; ``size`` is the sum of those passed to :meth:`request_started`."""

    def reply_all(self, payloads: Iterable[bytes]) -> None:
        """Queue some events other than messages, behind everything written before."""
        for payload in payloads:
            self.reply(payload)

    def adjust_reading(self) -> None:
        """Pause or resume reading, as the session is busy or not."""

    def drain(self, code: CloseCode, reason: str, timeout_s: float) -> None:
        """End the connection once the client's requests are answered, or after ``timeout_s`` seconds."""

    def fail(self, code: CloseCode, reason: str) -> None:
        """End the connection after what was written so far."""

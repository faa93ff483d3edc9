"""The bounded write queue of one client."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from typing import Protocol as Interface

from rsws.gateway.delivery.subscription import Outlet, Subscription
from rsws.gateway.websocket.compression import Compressor
from rsws.gateway.websocket.keepalive import unacknowledged_bytes

NO_SOCKET = -1
"""The descriptor where there is no socket that frames could be written to as they are."""


class QueueOwner(Interface):
    """The interface of the client registry that a write queue needs."""

    __slots__ = ()

    high_water_bytes: int
    turn: int
    """The number of the current turn of the event loop; 0 until something is written in it."""

    def begin_turn(self) -> int:
        """Give the current turn its number, which is positive, and return that."""

    def will_flush(self, queue: WriteQueue) -> None:
        """Schedule a call of the queue's :meth:`~WriteQueue.flush` at the end of this turn."""


class WriteQueue(Outlet):
    """What is written to a client, and the subscriptions that wait for room.

    What is written within one turn of the event loop leaves together, at its end. Nothing is held back beyond a turn:
    above the high-water mark there is no room, and whoever has more waits.

    Attributes:
        transport: The way to the kernel; it is there once the connection is made.
        compressor: Compresses text frames; None where that was not agreed.
        reading_waits: Whether reading is paused, so that :meth:`adjust_reading` is called when there is room again.
    """

    __slots__ = (
        "_descriptor",
        "_is_direct",
        "_loop",
        "_out",
        "_out_bytes",
        "_owner",
        "_paused",
        "_reading_page",
        "_sent_in",
        "_waiting",
        "_written",
        "compressor",
        "reading_waits",
        "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, owner: QueueOwner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self.compressor: Compressor | None = None
        self.reading_waits = False
        self._paused = False
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._waiting: dict[Subscription, None] | None = None  # first in, first served
        self._reading_page = False
        self._sent_in = 0
        self._written = 0
        self._descriptor = NO_SOCKET
        self._is_direct = False
        """Whether the socket itself is written to: the transport has nothing that comes before."""

    def write_to(self, transport: asyncio.Transport) -> None:
        """Write to ``transport`` from now on."""
        self.transport = transport
        socket = transport.get_extra_info("socket")
        if socket is not None and transport.get_extra_info("sslcontext") is None:
            self._descriptor = socket.fileno()
            self._is_direct = True

    @property
    @abstractmethod
    def peer(self) -> str:
        """Whose queue it is, for log lines."""

    @abstractmethod
    def adjust_reading(self) -> None:
        """Pause or resume reading: there is more room, or less, than before."""

    @property
    def buffered_bytes(self) -> int:
        """The bytes written but not yet accepted by the kernel."""
        return self._out_bytes + self.transport.get_write_buffer_size()

    @property
    def has_room(self) -> bool:
        """Whether a subscription may write: False above the high-water mark, until the buffer has drained."""
        return not self._paused and self._out_bytes < self._owner.high_water_bytes

    def try_send(self, frames: bytes) -> bool:
        """Write text frames if there is room; return False when there is none.

        The first frames of a turn of the event loop are sent immediately, so that in a wide fan-out the first clients
        have them while others are still being written to. Further frames of that turn are sent together at its end.
        """
        owner = self._owner
        if self._paused or self._out_bytes >= owner.high_water_bytes:  # it has no room
            return False
        if self.compressor is not None:
            frames = self.compressor.translate(frames)
        turn = owner.turn or owner.begin_turn()
        if self._out_bytes or turn == self._sent_in:
            self.queue(frames)
        else:
            self._sent_in = turn
            self._written += len(frames)
            self.send(frames)
        return True

    def send(self, data: bytes) -> None:
        """Write bytes now: to the socket itself what that takes at once, as the transport costs as much again."""
        if self._is_direct:
            try:
                sent = os.write(self._descriptor, data)
            except OSError:  # it is full, or the connection is lost: the transport takes care of either
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        self.transport.write(data)
        self._is_direct = self._descriptor != NO_SOCKET and not self.transport.get_write_buffer_size()

    def write(self, frames: bytes) -> None:
        """Queue text frames behind everything written before, to be sent at the end of this turn of the event loop."""
        self.queue(frames if self.compressor is None else self.compressor.translate(frames))

    def queue(self, frames: bytes) -> None:
        """Queue bytes as they are behind everything written before."""
        if not self._out:
            self._owner.will_flush(self)
        self._out.append(frames)
        self._out_bytes += len(frames)

    def when_room(self, subscription: Subscription) -> None:
        """See :class:`rsws.gateway.delivery.subscription.Outlet`."""
        if self._waiting is None:
            self._waiting = {}
        self._waiting[subscription] = None

    @property
    def is_reading_page(self) -> bool:
        """See :class:`rsws.gateway.delivery.subscription.Outlet`."""
        return self._reading_page

    def page_begins(self) -> None:
        """See :class:`rsws.gateway.delivery.subscription.Outlet`."""
        self._reading_page = True

    def page_done(self) -> None:
        """See :class:`rsws.gateway.delivery.subscription.Outlet`."""
        self._reading_page = False
        if self._waiting:
            self._loop.call_soon(self._serve_waiting)

    def flush(self) -> None:
        """Pass everything written so far to the transport in one write."""
        out = self._out
        if out:
            self.send(out[0] if len(out) == 1 else b"".join(out))
            self._written += self._out_bytes
            out.clear()
            self._out_bytes = 0
        if self._waiting and not self._paused:
            self._loop.call_soon(self._serve_waiting)
        if self.reading_waits:
            self.adjust_reading()

    def pause_writing(self) -> None:
        """Note that the write buffer is above the high-water mark (a callback of asyncio)."""
        self._paused = True

    def resume_writing(self) -> None:
        """Continue writing and reading after the write buffer has drained (a callback of asyncio)."""
        self._paused = False
        self._serve_waiting()
        if self.reading_waits:
            self.adjust_reading()

    def _serve_waiting(self) -> None:
        waiting = self._waiting
        for _ in range(len(waiting or ())):
            if not waiting or not self.has_room or self._reading_page:
                return
            subscription = next(iter(waiting))
            del waiting[subscription]
            subscription.advance()

    @property
    def drained_bytes(self) -> int:
        """The bytes that the client's machine has acknowledged, as far as the system tells."""
        return self._written - self.transport.get_write_buffer_size() - unacknowledged_bytes(self.transport)

    def drop(self) -> None:
        """Forget what was not sent, and who waits: the connection is lost."""
        self._out.clear()
        self._waiting = None
        self._descriptor = NO_SOCKET  # the system may give the number to another connection
        self._is_direct = False

    def forget_waiting(self) -> None:
        """Forget who waits for room: nothing more is to be sent."""
        self._waiting = None

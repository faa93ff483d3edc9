"""The ends of tokens: one heap and one timer for all clients, whatever their number."""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable
from typing import Protocol as Interface

from rsws.gateway.limits import DEFAULTS, Limits
from rsws.tokens.grant import Grant

log = logging.getLogger("rsws.gateway")

AT_ONCE = 64
"""The clients that are told in one turn of the event loop: thousands may have tokens that end in the same second."""
LOOK_AGAIN_S = 5.0
"""The longest that the timer sleeps: the clock that ``exp`` is about can be set, or go on while the machine sleeps."""


class TokenHolder(Interface):
    """Whoever holds a token that ends."""

    __slots__ = ()

    def token_expiring(self) -> None:
        """Note that the token ends soon."""

    def token_ended(self) -> None:
        """Note that the token has ended."""


class _Entry:
    __slots__ = ("at", "ends_at", "holder")

    def __init__(self, at: float, ends_at: float, holder: TokenHolder) -> None:
        self.at = at
        self.ends_at = ends_at
        self.holder: TokenHolder | None = holder
        """None once the holder is gone, or has another token."""

    def __lt__(self, other: _Entry) -> bool:
        return self.at < other.at


class Ends:
    """The ends to come of all clients' tokens.

    Args:
        clock: Returns the time in seconds since 1970.
    """

    def __init__(self, limits: Limits = DEFAULTS, clock: Callable[[], float] = time.time) -> None:
        self._warn_s = limits.token_warning_s
        self._clock = clock
        self._heap: list[_Entry] = []
        self._entries: dict[TokenHolder, _Entry] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many tokens have an end to come."""
        return len(self._entries)

    @property
    def kept(self) -> int:
        """How many entries are kept, those of holders that are gone included."""
        return len(self._heap)

    def watch(self, holder: TokenHolder, grant: Grant) -> None:
        """Tell ``holder`` of the end of this token, and no longer of an earlier one's."""
        self.forget(holder)
        if grant.ends_at is not None:
            left_s = grant.ends_at - self._clock()
            self._push(_Entry(grant.ends_at - min(self._warn_s, left_s / 2), grant.ends_at, holder), holder)

    def forget(self, holder: TokenHolder) -> None:
        """Tell ``holder`` of nothing any more."""
        entry = self._entries.pop(holder, None)
        if entry is None:
            return
        entry.holder = None
        if len(self._heap) > 2 * len(self._entries) + AT_ONCE or not self._entries:
            self._heap = [each for each in self._heap if each.holder is not None]
            heapq.heapify(self._heap)
            self._set_timer()

    def _push(self, entry: _Entry, holder: TokenHolder) -> None:
        self._entries[holder] = entry
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._entries:  # what is left is of holders that are gone
            self._heap.clear()
        if self._heap:
            wait_s = max(0.0, min(self._heap[0].at - self._clock(), LOOK_AGAIN_S))
            self._timer = asyncio.get_running_loop().call_later(wait_s, self.tell_due)

    def tell_due(self) -> None:
        """Tell the holders of tokens that are ending or have ended, some in each turn of the event loop."""
        now = self._clock()
        for _ in range(AT_ONCE):
            if not self._heap or self._heap[0].at > now:
                break
            entry = heapq.heappop(self._heap)
            holder = entry.holder
            if holder is None:
                continue
            del self._entries[holder]
            try:
                if now >= entry.ends_at:
                    holder.token_ended()
                else:
                    self._push(_Entry(entry.ends_at, entry.ends_at, holder), holder)
                    holder.token_expiring()
            except Exception:  # of one holder: the others are told all the same
                log.exception("a bug in the gateway")
        self._set_timer()

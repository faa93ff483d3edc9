"""Lanes: what is asked of one channel of a cluster is done in the order of the calls, also when its slot moves.

While a command is under way, those that follow it go to the same node. Once that node answers that another one has the
channel, new ones wait; when all of them are answered, the first that was redirected goes to the other node, and the
rest once it is done: of two that are sent together a node may refuse the first and do the second. For that reason
requests for one key and for two, which a node with half a slot refuses, are never under way together. Where a node
does so all the same, as one for which the cluster was down until then, the first is refused: it can't be done in order.

What a node was never sent, as it could not be reached any more, is redirected too once the map names another one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from rsws.errors import Outcome, RedisUnavailable, StoreError
from rsws.redis.limits import DEFAULTS
from rsws.streams.slots import Patience, Redirected
from rsws.streams.store import Store

OnResult: TypeAlias = Callable[[Any], None]
Send: TypeAlias = Callable[[Store, OnResult], None]
"""Asks a store for something; the callback gets the result, or the error."""
Find: TypeAlias = Callable[[str, Redirected | None], Store]
"""Returns where a channel is: where a redirect says, else by the map. Raises RedisUnavailable where nobody has it."""

_Request: TypeAlias = tuple[Send, OnResult, int, int]
"""How to send it, who gets the result, the bytes it holds, and how many keys it is for."""


class _Lane:
    # One is made for nearly each publish: what only a redirect needs is made when there is one.
    __slots__ = ("held", "keys", "patience", "redirect", "redirected", "sent", "store", "under_way")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sent = 0
        """How many requests were sent: the number of the last one."""
        self.under_way = 0
        self.keys = 1
        """How many keys each request under way is for."""
        self.redirect: Redirected | None = None
        """Where it goes on, since a node has said so."""
        self.redirected: list[tuple[int, _Request]] | None = None
        """What the node did not do, with the number under which it was sent."""
        self.held: deque[_Request] | None = None
        """What has to wait for all that is under way."""
        self.patience: Patience | None = None
        """Set while it is not known if the node takes what was redirected to it; one request is tried meanwhile."""


class Lanes:
    """The requests under way of each channel.

    Args:
        find: Says where a channel is.
        limit_s: How long redirects of one request are followed.
        held_bytes: The size of what may wait for redirects before more is refused.
    """

    def __init__(self, find: Find, limit_s: float, held_bytes: int = DEFAULTS.pending_bytes) -> None:
        self._find = find
        self._most_held_bytes = held_bytes
        self._limit_s = limit_s
        self._lanes: dict[str, _Lane] = {}
        self._held_bytes = 0

    def submit(self, channel: str, send: Send, on_result: OnResult, size: int = 0, keys: int = 1) -> None:
        """Have ``send`` called with the store of ``channel``, after all that was submitted for it before.

        Args:
            on_result: Called exactly once, maybe before this returns.
            size: The bytes it holds while it waits.
            keys: How many keys it is for.
        """
        lane = self._lanes.get(channel)
        if lane is None:
            try:
                store = self._find(channel, None)
            except RedisUnavailable as error:
                on_result(error)
                return
            lane = self._lanes[channel] = _Lane(store)
        if lane.patience is None and not lane.held and (keys == lane.keys or not lane.under_way):
            self._send(channel, lane, (send, on_result, size, keys))
        elif self._held_bytes > self._most_held_bytes:
            on_result(RedisUnavailable("too much is waiting for slots that move"))
        else:
            self._held_bytes += size
            lane.held = lane.held or deque()
            lane.held.append((send, on_result, size, keys))

    def _send(self, channel: str, lane: _Lane, request: _Request) -> None:
        lane.under_way += 1
        lane.sent += 1
        lane.keys = request[3]
        request[0](lane.store, partial(self._answered, channel, lane, lane.sent, request))

    def _answered(self, channel: str, lane: _Lane, number: int, request: _Request, result: Any) -> None:
        if type(result) is RedisUnavailable and self._is_elsewhere(channel, lane, result):
            result = Redirected.elsewhere(result)
        if type(result) is Redirected:
            self._held_bytes += request[2]
            lane.redirected = lane.redirected or []
            lane.redirected.append((number, request))
            lane.redirect = result
            lane.patience = lane.patience or Patience(self._limit_s)
        else:
            if lane.redirect is None:
                lane.patience = None
            elif not isinstance(result, StoreError):
                self._refuse_before(lane, number)
            request[1](result)
        lane.under_way -= 1
        if lane.under_way:
            return
        if lane.redirect is None and not lane.held:
            del self._lanes[channel]
        else:
            self._go_on(channel, lane)

    def _is_elsewhere(self, channel: str, lane: _Lane, error: RedisUnavailable) -> bool:
        """Whether what was not sent, as the node can't be reached, has to go to another one by now."""
        if error.outcome is not Outcome.NOT_STORED:
            return False
        try:
            return self._find(channel, None) is not lane.store
        except RedisUnavailable:
            return False

    def _refuse_before(self, lane: _Lane, number: int) -> None:
        """Refuse what was redirected and sent before a request that was done."""
        assert lane.redirect is not None
        redirected = lane.redirected or []
        lane.redirected = [each for each in redirected if each[0] > number]
        error = RedisUnavailable(f"a later one was done first: {lane.redirect.reason}")
        if not lane.redirected:
            lane.redirect = lane.patience = None
        for sent, (_, on_result, size, _) in redirected:
            if sent < number:
                self._held_bytes -= size
                on_result(error)

    def _go_on(self, channel: str, lane: _Lane) -> None:
        """Do what is next, now that all is answered that was under way."""
        if lane.redirect is None:
            self._send_held(channel, lane)
            return
        assert lane.patience is not None
        try:
            pause_s = lane.patience.next_pause(lane.redirect)
        except RedisUnavailable as error:
            self._give_up(channel, lane, error)
        else:
            if pause_s:
                asyncio.get_running_loop().call_later(pause_s, self._turn, channel, lane, lane.redirect)
            else:
                self._turn(channel, lane, lane.redirect)

    def _turn(self, channel: str, lane: _Lane, redirect: Redirected) -> None:
        """Go on where the redirect says."""
        try:
            lane.store = self._find(channel, redirect)
        except RedisUnavailable as error:
            self._give_up(channel, lane, error)
            return
        lane.held = deque(self._undone(lane))
        lane.redirected = lane.redirect = None
        self._send_held(channel, lane)

    def _send_held(self, channel: str, lane: _Lane) -> None:
        """Send as much of what is held as may be under way together."""
        lane.under_way += 1  # this one, so that a request that is refused at once does not end the lane
        while lane.held and lane.redirect is None:
            if lane.under_way > 1 and (lane.patience is not None or lane.held[0][3] != lane.keys):
                break
            request = lane.held.popleft()
            self._held_bytes -= request[2]
            self._send(channel, lane, request)
        lane.under_way -= 1
        if lane.under_way:
            return
        if lane.redirect is not None:
            self._go_on(channel, lane)
        else:
            del self._lanes[channel]

    def _give_up(self, channel: str, lane: _Lane, error: RedisUnavailable) -> None:
        del self._lanes[channel]
        for _, on_result, size, _ in self._undone(lane):
            self._held_bytes -= size
            on_result(error)

    @staticmethod
    def _undone(lane: _Lane) -> list[_Request]:
        """Return what was redirected, and what is held after it."""
        return [*(request for _, request in lane.redirected or ()), *(lane.held or ())]

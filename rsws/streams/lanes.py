"""Lanes: what is asked of one channel of a cluster is done in the order of the calls, also when its slot moves.

While a command is under way, those that follow it go to the same node. Once that node answers that another one has the
channel, new ones wait; when all of them are answered, those that were redirected go to the other node, and then those
that waited. Requests for one key and for two are never under way together: of a slot that moves a node may take the
former and refuse the latter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from rsws.errors import RedisUnavailable
from rsws.streams.slots import Patience, Redirected
from rsws.streams.store import Store

OnResult: TypeAlias = Callable[[Any], None]
Send: TypeAlias = Callable[[Store, OnResult], None]
"""Asks a store for something; the callback gets the result, or the error."""
Find: TypeAlias = Callable[[str, Redirected | None], Store]
"""Returns where a channel is: by the map, or where a redirect says. Raises RedisUnavailable where that is not known."""

HELD_BYTES = 64 * 1024 * 1024
"""The size of what may wait for redirects before more is refused."""


class _Request:
    __slots__ = ("keys", "on_result", "send", "size")

    def __init__(self, send: Send, on_result: OnResult, size: int, keys: int) -> None:
        self.send = send
        self.on_result = on_result
        self.size = size
        self.keys = keys


class _Lane:
    __slots__ = ("held", "keys", "patience", "redirect", "redirected", "store", "under_way")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.under_way = 0
        self.keys = 1
        """How many keys each request under way is for."""
        self.redirect: Redirected | None = None
        """Where it goes on, since a node has said so."""
        self.redirected: list[_Request] = []
        self.held: deque[_Request] = deque()
        """What has to wait for all that is under way."""
        self.patience: Patience | None = None


class Lanes:
    """The requests under way of each channel.

    Args:
        find: Says where a channel is.
        limit_s: How long redirects of one request are followed.
    """

    def __init__(self, find: Find, limit_s: float) -> None:
        self._find = find
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
        request = _Request(send, on_result, size, keys)
        if lane.redirect is None and not lane.held and (keys == lane.keys or not lane.under_way):
            self._send(channel, lane, request)
        elif self._held_bytes > HELD_BYTES:
            on_result(RedisUnavailable("too much is waiting for slots that move"))
        else:
            self._held_bytes += size
            lane.held.append(request)

    def _send(self, channel: str, lane: _Lane, request: _Request) -> None:
        lane.under_way += 1
        lane.keys = request.keys
        request.send(lane.store, partial(self._answered, channel, lane, request))

    def _answered(self, channel: str, lane: _Lane, request: _Request, result: Any) -> None:
        if type(result) is Redirected:
            self._held_bytes += request.size
            lane.redirected.append(request)
            lane.redirect = result
        else:
            lane.patience = None
            request.on_result(result)
        lane.under_way -= 1
        if not lane.under_way:
            self._go_on(channel, lane)

    def _go_on(self, channel: str, lane: _Lane) -> None:
        """Do what is next, now that all is answered that was under way."""
        if lane.redirect is None:
            self._send_held(channel, lane)
            return
        lane.patience = lane.patience or Patience(self._limit_s)
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
        if redirect.address is not None:
            try:
                lane.store = self._find(channel, redirect)
            except RedisUnavailable as error:
                self._give_up(channel, lane, error)
                return
        lane.held.extendleft(reversed(lane.redirected))
        lane.redirected, lane.redirect = [], None
        self._send_held(channel, lane)

    def _send_held(self, channel: str, lane: _Lane) -> None:
        lane.under_way += 1  # this one, so that a request that is refused at once does not end the lane
        if lane.held:
            lane.keys = lane.held[0].keys
        while lane.held and lane.held[0].keys == lane.keys:
            request = lane.held.popleft()
            self._held_bytes -= request.size
            self._send(channel, lane, request)
        lane.under_way -= 1
        if lane.under_way:
            return
        if lane.held:
            self._send_held(channel, lane)
        else:
            del self._lanes[channel]

    def _give_up(self, channel: str, lane: _Lane, error: RedisUnavailable) -> None:
        del self._lanes[channel]
        for request in (*lane.redirected, *lane.held):
            self._held_bytes -= request.size
            request.on_result(error)

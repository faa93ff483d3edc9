"""Who is connected to this process and what is read of late, for the operator: the slowest and the busiest alone.

All of it is found out when somebody asks, from what is there anyway: nothing is counted for it but gaps.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, TypeAlias
from urllib.parse import unquote

from rsws.gateway.delivery.channel import Channel
from rsws.gateway.delivery.hub import Hub
from rsws.gateway.delivery.subscription import State, Subscription
from rsws.gateway.session.session import Session
from rsws.gateway.websocket.connection import ClientConnection
from rsws.protocol import StreamId

MOST = 50
"""The most clients, channels and subscriptions that are told."""
OF_LATE_S = 10
"""Over how many seconds what comes in a second is measured; over fewer where a ring holds less."""
FIRST_TIME_MS = 10**12
"""Ids below this are no times (it is in 2001)."""
_CURRENT = (State.LIVE, State.BEYOND)
_FROM_ZERO_S = float("inf")
"""The lag of a subscription whose position is no time, as one that reads from the beginning has it."""

Told: TypeAlias = dict[str, Any]


class Census:
    """What the operator is told as JSON; it is found out at most once in a while, however often somebody asks.

    Args:
        sessions: The clients of this process.
        hub: The channels that are open here.
        number: That of this process, by which its answers are told from those of others.
        every_s: How long an answer is told again.
    """

    def __init__(self, sessions: Mapping[ClientConnection, Session], hub: Hub, number: int, every_s: float) -> None:
        self._sessions = sessions
        self._hub = hub
        self._number = number
        self._every_s = every_s
        self._told: tuple[str | None, float, str] = None, float("-inf"), ""
        """The last answer: of which channel, when, and its text."""

    def text(self, target: str) -> str:
        """Return the answer to a request: about the channel that its query names, else the slowest and the busiest."""
        about, (told_about, at, text) = _about(target), self._told
        if about != told_about or time.monotonic() - at >= self._every_s:
            said: Told = {"worker": self._number, "clients": len(self._sessions)}
            said |= self._extremes() if about is None else self._of_channel(about)
            text = f"{json.dumps(said, separators=(',', ':'))}\n"
            self._told = about, time.monotonic(), text
        return text

    def _extremes(self) -> Told:
        now_ms = time.time() * 1000
        clients = [
            (max(map(_lag_s, session.subscriptions), default=0.0), connection.buffered_bytes, connection, session)
            for connection, session in self._sessions.items()
        ]
        slowest = heapq.nlargest(MOST, clients, key=itemgetter(0, 1))
        ranked = ((_per_s(each, now_ms), len(each.listeners), each) for each in self._hub.channels)
        busiest = heapq.nlargest(MOST, ranked, key=itemgetter(0, 1))
        return {
            "slowest": [_client(connection, session) for *_, connection, session in slowest],
            "busiest": [_channel(channel, per_s) for per_s, _, channel in busiest],
        }

    def _of_channel(self, name: str) -> Told:
        channel = next((each for each in self._hub.channels if each.name == name), None)
        if channel is None:
            return {"channel": name, "subscribers": 0, "behind": 0, "gaps": 0, "subscriptions": []}
        ours = (
            (_lag_s(each), connection, session, each)
            for connection, session in self._sessions.items()
            for each in session.subscriptions
            if each.channel is channel
        )
        slowest = heapq.nlargest(MOST, ours, key=lambda each: each[0])
        subscriptions = [
            {
                "client": connection.peer,
                "who": session.who,
                "state": subscription.state.name.lower(),
                "lastId": str(subscription.position),
                "lag": _told_lag(lag_s),
                "queuedBytes": connection.buffered_bytes,
            }
            for lag_s, connection, session, subscription in slowest
        ]
        return _channel(channel, _per_s(channel, time.time() * 1000)) | {"subscriptions": subscriptions}


def _about(target: str) -> str | None:
    """Return the channel that a request's query names."""
    pairs = (each.partition("=") for each in target.partition("?")[2].split("&"))
    return next((unquote(value) for name, _, value in pairs if name == "channel"), None)


def _client(connection: ClientConnection, session: Session) -> Told:
    subscriptions = session.subscriptions
    worst = max(subscriptions, key=_lag_s, default=None)
    lag_s = 0.0 if worst is None else _lag_s(worst)
    return {
        "client": connection.peer,
        "who": session.who,
        "subscriptions": len(subscriptions),
        "behind": sum(each.state not in _CURRENT for each in subscriptions),
        "lag": _told_lag(lag_s),
        "channel": worst.channel.name if worst and lag_s else None,
        "queuedBytes": connection.buffered_bytes,
    }


def _channel(channel: Channel, per_s: float) -> Told:
    subscribers = len(channel.listeners)
    return {
        "channel": channel.name,
        "perSecond": per_s,
        "subscribers": subscribers,
        "behind": subscribers - len(channel.live) - len(channel.beyond_cursor),
        "gaps": channel.gaps,
    }


def _per_s(channel: Channel, now_ms: float) -> float:
    """Return how many messages came in a second of late, by their ids."""
    begin_ms = now_ms - OF_LATE_S * 1000
    if channel.cursor.ms < begin_ms:
        return 0.0
    count, first = channel.came_after(StreamId(int(begin_ms), 0))
    if first is None:
        return 0.0
    is_whole = channel.floor.ms <= begin_ms  # else the ring holds less than was asked for
    return round(count * 1000 / (OF_LATE_S * 1000 if is_whole else max(1.0, now_ms - first.ms)), 3)


def _lag_s(subscription: Subscription) -> float:
    """Return by how many seconds a subscription is behind the channel's cursor."""
    if subscription.state in _CURRENT:
        return 0.0
    position, cursor = subscription.position, subscription.channel.cursor
    if position >= cursor:
        return 0.0
    return (cursor.ms - position.ms) / 1000 if position.ms >= FIRST_TIME_MS else _FROM_ZERO_S


def _told_lag(lag_s: float) -> float | None:
    return None if lag_s == _FROM_ZERO_S else lag_s

"""What all sessions of a gateway work with."""

from __future__ import annotations

import asyncio

from rsws.gateway.access.control import AccessControl
from rsws.gateway.delivery.hub import Hub
from rsws.gateway.request_limits import RequestLimits
from rsws.protocol import MAX_CHANNEL_BYTES, max_event_bytes
from rsws.settings import Settings
from rsws.streams.store import Streams

_MOST_OVERHEAD = max_event_bytes('"' * MAX_CHANNEL_BYTES, b"")
"""The most bytes that a message event has beside its data."""


class SessionContext:
    """What all sessions of a gateway work with: made once, so that a session is small and made soon."""

    __slots__ = (
        "access", "channels", "end_timeout_s", "hub", "limits", "max_message_bytes", "max_subscriptions", "metrics",
        "producer_window_s", "streams", "surely_fits", "tasks",
    )  # fmt: skip

    def __init__(
        self,
        access: AccessControl,
        hub: Hub,
        streams: Streams,
        tasks: asyncio.TaskGroup,
        settings: Settings,
        limits: RequestLimits,
    ) -> None:
        self.access = access
        self.hub = hub
        self.metrics = hub.metrics
        self.streams = streams
        self.tasks = tasks
        self.max_subscriptions = settings.max_subscriptions
        self.max_message_bytes = settings.max_message_bytes
        self.surely_fits = settings.max_message_bytes - _MOST_OVERHEAD
        """The most bytes of data that fit into a message event whatever the channel."""
        self.producer_window_s = settings.producer_window_s
        self.limits = limits
        self.channels = limits.channels
        self.end_timeout_s = settings.shutdown_timeout_s / 3

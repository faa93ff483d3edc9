"""The limits on requests, the same for each client, as the settings say them."""

from __future__ import annotations

from rsws.patterns import Patterns
from rsws.rates import Rate
from rsws.settings import Settings

SUBSCRIBES_PER_S = 1000
"""The subscribes of a client in a second where the settings say nothing."""
SUBSCRIPTIONS_AT_ONCE = 100
"""How often it may then subscribe at once to as many channels as a connection may have."""


class RequestLimits:
    """What a client may do in a second, and what is a channel.

    Attributes:
        publishes: How many messages it may publish; None for any number, as for all rates.
        volume: How many bytes of data it may publish.
        subscribes: How often it may subscribe.
        channels: Which keys are channels; None for all that a channel's name can name.

    Raises:
        UsageError: A rate can't be read.
    """

    def __init__(self, settings: Settings) -> None:
        self.publishes = Rate.parse(settings.publish_rate)
        self.volume = Rate.parse(settings.publish_bytes_rate)
        self.subscribes = (
            Rate(SUBSCRIBES_PER_S, SUBSCRIPTIONS_AT_ONCE * settings.max_subscriptions)
            if settings.subscribe_rate is None
            else Rate.parse(settings.subscribe_rate)
        )
        self.channels = Patterns.of(settings.channels)

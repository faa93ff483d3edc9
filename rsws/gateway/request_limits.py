"""The limits on requests, the same for each client, as the settings say them."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from rsws.gateway.limits import DEFAULTS
from rsws.gateway.peer import counted_as
from rsws.patterns import Patterns
from rsws.rates import Bucket, Rate
from rsws.settings import Settings

SUBSCRIBES_PER_S = 1000
"""The subscribes of a client in a second where the settings say nothing."""
SUBSCRIPTIONS_AT_ONCE = 100
"""How often it may then subscribe at once to as many channels as a connection may have."""


class Allowance(NamedTuple):
    """What one client may still do."""

    messages: Bucket
    volume: Bucket
    subscribes: Bucket


class RequestLimits:
    """What a client may do in a second, and what is a channel.

    Attributes:
        publishes: How many messages it may publish; None for any number, as for all rates.
        volume: How many bytes of data it may publish.
        subscribes: How often it may subscribe.
        channels: Which keys are channels; None for all that a channel's name can name.

    Args:
        max_clients: Of how many clients it is remembered what they may still do that have no connection of their own.

    Raises:
        UsageError: A rate can't be read.
    """

    def __init__(self, settings: Settings, max_clients: int = DEFAULTS.max_addresses) -> None:
        self._max_clients = max_clients
        self._allowances: OrderedDict[tuple[str | int, str | None], Allowance] = OrderedDict()
        """What each of them has left; the one seen longest ago is first."""
        self.publishes = Rate.parse(settings.publish_rate)
        self.volume = Rate.parse(settings.publish_bytes_rate)
        self.subscribes = (
            Rate(SUBSCRIBES_PER_S, SUBSCRIPTIONS_AT_ONCE * settings.max_subscriptions)
            if settings.subscribe_rate is None
            else Rate.parse(settings.subscribe_rate)
        )
        self.channels = Patterns.of(settings.channels)

    def allowance(self, address: str, who: str | None) -> Allowance:
        """Return what a client may still do that may come with another connection for each request.

        Args:
            address: Where it comes from.
            who: The name in its token; None for none.
        """
        client = counted_as(address), who
        allowance = self._allowances.get(client)
        if allowance is None:
            allowance = Allowance(Bucket(self.publishes), Bucket(self.volume), Bucket(self.subscribes))
            self._allowances[client] = allowance
            if len(self._allowances) > self._max_clients:
                self._allowances.popitem(last=False)
        else:
            self._allowances.move_to_end(client)
        return allowance

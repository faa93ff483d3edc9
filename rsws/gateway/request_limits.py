"""The limits on requests, the same for each client, as the settings say them."""

from __future__ import annotations

from collections import OrderedDict

from rsws.errors import ErrorCode, RequestError
from rsws.gateway.limits import DEFAULTS
from rsws.gateway.metrics import Metrics
from rsws.gateway.peer import counted_as
from rsws.patterns import Patterns
from rsws.protocol import Publish
from rsws.rates import Bucket, Rate
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
            allowance = self._allowances[client] = Allowance(self)
            if len(self._allowances) > self._max_clients:
                self._allowances.popitem(last=False)
        else:
            self._allowances.move_to_end(client)
        return allowance


class Allowance:
    """What one client may still do.

    Args:
        limits: What it may do in a second.
        subscribed_at: When it has subscribed before this was made, which it may have once; None where it has not.

    Attributes:
        messages: How many messages it may still publish.
        volume: How many bytes. From both, whoever publishes takes what a message needs, and asks
            :meth:`publish_refusal` where that makes one of them negative.
    """

    __slots__ = ("_subscribes", "messages", "volume")

    def __init__(self, limits: RequestLimits, subscribed_at: float | None = None) -> None:
        self.messages = Bucket(limits.publishes)
        self.volume = Bucket(limits.volume)
        self._subscribes = Bucket(limits.subscribes)
        if subscribed_at is not None:
            self._take_subscribe(subscribed_at)

    def publish_refusal(self, request: Publish, now: float, metrics: Metrics) -> RequestError | None:
        """Return and count the refusal of a publish for which the client has to wait; None where it may go on."""
        wait_s = self.messages.refill(now) if self.messages.left < 0 else 0.0
        if wait_s:
            self.volume.left += len(request.data)
            metrics.publishes_over_rate += 1
        elif self.volume.left < 0 and (wait_s := self.volume.refill(now)):
            metrics.publishes_over_bytes_rate += 1
        return _over_rate("publishes", wait_s, message_id=request.message_id) if wait_s else None

    def count_subscribe(self, channel: str | None, now: float, metrics: Metrics) -> None:
        """Count one more subscribe.

        Raises:
            RequestError: It is one too many for now.
        """
        if wait_s := self._take_subscribe(now):
            metrics.subscribes_over_rate += 1
            raise _over_rate("subscribes", wait_s, channel=channel)

    def _take_subscribe(self, now: float) -> float:
        self._subscribes.left -= 1
        return self._subscribes.refill(now) if self._subscribes.left < 0 else 0.0


def _over_rate(doing: str, wait_s: float, *, channel: str | None = None, message_id: str | None = None) -> RequestError:
    text = f"this client {doing} faster than it may; go on after {max(wait_s, 0.001):.3g} s"
    return RequestError(ErrorCode.RATE_LIMITED, text, channel=channel, message_id=message_id, retry_after_s=wait_s)

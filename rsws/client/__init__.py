"""The client of a gateway, which the commands are made of."""

from rsws.client.client import Client, ConnectionEvent, Disconnected, Reconnected, connect
from rsws.client.subscription import Subscription, SubscriptionEvent

__all__ = [
    "Client",
    "ConnectionEvent",
    "Disconnected",
    "Reconnected",
    "Subscription",
    "SubscriptionEvent",
    "connect",
]

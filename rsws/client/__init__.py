"""The client of a gateway, which the commands are made of."""

from rsws.client.client import Client, connect
from rsws.client.link import ConnectionEvent, Disconnected, Reconnected
from rsws.client.subscription import Event, Subscription

__all__ = [
    "Client",
    "ConnectionEvent",
    "Disconnected",
    "Event",
    "Reconnected",
    "Subscription",
    "connect",
]

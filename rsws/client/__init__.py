"""The client of a gateway, for applications and for the commands of rsws."""

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

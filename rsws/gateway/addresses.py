"""The limits on one address: how many connections it may have, and how often it may try."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import OrderedDict

from rsws.gateway.limits import DEFAULTS, Limits
from rsws.gateway.logs import NowAndThen
from rsws.gateway.metrics import Metrics
from rsws.gateway.peer import counted_as
from rsws.gateway.websocket.connection import ClientConnection
from rsws.gateway.websocket.interfaces import TurnedAway
from rsws.rates import Bucket, Rate
from rsws.settings import Settings

log = logging.getLogger("rsws.gateway")

MOST_CONNECTIONS = 20_000
"""The connections of one address where the settings say nothing: a proxy hardly has ports for more."""
ATTEMPTS = Rate(1000, 10_000)
"""The attempts of one address where the settings say nothing."""
COME_BACK_S = 10
"""When to come back where there are too many connections: nobody knows when one of them ends."""
_THIS_MACHINE = frozenset(map(counted_as, ("127.0.0.1", "::1")))
_HINT = "; if it is a proxy's, name it in --trusted-proxies"


class AddressLimits:
    """The connections and the attempts of each address, and who is beyond their limits.

    Where the settings say nothing, this machine is exempt: its connections may be those of a proxy that nobody has
    named as one, or of a load test.
    """

    def __init__(self, settings: Settings, metrics: Metrics, limits: Limits = DEFAULTS) -> None:
        most, rate = settings.max_connections_per_address, settings.attempt_rate
        self._metrics = metrics
        self._most = MOST_CONNECTIONS if most is None else most
        self._free_connections = _THIS_MACHINE if most is None else frozenset()
        self._rate = ATTEMPTS if rate is None else Rate.parse(rate)
        self._free_attempts = _THIS_MACHINE if rate is None else frozenset()
        self._max_addresses = limits.max_addresses
        self._connections: dict[str | int, int] = {}
        self._attempts: OrderedDict[str | int, Bucket] = OrderedDict()
        """What each address has left; the one seen longest ago is first."""
        self._polite = Bucket(limits.polite)
        self._cost = limits.polite_tls if settings.tls_cert is not None else 1
        self._log_connections, self._log_attempts = NowAndThen(log), NowAndThen(log)

    def __len__(self) -> int:
        """How many addresses are remembered for their attempts."""
        return len(self._attempts)

    def count(self, connection: ClientConnection) -> None:
        """Count a connection of which it is known now where it comes from; beyond a limit it is turned away."""
        source = counted_as(connection.source.address)
        if self._rate is not None and source not in self._free_attempts:
            wait_s = self._attempt(self._rate, source)
            if wait_s:
                self._metrics.address_attempts_refused += 1
                self._log_attempts.warning(
                    f"too many attempts from one address{_HINT}",
                    client=connection.peer,
                    refused=self._metrics.address_attempts_refused,
                )
                connection.turned_away = TurnedAway("too many attempts from this address", math.ceil(wait_s))
                return
        held = self._connections.get(source, 0)
        if held >= (sys.maxsize if source in self._free_connections else self._most):
            self._metrics.address_connections_refused += 1
            self._log_connections.warning(
                f"too many connections from one address{_HINT}",
                client=connection.peer,
                connections=held,
                refused=self._metrics.address_connections_refused,
            )
            connection.turned_away = TurnedAway("too many connections from this address", COME_BACK_S)
            return
        self._connections[source] = held + 1
        connection.counted_as = source

    def _attempt(self, rate: Rate, source: str | int) -> float:
        attempts = self._attempts.get(source)
        if attempts is None:
            attempts = self._attempts[source] = Bucket(rate)
            if len(self._attempts) > self._max_addresses:
                self._attempts.popitem(last=False)
        else:
            self._attempts.move_to_end(source)
        return attempts.wait_s(time.monotonic())

    def may_be_told(self) -> bool:
        """Whether one more connection that is turned away may be told so, which costs a handshake."""
        return not self._polite.wait_s(time.monotonic(), self._cost)

    def lost(self, connection: ClientConnection) -> None:
        """Count a connection no longer."""
        source = connection.counted_as
        if source is None:
            return
        connection.counted_as = None
        held = self._connections[source]
        if held > 1:
            self._connections[source] = held - 1
        else:
            del self._connections[source]

"""What a gateway does, from two looks at its metrics, and from what each of its workers tells of its clients."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import Any

from rsws.cli.endpoint import Endpoint
from rsws.cli.exits import ExitCode, Failure
from rsws.cli.gateway_http import decode, get
from rsws.urls import HostPort

WORKERS_ASKED = 16
"""The most requests with which workers are asked for their clients in one look."""
_HINT = (
    "its metrics are not there: a proxy in front keeps them to itself, or they are at --admin; name the gateway's own "
    "address with --url, or that of its --admin with --admin"
)
KEPT_S = 10.0
"""How long what a worker has told counts, as chance decides which one answers."""
SHOWN = 50
"""The most clients, and channels, that are told."""

RATES = {
    "published": ("rsws_publishes_acked_total",),
    "read": ("rsws_entries_read_total",),
    "historyRead": ("rsws_history_entries_read_total",),
    "delivered": ("rsws_messages_delivered_total",),
    "deliveredBytes": ("rsws_delivered_bytes_total",),
    "lagged": ("rsws_subscriptions_lagged_total",),
    "gaps": ("rsws_gaps_total",),
    "notStored": ("rsws_publishes_not_stored_total", "rsws_publishes_unknown_total"),
    "refused": (
        "rsws_clients_turned_away_total",
        "rsws_tokens_refused_total",
        "rsws_origins_refused_total",
        "rsws_address_connections_refused_total",
        "rsws_address_attempts_refused_total",
        "rsws_requests_refused_total",
        "rsws_requests_not_allowed_total",
        "rsws_channels_refused_total",
        "rsws_subscribes_over_rate_total",
        "rsws_publishes_over_rate_total",
        "rsws_publishes_over_bytes_rate_total",
    ),
}
"""What is told of each second, and the counters that it is the sum of."""
_LINE = re.compile(r"^([a-z_]+) ([-+0-9.eE]+)$", re.MULTILINE)
_VERSION = re.compile(r'^rsws_build_info\{version="([^"]*)"\}', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Look:
    """The metrics at one moment."""

    numbers: dict[str, float]
    version: str
    at: float
    """In seconds of the monotonic clock."""

    def value(self, name: str) -> float:
        return self.numbers.get(name, 0.0)

    def per_s(self, names: tuple[str, ...], before: Look) -> float:
        """Return by how much counters have grown in a second since an earlier look."""
        grown = sum(self.value(name) - before.value(name) for name in names)
        return round(max(0.0, grown) / max(self.at - before.at, 1e-3), 3)


@dataclass(slots=True)
class Activity:
    """A gateway that is looked at again and again.

    Args:
        gateway: The gateway.
        admin: Where its metrics are, if not on the port of clients.
    """

    gateway: Endpoint
    admin: HostPort | None = None
    before: Look | None = None
    now: Look | None = None
    _told: dict[int, tuple[float, dict[str, Any]]] = field(default_factory=dict)
    """What each worker has told last, and when."""

    async def look(self) -> None:
        """Look again.

        Raises:
            Failure: The gateway can't be reached, or does not tell.
            Unauthorized: It refuses the token.
        """
        text = await get(self.gateway, "/metrics", "what it does", self.admin, hint=_HINT)
        numbers = {name: float(value) for name, value in _LINE.findall(text)}
        if "rsws_clients" not in numbers:
            raise Failure("what answers there does not tell what it does: is it a gateway?", ExitCode.ERROR)
        version = _VERSION.search(text)
        look = Look(numbers, version[1] if version else "", time.monotonic())
        is_same = self.now is not None and self.now.value(STARTED) == look.value(STARTED)
        self.before = self.now if is_same else None
        self.now = look
        if not is_same:
            self._told.clear()
        workers = int(look.value("rsws_workers"))
        asked = [self._ask() for _ in range(1 if workers <= 1 else min(2 * workers, WORKERS_ASKED))]
        for told in await asyncio.gather(*asked):
            self._told[told["worker"]] = look.at, told
        self._told = {worker: each for worker, each in self._told.items() if look.at - each[0] <= KEPT_S}

    async def _ask(self) -> dict[str, Any]:
        what = "who is connected"
        return decode(await get(self.gateway, "/clients", what), dict[str, Any], what)

    @property
    def slowest(self) -> list[dict[str, Any]]:
        """The clients that lag most."""
        clients = [each for _, told in self._told.values() for each in told["slowest"]]
        endless = float("inf")
        clients.sort(key=lambda each: (endless if each["lag"] is None else each["lag"], each["queuedBytes"]))
        return clients[::-1][:SHOWN]

    @property
    def busiest(self) -> list[dict[str, Any]]:
        """The channels in which most comes; each worker reads those that its own clients have."""
        channels: dict[str, dict[str, Any]] = {}
        for _, told in self._told.values():
            for each in told["busiest"]:
                there = channels.setdefault(each["channel"], each | {"subscribers": 0, "behind": 0, "gaps": 0})
                there["perSecond"] = max(there["perSecond"], each["perSecond"])
                for name in ("subscribers", "behind", "gaps"):
                    there[name] += each[name]
        return sorted(channels.values(), key=lambda each: (-each["perSecond"], -each["subscribers"]))[:SHOWN]

    @property
    def per_s(self) -> dict[str, float]:
        """What happened in a second between the last two looks; zeros where there was one alone."""
        now, before = self.now, self.before
        return {name: now.per_s(counters, before) if now and before else 0.0 for name, counters in RATES.items()}

    def told(self) -> dict[str, Any]:
        """Return all of it, as JSON has it; ``cpu`` in cores."""
        now, before = self.now, self.before
        assert now is not None
        return {
            "url": self.gateway.url,
            "version": now.version,
            "upSeconds": round(max(0.0, time.time() - now.value(STARTED)), 1),
            "redisUp": bool(now.value("rsws_redis_up")),
            "workers": int(now.value("rsws_workers")),
            "workersTold": len(self._told),
            "cpu": now.per_s(("process_cpu_seconds_total",), before) if before else None,
            "clients": int(now.value("rsws_clients")),
            "channels": int(now.value("rsws_channels")),
            "subscriptions": int(now.value("rsws_subscriptions")),
            "behind": int(now.value("rsws_subscriptions_behind")),
            "perSecond": self.per_s,
            "busiest": self.busiest,
            "slowest": self.slowest,
        }


STARTED = "process_start_time_seconds"

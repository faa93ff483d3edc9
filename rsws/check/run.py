"""Runs the checks, and says what they have found."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from rsws.check.findings import EXIT_CODES, Check, Finding, Severity, critical, worst_first
from rsws.check.gateway_checks import GATEWAY_CHECKS, Gateway
from rsws.check.redis_checks import REDIS_CHECKS
from rsws.check.redis_server import NAME, Lost, Plan, Server, open_servers
from rsws.check.round_trip import ROUND_TRIP, RoundTrip
from rsws.redis.target import RedisTarget

CHECKS: list[Check[Any]] = [*GATEWAY_CHECKS, *REDIS_CHECKS, ROUND_TRIP]
"""All checks; beside theirs there are findings named ``redis`` and ``token``: what can't be reached, or let in."""
STEPS = 10
"""How many times as long as an answer may take a whole check may take, which asks more than once."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found."""

    findings: list[Finding]
    """The worst first."""
    fine: list[str]
    """The names of the checks that have found nothing."""
    gateway: str
    """The gateway's URL; empty where it was left out."""
    redis: str
    """Which Redis it was; empty where it was left out."""
    round_trip_s: float | None
    """How long a message took; None where none came."""
    took_s: float

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst finding; None where there is none."""
        return self.findings[0].severity if self.findings else None

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.worst] if self.worst else 0

    @property
    def status(self) -> str:
        """One word for a person or a program: ``ok``, ``warning``, ``critical`` or ``unknown``."""
        return self.worst.value if self.worst and self.exit_code else "ok"

    def count(self, severity: Severity) -> int:
        """Return how many findings have this severity."""
        return sum(each.severity is severity for each in self.findings)


class _Collector:
    """Runs checks, and collects what they find."""

    def __init__(self, skip: Collection[str], timeout_s: float) -> None:
        self.findings: list[Finding] = []
        self.seen: dict[str, bool] = {}
        """Whether a check has found nothing anywhere, by its name."""
        self._skip = skip
        self._timeout_s = timeout_s

    async def run(self, checks: Sequence[Check[Any]], subject: Any, place: str = "") -> None:
        for check in checks:
            if check.name in self._skip:
                continue
            try:
                found = await check.find(subject, self._timeout_s, ends=Lost)
            except Lost as error:
                self.findings.append(replace(critical(str(error), "see its log, and its load"), check=check.name))
                return
            if found is not None:
                self.seen[check.name] = not found and self.seen.get(check.name, True)
                self.findings += [replace(each, places=(place,) if place else ()) for each in found]


async def look(
    gateway: Gateway | None,
    target: RedisTarget | None,
    plan: Plan,
    *,
    channel: str | None = None,
    skip: Collection[str] = (),
) -> Report:
    """Run all checks.

    Args:
        gateway: The gateway to look at; None leaves it out.
        target: The Redis to look at; None leaves it out.
        plan: How the gateway uses Redis, and how long to wait for an answer.
        channel: Where the round trip publishes; None for a channel of its own, which is deleted afterwards.
        skip: The names of the checks to leave out.
    """
    since = time.monotonic()
    collector = _Collector(skip, STEPS * plan.timeout_s)
    servers: list[Server] = []
    async with AsyncExitStack() as stack:
        if target is not None:
            servers, unusable = await open_servers(target, plan)
            for each in servers:
                stack.push_async_callback(each.connection.close)
            collector.findings += [replace(each, check="redis") for each in unusable]
        at_servers = [
            collector.run(REDIS_CHECKS, each, each.target.shown if len(servers) > 1 else "") for each in servers
        ]
        await asyncio.gather(*at_servers, *([collector.run(GATEWAY_CHECKS, gateway)] if gateway else []))
        if gateway is not None and gateway.is_there and gateway.no_token:
            collector.findings.append(replace(critical(*_no_token(gateway)), check="token"))
        mark = secrets.token_hex(8)
        through = gateway if gateway is not None and gateway.is_there and not gateway.no_token else None
        there = [each for each in servers if each.is_there]
        own = f"{NAME}-{mark}"
        own = own if plan.channels is None else plan.channels.with_name(own) or own
        trip = RoundTrip(channel or own, mark, channel is None, through, there, plan.timeout_s)
        await collector.run([ROUND_TRIP], trip)
    names = [each.name for each in CHECKS]
    return Report(
        worst_first(collector.findings, names),
        [name for name in names if collector.seen.get(name)],
        gateway.address.url if gateway is not None else "",
        (target.description if servers else target.shown) if target is not None else "",
        trip.took_s,
        time.monotonic() - since,
    )


def _no_token(gateway: Gateway) -> tuple[str, str]:
    return f"The gateway can't be asked: {gateway.no_token}", "give the token with --token-file or RSWS_TOKEN"

"""``rsws check`` in the test's own process: what it finds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from kit.gateway import KEY, Reachable
from rsws.check.findings import Finding, Severity
from rsws.check.gateway_checks import Gateway
from rsws.check.redis_server import Plan
from rsws.check.run import Report, look
from rsws.datadir import DataDir
from rsws.redis.target import RedisTarget


def gateway_at(url: str, token: str | None = KEY, timeout_s: float = 2) -> Gateway:
    """A gateway to look at."""
    return Gateway(url, token, "" if token else "no token", DataDir(Path("none")), timeout_s)


async def checked(
    redis_url: str | None = None, server: Reachable | None = None, plan: Plan | None = None, **options: Any
) -> Report:
    """Look at Redis, a gateway, or both."""
    plan = plan or Plan(timeout_s=2)
    gateway = gateway_at(server.url) if server is not None else None
    return await look(gateway, RedisTarget(redis_url, plan.timeout_s) if redis_url else None, plan, **options)


def check_redis(redis_url: str, plan: Plan | None = None, **options: Any) -> Report:
    """Look at Redis alone."""
    return asyncio.run(checked(redis_url, plan=plan, **options))


def found(report: Report, check: str) -> list[tuple[Severity, str]]:
    """What a check has found: how bad, and its title."""
    return [(each.severity, each.title) for each in report.findings if each.check == check]


def finding(report: Report, check: str, severity: Severity) -> Finding:
    """The one finding of a check with this severity."""
    [one] = [each for each in report.findings if each.check == check and each.severity is severity]
    return one

"""What a gateway is asked beside the protocol: its plain pages, and what its address and token tell."""

from __future__ import annotations

import ipaddress
import re
import ssl
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from rsws.check.examples import stands_in_examples
from rsws.check.findings import Check, Found, critical, note, unknown, warning
from rsws.check.redis_checks import ALMOST_FULL, clock_findings
from rsws.client.address import Address, explain
from rsws.client.pages import Page, fetch
from rsws.datadir import DataDir
from rsws.settings import MIN_KEY_CHARS
from rsws.urls import HostPort, is_loopback

METRICS = "/metrics"
FEW_FILES = 4096
"""Fewer open files than this leave room for fewer clients than most expect."""
MANY_FAILED = 0.01
"""The share of publishes that failed from which on it is more than an outage now and then."""


@dataclass(slots=True)
class Gateway:
    """The gateway to look at.

    Attributes:
        no_token: Why there is no token; empty where there is one.
        tls: With ``wss://``: which certificates to trust; None for the usual ones.
        admin: Where its metrics are; None where they are at its own address.
        is_there: Whether something answers, as far as it is known.
    """

    url: str
    token: str | None = field(repr=False)
    no_token: str
    data_dir: DataDir
    timeout_s: float
    tls: ssl.SSLContext | None = None
    admin: HostPort | None = None
    is_there: bool = True
    _pages: dict[str, Page] = field(default_factory=dict)

    @property
    def address(self) -> Address:
        return Address.of(self.url, self.token, self.tls)

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "wss" else 80)

    @property
    def is_tls(self) -> bool:
        return urlsplit(self.url).scheme == "wss"

    async def page(self, path: str) -> Page | None:
        """Return a page; None where only a proxy leads to the gateway.

        Raises:
            OSError: Nothing answers.
            ValueError: What answers does not speak HTTP.
        """
        if path not in self._pages:
            if path == METRICS and self.admin is not None:
                self._pages[path] = await fetch(path, self.admin, None, timeout_s=self.timeout_s)
                return self._pages[path]
            if self.address.proxy:
                return None
            tls = (self.tls or ssl.create_default_context()) if self.is_tls else None
            token = self.token if path == METRICS else None
            self._pages[path] = await fetch(path, (self.host, self.port), tls, token=token, timeout_s=self.timeout_s)
        return self._pages[path]

    async def metrics(self) -> dict[str, float]:
        """Return what ``/metrics`` says, without labels; empty where it can't be read."""
        try:
            page = await self.page(METRICS) if self.is_there else None
        except (OSError, ValueError):
            page = None
        text = page.body if page is not None and page.status == 200 else ""
        return {match[1]: float(match[2]) for match in re.finditer(r"^(\w+) ([0-9.e+]+)$", text, re.MULTILINE)}


async def health(gateway: Gateway) -> Found:
    start = "start it (`rsws serve`), or say where it is with --url or RSWS_URL; --no-gateway leaves it out"
    try:
        page = await gateway.page("/readyz")
    except (OSError, ValueError) as error:
        gateway.is_there = False
        return [critical(f"No gateway answers at {gateway.address.url}: {_why(error, gateway)}", start)]
    if page is None:
        return [unknown("Only a proxy leads to the gateway: /readyz and /metrics were not read", "run it beside it")]
    if page.status == 503:
        action = "see its log, which says why, and whether it is meant to use the Redis of this check"
        return [critical(f"The gateway is not ready: {page.body.strip()[:200]}", action, "publishes are refused")]
    if page.status != 200:
        action = "let the proxy in front pass on /readyz and /metrics to whoever may see them, or run this beside it"
        return [unknown(f"/readyz is answered with HTTP status {page.status}", action)]
    return []


async def counters(gateway: Gateway) -> Found:
    said = await gateway.metrics()
    if "rsws_clients" not in said:
        return await _no_metrics(gateway)
    count = {name: int(said.get(f"rsws_{name}_total", 0)) for name in _COUNTERS}
    found = []
    failed, stored = count["publishes_not_stored"] + count["publishes_unknown"], count["publishes_acked"]
    if failed:
        make = warning if failed > MANY_FAILED * stored else note
        title = f"{failed:,} publishes failed since the gateway started, {stored:,} were stored"
        found.append(make(title, "see its log for what Redis has refused, and for outages"))
    if skipped := count["entries_skipped"]:
        action = (
            "write entries as XADD CHANNEL * messageData JSON, or with `rsws xadd`; or name their field with --field"
        )
        found.append(warning(f"{skipped:,} entries were no messages, and nobody got them", action))
    if away := count["clients_turned_away"]:
        action = "raise --max-clients or the limit of open files (ulimit -n), or run another gateway"
        found.append(warning(f"{away:,} clients were turned away for lack of room", action))
    if restarts := count["worker_restarts"]:
        found.append(warning(f"{restarts:,} workers died and were replaced", "see the log for why"))
    if outages := count["redis_outages"]:
        found.append(note(f"{outages:,} outages of Redis since the gateway started", "see its log for why"))
    return found


async def _no_metrics(gateway: Gateway) -> Found:
    """Return why the metrics can't be read; None where that is said already."""
    action = "give --admin as to the gateway"
    if not gateway.is_there:
        return None
    try:
        page = await gateway.page(METRICS)
    except (OSError, ValueError) as error:
        return [unknown(f"The metrics of the gateway were not read: {_why(error, gateway)}", action)]
    if page is None:
        return None
    title = f"The metrics of the gateway were not read: HTTP status {page.status}"
    if page.status in (401, 403, 429):
        action = f"they need the secret key: give that as the token, or {action}"
    return [unknown(title, action)]


def _why(error: OSError | ValueError, gateway: Gateway) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {gateway.timeout_s:g} s"
    return explain(error) if isinstance(error, OSError) else str(error)  # that of a certificate is both


_COUNTERS = (
    "publishes_acked",
    "publishes_not_stored",
    "publishes_unknown",
    "entries_skipped",
    "clients_turned_away",
    "worker_restarts",
    "redis_outages",
)


async def tls(gateway: Gateway) -> Found:
    if gateway.is_tls or is_loopback(gateway.host):
        return []
    try:
        is_public = ipaddress.ip_address(gateway.host).is_global
    except ValueError:
        is_public = False
    title = f"The token goes to {gateway.address.url} without TLS"
    action = "give the gateway a certificate (--tls-cert), or put a proxy with TLS in front, and use wss://"
    why = "whoever can listen on the way reads it, and all messages"
    return [(critical if is_public else warning)(title, action, why)]


async def secret(gateway: Gateway) -> Found:
    token = gateway.token
    if token is None:
        return None
    action = "make one with `rsws token --new-key`, see docs/secrets.md"
    if stands_in_examples(token):
        return [critical("The token is one that anybody would try first", action, "it stands in examples")]
    if len(token) < MIN_KEY_CHARS:
        make = warning if is_loopback(gateway.host) else critical
        return [make(f"The token has less than {MIN_KEY_CHARS} characters", action, "it can be guessed")]
    return []


async def files(gateway: Gateway) -> Found:
    if not is_loopback(gateway.host):
        return None
    limits = [limit for pid in gateway.data_dir.gateway_pids(gateway.port) if (limit := _open_files(pid)) is not None]
    if not limits:
        return None
    limit, clients = min(limits), (await gateway.metrics()).get("rsws_clients", 0)
    action = "raise it where the gateway is started: ulimit -n, LimitNOFILE= of systemd, --ulimit of Docker"
    if clients > ALMOST_FULL * limit:
        title = f"The gateway has {clients:.0f} clients and may open {limit} files"
        return [critical(title, action, "above that it turns clients away")]
    if limit < FEW_FILES:
        return [warning(f"The gateway may open {limit} files only", action, "each client is one")]
    return []


def _open_files(pid: int) -> int | None:
    """Return how many files a process may open; None where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/limits").read_text()
    except OSError:
        return None
    match = re.search(r"^Max open files\s+([0-9]+)", text, re.MULTILINE)
    return int(match[1]) if match else None


async def clock(gateway: Gateway) -> Found:
    page = await gateway.page("/readyz") if gateway.is_there else None
    try:
        told = parsedate_to_datetime(page.headers["Date"]).timestamp() if page is not None else None
    except (TypeError, ValueError):
        told = None
    if page is None or told is None:
        return None
    # The header leaves out the fraction of the second: half a one is added, and may be wrong.
    return clock_findings("The gateway", told + 0.5 - (time.time() - page.age_s / 2), 0.5 + page.age_s / 2)


GATEWAY_CHECKS: list[Check[Gateway]] = [
    Check("health", "a gateway that does not answer or can't reach Redis", health),
    Check("counters", "what was refused or left out since the gateway started", counters),
    Check("gateway-clock", "a clock that differs from this machine's", clock),
    Check("tls", "a token that goes over the network as it is", tls),
    Check("secret", "a token that is an example or short", secret),
    Check("open-files", "room for clients", files),
]

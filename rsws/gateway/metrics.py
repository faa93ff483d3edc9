"""The metrics: the counts of each process of the gateway, and their sum, which ``/metrics`` returns.

Each process has a row of numbers in memory shared by all processes, and is the only one to write it. A worker writes it
every second and whenever its ``/metrics`` is requested, so that the response has its own current numbers and those of
the others from at most a second ago. A process that inherits the row of a dead one continues its counts: a sum never
decreases, though a kill -9 loses what was counted since the row was last written.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal

from rsws.shared import SharedRows, shared_memory

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of Prometheus' text format."""
NANO = 1e-9


@dataclass(frozen=True, slots=True)
class Metric:
    """The description of a number, without its value."""

    name: str
    """The name under which it is exposed."""
    kind: Literal["counter", "gauge"]
    help: str
    scale: float | None = None
    """The factor that converts the number to the unit in its name; None leaves it an integer."""


def counter(name: str, help: str, scale: float | None = None) -> Any:
    """Return a field that only grows; a process continues the count of the dead one that it replaces."""
    return field(default=0, metadata={"metric": Metric(name, "counter", help, scale)})


def gauge(name: str, help: str, scale: float | None = None) -> Any:
    """Return a field that holds a current value, and is 0 once its process is dead."""
    return field(default=0, metadata={"metric": Metric(name, "gauge", help, scale)})


@dataclass(slots=True)
class Metrics:
    """The numbers of one process, which the code that they are about updates directly."""

    clients: int = gauge("rsws_clients", "Clients connected.")
    clients_accepted: int = counter("rsws_clients_accepted_total", "Clients that were let in.")
    clients_turned_away: int = counter("rsws_clients_turned_away_total", "Clients for which there was no room.")
    tokens_refused: int = counter("rsws_tokens_refused_total", "Tokens that were missing or wrong.")
    origins_refused: int = counter("rsws_origins_refused_total", "Requests of pages whose origin is not listed.")
    tls_failures: int = counter("rsws_tls_failures_total", "Connections that did not speak TLS as they should.")
    proxy_headers_refused: int = counter(
        "rsws_proxy_headers_refused_total", "Connections closed for want of a PROXY header from a trusted proxy."
    )
    address_connections_refused: int = counter(
        "rsws_address_connections_refused_total", "Connections refused as their address had too many."
    )
    address_attempts_refused: int = counter(
        "rsws_address_attempts_refused_total", "Connections refused as their address had tried too often."
    )
    handshakes_timed_out: int = counter(
        "rsws_handshakes_timed_out_total", "Connections cut off because they had not sent their request in time."
    )
    headers_too_large: int = counter("rsws_headers_too_large_total", "Requests refused for the size of their headers.")
    subscriptions: int = gauge("rsws_subscriptions", "Subscriptions of the clients connected.")
    subscriptions_behind: int = gauge(
        "rsws_subscriptions_behind", "Subscriptions that read the stream: they join, come back, or lag."
    )
    subscriptions_lagged: int = counter(
        "rsws_subscriptions_lagged_total", "Times a live subscription fell back to reading, as its client was slow."
    )
    channels: int = gauge(
        "rsws_channels", "Channels with subscriptions; one that is open in several workers counts each."
    )
    requests_refused: int = counter("rsws_requests_refused_total", "Requests refused before Redis was asked.")
    requests_not_allowed: int = counter("rsws_requests_not_allowed_total", "Requests that the token does not allow.")
    requests_for_no_channel: int = counter(
        "rsws_requests_for_no_channel_total", "Requests refused as --channels does not name what they are about."
    )
    channels_refused: int = counter(
        "rsws_channels_refused_total", "Subscribes refused as too many channels are followed already."
    )
    subscribes_over_rate: int = counter(
        "rsws_subscribes_over_rate_total", "Subscribes refused as the client had sent too many."
    )
    publishes_over_rate: int = counter(
        "rsws_publishes_over_rate_total", "Publishes refused as the client had sent too many."
    )
    publishes_over_bytes_rate: int = counter(
        "rsws_publishes_over_bytes_rate_total", "Publishes refused as the client had sent too many bytes."
    )
    tokens_ended: int = counter("rsws_tokens_ended_total", "Clients closed because their token came to its end.")
    published: int = counter("rsws_publishes_acked_total", "Publishes that are stored, repeats of a producer included.")
    publishes_not_stored: int = counter(
        "rsws_publishes_not_stored_total", "Publishes that Redis refused, or that were never sent to it."
    )
    publishes_unknown: int = counter(
        "rsws_publishes_unknown_total", "Publishes that may be stored: the link to Redis broke before its answer."
    )
    entries_read: int = counter(
        "rsws_entries_read_total", "Entries read live, in each worker that has the channel open."
    )
    history_entries_read: int = counter(
        "rsws_history_entries_read_total", "Entries read for subscriptions that are behind."
    )
    entries_skipped: int = counter("rsws_entries_skipped_total", "Entries read that are no messages.")
    delivered: int = counter("rsws_messages_delivered_total", "Messages handed to subscriptions.")
    delivered_bytes: int = counter("rsws_delivered_bytes_total", "Bytes of the messages handed to subscriptions.")
    gaps: int = counter("rsws_gaps_total", "Gaps told to subscriptions.")
    redis_up: int = gauge("rsws_redis_up", "1 while every worker can reach Redis and it does its work, else 0.")
    redis_outages: int = counter("rsws_redis_outages_total", "Outages of Redis, as each worker sees them.")
    workers: int = gauge("rsws_workers", "Processes that serve clients.")
    worker_restarts: int = counter("rsws_worker_restarts_total", "Workers started in place of one that died.")
    cpu_ns: int = counter("process_cpu_seconds_total", "CPU seconds used by the gateway's processes.", NANO)
    started_ns: int = gauge("process_start_time_seconds", "When the gateway started, in seconds since 1970.", NANO)


METRICS: dict[str, Metric] = {item.name: item.metadata["metric"] for item in fields(Metrics)}
"""The description of each field of :class:`Metrics`, by field name."""
INFO = Metric("rsws_build_info", "gauge", "1, with the version as a label.")
PRIMARIES = Metric("rsws_redis_primaries", "gauge", "Redis servers that channels are in, as this worker sees it.")
PRIMARY_UP = Metric(
    "rsws_redis_primary_up", "gauge", "1 while this worker can reach this one and it does its work, else 0."
)

_GAUGES = [index for index, metric in enumerate(METRICS.values()) if metric.kind == "gauge"]
_CLIENTS = list(METRICS).index("clients")
_ROW = len(METRICS) + 1
"""The length of a row: the metrics, and the number of times the row was written."""


class SharedMetrics:
    """The metrics of all processes of a gateway, of which this process writes its own row.

    Args:
        rows: The number of processes.
        own: The row of this process; 0 for the first process, with which the gateway starts.
        descriptor: The file descriptor from :meth:`memory` for that many rows; -1 for a gateway of one process.

    Attributes:
        metrics: This process's own numbers.
        shared: Whether there are other processes.
        number: The row of this process.
    """

    def __init__(self, rows: int = 1, own: int = 0, descriptor: int = -1) -> None:
        self._rows = SharedRows(rows, _ROW, descriptor)
        self._own = self._rows.row(own)
        self.metrics = Metrics(*self._own[:-1])
        self._cpu_before_ns = self.metrics.cpu_ns
        self.shared = rows > 1
        self.number = own
        if own == 0:
            self.metrics.started_ns = time.time_ns()

    @staticmethod
    def memory(rows: int) -> int:
        """See :func:`rsws.shared.shared_memory`."""
        return shared_memory(rows, _ROW)

    def publish(self) -> None:
        """Write this process's row."""
        self.metrics.cpu_ns = self._cpu_before_ns + time.process_time_ns()
        for index, value in enumerate(astuple(self.metrics)):
            self._own[index] = value
        self._own[-1] += 1

    def publish_clients(self, clients: int) -> None:
        """Write the number of clients immediately: the limit for all processes together is checked against it."""
        self.metrics.clients = self._own[_CLIENTS] = clients

    @property
    def clients(self) -> int:
        """The number of clients of all processes."""
        return self._rows.total(_CLIENTS)

    def times_written(self, row: int) -> int:
        """Return how often a row was written: as long as that grows, its process is alive."""
        return self._rows.row(row)[-1]

    def retire(self, row: int) -> None:
        """Set the gauges of a dead process's row to 0, and keep its counters."""
        numbers = self._rows.row(row)
        for index in _GAUGES:
            numbers[index] = 0

    def total(self) -> Metrics:
        """Return the sum over all processes."""
        total = Metrics(*self._rows.totals()[:-1])
        total.redis_up = int(total.redis_up == total.workers)
        return total

    def text(self) -> str:
        """Return the sum over all processes in Prometheus' text format."""
        lines = [*_head(INFO), f'{INFO.name}{{version="{_version()}"}} 1']
        for metric, value in zip(METRICS.values(), astuple(self.total()), strict=True):
            shown = value if metric.scale is None else f"{value * metric.scale:.3f}"
            lines += [*_head(metric), f"{metric.name} {shown}"]
        return "\n".join(lines) + "\n"


def primaries_text(primaries: Mapping[str, bool]) -> str:
    """Return the metrics of Redis' primaries, each named with whether it is up, in Prometheus' text format."""
    each = [f'{PRIMARY_UP.name}{{primary="{name}"}} {int(is_up)}' for name, is_up in sorted(primaries.items())]
    return "\n".join([*_head(PRIMARIES), f"{PRIMARIES.name} {len(primaries)}", *_head(PRIMARY_UP), *each]) + "\n"


def _head(metric: Metric) -> tuple[str, str]:
    return f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"


@lru_cache
def _version() -> str:
    return version("rsws")

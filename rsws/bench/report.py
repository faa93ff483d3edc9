"""The result of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rsws.bench.counters import Count
from rsws.bench.histogram import Histogram
from rsws.bench.plan import Findings, Plan, Workload
from rsws.errors import RswsError

BUSY = 0.9
"""The share of the time from which on a process counts as fully busy."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a run."""

    plan: Plan
    counts: list[int]
    """The counts of all processes together, indexed by :class:`Count`."""
    findings: Findings
    """The findings of all processes together."""
    interrupted: bool = False

    @property
    def failure(self) -> RswsError | None:
        """The error that has ended the run early; None when there was none."""
        return None if self.findings.fault is None else self.findings.fault.error()

    @property
    def is_right(self) -> bool:
        """Whether nothing was lost, duplicated, reordered or foreign; outstanding and unknown ones say nothing."""
        return not any(self.faults.values())

    @property
    def faults(self) -> dict[str, int]:
        """The number of messages for each kind of fault in their delivery."""
        found = self.findings
        return {
            "lost": found.lost,
            "duplicated": found.duplicated,
            "reordered": found.reordered,
            "foreign": found.foreign,
        }

    @property
    def bottleneck(self) -> str | None:
        """What may have been the limit in place of the server: the ``benchmark``, its ``machine``, or None."""
        if self.findings.cpu >= BUSY:
            return "benchmark"
        return "machine" if self.findings.cpu + self.findings.waiting >= BUSY else None

    def per_second(self, count: int) -> float:
        seconds = self.findings.seconds
        return count / seconds if seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        plan, found, counts = self.plan, self.findings, self.counts
        connected, published, delivered = counts[Count.CONNECTED], counts[Count.PUBLISHED], counts[Count.DELIVERED]
        return {
            "work": plan.workload,
            "url": plan.url,
            "clients": plan.clients,
            "publishers": plan.publishers,
            "processes": plan.processes,
            "size": plan.size_bytes,
            "window": plan.window,
            "rate": plan.rate,
            "kill_every": plan.kill_every_s,
            "channels": plan.pattern,
            "ended": "interrupted" if self.interrupted else str(self.failure or "done"),
            "seconds": round(found.seconds, 3),
            "connected": connected,
            "published": published,
            "acked": counts[Count.ACKED],
            "refused": found.refused,
            "refusal": found.refusal or None,
            "refusal_code": found.refusal_code or None,
            "unknown": found.unknown,
            "delivered": delivered,
            "bytes": counts[Count.BYTES],
            "rounds": found.rounds,
            "connected_per_s": self._rate(connected, Workload.CONNECT),
            "published_per_s": self._rate(published, Workload.FANOUT, Workload.PAIRS),
            "delivered_per_s": self._rate(delivered, *Workload),
            "bytes_per_s": round(self.per_second(counts[Count.BYTES])),
            "cuts": counts[Count.CUTS],
            **self.faults,
            "outstanding": found.outstanding,
            "gaps": found.gaps,
            "latency_ms": {name: _summary(histogram) for name, histogram in sorted(found.latencies.items())},
            "cpu": round(found.cpu, 3),
            "cpu_waiting": round(found.waiting, 3),
            "bottleneck": self.bottleneck,
        }

    def _rate(self, count: int, *measured_by: Workload) -> float | None:
        return round(self.per_second(count), 1) if self.plan.workload in measured_by else None


def _summary(histogram: Histogram) -> dict[str, float]:
    values = {name: histogram.quantile_us(share) for name, share in QUANTILES.items()}
    values = {"min": histogram.min_us, "mean": histogram.mean_us} | values | {"max": histogram.max_us}
    return {"count": histogram.count} | {name: round(value / 1000, 3) for name, value in values.items()}

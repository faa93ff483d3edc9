"""What a run has shown: the sum of what its processes say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rsws.bench.counters import Count
from rsws.bench.histogram import Histogram
from rsws.bench.link import Result
from rsws.bench.plan import Plan, Work
from rsws.errors import RswsError

BUSY = 0.9
"""Share of the time from which on a process could do no more."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run has shown."""

    plan: Plan
    seconds: float
    """How long it was measured; 0 where it ended before."""
    counts: list[int]
    """By :class:`Count`."""
    lost: int
    duplicated: int
    reordered: int
    foreign: int
    outstanding: int
    """Messages that had not come when the run was ended early."""
    gaps: int
    refused: int
    refusal: str
    """What the first refused publish was refused with, and the ``code`` of it; empty where there is none."""
    refusal_code: str
    unknown: int
    rounds: int
    cpu: float
    """Share of the time in which the busiest process has computed."""
    waiting: float
    """Share of the time in which that process waited for a CPU."""
    latencies: dict[str, Histogram] = field(default_factory=dict)
    interrupted: bool = False
    failure: RswsError | None = None
    """What has ended it early."""

    @classmethod
    def of(
        cls, plan: Plan, counts: list[int], results: Iterable[Result], *, interrupted: bool, failure: RswsError | None
    ) -> Report:
        """The sum."""
        results = list(results)
        findings = [result.findings for result in results]
        latencies: dict[str, Histogram] = {}
        for result in results:
            for name, packed in result.latencies.items():
                latencies.setdefault(name, Histogram()).merge(packed)
        busiest = max(findings, key=lambda each: each.cpu + each.waiting, default=None)
        return cls(
            plan=plan,
            counts=counts,
            seconds=max((each.seconds for each in findings), default=0.0),
            lost=sum(each.lost for each in findings),
            duplicated=sum(each.duplicated for each in findings),
            reordered=sum(each.reordered for each in findings),
            outstanding=sum(each.outstanding for each in findings),
            rounds=sum(each.rounds for each in findings),
            foreign=sum(result.foreign for result in results),
            gaps=sum(result.gaps for result in results),
            refused=sum(result.refused for result in results),
            refusal=next((result.refusal for result in results if result.refusal), ""),
            refusal_code=next((result.refusal_code for result in results if result.refusal), ""),
            unknown=sum(result.unknown for result in results),
            cpu=busiest.cpu if busiest else 0.0,
            waiting=busiest.waiting if busiest else 0.0,
            latencies=latencies,
            interrupted=interrupted,
            failure=failure,
        )

    @property
    def is_right(self) -> bool:
        """Whether every message came once and in order."""
        return not (self.lost or self.duplicated or self.reordered or self.foreign)

    @property
    def bottleneck(self) -> str | None:
        """What else than the server may have been the limit: the ``benchmark`` itself, or its ``machine``."""
        if self.cpu >= BUSY:
            return "benchmark"
        return "machine" if self.cpu + self.waiting >= BUSY else None

    def per_second(self, count: int) -> float:
        return count / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        plan = self.plan
        published, delivered = self.counts[Count.PUBLISHED], self.counts[Count.DELIVERED]
        return {
            "work": plan.work,
            "url": plan.url,
            "clients": plan.clients,
            "publishers": plan.publishers,
            "processes": plan.processes,
            "size": plan.size_bytes,
            "window": plan.window,
            "rate": plan.rate,
            "kill_every": plan.kill_every_s,
            "channels": plan.pattern,
            "ended": "interrupted" if self.interrupted else str(self.failure) if self.failure else "done",
            "seconds": round(self.seconds, 3),
            "connected": self.counts[Count.CONNECTED],
            "published": published,
            "acked": self.counts[Count.ACKED],
            "refused": self.refused,
            "refusal": self.refusal or None,
            "refusal_code": self.refusal_code or None,
            "unknown": self.unknown,
            "delivered": delivered,
            "bytes": self.counts[Count.BYTES],
            "rounds": self.rounds,
            "connected_per_s": self._rate(self.counts[Count.CONNECTED], plan.work is Work.CONNECT),
            "published_per_s": self._rate(published, plan.work in (Work.FANOUT, Work.PAIRS)),
            "delivered_per_s": round(self.per_second(delivered), 1),
            "bytes_per_s": round(self.per_second(self.counts[Count.BYTES])),
            "cuts": self.counts[Count.CUTS],
            "lost": self.lost,
            "duplicated": self.duplicated,
            "reordered": self.reordered,
            "foreign": self.foreign,
            "outstanding": self.outstanding,
            "gaps": self.gaps,
            "latency_ms": {name: _summary(histogram) for name, histogram in sorted(self.latencies.items())},
            "cpu": round(self.cpu, 3),
            "cpu_waiting": round(self.waiting, 3),
            "bottleneck": self.bottleneck,
        }

    def _rate(self, count: int, is_measured: bool) -> float | None:
        return round(self.per_second(count), 1) if is_measured else None


def _summary(histogram: Histogram) -> dict[str, float]:
    values = {name: histogram.quantile_us(share) for name, share in QUANTILES.items()}
    values = {"min": histogram.min_us, "mean": histogram.mean_us} | values | {"max": histogram.max_us}
    return {"count": histogram.count} | {name: round(value / 1000, 3) for name, value in values.items()}

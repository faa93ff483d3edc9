"""What is shipped for Prometheus and Grafana asks for metrics that there are."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from kit.fronts import DEPLOY
from rsws.gateway.metrics import INFO, METRICS, PRIMARIES, PRIMARY_UP

THERE = {metric.name for metric in (INFO, *METRICS.values(), PRIMARIES, PRIMARY_UP)}
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana.json").read_text())


def metrics_in(expression: str) -> set[str]:
    """The metrics that an expression of PromQL asks for."""
    bare = re.sub(r"\{.*?\}|\[.*?\]|\b(?:by|without) \(.*?\)", "", expression)
    return set(re.findall(r"\b[a-z]\w*\b(?! *\()", bare)) - {"and", "or", "unless"}


def test_alerts() -> None:
    assert len(ALERTS) == 5
    for rule in ALERTS:
        assert rule["alert"].startswith("Rsws")
        assert re.fullmatch(r"\d+[sm]", rule["for"])
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "action"}
        assert metrics_in(rule["expr"])
        assert metrics_in(rule["expr"]) <= THERE | {"up"}  # that one is Prometheus' own


def test_dashboard() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    shown = [metrics_in(target["expr"]) for panel in panels for target in panel["targets"]]
    assert all(shown)
    assert set().union(*shown) <= THERE
    variables = {f"${variable['name']}" for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\w+", "".join(target["expr"] for panel in panels for target in panel["targets"])))
    assert used - {"$__rate_interval"} <= variables

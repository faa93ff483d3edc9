"""Prometheus' text format, read strictly."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.request import urlopen

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SAMPLE = re.compile(rf'({_NAME})(\{{{_NAME}="[^"\\\n]*"(?:,{_NAME}="[^"\\\n]*")*\}})? (\S+)')


class Scrape(NamedTuple):
    """What ``/metrics`` said."""

    values: dict[str, float]
    """Name, with labels if there are any -> value."""
    types: dict[str, str]


def parse(text: str) -> Scrape:
    """Each metric has one HELP, one TYPE and one sample, in this order, and the last line ends as all others do."""
    assert text.endswith("\n")
    lines = text.removesuffix("\n").split("\n")
    values: dict[str, float] = {}
    types: dict[str, str] = {}
    assert len(lines) % 3 == 0
    for help_line, type_line, sample_line in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        sample = _SAMPLE.fullmatch(sample_line)
        assert sample is not None, sample_line
        name, labels, value = sample.groups(default="")
        said = re.fullmatch(rf"# HELP {name} ([^\\]+)", help_line)
        assert said is not None, help_line
        kind = re.fullmatch(rf"# TYPE {name} (counter|gauge)", type_line)
        assert kind is not None, type_line
        assert name not in types
        assert (kind[1] == "counter") == name.endswith("_total")
        types[name] = kind[1]
        values[name + labels] = float(value)
    return Scrape(values, types)


def scrape(url: str, key: str = "") -> dict[str, float]:
    """The values that the gateway at ``url`` (``ws://HOST:PORT``) exposes now."""
    with urlopen(f"{url.replace('ws', 'http', 1)}/metrics?token={key}", timeout=5) as response:
        assert response.headers.get_all("Content-Type") == ["text/plain; version=0.0.4; charset=utf-8"]
        return parse(response.read().decode()).values

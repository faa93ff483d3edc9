"""A foreign suite, the quick half of ``prove.py conformance``."""

from __future__ import annotations

from pathlib import Path

from kit.durable_streams import Found, conformance
from kit.support import RedisServer


def test_what_applies_passes(redis_server: RedisServer, tmp_path: Path) -> None:
    assert conformance(redis_server, tmp_path, "Property-Based Tests", "Chunking") == Found(338, 129, 209, [])

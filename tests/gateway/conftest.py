"""Fixtures of the tests of the gateway."""

from __future__ import annotations

import pytest

from kit import gateway as gateway_kit
from kit.gateway import LOOPS


@pytest.fixture(params=LOOPS)
def event_loop_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both event loops that a gateway may run on, one after the other; each test that uses it runs on them."""
    kind: str = request.param
    monkeypatch.setattr(gateway_kit, "new_loop", LOOPS[kind])
    return kind

"""Fixtures of the tests of the client."""

from __future__ import annotations

import pytest

from rsws.client import subscription


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscribe that Redis was away for is tried again soon."""
    monkeypatch.setattr(subscription, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(subscription, "MAX_RETRY_S", 0.05)

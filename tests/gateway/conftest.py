"""Fixtures of the tests of the gateway."""

from __future__ import annotations

import pytest

from kit import gateway as gateway_kit
from kit.gateway import LOOPS
from rsws.gateway.websocket.connection import ClientConnection


@pytest.fixture(params=LOOPS)
def event_loop_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both event loops that a gateway may run on, one after the other; each test that uses it runs on them."""
    kind: str = request.param
    monkeypatch.setattr(gateway_kit, "new_loop", LOOPS[kind])
    return kind


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What gateways have read of their clients so far, piece by piece."""
    pieces: list[bytes] = []
    data_received = ClientConnection.data_received

    def noted(self: ClientConnection, data: bytes) -> None:
        data_received(self, data)
        pieces.append(data)

    monkeypatch.setattr(ClientConnection, "data_received", noted)
    return pieces

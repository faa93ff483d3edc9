"""What is tried again waits longer each time."""

from __future__ import annotations

from itertools import islice

import pytest

from rsws.backoff import Backoff


def test_waits_double_up_to_the_longest() -> None:
    assert [*islice(Backoff(0.1, 2.0).waits_s(), 7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


@pytest.mark.parametrize(("failures", "wait_s"), [(-1, 0.0), (0, 0.0), (1, 0.1), (10**9, 5.0)])
def test_any_number_of_failures_will_do(failures: int, wait_s: float) -> None:
    assert Backoff(0.1, 5.0).wait_s(failures) == wait_s


@pytest.mark.parametrize("least", [0.0, 0.5])
def test_what_is_left_to_chance_is_spread_over_all_of_it(least: float) -> None:
    waits = [Backoff(0.1, 5.0, least).wait_s(3) for _ in range(300)]
    spread = (1 - least) * 0.4 / 4
    assert 0.4 * least <= min(waits) < 0.4 * least + spread
    assert 0.4 - spread < max(waits) <= 0.4

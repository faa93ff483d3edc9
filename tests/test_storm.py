"""The simulation of a reconnect storm: what it says depends on its seed alone, and it finds what it is for."""

from __future__ import annotations

import random

import pytest
from storm import FIXED, RSWS, SAME, Event, Fleet, Habit, simulate

FLEET = Fleet(gateways=6, workers=2, clients=4000, primaries=2, scale=8)


def test_the_same_seed_gives_the_same_storm_and_another_one_another() -> None:
    event = Event("", "zone", RSWS)
    first, again, other = (simulate(FLEET, event, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_chances_of_others_stay_as_they_were() -> None:
    random.seed(3)
    expected = random.random()
    random.seed(3)
    simulate(FLEET, Event("", "gateway", RSWS), 1)
    assert random.random() == expected


@pytest.mark.parametrize("habit", [RSWS, SAME, FIXED])
@pytest.mark.parametrize("kind", ["gateway", "zone", "deploy"])
def test_every_client_is_live_again(kind: str, habit: Habit) -> None:
    result = simulate(FLEET, Event("", kind, habit), 1)
    assert result.never == 0
    assert result.max_s < 20


def test_without_chance_all_come_in_the_same_moment() -> None:
    spread, together = (simulate(FLEET, Event("", "zone", habit), 1) for habit in (RSWS, SAME))
    assert together.burst > 5 * spread.burst


def test_clients_for_which_there_is_no_room_stay_away() -> None:
    result = simulate(FLEET, Event("", "zone", RSWS, room=1.25), 1)
    assert result.never == 6 * 4000 - 4 * 5000
    assert result.crowd == 1.25


def test_a_drain_spreads_the_return_over_its_time() -> None:
    together, drained = (simulate(FLEET, Event("", "deploy", RSWS, drain_s=drain_s), 1) for drain_s in (0, 20))
    assert drained.connects_per_s < together.connects_per_s / 5
    assert drained.p50_s < 0.1


def test_chance_crowds_the_gateway_that_is_restarted_last() -> None:
    """Each restart adds a share to those that wait for theirs: by (1 + 1/5) five times over."""
    chance, fewest = (simulate(FLEET, Event("", "deploy", RSWS, drain_s=5, least=least), 1) for least in (False, True))
    assert chance.crowd == pytest.approx(1.2**5, rel=0.15)
    assert fewest.crowd < 1.3

"""What is asked for after a connection broke."""

from __future__ import annotations

from rsws.streams.caution import LEAST_BYTES, Caution

USUAL = 256 * 1024


def test_one_entry_at_a_time_while_they_are_large() -> None:
    caution = Caution(USUAL)
    assert caution.is_over
    caution.broke(USUAL)
    for _ in range(100):
        assert caution.room_bytes == 1
        caution.worked(1_000_000)


def test_more_again_once_it_works() -> None:
    caution = Caution(USUAL)
    caution.broke(USUAL)
    rooms = []
    while not caution.is_over:
        caution.worked(100)
        rooms.append(caution.room_bytes)
    assert rooms == sorted(rooms)
    assert rooms[6] == USUAL // 2
    assert 10 < len(rooms) < 100
    caution.worked(1_000_000)  # such as may have broken it
    assert caution.room_bytes == 1


def test_less_than_what_broke_it() -> None:
    caution = Caution(USUAL)
    for most in (USUAL // 2, USUAL // 4, USUAL // 8):
        caution.broke(caution.room_bytes)
        for _ in range(8):
            caution.worked(100)
        assert caution.room_bytes == most
    for _ in range(20):
        caution.broke(caution.room_bytes)
        for _ in range(8):
            caution.worked(100)
    assert caution.room_bytes == LEAST_BYTES


def test_reads_that_broke_together_count_once() -> None:
    caution = Caution(USUAL)
    for _ in range(16):
        caution.broke(USUAL)
    assert not caution.is_hopeless


def test_an_entry_that_breaks_it_alone() -> None:
    caution = Caution(USUAL)
    caution.broke(USUAL)
    caution.broke(1)
    caution.worked(1_000_000)
    caution.broke(1)
    assert not caution.is_hopeless
    caution.broke(1)
    assert caution.is_hopeless
    caution.worked(1_000_000)
    assert not caution.is_hopeless

"""What ``tests/prove.py move`` shows with a million entries, with ten thousand."""

from __future__ import annotations

from kit.proofs.moving import MOST_MIB, move_all


def test_each_entry_is_dumped_restored_and_copied_once() -> None:
    for moved in move_all(10_000, interrupt=False):
        assert (moved.lost, moved.other) == (0, 0), moved
        assert moved.entries >= 10_000, moved
        assert moved.peak_mib < MOST_MIB, moved

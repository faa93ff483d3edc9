"""What ``tests/prove.py move`` shows with a million entries, with three thousand."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from kit.proofs.moving import MOST_MIB, move_all

ENTRIES = 3_000


def test_each_entry_is_dumped_restored_and_copied_once() -> None:
    # Linux counts the memory of whoever starts a process as its peak, and the process of the tests has grown.
    with ProcessPoolExecutor(1, get_context("spawn")) as small:
        found = small.submit(move_all, ENTRIES, interrupt=False).result()
    for moved in found:
        assert (moved.lost, moved.other) == (0, 0), moved
        assert moved.entries >= ENTRIES, moved
        assert moved.peak_mib < MOST_MIB, moved

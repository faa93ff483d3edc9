"""Proof that no order of events makes a subscription miss, repeat or reorder a message."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from kit.interleavings import Violation, search, small_world
from kit.proofs.proof import Proof

WORLDS: list[tuple[dict[str, Any], int]] = [
    *(({"faults": faults}, depth) for faults, depth in (("", 8), ("trim interrupt", 6), ("reset", 7))),
    *(({"faults": faults}, depth) for faults, depth in (("trim interrupt reset", 5), ("shrink", 7))),
    *(({"together": True, "faults": faults}, depth) for faults, depth in (("", 8), ("trim interrupt", 6))),
    ({"together": True, "faults": "reset"}, 6),
    *(({"ends": (2, 4), "faults": faults}, depth) for faults, depth in (("", 7), ("trim interrupt", 5), ("reset", 6))),
]
"""How each world begins, and how many events away from there all others are visited."""


async def interleavings(proof: Proof) -> None:
    """Every order of 5 to 8 events in small worlds of one channel and its clients, with trims, resets and ends."""
    proof.total(len(WORLDS))
    visited, violations = 0, []
    for beginning, depth in WORLDS:
        try:
            visited += await asyncio.to_thread(search, depth, partial(small_world, **beginning))
        except Violation as violation:
            violations.append(f"{beginning}: {violation}")
        proof.advance()
    proof.figure("worlds visited", visited, "> 60,000", visited > 60_000)
    proof.none("\n".join(["worlds in which something is missed, repeated or reordered", *violations]), len(violations))

"""Proof that a page gets every message once, in order, and publishes each once."""

from __future__ import annotations

import random

from kit.page import EVENT_SOURCE, RSWS_JS, Script, storm
from kit.proofs.proof import Proof


async def page(proof: Proof) -> None:
    """rsws.js in Chromium with 20 channels: the gateway killed, the network cut, the page frozen x 10."""
    await through_a_storm(proof, RSWS_JS, silences=3)


async def event_source(proof: Proof) -> None:
    """EventSource in Chromium with 20 channels, and fetch that publishes: the same."""
    await through_a_storm(proof, EVENT_SOURCE)


async def through_a_storm(proof: Proof, script: Script, silences: int = 0) -> None:
    kills, cuts, freezes = 10, 10, 10
    proof.total(kills + cuts + freezes + silences)
    found = await storm(
        random.Random(proof.seed),
        channels=20,
        kills=kills,
        cuts=cuts,
        freezes=freezes,
        silences=silences,
        pause_s=2,
        script=script,
        done=proof.advance,
    )
    proof.figure("messages to the page", found.written, "> 10,000", found.written > 10_000)
    proof.figure("publishes of the page, acked", found.published, "> 500", found.published > 500)
    ended = kills + cuts + silences
    proof.figure("connected again", found.reconnected, f">= {ended}", found.reconnected >= ended)
    for what, count in (
        ("lost", found.lost),
        ("repeated", found.repeated),
        ("channels out of order", found.reordered),
        ("gaps", found.gaps),
        ("after close()", found.after_close),
        ("publishes stored twice", found.stored_twice),
        ("acks of what is not stored", found.false_acks),
        ("publishes not acked", len(found.failed)),
    ):
        proof.none(what, count)

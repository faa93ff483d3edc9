"""Proof that ``rsws sub --state`` loses nothing, whenever it is killed."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from kit.cli import serving
from kit.consumers import kill_executing, kill_printing
from kit.proofs.proof import CHANNEL, Proof
from kit.support import RedisServer


async def sub_killed(proof: Proof) -> None:
    """kill -9 of `rsws sub --state` x 50 while it prints, and x 50 while it runs commands (`--exec`)."""
    kills = 50
    proof.total(2 * kills)
    channels = [f"{CHANNEL}-{number}" for number in range(3)]
    with RedisServer() as redis, serving(redis.url) as gateway:
        for how, kill in (("printed", kill_printing), ("executed", kill_executing)):
            with tempfile.TemporaryDirectory() as directory:
                found = await asyncio.to_thread(
                    kill,
                    redis,
                    gateway,
                    [f"{how}-{channel}" for channel in channels],
                    Path(directory),
                    kills=kills,
                    seed=proof.seed,
                    killed=proof.advance,
                )
            proof.figure(f"{how}: messages", found.messages, "> 500", found.messages > 500)
            proof.figure(f"{how}: of them again", found.printed - found.messages + found.lost, "", True)
            proof.none(f"{how}: lost", found.lost)
            if kill is kill_printing:
                proof.none(f"{how}: out of order", found.reordered)
            proof.none(f"{how}: positions ahead of that", found.ahead)

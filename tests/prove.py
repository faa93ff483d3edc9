"""The long proofs of the delivery promise: each figure of docs/guarantees.md, measured.

    .venv/bin/python tests/prove.py              # all of them
    .venv/bin/python tests/prove.py herd joins   # these
    .venv/bin/python tests/prove.py hostile:pings,names  # some rows of a proof that has some
    .venv/bin/python tests/prove.py --seed 7     # with the same random numbers again
    .venv/bin/python tests/prove.py --list

Needs nothing but the test dependencies: it starts its own servers, on ports of its own. Prints a table with the seed in
its title; the exit code is 1 when a figure was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import uvloop
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from kit.hostile import hostile
from kit.proofs import cluster
from kit.proofs.bad_input import bad_input, fuzz
from kit.proofs.console import console
from kit.proofs.consuming import sub_killed
from kit.proofs.crowd import crowd
from kit.proofs.delivery import bad_key, gateway_killed, herd, joins, sleeper
from kit.proofs.failover import demoted, sentinel
from kit.proofs.interleavings import interleavings
from kit.proofs.listing import listed
from kit.proofs.moving import move
from kit.proofs.page import event_source, page
from kit.proofs.plain_http import conformance, curl, published_twice
from kit.proofs.proof import Figure, Proof
from kit.proofs.publishing import redis_killed, redis_paused, reply_cut

PROOFS: dict[str, Callable[[Proof], Awaitable[None]]] = {
    "reply-cut": reply_cut,
    "redis-killed": redis_killed,
    "redis-paused": redis_paused,
    "gateway-killed": gateway_killed,
    "sleeper": sleeper,
    "joins": joins,
    "bad-key": bad_key,
    "herd": herd,
    "interleavings": interleavings,
    "bad-input": bad_input,
    "fuzz": fuzz,
    "hostile": hostile,
    "crowd": crowd,
    "demoted": demoted,
    "sentinel": sentinel,
    "page": page,
    "event-source": event_source,
    "curl": curl,
    "published-twice": published_twice,
    "conformance": conformance,
    "console": console,
    "sub-killed": sub_killed,
    "move": move,
    "ls": listed,
    "cluster-failover": cluster.failover,
    "cluster-reshard": cluster.reshard,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="The long proofs of the delivery promise.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones (default: all)")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().getrandbits(32), help="take these random numbers"
    )
    parser.add_argument("--list", action="store_true", help="say which there are")
    arguments = parser.parse_args()
    console = Console()
    if arguments.list:
        for name, prove in PROOFS.items():
            console.print(f"{name:15} {prove.__doc__}", highlight=False)
        return 0
    unknown = [name for name in arguments.names if name.partition(":")[0] not in PROOFS]
    if unknown:
        parser.error(f"no proof is called {', '.join(unknown)}; there are {', '.join(PROOFS)}")
    figures: list[Figure] = []
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:15}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress, ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        for name in arguments.names or PROOFS:
            proof = Proof(name, arguments.seed, progress, figures)
            try:
                runner.run(as_coroutine(PROOFS[proof.name], proof))
            except Exception as error:  # a proof that breaks off is one more figure missed, and the others go on
                console.print_exception()
                figures.append(Figure(name, f"broken off: {type(error).__name__}", "", "", False))
            proof.finished()
    table = Table("proof", "figure", "measured", "wanted", "", title=f"seed {arguments.seed}")
    for figure in figures:
        mark = "[green]ok[/]" if figure.reached else "[bold red]MISSED[/]"
        table.add_row(
            figure.proof,
            escape(figure.what),
            figure.measured,
            figure.wanted,
            mark if figure.wanted or not figure.reached else "",
        )
    console.print(table)
    return int(not all(figure.reached for figure in figures))


async def as_coroutine(prove: Callable[[Proof], Awaitable[None]], proof: Proof) -> None:
    await prove(proof)


if __name__ == "__main__":
    sys.exit(main())

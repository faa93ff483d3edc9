"""Counts the instructions of the hot paths of micro.py with valgrind, and compares them with those that are kept.

    python benchmarks/instructions.py [NAME ...] [--compare | --keep] [--json]

Nothing else on the machine disturbs such a count: in the same folder it repeats to 0.1 %, in another to 1 %. The
build of Python and the libraries do, so the figures in instructions.json are compared in the environment that they were
counted in and in no other;
``.ci/speed`` makes it. ``--compare`` exits with 1 when a piece takes more or less than what is kept, with 2 when that
can't be told here.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from micro import PIECES, Gateway, Piece, log_as_a_gateway, yardstick

KEPT = Path(__file__).with_suffix(".json")
LIBRARIES = Path(__file__).with_name("requirements.txt")
TOLERANCE = 0.03
"""The share by which a figure may differ from the kept one. In another folder a hot path differs by less than 1 %."""
BLOCKS = 3
BLOCK_UNITS = 320
MARK = "getpriority"
"""A function of the C library that nothing here calls: at each call valgrind writes down what it counted."""

COUNTED = {"yardstick": yardstick, **PIECES}


# --- inside of valgrind ---


async def block(piece: Piece) -> int:
    units = 0
    while units < BLOCK_UNITS:
        units += await piece()
    return units


async def run(names: list[str]) -> None:
    """Do blocks of each piece with a mark before and after each block; print how many units a block has."""
    # On a slow machine more timers are due, and that costs instructions: here, time passes as often as it is looked at.
    time.monotonic = itertools.count(1.0, 1e-6).__next__
    units = {}
    async with asyncio.TaskGroup() as tasks:
        for name in names:
            gateway = Gateway(tasks)
            piece = COUNTED[name](gateway)
            await block(piece)  # until Python has adapted its code
            gc.collect()
            gc.disable()
            for _ in range(BLOCKS):
                os.getpriority(os.PRIO_PROCESS, 0)
                units[name] = await block(piece)
            os.getpriority(os.PRIO_PROCESS, 0)
            gc.enable()
            gateway.running.cancel()
    print(json.dumps(units))


# --- around it ---


def count(names: list[str]) -> dict[str, int]:
    """Instructions for one unit of each piece, the median of its blocks."""
    with tempfile.TemporaryDirectory() as directory:
        options = [f"--callgrind-out-file={directory}/out", f"--dump-before={MARK}"]
        command = ["valgrind", "--tool=callgrind", *options, sys.executable, __file__, "--run", *names]
        done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        dumps = sorted(Path(directory).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        totals = iter([int(re.findall(r"^totals: (\d+)", path.read_text(), re.MULTILINE)[0]) for path in dumps])
    figures = {}
    for name, units in json.loads(done.stdout).items():
        next(totals)  # what came before its first mark
        figures[name] = round(statistics.median([next(totals) for _ in range(BLOCKS)]) / units)
    return figures


def environment() -> str:
    """What the figures depend on, besides rsws."""
    names = [line.partition("==")[0] for line in LIBRARIES.read_text().splitlines()]
    python = f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()})"
    return ", ".join([python, platform.machine(), *(f"{name} {version(name)}" for name in names)])


def compare(figures: dict[str, int], kept: dict[str, int]) -> bool:
    """Print both beside each other; whether all are within the tolerance."""
    changes = {name: figure / kept[name] - 1 for name, figure in figures.items()}
    for name, change in changes.items():
        differs = "" if abs(change) <= TOLERANCE else "   MORE" if change > 0 else "   less"
        print(f"{name:10}{figures[name]:>10,} instructions, {kept[name]:>10,} kept, {change:+7.1%}{differs}")
    if within := all(abs(change) <= TOLERANCE for change in changes.values()):
        return within
    if abs(changes.get("yardstick", 0)) > TOLERANCE:
        print("json.loads differs, too: this is another build of Python. On the code that was kept: .ci/speed --keep")
    else:
        print("More than was kept: find out why. If it is worth that, or less: .ci/speed --keep, and commit the change")
    return within


def main() -> None:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="*", help=f"which of {', '.join(COUNTED)}; all when none is given")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--compare", action="store_true", help="with the figures that are kept")
    what.add_argument("--keep", action="store_true", help="keep the figures of all pieces")
    what.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = list(COUNTED) if arguments.keep else arguments.name or list(COUNTED)
    if unknown := set(names) - set(COUNTED):
        parser.error(f"there is no {', '.join(sorted(unknown))}; choose from {', '.join(COUNTED)}")
    if arguments.run:
        log_as_a_gateway()
        asyncio.run(run(names))
        return
    kept = json.loads(KEPT.read_text())
    if arguments.compare and environment() != kept["environment"]:
        print(f"kept:  {kept['environment']}\nhere:  {environment()}\nThese can't be compared; .ci/speed compares")
        sys.exit(2)
    figures = count(names)
    if arguments.compare:
        sys.exit(not compare(figures, kept["instructions"]))
    if arguments.keep:
        KEPT.write_text(json.dumps({"environment": environment(), "instructions": figures}, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, figure in figures.items():
            print(f"{name:10}{figure:>10,} instructions   {COUNTED[name].__doc__ or 'json.loads of the message'}")


if __name__ == "__main__":
    main()

"""Proof that a dump, its restoring and a copy have each entry once, with its id, however many there are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.cli import serving
from kit.proofs.proof import Proof
from kit.support import MIB, RedisServer, eventually, heed_signals

COUNT = 1_000_000
CHANNELS = 10
PAGE = 5000
MOST_MIB = 120


@dataclass
class Moved:
    """How one way of moving went.

    Attributes:
        what: Which one.
        seconds: How long it took, interruptions included.
        entries: How many entries there were at its end.
        peak_mib: The most memory that a process of it had.
        lost: Entries that are missing.
        other: Entries that are there twice, out of order, or with another id or other fields.
    """

    what: str
    seconds: float
    entries: int
    peak_mib: float
    lost: int
    other: int


class _Command:
    """``rsws ARGUMENTS`` as a process, whose memory is known when it has ended."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None, **files: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rsws", *arguments], env={**os.environ, **(env or {})}, cwd="/", **files
        )

    def wait(self) -> tuple[int, float]:
        """Its exit code, and the most memory that it had, in MiB."""
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return self.process.returncode, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MIB


def move_all(count: int, advance: Callable[[int], None] = lambda by: None, *, interrupt: bool = True) -> list[Moved]:
    """Dump, restore and copy ``count`` entries, the latter while others are published.

    Args:
        advance: Told how many are done.
        interrupt: Whether to end the restoring and the copying early and begin again.
    """
    heed_signals()  # a script's `prove.py &` starts with SIGINT ignored
    names = [f"move.{number}" for number in range(CHANNELS)]
    moved = []
    with (
        RedisServer() as old,
        RedisServer() as restored,
        RedisServer() as copied,
        tempfile.TemporaryDirectory() as path,
    ):
        _fill(old, names, count)
        advance(count)
        dump = Path(path) / "dump"
        with serving(old.url) as gateway, dump.open("wb") as output:
            env = {name: value for name, value in gateway.env.items() if value is not None}
            started = time.monotonic()
            sub = _Command("sub", *names, "--from", "0", "--no-follow", "-o", "json", env=env, stdout=output)
            code, peak = sub.wait()
        assert code == 0, code
        with dump.open("rb") as lines:
            total = sum(1 for _ in lines)
        moved.append(
            Moved("dump", time.monotonic() - started, total, peak, max(0, count - total), max(0, total - count))
        )
        advance(count)

        started, peaks = time.monotonic(), []
        for stop_at, code in ((count // 3, 130), (None, 0)) if interrupt else ((None, 0),):
            with dump.open("rb") as lines:
                command = _Command("restore", "--redis-url", restored.url, stdin=lines, stderr=subprocess.DEVNULL)
                peaks.append(_run(command, restored, names, stop_at, signal.SIGINT, code))
        moved.append(_judged("restore", started, peaks, old, restored, names))
        advance(count)

        started, peaks = time.monotonic(), []
        over = threading.Event()
        publishing = threading.Thread(target=_publish, args=(old, names, over))
        publishing.start()
        try:
            if interrupt:
                command = _Command("copy", old.url, copied.url, "move.*", stderr=subprocess.DEVNULL)
                peaks.append(_run(command, copied, names, count // 3, signal.SIGKILL, -signal.SIGKILL))
            command = _Command("copy", old.url, copied.url, "move.*", stderr=subprocess.DEVNULL)
            eventually(lambda: _length(copied, names) >= count, 3600, "a copy")
        finally:
            over.set()
            publishing.join()
        eventually(lambda: _length(copied, names) == _length(old, names), 60, "a copy that is level")
        peaks.append(_run(command, copied, names, 0, signal.SIGTERM, 0))
        moved.append(_judged("copy", started, peaks, old, copied, names))
        advance(count)
    return moved


def _fill(server: RedisServer, names: Sequence[str], count: int) -> None:
    for start in range(0, count, PAGE):
        pipe = server.client.pipeline(transaction=False)
        for number in range(start, min(count, start + PAGE)):
            data = json.dumps({"n": number, "text": "x" * (number % 200), "é": "\u2028"}, ensure_ascii=False)
            pipe.xadd(names[number % len(names)], {"messageData": data})
        pipe.execute()


def _publish(server: RedisServer, names: Sequence[str], over: threading.Event) -> None:
    number = 0
    while not over.wait(0.002):
        server.call("XADD", names[number % len(names)], "*", "messageData", number)
        number += 1


def _run(
    command: _Command, server: RedisServer, names: Sequence[str], stop_at: int | None, how: signal.Signals, code: int
) -> float:
    """Send a signal once so many entries are there, and return the memory when it has ended."""
    if stop_at is not None:
        eventually(lambda: _length(server, names) >= stop_at, 3600, "enough entries")
        command.process.send_signal(how)
    ended, peak = command.wait()
    assert ended == code, ended
    return peak


def _length(server: RedisServer, names: Sequence[str]) -> int:
    return sum(int(server.call("XLEN", name)) for name in names)


def _judged(
    what: str, started: float, peaks: Sequence[float], old: RedisServer, new: RedisServer, names: Sequence[str]
) -> Moved:
    seconds = time.monotonic() - started
    lost = other = total = 0
    for name in names:
        theirs = _entries(new, name)
        found = next(theirs, None)
        for entry in _entries(old, name):
            if found == entry:
                total += 1
                found = next(theirs, None)
            else:
                lost += 1
        while found is not None:
            other += 1
            found = next(theirs, None)
    return Moved(what, seconds, total, max(peaks), lost, other)


def _entries(server: RedisServer, name: str) -> Iterator[Any]:
    after = "-"
    while page := server.call("XRANGE", name, after, "+", "COUNT", PAGE):
        yield from page
        after = f"({page[-1][0].decode()}"


async def move(proof: Proof) -> None:
    """1,000,000 entries are dumped, restored (with a Ctrl-C) and copied (with a kill -9, and publishes meanwhile)."""
    proof.total(4 * COUNT)
    for moved in move_all(COUNT, proof.advance):
        proof.figure(f"{moved.what}: entries", moved.entries, f">= {COUNT:,}", moved.entries >= COUNT)
        proof.figure(f"{moved.what}: entries a second", round(moved.entries / moved.seconds), "", True)
        proof.none(f"{moved.what}: lost", moved.lost)
        proof.none(f"{moved.what}: doubled, out of order, or with another id or other fields", moved.other)
        memory = moved.peak_mib
        proof.figure(f"{moved.what}: memory of its process", memory, f"< {MOST_MIB} MiB", memory < MOST_MIB, " MiB")

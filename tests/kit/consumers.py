"""``rsws sub --state``, killed with -9 again and again: what it has printed, and what it says of its position."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kit.cli import Gateway
from kit.forked import Forked
from kit.gateway import add
from kit.support import RedisServer, eventually


@dataclass
class Killed:
    """What was found."""

    kills: int = 0
    messages: int = 0
    printed: int = 0
    """How often a message was printed or handed to a command, repeats included."""
    lost: int = 0
    reordered: int = 0
    """Messages that came before an earlier one of their channel, but for those that were printed before."""
    ahead: int = 0
    """Positions that were beyond what was printed."""


def kill_printing(
    redis: RedisServer,
    gateway: Gateway,
    channels: Sequence[str],
    directory: Path,
    *,
    kills: int,
    seed: int,
    killed: Callable[[], None] = lambda: None,
) -> Killed:
    """``rsws sub --state`` into a file, while somebody publishes."""
    options = ["--format", "{channel} {id}", "-f", "0"]
    return _kill(redis, gateway, channels, directory, options, kills, random.Random(seed), 0.002, killed)


def kill_executing(
    redis: RedisServer,
    gateway: Gateway,
    channels: Sequence[str],
    directory: Path,
    *,
    kills: int,
    seed: int,
    killed: Callable[[], None] = lambda: None,
) -> Killed:
    """``rsws sub --state --exec``, with a command that writes the id down as the last thing it does."""
    options = ["--exec", 'echo "$RSWS_CHANNEL $RSWS_ID"', "--exec-parallel", "3", "-f", "0"]
    return _kill(redis, gateway, channels, directory, options, kills, random.Random(seed), 0.03, killed)


def _kill(
    redis: RedisServer,
    gateway: Gateway,
    channels: Sequence[str],
    directory: Path,
    options: list[str],
    kills: int,
    chance: random.Random,
    pause_s: float,
    killed: Callable[[], None],
) -> Killed:
    state, output = directory / "state", directory / "output"
    output.touch()
    over = threading.Event()
    published: dict[str, list[str]] = {channel: [] for channel in channels}
    publisher = threading.Thread(target=_publish, args=(redis, published, over, pause_s))
    publisher.start()
    result = Killed()
    try:
        while result.kills < kills:
            size = output.stat().st_size
            with _started(gateway, channels, state, output, options) as process:
                eventually(lambda size=size: output.stat().st_size > size)  # type: ignore[misc]
                time.sleep(chance.uniform(0, 0.3))  # at any moment, that of a write included
                process.kill()
            result.kills += 1
            killed()
            result.ahead += _ahead(state, output)
    finally:
        over.set()
        publisher.join()
    with _started(gateway, channels, state, output, [*options, "--no-follow"]) as process:
        process.wait(60)
    result.ahead += _ahead(state, output)
    for channel, ids in published.items():
        seen = _seen(output, channel)
        result.messages += len(ids)
        result.printed += len(seen)
        result.lost += len(set(ids) - set(seen))
        firsts = list(dict.fromkeys(seen))
        result.reordered += sum(first != other for first, other in zip(firsts, ids, strict=False))
    return result


def _started(gateway: Gateway, channels: Sequence[str], state: Path, output: Path, options: list[str]) -> Forked:
    environment = {name: value for name, value in (os.environ | gateway.env).items() if value is not None}
    with output.open("ab") as file, open(os.devnull) as nothing:
        arguments = ["sub", *channels, "--state", str(state), "-q", *options]
        return Forked(arguments, environment, str(Path.cwd()), (nothing.fileno(), file.fileno(), 2))


def _publish(redis: RedisServer, published: dict[str, list[str]], over: threading.Event, pause_s: float) -> None:
    while not over.wait(pause_s):
        for channel, ids in published.items():
            ids += add(redis, channel, "1")


def _seen(output: Path, channel: str) -> list[str]:
    """The ids of whole lines; one that was cut in its midst by the kill runs into the next."""
    lines = output.read_text().splitlines()
    return [words[1] for words in map(str.split, lines) if len(words) == 2 and words[0] == channel]


def _ahead(state: Path, output: Path) -> int:
    """How many positions are of messages that were not printed."""
    with suppress(FileNotFoundError):
        positions: dict[str, str] = json.loads(state.read_text())
        return sum(each not in {"0-0", *_seen(output, channel)} for channel, each in positions.items())
    return 0

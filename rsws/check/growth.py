"""Streams that grow and that nothing trims."""

from __future__ import annotations

import re
import shlex
import time
from typing import Any, NamedTuple

from rsws.check.findings import Found, warning
from rsws.check.redis_server import Server
from rsws.protocol import StreamId
from rsws.redis.connection import ReplyError

SCAN_KEYS, SCAN_S = 1000, 2.0
"""How many streams are looked at, and for how long they are looked for."""
BIGGEST = 10
"""How many of them are looked at closely: ``XINFO STREAM`` brings two messages of each."""
MANY_ENTRIES, MANY_BYTES = 100_000, 64 * 1024 * 1024
QUIET_S = 24 * 3600
"""A stream with nothing new for so long does not grow."""
SHOWN = 3


class _Stream(NamedTuple):
    name: str
    entries: int
    size_bytes: int
    """0 where Redis does not say."""
    per_hour: float

    @property
    def text(self) -> str:
        size = f", {self.size_bytes / 2**20:.0f} MiB" if self.size_bytes else ""
        return f"{self.name} ({self.entries:,} entries{size}, {self.per_hour:,.0f} an hour)"

    @property
    def rule(self) -> str:
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", self.name)
        return f"--retain {shlex.quote(f'{pattern}={MANY_ENTRIES},7d')}"


async def retention(server: Server) -> Found:
    """Look for streams that are large and grow; a sample where there are many."""
    keys = await _sample(server)
    if keys is None:
        return None
    channels = server.plan.channels
    names = {key: key.decode(errors="replace") for key in keys}
    uncovered = [
        key
        for key, name in names.items()
        if (channels is None or name in channels) and not any(rule.names(name) for rule in server.plan.rules)
    ]
    lengths = await server.ask(*[(b"XLEN", key) for key in uncovered]) if uncovered else []
    sized = [(length, key) for length, key in zip(lengths, uncovered, strict=True) if isinstance(length, int)]
    if len(sized) < len(uncovered):
        server.unseen.add("XLEN")
    sizes = await server.ask(*[(b"MEMORY", b"USAGE", key) for _, key in sized]) if sized else []
    if any(isinstance(size, ReplyError) for size in sizes):
        server.unseen.add("MEMORY USAGE")
    measured = [
        (size if isinstance(size, int) else 0, length, key) for size, (length, key) in zip(sizes, sized, strict=True)
    ]
    large = [each for each in measured if each[0] >= MANY_BYTES or each[1] >= MANY_ENTRIES]
    found = [await _growing(server, *each) for each in sorted(large, reverse=True)[:BIGGEST]]
    growing = [each for each in found if each is not None]
    if not growing:
        return []
    more = f" and {len(growing) - SHOWN} more" if len(growing) > SHOWN else ""
    title = f"Nothing trims {', '.join(each.text for each in growing[:SHOWN])}{more}"
    rules = " ".join(each.rule for each in growing[:SHOWN])
    return [warning(title, f"rsws serve {rules}", "they grow until Redis' memory is full")]


async def _sample(server: Server) -> list[bytes] | None:
    cursor, keys, until = b"0", dict[bytes, None](), time.monotonic() + SCAN_S
    while True:
        [reply] = await server.ask([b"SCAN", cursor, b"COUNT", b"1000", b"TYPE", b"stream"])
        if not isinstance(reply, list):
            server.unseen.add("SCAN")
            return None
        cursor = reply[0]
        keys |= dict.fromkeys(reply[1])
        if cursor == b"0" or len(keys) >= SCAN_KEYS or time.monotonic() > until:
            return list(keys)[:SCAN_KEYS]


async def _growing(server: Server, size_bytes: int, entries: int, key: bytes) -> _Stream | None:
    """Return how fast a stream grows; None if it does not, or if somebody trims it."""
    [reply] = await server.ask([b"XINFO", b"STREAM", key])
    if not isinstance(reply, list):
        server.unseen.add("XINFO STREAM")
        return None
    said: dict[bytes, Any] = dict(zip(reply[::2], reply[1::2], strict=True))
    first, last = said.get(b"first-entry"), StreamId.from_redis(said[b"last-generated-id"])
    if not first or time.time() - last.ms / 1000 > QUIET_S or said.get(b"entries-added", 0) > 1.5 * entries:
        return None  # of more that were added than are there, many were trimmed
    hours = max(last.ms - StreamId.from_redis(first[0]).ms, 1000) / 3_600_000
    return _Stream(key.decode(errors="replace"), entries, size_bytes, entries / hours)

"""The words of Redis Cluster: slots, the map of who has which, and redirects.

See https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

from rsws.errors import RedisRefused, RedisUnavailable
from rsws.streams.target import Address

SLOTS = 16384
REDIRECTS = ("MOVED ", "ASK ", "TRYAGAIN")


class Redirected(RedisRefused):
    """Nothing was done: another node of the cluster has the channel, or has it soon.

    Attributes:
        address: Which node; None where the slot is on its way, and the same command has to be tried again. The host is
            empty where it is that of the node that answered.
        is_ask: Whether that node has only this key yet, and only answers after ASKING.
    """

    def __init__(self, text: str) -> None:
        super().__init__(f"Redis refused: {text}")
        kind, *rest = text.split(" ")
        self.is_ask = kind == "ASK"
        self.address: Address | None = None
        if kind in ("MOVED", "ASK") and len(rest) >= 2:
            host, _, port = rest[1].rpartition(":")
            self.address = host, int(port)


class Slots(NamedTuple):
    """A range of slots, and who has them."""

    first: int
    last: int
    primary: Address
    replicas: tuple[Address, ...]


def parse_slots(reply: Any, asked: str) -> list[Slots]:
    """Parse a reply to ``CLUSTER SLOTS``.

    Args:
        asked: The host of the node that has answered, for a node that does not know its own.

    Raises:
        RedisUnavailable: It is not one.
    """
    try:
        return [Slots(first, last, *_split(nodes, asked)) for first, last, *nodes in reply]
    except (TypeError, ValueError, AttributeError):
        raise RedisUnavailable(f"not a map of a cluster: {reply!r:.200}") from None


def _split(nodes: Sequence[Sequence[Any]], asked: str) -> tuple[Address, tuple[Address, ...]]:
    primary, *replicas = [(_host(node[0], asked), int(node[1])) for node in nodes]
    return primary, tuple(replicas)


def _host(said: bytes | None, asked: str) -> str:
    host = (said or b"").decode()
    return asked if host in ("", "?") else host


@lru_cache(maxsize=4096)
def slot_of(key: str) -> int:
    """Return the slot of a key."""
    return crc_hqx(_hashed(key.encode()), 0) % SLOTS


@lru_cache(maxsize=1024)
def slot_tag(key: bytes) -> bytes:
    """Return the hash tag with which another key shares the slot of ``key``."""
    hashed = _hashed(key)
    if b"}" not in hashed and hashed:
        return hashed
    slot = crc_hqx(hashed, 0) % SLOTS
    return next(tag for tag in map(b"%d".__mod__, count()) if crc_hqx(tag, 0) % SLOTS == slot)


def _hashed(key: bytes) -> bytes:
    """Return the part of a key that its slot depends on."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1) if start >= 0 else -1
    return key[start + 1 : end] if end > start + 1 else key

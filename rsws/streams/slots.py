"""The words of Redis Cluster: slots, the map of who has which, and redirects.

See https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/.
"""

from __future__ import annotations

import time
from binascii import crc_hqx
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

from rsws.errors import ErrorCode, RedisRefused, RedisUnavailable
from rsws.text import excerpt
from rsws.urls import HostPort

SLOTS = 16384
REDIRECTS = ("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN")
"""How the errors begin with which a node has done nothing, and another one, or the same one soon, may."""


class Redirected(RedisRefused):
    """Nothing was done: another node of the cluster has the channel, or will have it soon.

    Attributes:
        address: Which node; None where the one in the map has to be tried again, as the slot is on its way or the
            cluster is down. The host is empty where it is that of the node that answered.
        reason: What Redis said.
        is_ask: Whether that node has only this key yet, and only answers after ASKING.
        is_down: Whether the node says that the cluster is down, which may be because it is cut off from the others.
    """

    def __init__(self, text: str) -> None:
        super().__init__(f"Redis refused: {text}")
        self.reason = text
        kind, *rest = text.split(" ")
        self.is_ask = kind == "ASK"
        self.is_down = kind == "CLUSTERDOWN"
        self.address: HostPort | None = None
        if kind in ("MOVED", "ASK") and len(rest) >= 2:
            host, _, port = rest[1].rpartition(":")
            self.address = "" if host == "?" else host, int(port)
        if self.address is None:
            self.code, self.args = ErrorCode.REDIS_UNAVAILABLE, (RedisUnavailable.TEXT,)

    @classmethod
    def elsewhere(cls, lost: RedisUnavailable) -> Redirected:
        """Return what stands for an error of a node where nothing was done, and whose slot another one has by now."""
        redirect = cls("MOVED")
        redirect.reason = lost.cause
        return redirect


class Slots(NamedTuple):
    """A range of slots, and who has them."""

    first: int
    last: int
    primary: HostPort
    replicas: tuple[HostPort, ...]


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
        said = str(reply) if isinstance(reply, Exception) else repr(reply)
        raise RedisUnavailable(
            f"it has no map of a cluster, is it a single server (redis://)? {excerpt(said)}"
        ) from None


def _split(nodes: Sequence[Sequence[Any]], asked: str) -> tuple[HostPort, tuple[HostPort, ...]]:
    primary, *replicas = [(_host(node[0], asked), int(node[1])) for node in nodes]
    return primary, tuple(replicas)


def _host(said: bytes | None, asked: str) -> str:
    host = (said or b"").decode()
    return asked if host in ("", "?") else host


def slot_of_key(key: bytes) -> int:
    """Return the slot of a key."""
    return crc_hqx(_hashed(key), 0) % SLOTS


@lru_cache(maxsize=4096)
def slot_of(channel: str) -> int:
    """Return the slot of a channel."""
    return slot_of_key(channel.encode())


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


class Patience:
    """How long redirects are followed, and how fast: at once at first, as a slot that moves costs one or two.

    Args:
        limit_s: After how long they are given up. Two nodes may name each other for as long as they disagree.
    """

    FREE = 3
    PAUSE_S = 0.02

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since = time.monotonic()
        self._count = 0

    def next_pause(self, redirect: Redirected) -> float:
        """Return how long to wait before this redirect is followed.

        Raises:
            RedisUnavailable: It is time to give up.
        """
        self._count += 1
        if self._count > self.FREE and time.monotonic() - self._since > self._limit_s:
            raise RedisUnavailable(f"no node takes it: {redirect.reason}")
        return 0 if self._count <= self.FREE and redirect.address is not None else self.PAUSE_S

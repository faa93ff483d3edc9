"""How the map of a cluster is asked for: of one node after the other, as any of them may hang or be cut off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

from rsws.errors import RedisUnavailable, SetupError
from rsws.redis.connection import ReplyError, pack
from rsws.redis.target import RedisTarget
from rsws.streams.primary import Primary
from rsws.streams.slots import Slots, parse_slots
from rsws.urls import HostPort, join_host_port

_ASK_MAP = ((b"CLUSTER", b"INFO"), (b"CLUSTER", b"SLOTS"))
Ask: TypeAlias = Callable[[], Awaitable[list[Any]]]
"""Returns what one node says: its state, and the map as it has it."""


async def ask_map(nodes: Iterable[tuple[Ask, HostPort]], timeout_s: float) -> list[Slots]:
    """Return the map as the first node has it that takes part in the cluster, else as the first one that answers.

    Args:
        nodes: How each node is asked, and its address.
        timeout_s: How long one may take; and how long a better one is looked for once a node that is cut off has said
            what it knows.

    Raises:
        RedisUnavailable: None answers.
    """
    second_best: list[Slots] | None = None
    causes: list[str] = []
    since = time.monotonic()
    for ask, node in nodes:
        if second_best is not None and time.monotonic() - since > timeout_s:
            break
        try:
            async with asyncio.timeout(timeout_s):
                state, reply = await ask()
            if isinstance(reply, ReplyError):
                hint = "; write redis:// for a server that is in no cluster" if "disabled" in str(reply) else ""
                raise RedisUnavailable(f"{join_host_port(node)}: CLUSTER SLOTS: {reply}{hint}")
            ranges = parse_slots(reply, node[0])
        except TimeoutError:
            causes.append(f"{join_host_port(node)}: no answer within {timeout_s:g} s")
        except RedisUnavailable as error:
            causes.append(error.cause)
        except (SetupError, OSError) as error:
            causes.append(str(error))
        else:
            if not isinstance(state, bytes) or b"cluster_state:fail" not in state:
                return ranges
            second_best = second_best or ranges
    if second_best is None:
        raise RedisUnavailable("; ".join(dict.fromkeys(causes)))
    return second_best


async def ask_primary(primary: Primary) -> list[Any]:
    """Return the replies to ``CLUSTER INFO`` and ``CLUSTER SLOTS``, over a connection that is there."""
    replies = await asyncio.gather(*[primary.history.call(*words) for words in _ASK_MAP], return_exceptions=True)
    for reply in replies:
        if isinstance(reply, RedisUnavailable):
            raise reply
    return replies


async def ask_node(target: RedisTarget) -> list[Any]:
    """Return the replies to ``CLUSTER INFO`` and ``CLUSTER SLOTS``, over a connection of its own."""
    connection = await target.connect("rsws-cluster", any_node=True)
    try:
        return await connection.ask(*[pack(*words) for words in _ASK_MAP], timeout_s=target.timeout_s)
    finally:
        await connection.close()

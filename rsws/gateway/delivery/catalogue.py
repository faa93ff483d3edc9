"""The list of channels: which streams there are, page by page."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from rsws.errors import ChannelUnreadable, ErrorCode, RequestError
from rsws.patterns import Patterns
from rsws.protocol import channel_fault
from rsws.streams.replies import StreamBounds
from rsws.streams.router import Router
from rsws.streams.scan import redis_glob

ENOUGH = 100
"""The channels at which a page ends."""
STEPS = 16
"""The most steps of a search for a page; each may cost Redis a millisecond, whether or not it finds anything."""
_CURSOR = re.compile(r"([0-9]{1,4})\.([0-9]{1,20})")


class ChannelPage(NamedTuple):
    """Some channels, and where to go on."""

    channels: list[dict[str, Any]]
    cursor: str | None
    """None at the end."""


async def list_channels(
    streams: Router,
    match: str,
    cursor: str | None,
    may_read: Callable[[str], bool],
    subscribers: Callable[[str], int],
) -> ChannelPage:
    """Return the next channels that match, in no order; there may be none before the end.

    Args:
        match: A pattern, in which ``*`` stands for any run of characters.
        cursor: That of the page before; None for the first page.
        may_read: Whether a channel may be listed.
        subscribers: Returns how many subscriptions a channel has.

    Raises:
        RequestError: The cursor is none.
        StoreError: Redis can't be reached, or refuses it.
    """
    found = _CURSOR.fullmatch(cursor or "0.0")
    if found is None:
        raise RequestError(ErrorCode.BAD_CURSOR, "the cursor is none: send the one of the page before, or none at all")
    at: tuple[int, bytes] | None = int(found[1]), found[2].encode()
    pattern, wanted = redis_glob(match), Patterns([match])
    names: dict[str, None] = {}
    for _ in range(STEPS):
        if at is None or len(names) >= ENOUGH:
            break
        at, keys = await streams.scan(at, pattern)
        for name in [key.decode(errors="surrogateescape") for key in keys]:
            if name in wanted and channel_fault(name) is None and may_read(name):
                names[name] = None
    bounds = await asyncio.gather(*map(streams.bounds, names), return_exceptions=True)
    channels = []
    for name, each in zip(names, bounds, strict=True):
        if isinstance(each, StreamBounds):
            channels.append(_described(name, each, subscribers(name)))
        elif not isinstance(each, ChannelUnreadable):
            raise each
    return ChannelPage(channels, None if at is None else f"{at[0]}.{at[1].decode()}")


def _described(name: str, bounds: StreamBounds, subscribers: int) -> dict[str, Any]:
    return {
        "channel": name,
        "entries": bounds.length,
        "firstId": None if bounds.first is None else str(bounds.first),
        "lastId": str(bounds.last),
        "subscribers": subscribers,
    }

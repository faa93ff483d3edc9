"""The channels of a run that are not named one by one, and the names that were meant where there is no such stream."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncIterator, Iterable, Sequence

from rsws.cli.endpoint import Endpoint
from rsws.cli.gateway_http import list_channels
from rsws.errors import RswsError

POLL_S = 2.0
"""How often to look for new channels."""
MOST_NAMES = 2000
"""How many names are compared with one that may be mistyped."""
SUGGEST_S = 2.0
"""How long it may take to find what may have been meant."""


def is_pattern(name: str) -> bool:
    """Whether ``name`` stands for several channels."""
    return "*" in name


class Expansion:
    """The channels that patterns stand for.

    Args:
        known: The channels that are named themselves.
    """

    def __init__(self, gateway: Endpoint, patterns: Sequence[str], known: Iterable[str]) -> None:
        self._gateway = gateway
        self._patterns = patterns
        self._named = frozenset(known)
        self._known = set(self._named)

    async def new_channels(self) -> AsyncIterator[str]:
        """Yield the channels that have come since the last time.

        Raises:
            Failure: The gateway does not list its channels.
            Unauthorized: It refuses the token.
        """
        there = set(self._named)
        for pattern in self._patterns:
            async for page in list_channels(self._gateway, pattern):
                for name in (each.channel for each in page):
                    there.add(name)
                    if name not in self._known:
                        self._known.add(name)
                        yield name
        self._known = there  # what was deleted is new when it comes again


class Suggestions:
    """The names that may have been meant in place of others, from one list of the channels that there are."""

    def __init__(self, gateway: Endpoint) -> None:
        self._gateway = gateway
        self._names: list[str] | None = None
        self._asking = asyncio.Lock()

    async def nearest(self, channel: str) -> str | None:
        """Return the channel whose name is most like ``channel``; None if there is none, or the list can't be had."""
        async with self._asking:
            if self._names is None:
                self._names = await self._list()
        found = difflib.get_close_matches(channel, self._names, n=1, cutoff=0.8)
        return found[0] if found else None

    async def _list(self) -> list[str]:
        found: list[str] = []
        try:
            async with asyncio.timeout(SUGGEST_S):
                async for page in list_channels(self._gateway, "*"):
                    found += [each.channel for each in page]
                    if len(found) >= MOST_NAMES:
                        break
        except (RswsError, TimeoutError):
            pass
        return found

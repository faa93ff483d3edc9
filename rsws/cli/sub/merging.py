"""The order of messages of several channels: by their ids, as long as a channel has history left."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable

from rsws.protocol import StreamId

_Head = tuple[StreamId, int, str, "asyncio.Future[None]"]


class Merge:
    """Merges channels by the ids of their messages. It holds one message of each; the rest waits where it comes from.

    A channel that is behind is waited for, as its next message may be the earliest of all. One that has caught up is
    not: what it has next is new.

    Args:
        behind: The channels whose history is yet to come.
    """

    def __init__(self, behind: Iterable[str] = ()) -> None:
        self._behind = set(behind)
        self._heads: list[_Head] = []
        self._missing = len(self._behind)
        """How many channels are behind and have no message here."""
        self._count = 0

    @property
    def is_needed(self) -> bool:
        """Whether a channel is behind; else each message may go on at once."""
        return bool(self._behind)

    def join(self, channel: str) -> None:
        """Wait for a channel from now on."""
        if channel not in self._behind:
            self._behind.add(channel)
            self._missing += 1

    def leave(self, channel: str) -> None:
        """Wait for a channel no longer. It has no message here."""
        if channel in self._behind:
            self._behind.discard(channel)
            self._missing -= 1
            self._let_go()

    async def turn(self, channel: str, stream_id: StreamId) -> None:
        """Wait until a message is the earliest that is left."""
        others = self._missing - (channel in self._behind)
        if not self._behind or (others == 0 and not (self._heads and self._heads[0][0] < stream_id)):
            return
        self._count += 1
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._heads, (stream_id, self._count, channel, turn))
        self._missing -= channel in self._behind
        self._let_go()
        await turn

    def _let_go(self) -> None:
        while self._heads and self._missing == 0:
            _, _, channel, turn = heapq.heappop(self._heads)
            self._missing += channel in self._behind
            if not turn.done():
                turn.set_result(None)

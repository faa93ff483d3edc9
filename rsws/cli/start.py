"""The events of a channel from the start that ``--from`` or ``/from`` names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from rsws.protocol import Gap, StreamId, Subscribed
from rsws.starts import Start

if TYPE_CHECKING:
    from rsws.client import Client, Event


class Following:
    """The events of one channel from a start on.

    For a time the end of the channel has to be asked for first; errors in doing so are yielded as events, too.

    Args:
        end: Whether they end where the channel does.

    Raises:
        UsageError: The channel is subscribed already.
    """

    def __init__(self, client: Client, channel: str, start: Start, *, end: bool) -> None:
        self._client = client
        self._channel = channel
        self._start = start
        self._end = end
        self._closed = False
        after = "$" if start.is_time or start.after is None else start.after
        self._subscription = client.subscribe(
            channel,
            after=after,
            last=start.last,
            end=end and not start.is_time,
            resume=start.is_resumed,
            events=True,
        )

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Yield the events.

        Raises:
            SubscribeRefused: The gateway refuses the channel.
        """
        if self._start.is_time:
            async for event in self._subscription:
                if isinstance(event, Subscribed):
                    await self._begin_at_time(event.latest_id)
                    break
                yield event
        async for event in self._subscription:
            if not (isinstance(event, Gap) and self._start.is_false_alarm(event)):
                yield event

    async def _begin_at_time(self, end: StreamId) -> None:
        await self._subscription.close()
        if not self._closed:
            assert self._start.after is not None
            # The gateway treats a position after the end as one of a deleted stream, and would send all of this one.
            after = min(self._start.after, end)
            self._subscription = self._client.subscribe(self._channel, after=after, end=self._end, events=True)

    async def close(self) -> None:
        """End the subscription; the channel is free for another one."""
        self._closed = True
        await self._subscription.close()

"""Where to start: what ``--from`` and ``/from`` say, as a position of a channel."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from rsws.errors import UsageError
from rsws.protocol import ZERO, Gap, StreamId, Subscribed
from rsws.settings import UNIT_S

if TYPE_CHECKING:
    from rsws.client import Client, Event, Subscription

_AGO = re.compile(r"([0-9]{1,9})([smhd])")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Start:
    """Where to start: ``last`` entries before the end, or after ``after``; at the end where both are None."""

    after: StreamId | None = None
    last: int | None = None
    is_time: bool = False
    """Whether ``after`` was made of a time. No entry ever had that id, so that continuity after it proves nothing."""

    def is_false_alarm(self, gap: Gap) -> bool:
        """Whether ``gap`` says no more than that the channel begins later than a time."""
        return self.is_time and gap.reason == "trimmed" and gap.last_message_id == self.after


def parse_start(text: str, now_ms: int | None = None) -> Start:
    """What ``--from`` says.

    Args:
        now_ms: Milliseconds since 1970; None asks the clock.

    Raises:
        UsageError: It says nothing that is known.
    """
    text = text.strip()
    if text == "$":
        return Start()
    if re.fullmatch(r"-[0-9]{1,18}", text):
        return Start(last=int(text[1:]))
    try:
        return Start(StreamId.parse(text))
    except ValueError:
        pass
    if match := _AGO.fullmatch(text):
        now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        return _since(now_ms - int(match[1]) * UNIT_S[match[2]] * 1000)
    try:
        if _DATE.match(text):
            return _since(int(datetime.fromisoformat(text).timestamp() * 1000))  # without a zone: local time
    except (ValueError, OverflowError, OSError):  # no such day, or none that a clock can show
        pass
    raise UsageError(
        f"{text!r} is no place to start: write 0, $, -N, an ID, a time ago such as 10m, or a time such as "
        "2026-11-23T10:00"
    )


def _since(ms: int) -> Start:
    return Start(StreamId(ms, 0).before(), is_time=True) if ms > 0 else Start(ZERO)


async def subscribe(client: Client, channel: str, start: Start) -> Subscription[Event]:
    """A subscription with events that starts where ``start`` says.

    Raises:
        SubscribeRefused: The gateway refuses the channel.
    """
    if start.last is not None:
        return client.subscribe(channel, last=start.last, events=True)
    after = start.after
    if start.is_time and after is not None:
        # Behind the end of the channel a position means that the stream has begun anew: all of it would come.
        after = min(after, await _end(client, channel))
    return client.subscribe(channel, after="$" if after is None else after, events=True)


async def _end(client: Client, channel: str) -> StreamId:
    async with client.subscribe(channel, after="$", events=True) as subscription:
        async for event in subscription:
            if isinstance(event, Subscribed):
                return event.latest_id
    raise AssertionError("a subscription ends with an error or when it is closed")

"""One channel of a run: what comes of it, until it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rsws.cli.exits import ExitCode, Failure, wire_error
from rsws.cli.message_display import gap_text
from rsws.cli.start import Following
from rsws.errors import ErrorCode
from rsws.protocol import ZERO, CaughtUp, End, Error, Gap, Message, StreamId, Subscribed
from rsws.starts import Start

if TYPE_CHECKING:
    from rsws.cli.sub.merging import Merge
    from rsws.cli.sub.notices import Notices
    from rsws.client import Client, Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much of a channel is wanted."""

    follow: bool = True
    """Whether to go on after the last message that the channel had at the start."""
    until: StreamId | None = None
    """The last id that is wanted; None for any."""
    end: bool = True
    """Whether to stop where the channel ends."""
    exit_on_gap: bool = False


class Owner(Protocol):
    """The run that a channel is read for."""

    notices: Notices
    merge: Merge

    async def message(self, message: Message) -> None:
        """Handle a message, when it is its turn."""

    def subscribed(self, event: Subscribed, *, first: bool) -> None: ...

    def caught_up(self, channel: str) -> None:
        """Handle that what follows is new, or can't be waited for."""


class Reading:
    """The reading of one channel."""

    def __init__(self, owner: Owner, channel: str, start: Start, extent: Extent) -> None:
        self._owner = owner
        self.channel = channel
        self._start = start
        self._extent = extent
        self._position: StreamId | None = None
        """What was read last; None where that is nothing yet."""
        self._follow = extent.follow
        self._latest: StreamId | None = None
        """The last id that the channel had when this lap began, once that is known."""
        self._is_over = False
        self._was_good = False
        self._following: Following | None = None

    async def run(self, client: Client) -> None:
        """Read the channel until it is over.

        Raises:
            SubscribeRefused: The gateway refuses the channel.
            Failure: There is a gap, and that is to end the command.
        """
        while not self._is_over:
            start = self._start if self._position is None else Start(self._position, is_resumed=True)
            lap = self._following = Following(client, self.channel, start, end=self._extent.end)
            self._latest = None
            async for event in lap:
                await self._handle(event)
                if self._is_over:
                    return
            if self._follow:
                return  # the channel has ended
            await lap.close()  # finish() has done it: what is left is read once more, with an end

    async def finish(self) -> None:
        """Go on up to the end as it is now, and no further."""
        if self._follow and not self._is_over:
            self._follow = False
            if self._following is not None:
                await self._following.close()

    async def _handle(self, event: Event) -> None:
        owner, channel = self._owner, self.channel
        match event:
            case Message():
                await self._handle_message(event)
            case Subscribed():
                owner.notices.subscribed(channel)
                owner.subscribed(event, first=not self._was_good)
                self._was_good = True
                if self._latest is None:
                    self._latest = event.latest_id
                    if not self._start.is_time:
                        self._position = event.last_message_id
                if event.last_message_id == self._latest:
                    self._at_latest()
            case CaughtUp():
                owner.caught_up(channel)
                owner.notices.caught_up(channel)
                self._at_latest()
            case End():
                owner.notices.ended(channel)
                self._is_over = True
            case Gap():
                if self._extent.exit_on_gap:
                    raise Failure(gap_text(event), ExitCode.GAP)
                owner.notices.gap(event)
                if event.reason == "reset":
                    self._position = ZERO
            case Error(error=text, code=code) if self._will_pass(code):
                owner.caught_up(channel)
                owner.notices.warn(f"{channel}: {wire_error(text, code)}")
            case Error():
                pass  # it ends the channel, and the client raises it

    async def _handle_message(self, message: Message) -> None:
        until = self._extent.until
        assert self._latest is not None
        if (until is not None and message.id > until) or (not self._follow and message.id > self._latest):
            self._is_over = True
            return
        owner = self._owner
        if owner.merge.is_needed:
            await owner.merge.turn(self.channel, message.id)
        owner.notices.received(self.channel)
        await owner.message(message)
        self._position = message.id
        if message.id >= self._latest:
            self._at_latest()

    def _at_latest(self) -> None:
        """Handle that the channel has reached the last message that it had when this lap began."""
        if not self._follow:
            self._is_over = True

    def _will_pass(self, code: str) -> bool:
        return code == ErrorCode.REDIS_UNAVAILABLE or (
            self._was_good and code in (ErrorCode.REDIS_REFUSED, ErrorCode.CHANNEL_UNREADABLE)
        )

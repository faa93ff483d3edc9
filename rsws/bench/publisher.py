"""A client that publishes on a channel, as fast as its window and rate allow, and counts the answers."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable

from rsws.bench.client import BenchClient
from rsws.bench.context import WorkerContext
from rsws.bench.counters import Count
from rsws.bench.messages import NUMBER_DIGITS, PublishFrames, find_frame, now_us
from rsws.bench.sequence import Ranges, as_ranges
from rsws.errors import Outcome
from rsws.frames import TEXT
from rsws.protocol import Ack, ErrorAck, Reply

_match_ack = re.compile(
    rb'\{"status":"ack","messageId":"([0-9]{%d})"(?:,"streamId":"[0-9-]+"(?:,"duplicate":true)?)?\}' % NUMBER_DIGITS
).fullmatch

POLL_S = 0.001
"""How often a publisher that waits for subscribers of other processes checks their progress."""
REFUSED_S = 0.1
"""How long a publisher pauses after a refusal: a gateway refuses faster than it stores."""


class BenchPublisher(BenchClient):
    """A client that publishes messages, which it numbers from 0.

    With ``kill_every_s`` each message names its producer, so that rsws stores it at most once, and the publisher sends
    unanswered ones again after a cut. With any other server the outcome of these remains unknown.

    Args:
        channel: The number of its channel.
        messages: How many to publish; None for any number.
        rate: How many a second; 0 for as many as the window allows.
        delivered: Returns how many have reached the subscribers.
        poll: Whether it has to poll ``delivered``; else :meth:`publish` is called when that has grown.

    Attributes:
        channel: The number of its channel.
        published: How many messages it has published.
    """

    def __init__(
        self,
        context: WorkerContext,
        channel: int,
        *,
        messages: int | None,
        rate: float,
        delivered: Callable[[], int],
        poll: bool,
    ) -> None:
        super().__init__(context)
        self.channel = channel
        self.published = 0
        self._once = context.plan.kill_every_s is not None
        self._frames = PublishFrames(context.plan, channel, f"{context.plan.run_id}-{channel}" if self._once else None)
        self._messages = messages
        self._interval_us = 1e6 / rate if rate else 0.0
        self._delivered = delivered
        self._poll = poll
        self._begun_us = 0
        self._ended = True
        self._held = False
        """Whether, of messages that were due at a given rate, the window held some back."""
        self._unanswered: dict[int, int] = {}
        """The time at which each unanswered message was published, by its number."""
        self._holes: list[int] = []
        """The numbers of messages that need not arrive: refused, or of unknown outcome."""
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._latency = context.latency("ack")

    @property
    def holes(self) -> Ranges:
        """The numbers of messages that are not stored, or of which that is unknown."""
        return as_ranges(sorted(self._holes))

    @property
    def is_done(self) -> bool:
        """Whether it will publish no more, and every publish is answered."""
        return (self._ended or self._left() == 0) and not self._unanswered

    @property
    def is_waiting(self) -> bool:
        """Whether there are messages that are not acked or not delivered yet."""
        return self._under_way() > 0

    def begin(self, delay_us: float = 0) -> None:
        """Begin to publish, now or after ``delay_us``."""
        self._begun_us = now_us() + int(delay_us)
        self._ended = False
        self.publish()

    def end(self) -> None:
        """Publish no more."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()

    def give_up(self) -> None:
        """Publish no more and wait for no more answers: the outcome of unanswered messages is unknown."""
        self.end()
        self._count_as_unknown()

    def publish(self) -> None:
        """Publish as many messages as window, rate and total allow now."""
        if self._ended or self._paused or not self.is_in:
            return
        now = now_us()
        room = self.context.plan.window - self._under_way()
        numbers = range(self.published, self.published + max(0, min(room, self._left(), self._due(now))))
        if numbers:
            # The latency of a message that a slow server held back counts from when it was due: the server caused it.
            when = [self._due_at(number) if self._held else now for number in numbers]
            assert self._socket is not None
            self._socket.write(b"".join(map(self._frames.frame, numbers, when)))
            self._unanswered.update(zip(numbers, when, strict=True))
            self.published = numbers.stop
            self.context.row[Count.PUBLISHED] += len(numbers)
        self._held = bool(self._interval_us) and len(numbers) >= room
        self._schedule_publish(now)

    def _left(self) -> int:
        return sys.maxsize if self._messages is None else self._messages - self.published

    def _under_way(self) -> int:
        delivered = self._delivered()
        never = sum(number >= delivered for number in self._holes[-self.context.plan.window :])
        return max(len(self._unanswered), self.published - delivered - never)

    def _due_at(self, number: int) -> int:
        return int(self._begun_us + number * self._interval_us)

    def _due(self, now: int) -> int:
        if not self._interval_us:
            return sys.maxsize
        return int((now - self._begun_us) // self._interval_us) + 1 - self.published

    def _schedule_publish(self, now: int) -> None:
        """Call :meth:`publish` again when the next message is due, or to poll the progress of the subscribers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._left() == 0:
            return
        loop = asyncio.get_running_loop()
        if (wait_us := self._due_at(self.published) - now) > 0 and self._interval_us:
            self._timer = loop.call_later(wait_us / 1e6, self.publish)
        elif self._poll and len(self._unanswered) < self.context.plan.window:
            self._timer = loop.call_later(POLL_S, self.publish)

    # --- what comes over the connection ---

    def read_frames(self, data: bytes, position: int) -> int:
        now = now_us()
        answered = 0
        while (frame := find_frame(data, position)) is not None and data[position] == TEXT:
            match = _match_ack(data, *frame)
            if match is None:
                break
            answered += self._answered(int(match[1]), now)
            position = frame[1]
        if answered:
            self.context.last_us = now
            self.context.row[Count.ACKED] += answered
            self.publish()
        return position

    def _answered(self, number: int, now: int) -> bool:
        published_us = self._unanswered.pop(number, None)
        if published_us is None:  # the answer to a message that was given up
            return False
        self._latency.add(now - published_us)
        return True

    def _handle(self, reply: Reply, text: bytes) -> None:
        match reply:
            case Ack(message_id):
                self.context.row[Count.ACKED] += self._answered(_number(message_id), now_us())
                self.publish()
            case ErrorAck(message_id) as refusal:
                self._refused(_number(message_id), refusal)

    def _refused(self, number: int, refusal: ErrorAck) -> None:
        if self._unanswered.pop(number, None) is None:
            return
        self._holes.append(number)
        findings = self.context.findings
        if refusal.outcome is Outcome.UNKNOWN:
            findings.unknown += 1
        else:
            findings.refused += 1
            if not findings.refusal:
                findings.refusal, findings.refusal_code = refusal.error, refusal.code
        if not self._paused:
            self._paused = True
            asyncio.get_running_loop().call_later(REFUSED_S, self._resume)

    def _resume(self) -> None:
        self._paused = False
        self.publish()

    def _on_connected(self) -> None:
        if self._once and self.context.is_rsws:
            again = b"".join(self._frames.frame(number, when) for number, when in self._unanswered.items())
            if again:
                assert self._socket is not None
                self._socket.write(again)
        else:
            self._count_as_unknown()
        self._ready()
        self.publish()

    def _count_as_unknown(self) -> None:
        self.context.findings.unknown += len(self._unanswered)
        self._holes.extend(self._unanswered)
        self._unanswered.clear()


def _number(message_id: str) -> int:
    return int(message_id) if message_id.isascii() and message_id.isdigit() else -1

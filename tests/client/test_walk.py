"""A random walk through everything that may happen to a subscription."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from kit.client import in_a_loop, message
from rsws.backoff import Backoff
from rsws.client import subscription
from rsws.client.limits import DEFAULTS
from rsws.protocol import (
    Error,
    Message,
    StreamId,
    Subscribe,
    Subscribed,
    Unsubscribed,
)

LIMITS = replace(DEFAULTS, queue_entries=4, retry=Backoff(0.0, 0.0))


class Walk:
    """A subscription of two channels, a gateway and the wires between them, a random step at a time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.outbox: list[subscription.Feed] = []
        self.streams: dict[str, int] = {"a": 0, "b": 0}
        self.positions: dict[str, int] = {}
        self.requests: list[dict[str, Any]] = []
        self.replies: list[Any] = []
        self.seen: dict[str, list[int]] = {"a": [], "b": []}
        starts = [Subscribe(channel) for channel in self.streams]
        self.inbox = subscription.Inbox(
            starts, False, post=self.outbox.append, forget=self.outbox.remove, limits=LIMITS
        )
        for feed in self.inbox.feeds:
            feed.sync()

    def publish(self) -> None:
        self.streams[self.random.choice("ab")] += self.random.randint(1, 3)

    def send(self) -> None:
        if self.outbox and (frame := self.outbox.pop(0).next_frame()):
            self.requests.append(json.loads(frame))

    def answer(self) -> None:
        if not self.requests:
            return
        request = self.requests.pop(0)
        channel = request["channel"]
        if request["action"] == "unsubscribe":
            self.positions.pop(channel, None)
            self.replies.append(Unsubscribed(channel))
        elif self.random.random() < 0.2:
            self.replies.append(Error("not now", "redis_unavailable", channel))
        else:
            position = StreamId.parse(request["lastMessageId"])
            self.positions[channel] = position.ms
            self.replies.append(Subscribed(channel, position, StreamId(0, 0)))

    def deliver(self) -> None:
        for channel, position in self.positions.items():
            if position < self.streams[channel]:
                self.positions[channel] += 1
                self.replies.append(message(channel, position + 1))

    def receive(self) -> None:
        if self.replies:
            reply = self.replies.pop(0)
            self.inbox.feeds[reply.channel == "b"].receive(reply)

    @property
    def complete(self) -> bool:
        return self.seen == {channel: [*range(1, last + 1)] for channel, last in self.streams.items()}

    async def take(self, step: Callable[[], Awaitable[None] | None]) -> None:
        taken = step()
        if taken is not None:
            await taken
        await asyncio.sleep(0)  # retries

    async def consume(self) -> None:
        assert self.inbox.queued <= LIMITS.queue_entries
        if self.inbox.queued:
            item = await self.inbox.get()
            assert isinstance(item, Message)
            self.seen[item.channel].append(item.id.ms)

    def disconnect(self) -> None:
        for left in (self.requests, self.replies, self.positions):
            left.clear()
        for feed in self.inbox.feeds:
            feed.disconnected()


@in_a_loop
async def test_each_message_once_and_in_order_on_every_walk() -> None:
    for seed in random.sample(range(10**9), 50):
        walk = Walk(seed)
        steps = [walk.send, walk.answer, walk.deliver, walk.receive, walk.consume, walk.publish, walk.disconnect]
        weights = [walk.random.randint(1, 9) for _ in steps[:-1]]
        for step in walk.random.choices(steps, [*weights, 0.3], k=300):
            await walk.take(step)
        for _ in range(2000):
            for step in steps[:5]:
                await walk.take(step)
            if walk.complete:
                break
        assert walk.complete, f"seed {seed}: {walk.seen}"

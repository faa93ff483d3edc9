"""A client that reads a channel and checks what it receives."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from rsws.bench.client import BenchClient
from rsws.bench.context import WorkerContext
from rsws.bench.counters import Count
from rsws.bench.messages import MessageReader, now_us
from rsws.bench.sequence import Received
from rsws.protocol import ZERO, Message, Reply, Subscribed


class BenchSubscriber(BenchClient):
    """A client that subscribes to a channel from its beginning, and after a cut goes on after the last message.

    Args:
        channel: The number of the channel.
        reader: The parser for the messages of that channel.
        latency: The name of the histogram of delivery times; None to measure none, where messages are old.
        on_progress: Called when messages have arrived.

    Attributes:
        channel: The number of the channel.
        received: The account of the messages received.
        reader: The parser that was given.
    """

    def __init__(
        self,
        context: WorkerContext,
        channel: int,
        reader: MessageReader,
        *,
        latency: str | None = "delivery",
        on_progress: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(context)
        self.channel = channel
        self.received = Received()
        self.reader = reader
        self._latency = None if latency is None else context.latency(latency)
        self.on_progress = on_progress

    def read_frames(self, data: bytes, position: int) -> int:
        now = now_us()
        begin = position
        received, read, latency = self.received, self.reader.read, self._latency
        count, passed = received.count, received.next
        while (batch := read(data, position, received.next)) is not None:
            received.add(batch.first, batch.stop, batch.first_id, batch.last_id)
            if latency is not None:
                for published_us, messages in batch.published_us:
                    latency.add(now - published_us, messages)
            position += batch.length
        if position > begin:
            self._count(now, received.count - count, received.next - passed, position - begin)
        return position

    def _count(self, now: int, messages: int, passed: int, size_bytes: int) -> None:
        row = self.context.row
        row[Count.DELIVERED] += messages
        row[Count.PASSED] += passed
        row[Count.BYTES] += size_bytes
        self.context.last_us = now
        if self.on_progress is not None:
            self.on_progress()

    def _on_connected(self) -> None:
        last_id = self.received.last_id
        request = {
            "action": "subscribe",
            "channel": self.context.plan.channel(self.channel),
            "lastMessageId": "0" if last_id == ZERO else str(last_id),
        }
        self._send_text(msgspec.json.encode(request))

    def _handle(self, reply: Reply, text: bytes) -> None:
        match reply:
            case Subscribed():
                self.context.is_rsws = b'"latestId"' in text
                self._measure_step("subscribed")
                self._ready()
            case Message():
                self._handle_unusual(reply)

    def _handle_unusual(self, message: Message) -> None:
        """Handle a message that the reader did not find: fragmented, formatted differently, or not of this run."""
        number = self.reader.number(message.json)
        if number is None or message.channel != self.context.plan.channel(self.channel):
            self.context.findings.foreign += 1
            return
        passed = self.received.next
        self.received.add(number, number + 1, message.id, message.id)
        self._count(now_us(), 1, self.received.next - passed, len(message.json))

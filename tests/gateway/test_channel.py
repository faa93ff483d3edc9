"""The rings of many channels under one budget."""

from __future__ import annotations

from kit.interleavings import make_channel
from rsws.gateway.delivery.channel import Channel, RingBudget
from rsws.protocol import ZERO, StreamId
from rsws.streams.replies import Entry

RING_BYTES = 10_000
DATA = b'"' + b"x" * 400 + b'"'


def channel_of(budget: RingBudget, name: str) -> Channel:
    return make_channel(name, ZERO, budget)


def deliver(channel: Channel, first: int, count: int) -> None:
    for number in range(first, first + count):
        channel.deliver([Entry(b"%d-0" % number, DATA)])


def in_ring(channel: Channel) -> int:
    """How many messages after its floor it has, which have to be all that were delivered."""
    frames, count, position = channel.recent(channel.floor, 1 << 30)
    assert len(frames) == channel.ring_bytes
    assert position == channel.cursor
    assert count == channel.cursor.ms - channel.floor.ms
    return count


def test_quiet_channels_make_room_for_a_busy_one() -> None:
    budget = RingBudget(30 * RING_BYTES, RING_BYTES)
    quiet = [channel_of(budget, f"quiet-{number}") for number in range(40)]
    for channel in quiet:
        deliver(channel, 1, 40)
    busy = channel_of(budget, "busy")
    for start in range(1, 200, 10):
        deliver(busy, start, 10)
        assert budget.used_bytes <= budget.limit_bytes
    assert busy.ring_bytes > RING_BYTES * 0.9
    assert sum(map(in_ring, [busy, *quiet])) > 500
    assert budget.used_bytes == sum(channel.ring_bytes for channel in [busy, *quiet])
    for channel in [busy, *quiet]:
        channel.close()
    assert budget.used_bytes == 0


def test_busy_channels_share_the_budget() -> None:
    budget = RingBudget(10 * RING_BYTES, RING_BYTES)
    channels = [channel_of(budget, f"busy-{number}") for number in range(40)]
    for turn in range(100):
        for channel in channels:
            deliver(channel, turn + 1, 1)
    assert budget.used_bytes <= budget.limit_bytes
    assert min(map(in_ring, channels)) >= 1
    assert max(map(in_ring, channels)) <= 20


def test_a_budget_that_is_too_small_for_anything_keeps_nothing() -> None:
    budget = RingBudget(100, RING_BYTES)
    channel = channel_of(budget, "one")
    deliver(channel, 1, 5)
    assert (channel.floor, channel.cursor, budget.used_bytes) == (StreamId(5, 0), StreamId(5, 0), 0)
    deliver(channel, 6, 1)
    assert in_ring(channel) == 0

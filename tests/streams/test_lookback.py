"""Counting back from the end of a stream, a little at a time and one after the other."""

from __future__ import annotations

import asyncio
import time

from kit.gateway import async_test, until
from rsws.protocol import ZERO, StreamId
from rsws.streams.lookback import STEP_ENTRIES, STEPS_AT_ONCE, LookBack


class Streams:
    """Streams whose ids are 1-0, 2-0 and so on; each step takes a turn of the event loop."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []
        self.turns = 1
        self.under_way = 0
        self.most_under_way = 0
        self.most_at_once = 1000
        """How many entries a step counts, as bytes end it, too."""

    async def step(self, channel: str, end: StreamId, limit: int) -> tuple[int, StreamId, bool]:
        assert limit <= STEP_ENTRIES
        self.steps.append((channel, limit))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            for _ in range(self.turns):
                await asyncio.sleep(0)
        finally:
            self.under_way -= 1
        last = end.ms
        found = min(limit, last, self.most_at_once)
        return found, StreamId(last - found + 1, 0), found < min(limit, self.most_at_once)


@async_test
async def test_all_who_ask_the_same_share_a_count() -> None:
    streams = Streams()
    back = LookBack(streams.step, step_s=0.0)
    found = await asyncio.gather(*[back.position("c", 10 * STEP_ENTRIES, StreamId(5000, 0)) for _ in range(50)])
    assert set(found) == {StreamId(5000 - 10 * STEP_ENTRIES, 0)}
    assert len(streams.steps) == 11
    assert back.under_way == 0


@async_test
async def test_counts_have_their_turns_and_a_short_one_does_not_wait_for_long_ones() -> None:
    streams = Streams()
    back = LookBack(streams.step, step_s=0.0)
    long = [asyncio.create_task(back.position(f"long-{n}", 100 * STEP_ENTRIES, StreamId(10**6, 0))) for n in range(5)]
    await until(lambda: len(streams.steps) > 20)
    done = len(streams.steps)
    assert await back.position("short", 5, StreamId(100, 0)) == StreamId(95, 0)
    assert len(streams.steps) - done < 10
    await asyncio.gather(*long)
    middle = [channel for channel, _ in streams.steps if channel != "short"][50:100]
    assert all(middle.count(f"long-{number}") == 10 for number in range(5))


@async_test
async def test_a_count_that_nobody_waits_for_stops() -> None:
    streams = Streams()
    back = LookBack(streams.step, step_s=0.0)
    asked = [asyncio.create_task(back.position("c", 10**6, StreamId(10**9, 0))) for _ in range(3)]
    await until(lambda: len(streams.steps) > 5)
    asked[0].cancel()  # who may be the one whose step is under way
    asked[1].cancel()
    going_on = len(streams.steps)
    await until(lambda: len(streams.steps) > going_on + 5)
    asked[2].cancel()
    await asyncio.wait(asked)
    stopped = len(streams.steps)
    await back.position("other", 10 * STEP_ENTRIES, StreamId(10**6, 0))  # each of whose steps has its turn
    assert {channel for channel, _ in streams.steps[stopped:]} == {"other"}
    assert back.under_way == 0


@async_test
async def test_a_step_that_counted_less_than_it_was_asked_to_is_no_end() -> None:
    streams = Streams()
    streams.most_at_once = 3
    back = LookBack(streams.step, step_s=0.0)
    assert await back.position("c", 10, StreamId(100, 0)) == StreamId(90, 0)
    streams.most_at_once = 1000
    assert await back.position("c", 99, StreamId(100, 0)) == StreamId(1, 0)
    assert await back.position("c", 100, StreamId(100, 0)) == ZERO


@async_test
async def test_however_many_count_redis_has_its_time_for_others() -> None:
    streams = Streams()
    back = LookBack(streams.step, step_s=0.002)
    started = time.monotonic()
    await asyncio.gather(*[back.position(f"c-{n}", 3 * STEP_ENTRIES, StreamId(10**6, 0)) for n in range(20)])
    assert len(streams.steps) == 20 * 4
    assert time.monotonic() - started > 0.002 * 20 * 3 * 0.9  # all but the first step of each


@async_test
async def test_counts_do_not_wait_for_each_other_in_a_busy_event_loop() -> None:
    streams = Streams()
    streams.turns = 20  # of the loop, for each step
    back = LookBack(streams.step, step_s=0.0)
    await asyncio.gather(*[back.position(f"c-{n}", 3 * STEP_ENTRIES, StreamId(10**6, 0)) for n in range(20)])
    assert streams.most_under_way >= STEPS_AT_ONCE

"""Commands that wait for one connection to Redis."""

from __future__ import annotations

from typing import Any

from rsws.redis.command_queue import BATCH_BYTES, BATCH_COMMANDS, CommandQueue


def ignore(reply: Any) -> None:
    """Nobody waits for it."""


def batches(queue: CommandQueue) -> list[bytes]:
    """All that waits, as it would be sent."""
    found = []
    while not queue.is_empty:
        found.append(queue.next_batch()[0])
        assert queue.has_batch_under_way
        queue.batch_done()
    assert queue.held_bytes == 0
    return found


def test_what_waits_goes_in_one_batch() -> None:
    queue = CommandQueue()
    for command in (b"a", b"b", b"c"):
        queue.add(command, ignore)
    assert batches(queue) == [b"abc"]
    assert queue.batches == 1


def test_several_at_once_are_as_one_after_the_other() -> None:
    queue = CommandQueue()
    assert queue.add_all([b"a", b"b"], [ignore, ignore])
    assert not queue.add_all([b"c"], [ignore])
    assert queue.held_bytes == 3
    queue.add(b"first", ignore, again=True)
    assert batches(queue) == [b"firstabc"]


def test_what_is_added_together_leaves_together() -> None:
    queue = CommandQueue()
    for _ in range(BATCH_COMMANDS - 1):
        queue.add(b"x", ignore)
    queue.add_all([b"y", b"y"], [ignore] * 2)
    queue.add(b"z", ignore)
    assert [batch[-2:] for batch in batches(queue)] == [b"yy", b"z"]
    queue.add(b"x", ignore)
    queue.add_all([b"y", b"y" * BATCH_BYTES], [ignore] * 2)
    queue.add(b"z", ignore)
    assert [(batch[:1], len(batch)) for batch in batches(queue)] == [(b"x", 1), (b"y", 1 + BATCH_BYTES), (b"z", 1)]


def test_a_batch_is_bounded_in_commands_bytes_and_weight() -> None:
    queue = CommandQueue()
    for _ in range(BATCH_COMMANDS + 1):
        queue.add(b"x", ignore)
    assert [len(batch) for batch in batches(queue)] == [BATCH_COMMANDS, 1]
    for command in (b"x", b"y" * (BATCH_BYTES + 1), b"z"):
        queue.add(command, ignore)
    assert [batch[:1] for batch in batches(queue)] == [b"x", b"y", b"z"]
    for _ in range(5):
        queue.add(b"x", ignore, BATCH_BYTES // 2)
    assert batches(queue) == [b"xx", b"xx", b"x"]


def test_repeats_go_first_in_their_order() -> None:
    queue = CommandQueue()
    queue.add(b"later", ignore)
    queue.add(b"1", ignore, again=True)
    queue.add(b"2", ignore, again=True)
    queue.add_first([b"hello"], [ignore])
    assert batches(queue) == [b"hello12later"]


def test_who_waits_is_told_when_all_is_forgotten() -> None:
    queue = CommandQueue()
    queue.add(b"sent", ignore)
    queue.next_batch()
    queue.add(b"waits", ignore)
    assert queue.clear() == [ignore]
    assert queue.held_bytes == len(b"sent")
    queue.batch_done()
    assert batches(queue) == []

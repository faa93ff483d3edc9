"""What is asked of one channel of a cluster is done in order, or refused, whatever its nodes answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from kit.gateway import async_test
from rsws.errors import Outcome, RedisUnavailable
from rsws.streams.lanes import Lanes
from rsws.streams.slots import Redirected
from rsws.streams.store import Store

UNSENT = RedisUnavailable("not connected")
LOST = RedisUnavailable("connection lost", Outcome.UNKNOWN)
DOWN = Redirected("CLUSTERDOWN The cluster is down")


class Node:
    """One that keeps what it is asked until it is told what to answer, or answers all of it at once."""

    def __init__(self, at_once: Any = None) -> None:
        self.at_once = at_once
        self.asked: list[tuple[int, Callable[[Any], None]]] = []

    def ask(self, number: int, on_result: Callable[[Any], None]) -> None:
        if self.at_once is None:
            self.asked.append((number, on_result))
        else:
            on_result(self.at_once)

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.asked]

    def answer(self, *results: Any) -> None:
        for result in results:
            self.asked.pop(0)[1](result)


class Asked:
    """Requests for one channel, and what became of each, in that order."""

    def __init__(self, owner: Node) -> None:
        self.owner = owner
        self.results: list[tuple[int, Any]] = []
        self._lanes = Lanes(lambda channel, redirect: cast(Store, self.owner), limit_s=5.0)

    def ask(self, *numbers: int, keys: int = 1) -> None:
        for number in numbers:
            self._lanes.submit(
                "channel",
                lambda store, done, number=number: cast(Node, store).ask(number, done),  # type: ignore[misc]
                lambda result, number=number: self.results.append((number, result)),  # type: ignore[misc]
                keys=keys,
            )

    @property
    def is_over(self) -> bool:
        """Whether nothing is remembered of the channel."""
        return not self._lanes._lanes and not self._lanes._held_bytes


def test_what_is_refused_at_once_is_refused_whatever_its_number() -> None:
    node = Node()
    asked = Asked(node)
    asked.ask(0)
    for number in range(1, 5001):  # none may be under way beside the one before
        asked.ask(number, keys=1 + number % 2)
    node.at_once = UNSENT
    node.answer("stored")
    assert asked.results == [(0, "stored"), *((number, UNSENT) for number in range(1, 5001))]
    assert asked.is_over


@async_test
async def test_what_was_not_sent_goes_where_the_map_says_by_now() -> None:
    node, new = Node(), Node()
    asked = Asked(node)
    asked.ask(1, 2, 3)
    asked.owner = new
    node.answer(LOST, UNSENT, UNSENT)
    assert asked.results == [(1, LOST)]
    asked.ask(4)
    await asyncio.sleep(0.05)
    assert new.numbers == [2]
    new.answer("stored")
    assert new.numbers == [3, 4]
    new.answer("stored", "stored")
    assert asked.results == [(1, LOST), (2, "stored"), (3, "stored"), (4, "stored")]
    assert asked.is_over


@async_test
async def test_nothing_is_done_after_what_was_asked_later() -> None:
    node = Node()
    asked = Asked(node)
    asked.ask(1, 2, 3, 4)
    node.answer(DOWN, "stored", DOWN)
    assert [number for number, _ in asked.results] == [1, 2]
    refused = asked.results[0][1]
    assert (type(refused), refused.outcome) == (RedisUnavailable, Outcome.NOT_STORED)
    node.answer(DOWN)
    await asyncio.sleep(0.05)
    assert node.numbers == [3]
    node.answer("stored")
    node.answer("stored")
    assert [number for number, _ in asked.results] == [1, 2, 3, 4]
    assert asked.is_over


@async_test
async def test_an_answer_that_waits_for_replicas_refuses_nothing_that_was_asked_later() -> None:
    node = Node()
    asked = Asked(node)
    asked.ask(1, 2)
    (_, first), (_, second) = node.asked
    node.asked.clear()
    second(DOWN)
    first("stored")
    await asyncio.sleep(0.05)
    node.answer("stored")
    assert asked.results == [(1, "stored"), (2, "stored")]
    assert asked.is_over

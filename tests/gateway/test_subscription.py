"""The join/lag/resume machine: every interleaving of a small world, random ones of longer lives, and planted bugs.

``prove.py interleavings`` goes one or two events further.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.interleavings import Violation, World, search, small_world
from kit.support import untraced
from rsws.gateway.delivery.channel import Channel
from rsws.gateway.delivery.subscription import Page, State, Subscription
from rsws.protocol import StreamId
from rsws.streams.replies import Entry


@pytest.mark.parametrize(
    ("faults", "depth"), [("", 7), ("trim interrupt", 5), ("reset", 5), ("trim interrupt reset", 4), ("shrink", 6)]
)
def test_every_interleaving_of_a_small_world(faults: str, depth: int) -> None:
    with untraced():
        assert search(depth, lambda: small_world(faults=faults)) > 900


@pytest.mark.parametrize(("faults", "depth"), [("", 6), ("trim interrupt", 5), ("reset", 5)])
def test_every_interleaving_of_one_client_with_two_subscriptions(faults: str, depth: int) -> None:
    with untraced():
        assert search(depth, lambda: small_world(faults=faults, together=True)) > 1_700


@pytest.mark.parametrize(("faults", "depth"), [("", 6), ("trim interrupt", 4), ("reset", 5)])
def test_every_interleaving_of_a_channel_that_ends(faults: str, depth: int) -> None:
    with untraced():
        assert search(depth, lambda: small_world(faults=faults, ends=(2, 4))) > 500


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["", "trim interrupt", "trim interrupt reset shrink"]), st.lists(st.integers(0, 1000), max_size=80)
)
def test_longer_lives(faults: str, choices: list[int]) -> None:
    world = small_world(max_entries=40, faults=faults)
    for choice in choices:
        events = list(world.events())
        if not events:
            break
        world.happen(events[choice % len(events)])
    world.settle()


class CursorOfNow(Subscription):
    """Takes the cursor of the moment a page arrives, not of the one it was issued."""

    def page_read(self, page: Page) -> None:
        super().page_read(replace(page, cursor=self.channel.cursor, gap=None))


class EveryPageIsComplete(Subscription):
    def page_read(self, page: Page) -> None:
        super().page_read(replace(page, complete=True, gap=None))


class NeverComplete(Subscription):
    """Trusts only what a page holds: on a busy channel, and at a deleted tail, it never comes live."""

    def page_read(self, page: Page) -> None:
        super().page_read(replace(page, last=self.position, complete=False, gap=None))


class PageAfterClose(Subscription):
    def close(self) -> None:
        super().close()
        self.state = State.BEHIND


class DeafToRoom(Subscription):
    """Lags and never asks to be woken."""

    def advance(self) -> None:
        if self.outlet.has_room:
            super().advance()


class TakesWithoutRoom(Subscription):
    """Says there was no room, but took the messages."""

    def _enter(self, state: State) -> None:
        super()._enter(state)
        self.outlet.try_send = self._take  # type: ignore[method-assign]

    def _take(self, frames: bytes) -> bool:
        room = self.outlet.has_room
        self.outlet.write(frames)
        return room


class KeepsTheTurn(Subscription):
    """Reads its page, and lets no other subscription of its client read any."""

    def yield_turn(self) -> None:
        self._has_turn = False


class WaitsForNoTurn(Subscription):
    """Reads a page while one is read for another subscription of its client."""

    def advance(self) -> None:
        self.outlet.page_done()
        super().advance()


class JoinsBehind(Subscription):
    """Joins the live ones while the ring still has something for it."""

    def advance(self) -> None:
        if self.state is State.BEHIND and self.position >= self.channel.floor:
            self._enter(State.LIVE)
        else:
            super().advance()


class CursorFirst(Channel):
    """Moves the cursor before it notes where a lagging listener stood."""

    def deliver(self, entries: list[Entry]) -> None:  # type: ignore[override]
        live = set(self.live)
        super().deliver(entries)
        for listener in live - self.live:
            listener.fell_behind(self.cursor)


class RingTooShort(Channel):
    """Forgets the oldest message of the ring but not that it did."""

    def deliver(self, entries: list[Entry]) -> None:  # type: ignore[override]
        super().deliver(entries)
        if self._ring is not None and len(self._ring) > 1:
            self._ring.popleft()


class FloorTooHigh(Channel):
    def deliver(self, entries: list[Entry]) -> None:  # type: ignore[override]
        super().deliver(entries)
        self.floor = StreamId(max(0, self.floor.ms - 1), 0)


class NeverTellsThoseAhead(Channel):
    def deliver(self, entries: list[Entry]) -> None:  # type: ignore[override]
        beyond, self._beyond_cursor = self._beyond_cursor, None
        super().deliver(entries)
        self._beyond_cursor = beyond


class DeliversTwice(Channel):
    """Does not skip what was dispatched before."""

    def deliver(self, entries: list[Entry]) -> None:  # type: ignore[override]
        before = self.cursor
        super().deliver(entries)
        self.cursor = before
        super().deliver(entries)


class RingForgetsEnds(Channel):
    """Ends whoever is live, and not who lags and is served from the ring."""

    def _remember_end(self, last: StreamId) -> None:
        pass


class PageForgetsEnds(Subscription):
    def page_read(self, page: Page) -> None:
        super().page_read(replace(page, end=None))


class GoesOnAfterTheEnd(Subscription):
    def close(self) -> None:
        if self.state is not State.LIVE:
            super().close()


@pytest.mark.parametrize(
    "make",
    [
        lambda: small_world(ends=(2, 4), channel=RingForgetsEnds),
        lambda: small_world(ends=(2, 4), subscription=PageForgetsEnds),
        lambda: small_world(ends=(2, 4), subscription=GoesOnAfterTheEnd),
    ],
    ids=["ring forgets", "page forgets", "goes on"],
)
def test_an_end_that_is_not_told_or_not_kept_is_caught(make: Callable[[], World]) -> None:
    with pytest.raises(Violation):
        search(7, make)


@pytest.mark.parametrize("bug", [KeepsTheTurn, WaitsForNoTurn])
def test_two_subscriptions_of_a_client_that_do_not_take_turns_are_caught(bug: type[Subscription]) -> None:
    with pytest.raises(Violation, match=r"at rest|two pages"):
        search(6, lambda: small_world(subscription=bug, together=True))


def test_a_reader_that_trusts_what_it_finds_is_caught() -> None:
    with pytest.raises(Violation, match=r"leaves something out|not at the cursor"):
        search(6, lambda: small_world(faults="trim", trusting=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda bug=bug: small_world(**bug)
        for bug in (
            *({"subscription": bug} for bug in (CursorOfNow, EveryPageIsComplete, NeverComplete, PageAfterClose,
                                                DeafToRoom, TakesWithoutRoom, JoinsBehind)),
            *({"channel": bug} for bug in (CursorFirst, RingTooShort, FloorTooHigh, NeverTellsThoseAhead,
                                           DeliversTwice)),
        )
    ],
    ids=["cursor of now", "every page complete", "never complete", "page after close", "deaf to room",
         "takes without room", "joins behind", "cursor first", "ring too short", "floor too low", "ahead forgotten",
         "delivers twice"],
)  # fmt: skip
def test_a_planted_bug_is_caught(make: Callable[[], World]) -> None:
    with pytest.raises(Violation):
        search(7, make)

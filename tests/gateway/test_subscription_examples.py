"""The life of a subscription in plain examples: read these first. All that can happen is in ``test_subscription.py``.

The stream has the entries 1 and 2, which the channel has dispatched; a client has room for two writes.
"""

from __future__ import annotations

import pytest

from kit.interleavings import Client, World
from rsws.gateway.delivery.subscription import State, Subscription


@pytest.fixture
def world() -> World:
    return World()


def subscribe(world: World, start: int) -> tuple[Client, Subscription]:
    world.subscribe(start)
    client = world.clients[-1]
    assert client.subscription is not None
    return client, client.subscription


def state_of(subscription: Subscription) -> State:
    return subscription.state


def add_and_deliver(world: World, count: int = 1) -> None:
    for _ in range(count):
        world.add(0)
        world.deliver(1)


def test_at_the_end_of_the_stream_it_is_live_at_once(world: World) -> None:
    client, subscription = subscribe(world, 2)
    assert state_of(subscription) is State.LIVE
    add_and_deliver(world)
    assert client.seen == [("message", 3)]
    assert subscription.position.ms == 3


def test_behind_it_reads_a_page_and_then_is_live(world: World) -> None:
    client, subscription = subscribe(world, 0)
    assert state_of(subscription) is State.READING
    world.execute(0)
    world.arrive(0)
    assert client.seen == [("message", 1), ("message", 2)]
    assert state_of(subscription) is State.LIVE  # it has come to the channel's cursor


def test_without_room_it_falls_behind_and_goes_on_where_it_stood(world: World) -> None:
    client, subscription = subscribe(world, 2)
    client.connection.room = 1
    add_and_deliver(world, 2)
    assert state_of(subscription) is State.BEHIND
    assert subscription.position.ms == 3
    world.drain(0)  # what it missed is still in the channel's ring: nothing is read
    assert not world.reads
    assert client.seen == [("message", 3), ("message", 4)]
    assert state_of(subscription) is State.LIVE


def test_beyond_the_cursor_it_waits_for_the_reader(world: World) -> None:
    world.add(0)
    client, subscription = subscribe(world, 3)  # the reader has not brought 3 yet
    assert state_of(subscription) is State.BEYOND
    world.deliver(1)
    assert state_of(subscription) is State.LIVE
    assert client.seen == []


def test_a_stream_that_was_made_anew_is_told_and_read_from_its_beginning(world: World) -> None:
    client, subscription = subscribe(world, 2)
    world.reset(0)
    world.notice(0)
    assert client.seen == [("reset", 2)]
    assert subscription.position.ms == 0
    world.settle()
    assert client.seen == [("reset", 2), ("message", 1)]


def test_after_interrupted_reading_everybody_reads_the_stream(world: World) -> None:
    client, subscription = subscribe(world, 2)
    world.interrupt(0)
    world.add(0)
    world.resume(0)
    assert state_of(subscription) is State.READING
    world.execute(0)
    world.arrive(0)
    assert client.seen == [("message", 3)]
    assert state_of(subscription) is State.LIVE


def test_closed_it_is_sent_nothing(world: World) -> None:
    client, subscription = subscribe(world, 0)
    world.unsubscribe(0)
    assert state_of(subscription) is State.CLOSED
    world.execute(0)
    world.arrive(0)
    add_and_deliver(world)
    assert client.seen == []

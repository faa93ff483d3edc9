"""What a client sends again, in which order and for how long, when an answer is lost or tells too little."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import replace

import msgspec
import pytest

from kit.client import QUICK, UNKNOWN, connected, in_a_loop, refused, scripted
from kit.support import free_port
from rsws.backoff import Backoff
from rsws.client import connect
from rsws.client.limits import DEFAULTS
from rsws.errors import (
    Outcome,
    PublishFailed,
)
from rsws.protocol import (
    Ack,
    ErrorAck,
    Pong,
    StreamId,
)
from rsws.settings import Settings


@in_a_loop
async def test_a_lost_ack_is_asked_for_again_under_the_same_name() -> None:
    async with connected() as (script, peer, client):
        publishing = asyncio.create_task(client.publish("c", {"n": 1}))
        first = await peer.hear_text()
        for _ in range(3):
            await peer.drop()
            peer = await script.peer()
            assert await peer.hear_text() == first
        await peer.say(Ack(json.loads(first)["messageId"], StreamId(1, 0), duplicate=True))
        assert await publishing == StreamId(1, 0)


@in_a_loop
async def test_what_is_sent_again_keeps_its_order() -> None:
    async with connected() as (script, peer, client):
        publishing = [asyncio.create_task(client.publish("c", 0, message_id=name)) for name in "abcd"]
        assert [await peer.hear_publish() for _ in "abcd"] == [*"abcd"]
        await peer.say(Ack("b", StreamId(2, 0)))
        await publishing[1]
        await peer.drop()
        publishing += [asyncio.create_task(client.publish("c", 0, message_id=name)) for name in "ef"]
        peer = await script.peer()
        assert [await peer.hear_publish() for _ in "acdef"] == [*"acdef"]
        await peer.say(*[Ack(name, StreamId(1, 0)) for name in "acdef"])
        await asyncio.gather(*publishing)


@in_a_loop
async def test_what_is_sent_again_comes_after_a_subscribe_that_came_before_it() -> None:
    async with connected() as (script, peer, client):
        client.subscribe("c")
        publishing = asyncio.create_task(client.publish("c", 0, message_id="m"))
        await peer.expect(action="subscribe", channel="c", lastMessageId="$")
        await peer.hear_publish()
        await peer.drop()
        peer = await script.peer()
        await peer.expect(action="subscribe", channel="c", lastMessageId="$")
        assert await peer.hear_publish() == "m"
        await peer.say(Ack("m", StreamId(1, 0)))
        await publishing


@in_a_loop
async def test_an_unknown_outcome_is_asked_for_until_it_is_known() -> None:
    async with connected() as (_, peer, client):
        publishing = asyncio.create_task(client.publish("c", 1, message_id="m"))
        first = await peer.hear_text()
        for answer in (UNKNOWN, UNKNOWN, refused("redis_unavailable"), refused("redis_refused"), UNKNOWN):
            await peer.say(answer)
            assert await peer.hear_text() == first
        await peer.say(Ack("m", StreamId(1, 0), duplicate=True))
        assert await publishing == StreamId(1, 0)


@in_a_loop
async def test_what_is_asked_for_again_keeps_its_order() -> None:
    async with connected(replace(QUICK, retry=Backoff(0.01, 0.01))) as (_, peer, client):
        publishing = [asyncio.create_task(client.publish("c", 0, message_id=str(name))) for name in range(20)]
        asked = [await peer.hear_publish() for _ in publishing]
        for _ in range(3):
            await peer.say(*[msgspec.structs.replace(UNKNOWN, message_id=name) for name in reversed(asked)])
            assert [await peer.hear_publish() for _ in publishing] == asked
        await peer.say(*[Ack(name, StreamId(1, 0)) for name in asked])
        await asyncio.gather(*publishing)


@in_a_loop
async def test_asking_again_is_put_off_more_and_more(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    really = Backoff.wait_s

    def wait_s(backoff: Backoff, failures: int) -> float:
        waits.append(really(backoff, failures))
        return waits[-1]

    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    monkeypatch.setattr(Backoff, "wait_s", wait_s)
    async with connected() as (_, peer, client):
        publishing = asyncio.create_task(client.publish("c", 1, message_id="m"))
        await peer.hear_publish()
        started_at = time.monotonic()
        for total in (0.01, 0.03, 0.07, 0.12, 0.17):
            await peer.say(UNKNOWN)
            await peer.hear_publish()
            assert time.monotonic() - started_at >= total
        await peer.say(Ack("m", StreamId(1, 0)))
        await publishing
        publishing = asyncio.create_task(client.publish("c", 1, message_id="m"))
        await peer.hear_publish()
        await peer.say(UNKNOWN)
        await peer.hear_publish()
        assert waits == [0.01, 0.02, 0.04, 0.05, 0.05, 0.01]  # from the beginning again
        await peer.say(Ack("m", StreamId(1, 0)))
        await publishing


@in_a_loop
async def test_one_that_waits_to_be_asked_again_is_sent_once_over_the_next_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits = iter((0.2, 0.0))  # until it is asked for again, and until there is a connection again
    monkeypatch.setattr(Backoff, "wait_s", lambda backoff, failures: next(waits))
    async with connected() as (script, peer, client):
        publishing = asyncio.create_task(client.publish("c", 1, message_id="m"))
        await peer.hear_publish()
        await peer.say(UNKNOWN)
        await peer.drop()
        peer = await script.peer()
        await peer.hear_publish()
        await asyncio.sleep(0.3)  # the time when it was to be asked for again is past
        pinging = asyncio.create_task(client.ping())
        await peer.expect(action="ping")
        await peer.say(Ack("m", StreamId(1, 0)), Pong())
        assert await publishing == StreamId(1, 0)
        await pinging


@pytest.mark.parametrize("code", ["channel_unreadable", "not_allowed", "bad_request", "new_in_2030"])
@in_a_loop
async def test_one_that_is_refused_when_it_is_sent_again_may_be_stored_since_the_first_time(code: str) -> None:
    async with connected() as (script, peer, client):
        for loses in (False, True):
            publishing = asyncio.create_task(client.publish("c", 1, message_id="m"))
            await peer.hear_publish()
            if loses:
                await peer.drop()
                peer = await script.peer()
            else:
                await peer.say(UNKNOWN)
            await peer.hear_publish()
            await peer.say(refused(code))
            with pytest.raises(PublishFailed, match=f"says {code}") as caught:
                await publishing
            assert (caught.value.code, caught.value.outcome) == (code, Outcome.UNKNOWN)


@pytest.mark.parametrize("answers", [[], [UNKNOWN], [UNKNOWN, refused("redis_refused")]])
@in_a_loop
async def test_a_name_that_was_taken_is_a_conflict_and_nothing_is_stored(answers: list[ErrorAck]) -> None:
    async with connected() as (_, peer, client):
        publishing = asyncio.create_task(client.publish("c", 1, message_id="m"))
        for answer in [*answers, refused("conflict")]:
            await peer.hear_publish()
            await peer.say(answer)
        with pytest.raises(PublishFailed, match="says conflict") as caught:
            await publishing
        assert (caught.value.code, caught.value.outcome) == ("conflict", Outcome.NOT_STORED)


@in_a_loop
async def test_a_gateway_that_might_not_know_a_repeat_any_more_is_not_asked() -> None:
    async with connected(replace(QUICK, resend_s=0.0)) as (script, peer, client):
        publishing = asyncio.create_task(client.publish("c", 1, timeout_s=1000))
        await peer.hear_publish()
        await peer.drop()
        peer = await script.peer()
        with pytest.raises(PublishFailed, match="no ack within 0 s") as caught:
            await publishing
        assert (caught.value.code, caught.value.outcome) == ("timeout", Outcome.UNKNOWN)
    async with connected(replace(QUICK, resend_s=0.1)) as (_, peer, client):
        publishing = asyncio.create_task(client.publish("c", 1, message_id="m", timeout_s=1000))
        while not publishing.done():
            hearing = asyncio.create_task(peer.hear_publish())
            await asyncio.wait((hearing, publishing), return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                await peer.say(UNKNOWN)
        hearing.cancel()
        with pytest.raises(PublishFailed, match=r"no ack within 0\.1 s") as caught:
            await publishing


@in_a_loop
async def test_a_repeat_that_was_sent_in_time_may_be_answered_later() -> None:
    async with connected(replace(QUICK, resend_s=1.5)) as (_, peer, client):
        in_time = asyncio.create_task(client.publish("c", 1, message_id="a"))
        await peer.hear_publish()
        await peer.say(msgspec.structs.replace(UNKNOWN, message_id="a"))
        await peer.hear_publish()
        too_late = asyncio.create_task(client.publish("c", 1, message_id="m"))
        await peer.hear_publish()
        await asyncio.sleep(1.5)
        await peer.say(UNKNOWN)
        with pytest.raises(PublishFailed, match=r"no ack within 1\.5 s"):
            await too_late
        await peer.say(Ack("a", StreamId(1, 0)))
        assert await in_time == StreamId(1, 0)


def test_a_publish_is_sent_again_for_less_time_than_a_gateway_knows_a_repeat() -> None:
    assert Settings().producer_window_s > DEFAULTS.resend_s


@pytest.mark.parametrize("loses", [False, True])
@in_a_loop
async def test_no_answer_that_says_what_became_of_it_in_time(loses: bool) -> None:
    async with scripted(port := free_port()) as script:
        client = await (context := connect(script.url, limits=QUICK)).__aenter__()
        peer = await script.peer()
        publishing = asyncio.create_task(client.publish("c", 1, message_id="m", timeout_s=0.1))
        await peer.hear_publish()
        await (peer.drop() if loses else peer.say(UNKNOWN))
    with pytest.raises(PublishFailed, match=r"no ack within 0\.1 s") as caught:
        await publishing
    assert (caught.value.code, caught.value.outcome) == ("timeout", Outcome.UNKNOWN)
    async with scripted(port) as script:
        await script.peer()
        await context.__aexit__(None, None, None)


@in_a_loop
async def test_a_publish_cancelled_while_it_waits_to_be_sent_again_is_not() -> None:
    async with connected(replace(QUICK, retry=Backoff(0.1, 0.1))) as (_, peer, client):
        publishing = asyncio.create_task(client.publish("c", 1, message_id="m"))
        await peer.hear_publish()
        pinging = asyncio.create_task(client.ping())
        await peer.expect(action="ping")
        await peer.say(UNKNOWN, Pong())
        await pinging
        publishing.cancel()
        await asyncio.wait([publishing])
        again = asyncio.create_task(client.publish("c", 2, message_id="m"))
        assert (await peer.hear())["data"] == 2
        await asyncio.sleep(0.15)  # likewise
        pinging = asyncio.create_task(client.ping())
        await peer.expect(action="ping")
        await peer.say(Ack("m", StreamId(2, 0)), Pong())
        assert await again == StreamId(2, 0)
        await pinging

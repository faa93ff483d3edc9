"""A client that loses its connection: coming back, giving up, and what can't be got over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest

from kit.client import QUICK, SECRET, assert_no_token, connected, ids, in_a_loop, message, scripted, take
from kit.gateway import UNAUTHORIZED
from rsws.backoff import Backoff
from rsws.client import (
    Disconnected,
    Reconnected,
    connect,
)
from rsws.client.limits import DEFAULTS
from rsws.errors import (
    ConnectionLost,
    Outcome,
    PublishFailed,
    Unauthorized,
)
from rsws.protocol import (
    Ack,
    CaughtUp,
    Error,
    Pong,
    StreamId,
    Subscribed,
    Unsubscribed,
)


def test_delays_grow_are_random_and_have_a_ceiling() -> None:
    runs = [[*islice(DEFAULTS.retry.waits_s(), 20)] for _ in range(200)]
    for position, ceiling in enumerate([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, *[5.0] * 14]):
        delays = [each[position] for each in runs]
        assert 0 <= min(delays) < ceiling / 4
        assert ceiling * 3 / 4 < max(delays) <= ceiling


@in_a_loop
async def test_losses_and_returns_are_told() -> None:
    events: asyncio.Queue[Disconnected | Reconnected] = asyncio.Queue()
    async with connected(on_connection=events.put_nowait) as (script, peer, _client):
        await peer.close(1012, "back soon")
        assert await events.get() == Disconnected("closed by the gateway with 1012: back soon")
        back = await events.get()
        assert isinstance(back, Reconnected)
        assert 0 < back.after_s < 5
        await (await script.peer()).drop()
        assert await events.get() == Disconnected("the connection broke")
        await script.peer()
        await events.get()
    assert events.empty()


@in_a_loop
async def test_an_error_of_on_connection_ends_the_client() -> None:
    def fail(event: Disconnected | Reconnected) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with connected(on_connection=fail) as (_, peer, client):
            messages = client.subscribe("c")
            await peer.drop()
            with pytest.raises(ZeroDivisionError):
                await anext(messages)


@in_a_loop
async def test_giving_up() -> None:
    async with scripted() as script:
        client = await (context := connect(script.url, token=SECRET, give_up_after_s=0.3, limits=QUICK)).__aenter__()
        messages = client.subscribe("c", after="0")
        peer = await script.peer()
        await peer.hear()
        await peer.grant("c", 0)
        await peer.say(message("c", 1), message("c", 2))
        assert ids(await take(messages, 1)) == [1]
        await peer.drop()
    with pytest.raises(ConnectionLost) as caught:
        await client.publish("c", 1)
    assert "lost, for 0.3 s now: can't connect to" in str(caught.value)
    assert_no_token(caught.value)
    assert ids(await take(messages, 1)) == [2]
    for _ in range(2):
        with pytest.raises(ConnectionLost):
            await anext(messages)
    with pytest.raises(ConnectionLost):
        await client.ping()
    with pytest.raises(ConnectionLost):
        client.subscribe("d")
    await messages.close()
    await context.__aexit__(None, None, None)


@in_a_loop
async def test_giving_up_leaves_what_was_sent_unknown_and_says_what_was_not() -> None:
    async with scripted() as script:
        lost = asyncio.Event()
        context = connect(script.url, give_up_after_s=0.3, limits=QUICK, on_connection=lambda _: lost.set())
        client = await context.__aenter__()
        peer = await script.peer()
        sent = asyncio.create_task(client.publish("c", 1))
        await peer.hear_publish()
        await peer.drop()
    await lost.wait()
    waiting = [asyncio.create_task(client.publish("c", 2)), asyncio.create_task(client.ping())]
    with pytest.raises(PublishFailed, match="no ack came before the connection ended") as caught:
        await sent
    assert (caught.value.code, caught.value.outcome) == ("connection_lost", Outcome.UNKNOWN)
    for each in waiting:
        with pytest.raises(ConnectionLost, match=r"lost, for 0\.3 s now"):
            await each
    await context.__aexit__(None, None, None)


@in_a_loop
async def test_closing_the_client_leaves_what_was_sent_unknown() -> None:
    async with scripted() as script:
        async with connect(script.url) as client:
            peer = await script.peer()
            publishing = asyncio.create_task(client.publish("c", 1))
            await peer.hear_publish()
        with pytest.raises(PublishFailed, match="the client is closed") as caught:
            await publishing
        assert (caught.value.code, caught.value.outcome) == ("connection_lost", Outcome.UNKNOWN)


@in_a_loop
async def test_without_reconnect_a_loss_is_final() -> None:
    events: list[object] = []
    async with connected(reconnect=False, on_connection=events.append) as (_, peer, client):
        messages = client.subscribe("c")
        publishing = asyncio.create_task(client.publish("c", 1))
        await peer.hear()
        await peer.hear_publish()
        await peer.close(1001)
        with pytest.raises(PublishFailed) as caught:
            await publishing
        assert (caught.value.code, caught.value.outcome) == ("connection_lost", Outcome.UNKNOWN)
        with pytest.raises(ConnectionLost, match="closed by the gateway with 1001"):
            await anext(messages)
        with pytest.raises(ConnectionLost):
            await client.publish("c", 2)
    assert events == []


@pytest.mark.parametrize("code", [1003, 1007, 1009])
@in_a_loop
async def test_close_codes_that_would_come_again_are_final(code: int) -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("c")
        await peer.hear()
        await peer.close(code)
        with pytest.raises(ConnectionLost, match=str(code)):
            await anext(messages)


@in_a_loop
async def test_a_message_too_big_to_receive_is_final() -> None:
    limits = replace(QUICK, max_message_bytes=1000)
    async with connected(limits) as (_, peer, client):
        messages = client.subscribe("c")
        await peer.hear()
        publishing = asyncio.create_task(client.publish("c", 1))
        await peer.hear_publish()
        await peer.grant("c", 0)
        await peer.say(message("c", 1, "x" * 1000))
        with pytest.raises(ConnectionLost, match="closed by this side with 1009: frame with 10"):
            await anext(messages)
        with pytest.raises(PublishFailed) as caught:
            await publishing
        assert caught.value.outcome == Outcome.UNKNOWN


@in_a_loop
async def test_a_token_that_is_taken_no_more_is_final() -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("c")
        await peer.close(1008)
        with pytest.raises(Unauthorized, match="does not let us in any more"):
            await anext(messages)
    async with connected() as (script, peer, client):
        script.greetings, script.close_code = [UNAUTHORIZED], 1008
        messages = client.subscribe("c")
        await peer.drop()
        with pytest.raises(Unauthorized, match="refuses the token") as caught:
            await anext(messages)
        assert_no_token(caught.value)
        with pytest.raises(Unauthorized):
            await client.publish("c", 1)


@pytest.mark.parametrize("frame", ["hello", '{"event":"message","channel":"c","streamId":"x","data":1}', b"\x00", "[]"])
@in_a_loop
async def test_frames_that_are_no_replies_are_final(frame: str | bytes) -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("c")
        await peer.websocket.send(frame)
        with pytest.raises(ConnectionLost, match="does not speak the protocol"):
            await anext(messages)


@in_a_loop
async def test_replies_of_unknown_kinds_and_for_nobody_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("c", after="0")
        await peer.hear()
        await peer.say('{"event":"news_of_2030"}', "{}", Pong(), Ack("nobody", StreamId(1, 0)), Unsubscribed("c"))
        await peer.say(CaughtUp("x", StreamId(1, 0)), message("c", 1), Error("what?", "bad_request"))
        await peer.grant("c", 0)
        await peer.say(Subscribed("c", StreamId(9, 0), StreamId(9, 0)), message("c", 2))
        assert ids(await take(messages, 1)) == [2]
    assert "the gateway: what? (bad_request)" in caplog.messages


@in_a_loop
async def test_a_gateway_that_lets_in_and_drops_gets_no_storm() -> None:
    asked: list[int] = []

    class Counted(Backoff):
        def waits_s(self) -> Iterator[float]:
            asked.append(0)
            while True:
                asked[-1] += 1
                yield 0.01

    async with connected(replace(QUICK, retry=Counted(0.01, 5.0))) as (script, peer, _client):
        for _ in range(4):
            await peer.drop()
            peer = await script.peer()
        assert asked == [4]
    async with connected(replace(QUICK, retry=Counted(0.01, 0.0))) as (script, peer, _client):
        for _ in range(2):
            await peer.drop()
            peer = await script.peer()
        assert asked == [4, 1, 1]

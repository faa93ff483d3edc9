"""The client obeys a gateway that limits the rate: nothing is lost, and nothing overtakes what was refused."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from kit.cli import run_main
from kit.client import QUICK, Peer, connected, in_a_loop
from kit.gateway import KEY, async_test, entries, gateway
from kit.support import RedisServer, RswsProcess
from rsws.client import connect
from rsws.client.limits import DEFAULTS
from rsws.errors import ErrorCode, Outcome, PublishFailed
from rsws.protocol import Ack, Error, ErrorAck, StreamId


def limited(name: str, retry_after_s: float | None = 0.1) -> ErrorAck:
    return ErrorAck(name, "too fast", ErrorCode.RATE_LIMITED, Outcome.NOT_STORED, retry_after_s)


async def hear(peer: Peer, names: str) -> None:
    assert [await peer.hear_publish() for _ in names] == [*names]


@in_a_loop
async def test_what_was_refused_is_sent_again_in_order_and_nothing_before() -> None:
    async with connected() as (_, peer, client):
        publishing = [asyncio.create_task(client.publish("c", 0, message_id=name)) for name in "abcd"]
        await hear(peer, "abcd")
        began = time.monotonic()
        await peer.say(Ack("a", StreamId(1, 0)), limited("b"), limited("d"))
        await publishing[0]
        publishing.append(asyncio.create_task(client.publish("c", 0, message_id="e")))
        await asyncio.sleep(0.15)  # c has no answer yet: it may be refused, too
        assert client.queued == 0
        await peer.say(limited("c"))
        await hear(peer, "bcde")
        assert time.monotonic() - began > 0.24
        await peer.say(*[Ack(name, StreamId(1, 0)) for name in "bcde"])
        await asyncio.gather(*publishing)


@in_a_loop
async def test_another_connection_is_not_held() -> None:
    async with connected() as (script, peer, client):
        publishing = [asyncio.create_task(client.publish("c", 0, message_id=name)) for name in "ab"]
        await hear(peer, "ab")
        await peer.say(limited("a", 60), limited("b", 60))
        await peer.drop()
        peer = await script.peer()
        await hear(peer, "ab")
        await peer.say(*[Ack(name, StreamId(1, 0)) for name in "ab"])
        await asyncio.gather(*publishing)


@in_a_loop
async def test_when_it_gives_up_it_says_when_to_go_on() -> None:
    async with connected() as (_, peer, client):
        publishing = [asyncio.create_task(client.publish("c", 0, timeout_s=0.2)) for _ in range(2)]
        name = await peer.hear_publish()
        await peer.hear_publish()
        await peer.say(limited(name, 7.5))
        for each, code, outcome, after_s in zip(
            publishing,
            (ErrorCode.RATE_LIMITED, "timeout"),
            (Outcome.NOT_STORED, Outcome.UNKNOWN),
            (7.5, None),
            strict=True,
        ):
            with pytest.raises(PublishFailed) as caught:
                await each
            assert (caught.value.code, caught.value.outcome, caught.value.retry_after_s) == (code, outcome, after_s)
        with pytest.raises(PublishFailed, match=r"^not within 0.01 s: too fast$") as caught:
            await client.publish("c", 0, timeout_s=0.01)  # was not sent at all
        assert caught.value.code == ErrorCode.RATE_LIMITED


@in_a_loop
async def test_what_may_be_sent_too_late_for_an_answer_is_not_sent() -> None:
    async with connected() as (_, peer, client):
        publishing = [asyncio.create_task(client.publish("c", 0, message_id=name, timeout_s=1.0)) for name in "ab"]
        await hear(peer, "ab")
        await peer.say(limited("a", 0.8), limited("b", 0.8))
        for each in publishing:
            with pytest.raises(PublishFailed, match=r"^not within 1 s: too fast$") as caught:
                await each
            assert (caught.value.code, caught.value.outcome) == (ErrorCode.RATE_LIMITED, Outcome.NOT_STORED)
        later = asyncio.create_task(client.publish("c", 0, message_id="c"))
        await hear(peer, "c")
        await peer.say(Ack("c", StreamId(1, 0)))
        await later


@pytest.mark.parametrize("said", [None, -1.0, 0.0, 1e300])
@in_a_loop
async def test_whatever_the_gateway_says_to_wait(said: float | None) -> None:
    async with connected(replace(QUICK, longest_hold_s=0.02)) as (_, peer, client):
        publishing = asyncio.create_task(client.publish("c", 0, message_id="a"))
        for _ in range(3):
            await hear(peer, "a")
            await peer.say(limited("a", said) if said is None or said < 1 else
                           '{"status":"error_ack","messageId":"a","error":"","code":"rate_limited",'
                           '"outcome":"not_stored","retryAfter":1e300}')  # fmt: skip
        await hear(peer, "a")
        await peer.say(Ack("a", StreamId(1, 0)))
        await publishing


@in_a_loop
async def test_a_subscribe_is_sent_again_when_it_may_be() -> None:
    async with connected() as (_, peer, client):
        events = client.subscribe("c", after="5", events=True)
        began = time.monotonic()
        for number in range(2):
            await peer.expect(action="subscribe", channel="c", lastMessageId="5-0", marker=True)
            assert time.monotonic() - began >= 0.1 * number
            await peer.say(Error("too fast", ErrorCode.RATE_LIMITED, "c", 0.1))
        await peer.expect(action="subscribe", channel="c", lastMessageId="5-0", marker=True)
        await peer.grant("c", 5, 5)
        assert (await anext(events)).latest_id == StreamId(5, 0)  # type: ignore[union-attr] # and no error before


# --- with a gateway ---


@async_test
async def test_all_is_stored_in_order_and_all_channels_are_subscribed(redis_server: RedisServer, channel: str) -> None:
    # A second: as long as a machine with much to do may take to read what has been sent.
    settings: dict[str, Any] = {"publish_rate": "200,200", "subscribe_rate": "100,10"}
    async with (
        gateway(redis_server.url, **settings) as server,
        connect(server.url, token=KEY, limits=DEFAULTS) as client,
    ):
        events = client.subscribe(*[f"{channel}-{number}" for number in range(25)], events=True)
        await asyncio.gather(*[client.publish(channel, number) for number in range(400)])
        assert len({(await anext(events)).channel for _ in range(50)}) == 25
        metrics = server.server.board.metrics
        assert metrics.publishes_over_rate > 100
        assert metrics.subscribes_over_rate > 10
    assert [int(fields["messageData"]) for _, fields in entries(redis_server, channel)] == [*range(400)]


def test_rsws_pub_stores_all_lines_in_order(redis_server: RedisServer, channel: str) -> None:
    settings = {"REDIS_URL": redis_server.url, "WEBSOCKET_SECRET_KEY": "k"}
    lines = "".join(f"{number}\n" for number in range(300))
    with RswsProcess("serve", "--port", "0", "--publish-rate", "75,50", env=settings) as server:
        url = server.wait_for(r"url=(ws://\S+)")[1]
        # Less than half of them pass within the timeout of one.
        done = run_main(
            "pub", channel, "--lines", "--timeout", "1.6", input=lines, env={"RSWS_URL": url, "RSWS_TOKEN": "k"}
        )
    assert done.returncode == 0, done.stderr
    stored = entries(redis_server, channel)
    assert [int(fields["messageData"]) for _, fields in stored] == [*range(300)]
    assert done.stdout.split() == [id_ for id_, _ in stored]

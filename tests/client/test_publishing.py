"""Publishing and pinging with a client, against a scripted gateway."""

from __future__ import annotations

import asyncio
import re

import pytest
from websockets.protocol import State

from kit.client import QUICK, connected, in_a_loop, refused, scripted, sending_stops
from kit.gateway import until
from kit.support import free_port
from rsws.client import (
    connect,
)
from rsws.errors import (
    ConnectionLost,
    Outcome,
    PublishFailed,
    UsageError,
)
from rsws.protocol import (
    Ack,
    ErrorAck,
    Pong,
    StreamId,
)

# --- publishing -------------------------------------------------------------------------------------------


@in_a_loop
async def test_publish_returns_the_id_of_the_ack() -> None:
    async with connected() as (_, peer, client):
        publishing = asyncio.create_task(client.publish("news", {"text": "hällo"}, message_id="m1"))
        text, producer = (await peer.hear_text()).split(',"producer":')
        assert text == '{"action":"publish","channel":"news","data":{"text":"hällo"},"messageId":"m1"'
        assert re.fullmatch('"[0-9a-f]{32}"}', producer)
        await peer.say(Ack("m1", StreamId(7, 1)), Ack("m1", StreamId(8, 0)))
        assert await publishing == StreamId(7, 1)


@in_a_loop
async def test_each_client_is_a_producer_of_its_own() -> None:
    async with scripted() as script, connect(script.url) as one, connect(script.url) as other:
        producers = []
        for client, peer in ((one, await script.peer()), (other, await script.peer())):
            for message_id in ("a", "b"):
                publishing = asyncio.create_task(client.publish("c", 1, message_id=message_id))
                producers.append((await peer.hear())["producer"])
                await peer.say(Ack(message_id, StreamId(1, 0)))
                await publishing
    assert producers[0] == producers[1] != producers[2] == producers[3]


@pytest.mark.parametrize("text", ['{"b":1.0, "a" : 1e400,"ü":"\\u00fc"}', b"  [1,\t2 ]\n", '"x"', "null"])
@in_a_loop
async def test_publish_json_stays_as_it_is(text: str | bytes) -> None:
    async with connected() as (_, peer, client):
        publishing = asyncio.create_task(client.publish_json("c", text, message_id="m"))
        wanted = text if isinstance(text, str) else text.decode()
        frame = await peer.hear_text()
        assert frame.startswith(f'{{"action":"publish","channel":"c","data":{wanted},"messageId":"m","producer":"')
        await peer.say(Ack("m", StreamId(1, 0)))
        await publishing


@in_a_loop
async def test_what_can_not_be_published_is_a_usage_error_and_is_not_sent() -> None:
    async with connected() as (_, peer, client):
        for text in ("", "{", "NaN", '{"a":1}x', "hello", '"\udc80"', b'"\xff"', '"\\ud800"'):
            with pytest.raises(UsageError):
                await client.publish_json("c", text)
        for data in (object(), "\udc80"):
            with pytest.raises(UsageError):
                await client.publish("c", data)
        for channel in ("", "a\nb", "x" * 513, "\udc80"):
            with pytest.raises(UsageError):
                await client.publish(channel, 1)
        with pytest.raises(UsageError, match="message_id"):
            await client.publish("c", 1, message_id="\udc80")
        pinging = asyncio.create_task(client.ping())
        await peer.expect(action="ping")
        await peer.say(Pong())
        await pinging


@in_a_loop
async def test_an_error_ack_says_code_and_outcome() -> None:
    async with connected() as (_, peer, client):
        publishing = asyncio.create_task(client.publish("c", 1, message_id="m"))
        await peer.hear_publish()
        await peer.say(ErrorAck("m", "Server Redis tidak siap", "redis_unavailable", Outcome.NOT_STORED))
        with pytest.raises(PublishFailed, match="Server Redis tidak siap") as caught:
            await publishing
        assert (caught.value.code, caught.value.outcome) == ("redis_unavailable", Outcome.NOT_STORED)


@in_a_loop
async def test_many_publishes_may_be_under_way_and_each_gets_its_own_ack() -> None:
    async with connected() as (_, peer, client):
        publishing = [asyncio.create_task(client.publish("c", number)) for number in range(200)]
        requests = [await peer.hear() for _ in publishing]
        assert [request["data"] for request in requests] == [*range(200)]
        for request in reversed(requests):
            await peer.say(Ack(request["messageId"], StreamId(request["data"], 0)))
        assert [(await each).ms for each in publishing] == [*range(200)]


@in_a_loop
async def test_two_publishes_under_way_can_not_have_one_message_id() -> None:
    async with connected() as (_, peer, client):
        first = asyncio.create_task(client.publish("c", 1, message_id="m"))
        await peer.hear_publish()
        with pytest.raises(UsageError, match="'m' is under way"):
            await client.publish("c", 2, message_id="m")
        await peer.say(Ack("m", StreamId(1, 0)))
        assert await first == StreamId(1, 0)
        again = asyncio.create_task(client.publish("c", 3, message_id="m"))
        await peer.hear_publish()
        await peer.say(Ack("m", StreamId(2, 0)))
        assert await again == StreamId(2, 0)


@in_a_loop
async def test_a_publish_during_an_outage_waits_for_the_connection() -> None:
    lost = asyncio.Event()
    port = free_port()
    async with scripted(port) as script:
        client = await (context := connect(script.url, on_connection=lambda _: lost.set(), limits=QUICK)).__aenter__()
    await lost.wait()
    waiting = [asyncio.create_task(client.publish("c", number, message_id=str(number))) for number in range(3)]
    with pytest.raises(PublishFailed, match="no connection") as caught:
        await client.publish("c", "too late", timeout_s=0.05)
    assert (caught.value.code, caught.value.outcome) == ("timeout", Outcome.NOT_STORED)
    with pytest.raises(TimeoutError):
        await client.ping(timeout_s=0.01)
    async with scripted(port) as script:
        peer = await script.peer()
        for number in range(3):
            assert (await peer.hear())["data"] == number
            await peer.say(Ack(str(number), StreamId(number, 0)))
        assert [(await each).ms for each in waiting] == [0, 1, 2]
        await context.__aexit__(None, None, None)


@in_a_loop
async def test_a_publish_on_a_closing_connection_waits_for_the_next() -> None:
    async with connected() as (script, peer, client):
        peer.websocket.transport.pause_reading()  # it does not see that the client agrees to the end
        peer.websocket.protocol.send_close(1012)
        peer.websocket.send_data()
        while client._link._connection.state is not State.CLOSING:  # noqa: ASYNC110 there is no event for it
            await asyncio.sleep(0.001)
        publishing = asyncio.create_task(client.publish("c", 1, message_id="m"))
        await until(lambda: client.queued == 1)
        await peer.drop()
        peer = await script.peer()
        assert await peer.hear_publish() == "m"
        await peer.say(Ack("m", StreamId(1, 0)))
        assert await publishing == StreamId(1, 0)


@in_a_loop
async def test_no_ack_in_time_leaves_the_outcome_unknown() -> None:
    async with connected() as (_, peer, client):
        with pytest.raises(PublishFailed, match="no ack within") as caught:
            await client.publish("c", 1, message_id="m", timeout_s=0.05)
        assert (caught.value.code, caught.value.outcome) == ("timeout", Outcome.UNKNOWN)
        await peer.say(Ack("m", StreamId(1, 0)))  # too late, and no harm
        pinging = asyncio.create_task(client.ping())
        assert await peer.hear_publish()
        await peer.expect(action="ping")
        await peer.say(Pong())
        assert await pinging >= 0


@in_a_loop
async def test_a_message_over_the_limit_fails_alone() -> None:
    async with connected() as (script, peer, client):
        publishing = [
            asyncio.create_task(client.publish("c", data, message_id=name))
            for name, data in {"before": 1, "big": "x" * 10_000, "after1": 2, "after2": 3}.items()
        ]
        assert [await peer.hear_publish() for _ in publishing] == ["before", "big", "after1", "after2"]
        await peer.close(1009)
        peer = await script.peer()
        for number, name in enumerate(("before", "after1", "after2")):
            assert await peer.hear_publish() == name
            await peer.say(Ack(name, StreamId(number, 0)))
        before, big, *after = await asyncio.gather(*publishing, return_exceptions=True)
        assert isinstance(big, PublishFailed)
        assert (big.code, big.outcome) == ("too_big", Outcome.NOT_STORED)
        assert re.search(r"too big for the gateway: 10,1\d\d bytes", str(big))
        assert [before, *after] == [StreamId(number, 0) for number in range(3)]


@in_a_loop
async def test_what_was_behind_a_message_over_the_limit_was_not_sent() -> None:
    async with connected(reconnect=False) as (_, peer, client):
        publishing = [asyncio.create_task(client.publish("c", data)) for data in (1, "x" * 10_000, 2)]
        for _ in publishing:
            await peer.hear_publish()
        await peer.close(1009)
        before, big, after = await asyncio.gather(*publishing, return_exceptions=True)
        assert isinstance(before, PublishFailed)
        assert (before.code, before.outcome) == ("connection_lost", Outcome.UNKNOWN)
        assert isinstance(big, PublishFailed)
        assert (big.code, big.outcome) == ("too_big", Outcome.NOT_STORED)
        assert isinstance(after, ConnectionLost)


@in_a_loop
async def test_too_big_for_the_next_gateway_need_not_mean_for_the_first() -> None:
    async with connected() as (script, peer, client):
        publishing = asyncio.create_task(client.publish("c", "x" * 10_000))
        await peer.hear_publish()
        await peer.drop()
        peer = await script.peer()
        await peer.hear_publish()
        await peer.close(1009)
        with pytest.raises(PublishFailed) as caught:
            await publishing
        assert (caught.value.code, caught.value.outcome) == ("too_big", Outcome.UNKNOWN)


@pytest.mark.parametrize("others", [0, 2])
@in_a_loop
async def test_one_over_the_limit_that_nobody_waits_for_is_not_blamed_on_others(others: int) -> None:
    async with connected() as (script, peer, client):
        big = asyncio.create_task(client.publish("c", "x" * 10_000))
        publishing = [asyncio.create_task(client.publish("c", 1, message_id=str(number))) for number in range(others)]
        for _ in (big, *publishing):
            await peer.hear_publish()
        big.cancel()
        await asyncio.wait([big])
        await peer.close(1009)
        peer = await script.peer()
        for number in range(others):
            assert await peer.hear_publish() == str(number)
            await peer.say(Ack(str(number), StreamId(number, 0)))
        assert [(await each).ms for each in publishing] == [*range(others)]


@in_a_loop
async def test_a_cancelled_publish_is_forgotten_and_its_answer_is_not_taken_for_that_of_the_next() -> None:
    async with connected() as (script, peer, client):
        for data in (1, 2, 3):
            publishing = asyncio.create_task(client.publish("c", data, message_id="m"))
            await peer.hear_publish()
            if data < 3:
                publishing.cancel()
                await asyncio.wait([publishing])
        await peer.say(Ack("m", StreamId(1, 0)), refused("redis_refused"), Ack("m", StreamId(3, 0)))
        assert await publishing == StreamId(3, 0)
        publishing = asyncio.create_task(client.publish("c", 4, message_id="m"))
        await peer.hear_publish()
        publishing.cancel()
        await asyncio.wait([publishing])
        await peer.drop()
        peer = await script.peer()
        again = asyncio.create_task(client.publish("c", 5, message_id="m"))
        assert (await peer.hear())["data"] == 5
        await peer.say(Ack("m", StreamId(5, 0)))
        assert await again == StreamId(5, 0)


@in_a_loop
async def test_a_gateway_that_does_not_read_stops_the_sending() -> None:
    async with connected() as (_, peer, client):
        peer.websocket.transport.pause_reading()
        publishing = [asyncio.create_task(client.publish("c", "x" * 100_000)) for _ in range(200)]
        await sending_stops(client)
        assert client.queued > 100
        assert client._link._connection.transport.get_write_buffer_size() < 300_000
        peer.websocket.transport.resume_reading()
        for number in range(200):
            await peer.say(Ack(await peer.hear_publish(), StreamId(number, 0)))
        assert [(await each).ms for each in publishing] == [*range(200)]


# --- ping -------------------------------------------------------------------------------------------------


@in_a_loop
async def test_ping_measures_and_a_late_pong_is_not_taken_for_the_next() -> None:
    async with connected() as (script, peer, client):
        with pytest.raises(TimeoutError):
            await client.ping(timeout_s=0.02)
        pinging = asyncio.create_task(client.ping())
        await peer.expect(action="ping")
        await peer.expect(action="ping")
        publishing = asyncio.create_task(client.publish("c", 1))
        await peer.say(Pong(), Ack(await peer.hear_publish(), StreamId(1, 0)))
        await publishing
        assert not pinging.done()
        await asyncio.sleep(0.05)
        await peer.say(Pong())
        assert 0.05 <= await pinging < 5
        pinging = asyncio.create_task(client.ping())
        await peer.expect(action="ping")
        await peer.drop()
        with pytest.raises(ConnectionLost):
            await pinging
        peer = await script.peer()
        pinging = asyncio.create_task(client.ping())
        await peer.expect(action="ping")
        await peer.say(Pong())
        await pinging

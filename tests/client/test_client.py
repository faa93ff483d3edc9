"""The client: against a scripted gateway, where each frame is the test's own, and against the real one."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import time
import traceback
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any

import msgspec
import pytest
from websockets.protocol import State

from kit.client import REFUSED, SECRET, connected, ids, in_a_loop, message, scripted, take
from kit.faults import Proxy, command_calls, paused
from kit.support import RedisServer, free_port
from rsws.client import (
    Client,
    Disconnected,
    Event,
    Reconnected,
    address,
    calls,
    connect,
    link,
    subscription,
)
from rsws.errors import (
    CannotConnect,
    ConnectionLost,
    Outcome,
    PublishFailed,
    SubscribeRefused,
    Unauthorized,
    UsageError,
)
from rsws.gateway.server import Server
from rsws.protocol import (
    Ack,
    CaughtUp,
    Error,
    ErrorAck,
    Gap,
    Message,
    Pong,
    StreamId,
    Subscribe,
    Subscribed,
    Unsubscribed,
)
from rsws.settings import Settings


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(subscription, "MAX_RETRY_S", 0.05)


# --- connecting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("{}", "/?token=s3cret%2F%2B%26%3D"),
        ("{}/some/path?room=1", "/some/path?room=1&token=s3cret%2F%2B%26%3D"),
        ("{}/?token=other&room=1", "/?room=1&token=s3cret%2F%2B%26%3D"),
    ],
)
@in_a_loop
async def test_the_token_goes_into_the_query_and_into_no_text(url: str, path: str) -> None:
    async with scripted() as script, connect(url.format(script.url), token=SECRET) as client:
        assert (await script.peer()).path == path
        assert client.url == url.format(script.url).partition("?")[0]


@in_a_loop
async def test_a_token_in_the_url_is_used_and_not_shown() -> None:
    async with scripted() as script, connect(f"{script.url}?token=abc") as client:
        assert (await script.peer()).path == "/?token=abc"
        assert client.url == script.url


@pytest.mark.parametrize(
    "url", ["http://h", "ws://", "ws://h:0", "ws://h:x", "ws://h/#part", "ws://a@h", "ws://\udc80"]
)
@in_a_loop
async def test_an_impossible_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="not a gateway's URL") as caught:
        await connect(url, token=SECRET).__aenter__()
    assert_no_token(caught.value)


def assert_no_token(error: BaseException) -> None:
    text = "".join(traceback.format_exception(error)) + repr(error) + str(error)
    assert "s3cret" not in text


async def answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
    writer.close()


async def answer_garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
    writer.close()


async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    query = (await reader.readuntil(b"\r\n\r\n")).split()[1]
    writer.write(b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1" + query + b"\r\nContent-Length: 0\r\n\r\n")
    writer.close()


@pytest.mark.parametrize(
    ("scheme", "answer", "text"),
    [
        ("ws", answer_http, "HTTP status 200 .*is this an rsws gateway"),
        ("ws", answer_garbage, "no WebSocket there"),
        ("ws", redirect, "no WebSocket there"),
        ("wss", answer_garbage, "TLS failed"),
    ],
)
@in_a_loop
async def test_what_is_no_websocket_server_is_called_that(
    scheme: str, answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], text: str
) -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(CannotConnect, match=text) as caught:
            await connect(url, token=SECRET).__aenter__()
        assert url in str(caught.value)
        assert_no_token(caught.value)


@in_a_loop
async def test_nobody_there_is_said_with_what_to_do() -> None:
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(CannotConnect, match="connection refused; is the gateway running") as caught:
            await connect(f"{host}:{free_port()}", token=SECRET).__aenter__()
        assert_no_token(caught.value)
    with pytest.raises(CannotConnect, match="can't be resolved"):
        await connect("ws://no-such-host.invalid", token=SECRET).__aenter__()
    async with scripted() as script:
        with pytest.raises(CannotConnect, match="is ws:// or wss:// right"):
            await connect(script.url.replace("ws:", "wss:"), token=SECRET).__aenter__()


@pytest.mark.parametrize(
    ("greetings", "code", "text"),
    [
        ([], None, r"no answer within 0\.2 s"),
        (["hello"], None, "no rsws gateway"),
        (['{"status":"pong"}'], None, "no rsws gateway"),
        ([], 1013, "1013"),
    ],
)
@in_a_loop
async def test_a_server_that_does_not_let_us_in(greetings: list[str], code: int | None, text: str) -> None:
    async with scripted() as script:
        script.greetings, script.close_code = greetings, code
        with pytest.raises(CannotConnect, match=text) as caught:
            await connect(script.url, token=SECRET, connect_timeout_s=0.2).__aenter__()
        assert_no_token(caught.value)
        await (await script.peer()).websocket.wait_closed()


@pytest.mark.parametrize("greetings", [[REFUSED], []])
@in_a_loop
async def test_a_refused_token_is_unauthorized(greetings: list[str]) -> None:
    async with scripted() as script:
        script.greetings, script.close_code = greetings, 1008
        with pytest.raises(Unauthorized, match="refuses the token") as caught:
            await connect(script.url, token=SECRET).__aenter__()
        assert_no_token(caught.value)
        with pytest.raises(Unauthorized, match="none was given"):
            await connect(script.url).__aenter__()


@in_a_loop
async def test_proxies_of_the_environment_are_not_used_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy", "socks_proxy"):
        monkeypatch.setenv(name, "socks5h://127.0.0.1:9")
    async with connected() as (_, peer, _client):
        assert peer.path.startswith("/?token=")
    for proxy, text in (
        ("socks5h://127.0.0.1:9", "python-socks"),
        ("gopher://u:s3cret@h", "scheme gopher isn't supported"),
    ):
        monkeypatch.setenv("socks_proxy", proxy)
        with pytest.raises(CannotConnect, match=text) as caught:
            await connect("ws://gateway.example", token=SECRET).__aenter__()
        assert_no_token(caught.value)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "http_proxy", "https_proxy"])
@in_a_loop
async def test_what_a_proxy_answers_is_told_as_the_proxys(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Go away\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    for other in [each for each in os.environ if each.lower().endswith("_proxy")]:
        monkeypatch.delenv(other)
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv(name, f"ann:s3cret@127.0.0.1:{port}")
        refused = await fail_to_connect("ws://0.0.0.0:1")
        assert asked[0].startswith(b"CONNECT 0.0.0.0:1 ")
        shown = rf"the proxy http://\*\*\*@127\.0\.0\.1:{port} that the environment names"
        assert re.search(rf"{shown} refuses: HTTP status 403 Forbidden$", refused)
        monkeypatch.setenv("no_proxy", "0.0.0.0")
        assert "proxy" not in await fail_to_connect("ws://0.0.0.0:1")
        monkeypatch.delenv("no_proxy")
    assert re.search(rf"{shown}: connection refused$", await fail_to_connect("ws://0.0.0.0:1"))
    monkeypatch.setenv(name, "http://proxy:port")
    assert "is no URL: write http://HOST:PORT" in await fail_to_connect("ws://0.0.0.0:1")


async def fail_to_connect(url: str) -> str:
    with pytest.raises(CannotConnect) as caught:
        await connect(url, token=SECRET).__aenter__()
    assert_no_token(caught.value)
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


@in_a_loop
async def test_no_log_line_has_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with scripted() as script, connect(script.url, token=SECRET) as client:
        await (await script.peer()).drop()
        await script.peer()
        script.greetings = [REFUSED]
        with pytest.raises(Unauthorized):
            await connect(script.url, token=SECRET).__aenter__()
        assert client.url == script.url
    ours = [record for record in caplog.records if not record.name.startswith("websockets.server")]
    assert ours
    assert not [record for record in ours if "s3cret" in record.getMessage()]


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


def refused(code: str, outcome: Outcome = Outcome.NOT_STORED) -> ErrorAck:
    return ErrorAck("m", f"says {code}", code, outcome)


UNKNOWN = refused("redis_unavailable", Outcome.UNKNOWN)


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
async def test_what_is_asked_for_again_keeps_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    delays = iter([0.01] * 3)
    monkeypatch.setattr(calls, "retry_delays", lambda: delays)
    async with connected() as (_, peer, client):
        publishing = [asyncio.create_task(client.publish("c", 0, message_id=str(name))) for name in range(20)]
        asked = [await peer.hear_publish() for _ in publishing]
        for _ in range(3):
            await peer.say(*[msgspec.structs.replace(UNKNOWN, message_id=name) for name in reversed(asked)])
            assert [await peer.hear_publish() for _ in publishing] == asked
        await peer.say(*[Ack(name, StreamId(1, 0)) for name in asked])
        await asyncio.gather(*publishing)


@in_a_loop
async def test_asking_again_is_put_off_more_and_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
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
        started_at = time.monotonic()
        await peer.say(UNKNOWN)
        await peer.hear_publish()
        assert 0.01 <= time.monotonic() - started_at < 0.045
        await peer.say(Ack("m", StreamId(1, 0)))
        await publishing


@in_a_loop
async def test_one_that_waits_to_be_asked_again_is_sent_once_over_the_next_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "retry_delays", lambda: iter([0.2]))
    async with connected() as (script, peer, client):
        publishing = asyncio.create_task(client.publish("c", 1, message_id="m"))
        await peer.hear_publish()
        await peer.say(UNKNOWN)
        await peer.drop()
        peer = await script.peer()
        await peer.hear_publish()
        await asyncio.sleep(0.3)
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
async def test_a_gateway_that_might_not_know_a_repeat_any_more_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as (script, peer, client):
        publishing = asyncio.create_task(client.publish("c", 1, timeout_s=1000))
        await peer.hear_publish()
        monkeypatch.setattr(calls, "RESEND_S", 0.0)
        await peer.drop()
        peer = await script.peer()
        with pytest.raises(PublishFailed, match="no ack within 0 s") as caught:
            await publishing
        assert (caught.value.code, caught.value.outcome) == ("timeout", Outcome.UNKNOWN)
        monkeypatch.setattr(calls, "RESEND_S", 0.1)
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
async def test_a_repeat_that_was_sent_in_time_may_be_answered_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as (_, peer, client):
        in_time = asyncio.create_task(client.publish("c", 1, message_id="a"))
        await peer.hear_publish()
        await peer.say(msgspec.structs.replace(UNKNOWN, message_id="a"))
        await peer.hear_publish()
        monkeypatch.setattr(calls, "RESEND_S", 0.0)
        too_late = asyncio.create_task(client.publish("c", 1, message_id="m"))
        await peer.hear_publish()
        await peer.say(UNKNOWN)
        with pytest.raises(PublishFailed, match="no ack within 0 s"):
            await too_late
        await peer.say(Ack("a", StreamId(1, 0)))
        assert await in_time == StreamId(1, 0)


def test_a_publish_is_sent_again_for_less_time_than_a_gateway_knows_a_repeat() -> None:
    assert Settings().producer_window_s > calls.RESEND_S


@pytest.mark.parametrize("loses", [False, True])
@in_a_loop
async def test_no_answer_that_says_what_became_of_it_in_time(loses: bool) -> None:
    async with scripted(port := free_port()) as script:
        client = await (context := connect(script.url)).__aenter__()
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
async def test_a_publish_during_an_outage_waits_for_the_connection() -> None:
    lost = asyncio.Event()
    port = free_port()
    async with scripted(port) as script:
        client = await (context := connect(script.url, on_connection=lambda _: lost.set())).__aenter__()
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
        await asyncio.sleep(0.01)
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
async def test_a_publish_cancelled_while_it_waits_to_be_sent_again_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "retry_delays", lambda: iter([0.1]))
    async with connected() as (_, peer, client):
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
        await asyncio.sleep(0.15)
        pinging = asyncio.create_task(client.ping())
        await peer.expect(action="ping")
        await peer.say(Ack("m", StreamId(2, 0)), Pong())
        assert await again == StreamId(2, 0)
        await pinging


async def sending_stops(client: Client) -> None:
    left = -1
    while left != len(client._link._outbox) or not client._link._connection.paused:
        left = len(client._link._outbox)
        await asyncio.sleep(0.02)


@in_a_loop
async def test_a_gateway_that_does_not_read_stops_the_sending() -> None:
    async with connected() as (_, peer, client):
        peer.websocket.transport.pause_reading()
        publishing = [asyncio.create_task(client.publish("c", "x" * 100_000)) for _ in range(200)]
        await sending_stops(client)
        assert len(client._link._outbox) > 100
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
        await peer.say(Pong())
        _, undone = await asyncio.wait([pinging], timeout=0.05)
        assert undone
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


# --- subscribing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "request_"),
    [
        ({}, {"lastMessageId": "$"}),
        ({"after": "0"}, {"lastMessageId": "0-0"}),
        ({"after": "5-1"}, {"lastMessageId": "5-1"}),
        ({"after": StreamId(5, 1)}, {"lastMessageId": "5-1"}),
        ({"last": 3}, {"last": 3}),
        ({"last": 3, "events": True}, {"last": 3, "marker": True}),
    ],
)
@in_a_loop
async def test_where_a_subscription_starts(options: dict[str, Any], request_: dict[str, Any]) -> None:
    async with connected() as (_, peer, client):
        client.subscribe("c", **options)
        await peer.expect(action="subscribe", channel="c", **request_)


@in_a_loop
async def test_a_subscription_that_makes_no_sense_is_a_usage_error() -> None:
    async with connected() as (_, _peer, client):
        calls: list[tuple[tuple[str, ...], dict[str, Any]]] = [
            ((), {}),
            (("a", "a"), {}),
            (("",), {}),
            (("a\0",), {}),
            (("a",), {"after": "+"}),
            (("a",), {"after": ""}),
            (("a",), {"last": -1}),
            (("a",), {"last": 1, "after": "0"}),
        ]
        for channels, options in calls:
            with pytest.raises(UsageError):
                client.subscribe(*channels, **options)
        client.subscribe("a")
        with pytest.raises(UsageError, match="'a' is subscribed already"):
            client.subscribe("b", "a")
        client.subscribe("b")


@in_a_loop
async def test_messages_come_in_order_and_resume_after_the_last_one_received() -> None:
    async with connected() as (script, peer, client):
        messages = client.subscribe("c", after="0")
        await peer.expect(action="subscribe", channel="c", lastMessageId="0-0")
        await peer.grant("c", 0)
        await peer.say(message("c", 1, {"text": "hi"}), message("c", 2))
        first = await anext(messages)
        assert (first.channel, first.id, first.json, first.data) == (
            "c",
            StreamId(1, 0),
            '{"text": "hi"}',
            {"text": "hi"},
        )
        await peer.say(message("c", 3))
        assert ids(await take(messages, 2)) == [2, 3]
        for last, code in ((3, 1012), (4, 1001), (5, 1011), (6, 1013)):
            await peer.close(code)
            peer = await script.peer()
            await peer.expect(action="subscribe", channel="c", lastMessageId=f"{last}-0")
            await peer.grant("c", last)
            await peer.say(message("c", last + 1))
            assert ids(await take(messages, 1)) == [last + 1]


@in_a_loop
async def test_a_subscription_that_has_seen_nothing_resumes_where_the_gateway_pinned_it() -> None:
    async with connected() as (script, peer, client):
        client.subscribe("new", events=True)
        client.subscribe("last", last=2)
        client.subscribe("unanswered", last=9)
        assert [(await peer.hear())["channel"] for _ in range(3)] == ["new", "last", "unanswered"]
        await peer.grant("new", 100)
        await peer.grant("last", 98)
        await peer.say(Pong())
        await peer.drop()
        peer = await script.peer()
        await peer.expect(action="subscribe", channel="new", lastMessageId="100-0", marker=True)
        await peer.expect(action="subscribe", channel="last", lastMessageId="98-0")
        await peer.expect(action="subscribe", channel="unanswered", last=9)


@in_a_loop
async def test_several_channels_in_one_iterator() -> None:
    async with connected() as (script, peer, client):
        messages = client.subscribe("a", "b", after="0")
        await peer.expect(action="subscribe", channel="a", lastMessageId="0-0")
        await peer.expect(action="subscribe", channel="b", lastMessageId="0-0")
        await peer.grant("a", 0)
        await peer.grant("b", 0)
        await peer.say(message("b", 1), message("a", 5), message("b", 2), message("other", 1))
        assert [(each.channel, each.id.ms) for each in await take(messages, 3)] == [("b", 1), ("a", 5), ("b", 2)]
        await peer.drop()
        peer = await script.peer()
        await peer.expect(action="subscribe", channel="a", lastMessageId="5-0")
        await peer.expect(action="subscribe", channel="b", lastMessageId="2-0")


@in_a_loop
async def test_events_tell_the_start_the_end_of_history_and_each_return() -> None:
    async with connected() as (script, peer, client):
        events = client.subscribe("c", after="0", events=True)
        await peer.expect(action="subscribe", channel="c", lastMessageId="0-0", marker=True)
        await peer.grant("c", 0, 1)
        await peer.say(message("c", 1), CaughtUp("c", StreamId(1, 0)))
        await peer.say(Error("the key is no stream", "channel_unreadable", "c"), message("c", 2))
        await peer.say(Gap("c", StreamId(2, 0), StreamId(9, 0), "trimmed"), message("c", 9))
        kinds: list[type[Event]] = [Subscribed, Message, CaughtUp, Error, Message, Gap, Message]
        assert [type(event) for event in await take(events, 7)] == kinds
        await peer.drop()
        peer = await script.peer()
        await peer.expect(action="subscribe", channel="c", lastMessageId="9-0", marker=True)
        await peer.grant("c", 9, 10)
        await peer.say(message("c", 10), CaughtUp("c", StreamId(10, 0)))
        assert await take(events, 3) == [
            Subscribed("c", StreamId(9, 0), StreamId(10, 0)),
            message("c", 10),
            CaughtUp("c", StreamId(10, 0)),
        ]


@in_a_loop
async def test_without_events_gaps_and_troubles_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as (script, peer, client):
        messages = client.subscribe("c", after="4")
        await peer.hear()
        await peer.grant("c", 4)
        await peer.say(Gap("c", StreamId(4, 0), None, "reset"))
        await peer.say(Error("the key is no stream", "channel_unreadable", "c"))
        await peer.drop()
        peer = await script.peer()
        await peer.expect(action="subscribe", channel="c", lastMessageId="0-0")  # ids begin anew
        await peer.grant("c", 0)
        await peer.say(message("c", 1))
        assert ids(await take(messages, 1)) == [1]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "c: gap after 4-0 (reset)",
        "c: the key is no stream (channel_unreadable)",
    ]


@in_a_loop
async def test_a_refused_subscription_raises() -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("a", "b", after="0")
        await peer.hear()
        await peer.hear()
        await peer.grant("a", 0)
        await peer.say(message("a", 1), Error("the key is no stream", "channel_unreadable", "b"))
        assert ids(await take(messages, 1)) == [1]
        with pytest.raises(SubscribeRefused, match="b: the key is no stream") as caught:
            await anext(messages)
        assert (caught.value.code, caught.value.channel) == ("channel_unreadable", "b")
        await peer.expect(action="unsubscribe", channel="a")
        client.subscribe("b")
        await peer.expect(action="subscribe", channel="b", lastMessageId="$")
        with pytest.raises(UsageError):
            client.subscribe("a")  # the gateway may still send messages of the other one
        await peer.say(Unsubscribed("a"))
        await messages.close()
        client.subscribe("a")


@in_a_loop
async def test_with_events_a_refused_channel_does_not_end_the_others() -> None:
    async with connected() as (_, peer, client):
        events = client.subscribe("a", "b", after="0", events=True)
        await peer.hear()
        await peer.hear()
        refused = Error("no", "not_allowed", "a")
        await peer.say(refused)
        await peer.grant("b", 0)
        await peer.say(message("b", 1))
        assert await take(events, 3) == [refused, Subscribed("b", StreamId(0, 0), StreamId(0, 0)), message("b", 1)]

        events = client.subscribe("a", events=True)
        await peer.hear()
        await peer.say(refused)
        assert await anext(events) == refused
        with pytest.raises(SubscribeRefused):
            await anext(events)


@in_a_loop
async def test_a_subscribe_while_redis_is_away_is_tried_again_and_said_once() -> None:
    async with connected() as (_, peer, client):
        events = client.subscribe("c", after="0", events=True)
        away = Error("Server Redis tidak siap", "redis_unavailable", "c")
        for _ in range(3):
            await peer.expect(action="subscribe", channel="c", lastMessageId="0-0", marker=True)
            await peer.say(away)
        await peer.expect(action="subscribe", channel="c", lastMessageId="0-0", marker=True)
        await peer.grant("c", 0)
        assert await take(events, 2) == [away, Subscribed("c", StreamId(0, 0), StreamId(0, 0))]


@pytest.mark.parametrize("code", ["redis_unavailable", "redis_refused", "channel_unreadable"])
@in_a_loop
async def test_a_subscription_that_was_good_gets_over_a_refusal(code: str) -> None:
    async with connected() as (script, peer, client):
        messages = client.subscribe("c", after="0")
        await peer.hear()
        await peer.grant("c", 0)
        await peer.say(message("c", 1))
        assert ids(await take(messages, 1)) == [1]
        await peer.drop()
        peer = await script.peer()
        for _ in range(2):
            await peer.expect(action="subscribe", channel="c", lastMessageId="1-0")
            await peer.say(Error("not now", code, "c"))
        await peer.expect(action="subscribe", channel="c", lastMessageId="1-0")
        await peer.grant("c", 1)
        await peer.say(message("c", 2))
        assert ids(await take(messages, 1)) == [2]


@in_a_loop
async def test_a_cancelled_step_loses_nothing() -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("c", after="0")
        await peer.hear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await anext(messages)
        await peer.grant("c", 0)
        await peer.say(message("c", 1))
        assert ids(await take(messages, 1)) == [1]


@in_a_loop
async def test_closing_a_subscription_unsubscribes_and_frees_the_channel() -> None:
    async with connected() as (_, peer, client):
        async with client.subscribe("c", after="0") as messages:
            await peer.hear()
            await peer.grant("c", 0)
            await peer.say(message("c", 1), message("c", 2))
            assert ids(await take(messages, 1)) == [1]
            closing = asyncio.create_task(messages.close())
            await peer.expect(action="unsubscribe", channel="c")
            await peer.say(message("c", 3), Unsubscribed("c"))
            await closing
        assert [each async for each in messages] == []
        other = client.subscribe("c", after="7")
        await peer.expect(action="subscribe", channel="c", lastMessageId="7-0")
        await peer.grant("c", 7)
        await peer.say(message("c", 8))
        assert ids(await take(other, 1)) == [8]


@in_a_loop
async def test_a_subscription_closed_before_it_was_granted_is_ended_when_it_is() -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("c")
        await peer.expect(action="subscribe", channel="c", lastMessageId="$")
        closing = asyncio.create_task(messages.close())
        await asyncio.sleep(0)
        await peer.grant("c", 0)
        await peer.say(message("c", 1))
        await peer.expect(action="unsubscribe", channel="c")
        await peer.say(Unsubscribed("c"))
        await closing
        assert [each async for each in messages] == []


@in_a_loop
async def test_closing_a_subscription_does_not_wait_for_a_connection() -> None:
    lost = asyncio.Event()
    async with scripted() as script:
        client = await (context := connect(script.url, on_connection=lambda _: lost.set())).__aenter__()
        messages = client.subscribe("c")
        await (await script.peer()).hear()
    await lost.wait()
    await messages.close()
    assert not client._link._outbox
    client.subscribe("c")
    await context.__aexit__(None, None, None)


@in_a_loop
async def test_leaving_the_client_ends_its_iterators_and_calls() -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("c", after="0")
        await peer.hear()
        await peer.grant("c", 0)
        await peer.say(message("c", 1))
        assert ids(await take(messages, 1)) == [1]
        reading = asyncio.create_task(take(messages, 1))
        publishing = asyncio.create_task(client.publish("c", 1))
        await peer.hear_publish()
    assert peer.websocket.close_code == 1000
    with pytest.raises(StopAsyncIteration):
        await reading
    with pytest.raises(PublishFailed) as caught:
        await publishing
    assert caught.value.outcome == Outcome.UNKNOWN
    assert [each async for each in messages] == []
    for call in (client.publish("c", 1), client.ping()):
        with pytest.raises(ConnectionLost, match="the client is closed"):
            await call
    with pytest.raises(ConnectionLost, match="the client is closed"):
        client.subscribe("d")
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("rsws")]


@in_a_loop
async def test_leaving_does_not_wait_for_a_gateway_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CLOSE_TIMEOUT_S", 0.2)
    async with connected() as (_, peer, client):
        peer.websocket.transport.pause_reading()
        publishing = asyncio.gather(*(client.publish("c", "x" * 100_000) for _ in range(200)), return_exceptions=True)
        await sending_stops(client)
        since = time.monotonic()
    assert time.monotonic() - since < 2
    assert {type(result) for result in await publishing} == {PublishFailed, ConnectionLost}


# --- a slow application -----------------------------------------------------------------------------------


@pytest.mark.parametrize("events", [False, True])
@in_a_loop
async def test_a_full_queue_lets_the_stream_be_the_buffer(events: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "QUEUE_ENTRIES", 8)
    async with connected() as (_, peer, client):
        received = client.subscribe("c", after="0", events=events)
        await peer.hear()
        await peer.grant("c", 0)
        await peer.say(*(message("c", number) for number in range(1, 13)))
        await peer.expect(action="unsubscribe", channel="c")
        await peer.say(message("c", 13))
        assert ids(await take(received, 6)) == [1, 2, 3, 4, 5, 6][: 6 - events]
        await peer.say(message("c", 14), Unsubscribed("c"))
        last = 8 - events
        marker = {"marker": True} if events else {}
        await peer.expect(action="subscribe", channel="c", lastMessageId=f"{last}-0", **marker)
        await peer.grant("c", last)
        await peer.say(*(message("c", number) for number in range(last + 1, 11)))
        assert ids(await take(received, 4 + events)) == [6, 7, 8, 9, 10][1 - events :]


@in_a_loop
async def test_a_queue_is_bounded_in_size_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "QUEUE_BYTES", 1000)
    async with connected() as (_, peer, client):
        messages = client.subscribe("c", after="0")
        await peer.hear()
        await peer.grant("c", 0)
        await peer.say(message("c", 1, "x" * 5000), message("c", 2, "y"), message("c", 3, "z"))
        await peer.expect(action="unsubscribe", channel="c")
        await peer.say(Unsubscribed("c"))
        assert ids(await take(messages, 1)) == [1]
        await peer.expect(action="subscribe", channel="c", lastMessageId="1-0")


@in_a_loop
async def test_a_full_queue_holds_up_neither_acks_nor_other_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "QUEUE_ENTRIES", 4)
    async with connected() as (script, peer, client):
        client.subscribe("full", after="0")
        messages = client.subscribe("other", after="0")
        for channel in ("full", "other"):
            await peer.hear()
            await peer.grant(channel, 0)
        await peer.say(*(message("full", number) for number in range(1, 100)), message("other", 1))
        assert ids(await take(messages, 1)) == [1]
        await peer.expect(action="unsubscribe", channel="full")
        publishing = asyncio.create_task(client.publish("c", 1, message_id="m"))
        await peer.hear_publish()
        await peer.say(Ack("m", StreamId(1, 0)))
        await publishing
        # A new connection doesn't fill it further: the full one waits, the other goes on.
        await peer.drop()
        peer = await script.peer()
        await peer.expect(action="subscribe", channel="other", lastMessageId="1-0")
        pinging = asyncio.create_task(client.ping())
        await peer.expect(action="ping")
        await peer.say(Pong())
        await pinging


@in_a_loop
async def test_an_application_that_keeps_up_is_never_unsubscribed() -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("c", after="0")
        await peer.hear()
        await peer.grant("c", 0)
        reading = asyncio.create_task(take(messages, 20_000))
        await peer.say(*(message("c", number) for number in range(1, 20_001)))
        assert ids(await reading) == [*range(1, 20_001)]
        pinging = asyncio.create_task(client.ping())
        await peer.expect(action="ping")
        await peer.say(Pong())
        await pinging


# --- losing the connection --------------------------------------------------------------------------------


def test_delays_grow_are_random_and_have_a_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "FIRST_RETRY_S", 0.1)
    monkeypatch.setattr(subscription, "MAX_RETRY_S", 5.0)
    runs = [[*islice(subscription.retry_delays(), 20)] for _ in range(200)]
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
        client = await (context := connect(script.url, token=SECRET, give_up_after_s=0.3)).__aenter__()
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
        context = connect(script.url, give_up_after_s=0.3, on_connection=lambda _: lost.set())
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
async def test_a_message_too_big_to_receive_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "MAX_MESSAGE_BYTES", 1000)
    async with connected() as (_, peer, client):
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
        script.greetings, script.close_code = [REFUSED], 1008
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
async def test_a_gateway_that_lets_in_and_drops_gets_no_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def delays() -> Any:
        asked.append(0)
        while True:
            asked[-1] += 1
            yield 0.01

    monkeypatch.setattr(link, "retry_delays", delays)
    async with connected() as (script, peer, _client):
        for _ in range(4):
            await peer.drop()
            peer = await script.peer()
        assert asked == [4]
        monkeypatch.setattr(link, "MAX_RETRY_S", 0)
        for _ in range(2):
            await peer.drop()
            peer = await script.peer()
        assert asked == [4, 1, 1]


# --- a random walk ----------------------------------------------------------------------------------------


class Walk:
    """A subscription of two channels, a gateway and the wires between them, a random step at a time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.outbox: list[subscription.Feed] = []
        self.streams: dict[str, int] = {"a": 0, "b": 0}
        self.positions: dict[str, int] = {}
        self.requests: list[dict[str, Any]] = []
        self.replies: list[Any] = []
        self.seen: dict[str, list[int]] = {"a": [], "b": []}
        starts = [Subscribe(channel) for channel in self.streams]
        self.inbox = subscription.Inbox(starts, False, post=self.outbox.append, forget=self.outbox.remove)
        for feed in self.inbox.feeds:
            feed.sync()

    def publish(self) -> None:
        self.streams[self.random.choice("ab")] += self.random.randint(1, 3)

    def send(self) -> None:
        if self.outbox and (frame := self.outbox.pop(0).take()):
            self.requests.append(json.loads(frame))

    def answer(self) -> None:
        if not self.requests:
            return
        request = self.requests.pop(0)
        channel = request["channel"]
        if request["action"] == "unsubscribe":
            self.positions.pop(channel, None)
            self.replies.append(Unsubscribed(channel))
        elif self.random.random() < 0.2:
            self.replies.append(Error("not now", "redis_unavailable", channel))
        else:
            position = StreamId.parse(request["lastMessageId"])
            self.positions[channel] = position.ms
            self.replies.append(Subscribed(channel, position, StreamId(0, 0)))

    def deliver(self) -> None:
        for channel, position in self.positions.items():
            if position < self.streams[channel]:
                self.positions[channel] += 1
                self.replies.append(message(channel, position + 1))

    def receive(self) -> None:
        if self.replies:
            reply = self.replies.pop(0)
            self.inbox.feeds[reply.channel == "b"].receive(reply)

    @property
    def complete(self) -> bool:
        return self.seen == {channel: [*range(1, last + 1)] for channel, last in self.streams.items()}

    async def take(self, step: Callable[[], Awaitable[None] | None]) -> None:
        taken = step()
        if taken is not None:
            await taken
        await asyncio.sleep(0)  # retries

    async def consume(self) -> None:
        assert len(self.inbox._queue) <= subscription.QUEUE_ENTRIES
        if self.inbox._queue:
            item = await self.inbox.get()
            assert isinstance(item, Message)
            self.seen[item.channel].append(item.id.ms)

    def disconnect(self) -> None:
        for left in (self.requests, self.replies, self.positions):
            left.clear()
        for feed in self.inbox.feeds:
            feed.disconnected()


@in_a_loop
async def test_each_message_once_and_in_order_on_every_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "QUEUE_ENTRIES", 4)
    monkeypatch.setattr(subscription, "FIRST_RETRY_S", 0)
    for seed in random.sample(range(10**9), 150):
        walk = Walk(seed)
        steps = [walk.send, walk.answer, walk.deliver, walk.receive, walk.consume, walk.publish, walk.disconnect]
        weights = [walk.random.randint(1, 9) for _ in steps[:-1]]
        for step in walk.random.choices(steps, [*weights, 0.3], k=300):
            await walk.take(step)
        for _ in range(2000):
            for step in steps[:5]:
                await walk.take(step)
            if walk.complete:
                break
        assert walk.complete, f"seed {seed}: {walk.seen}"


# --- the real gateway -------------------------------------------------------------------------------------


def gateway(redis_server: RedisServer, port: int = 0, redis_timeout_s: float = 5) -> Server:
    settings = Settings(port=port, redis_url=redis_server.url, secret_key=SECRET, redis_timeout_s=redis_timeout_s)
    return Server(settings)


@in_a_loop
async def test_publish_and_subscribe_on_the_gateway(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server) as server, connect(server.url, token=SECRET) as client:
        first = await client.publish(channel, {"text": "hi"})
        second = await client.publish_json(channel, '{"n": 1.0, "big": 1e400}')
        async with client.subscribe(channel, after="0") as messages:
            one, two = await take(messages, 2)
            assert (one.id, one.data, two.id, two.json) == (
                first,
                {"text": "hi"},
                second,
                '{"n": 1.0, "big": 1e400}',
            )
            third = await client.publish(channel, 3)
            assert (await anext(messages)).id == third
        async with client.subscribe(channel, last=1) as messages:
            assert (await anext(messages)).id == third
        assert 0 < await client.ping() < 1
        with pytest.raises(PublishFailed, match="too big") as caught:
            await client.publish(channel, "x" * 2_000_000)
        assert caught.value.code == "too_big"
        assert await client.publish(channel, 4) > third


@in_a_loop
async def test_the_gateway_refuses(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server) as server:
        for token in ("wrong", None):
            with pytest.raises(Unauthorized):
                await connect(server.url, token=token).__aenter__()
        redis_server.call("LPUSH", channel, "x")
        async with connect(server.url, token=SECRET) as client:
            with pytest.raises(SubscribeRefused) as refused:
                await anext(client.subscribe(channel))
            assert refused.value.code == "channel_unreadable"
            with pytest.raises(PublishFailed) as failed:
                await client.publish(channel, 1)
            assert failed.value.outcome == Outcome.NOT_STORED


@in_a_loop
async def test_a_slow_loop_that_publishes_gets_everything(
    redis_server: RedisServer, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "QUEUE_ENTRIES", 100)
    async with gateway(redis_server) as server, connect(server.url, token=SECRET) as client:
        pipeline = redis_server.client.pipeline()
        for number in range(5000):
            pipeline.xadd(channel, {"messageData": number})
        pipeline.execute()
        async for each in client.subscribe(channel, after="0"):
            await client.publish(f"{channel}-copy", each.data)
            if each.data == 4999:
                break
        copies = redis_server.call("XRANGE", f"{channel}-copy", "-", "+")
        assert [int(fields[1]) for _, fields in copies] == [*range(5000)]


@in_a_loop
async def test_subscribers_go_on_when_the_gateway_comes_back(redis_server: RedisServer, channel: str) -> None:
    port = free_port()
    lost, back = asyncio.Event(), asyncio.Event()

    def note(event: Disconnected | Reconnected) -> None:
        (lost if isinstance(event, Disconnected) else back).set()

    def store(number: int) -> None:
        redis_server.call("XADD", channel, "*", "messageData", str(number))

    async with gateway(redis_server, port) as server:
        context = connect(server.url, token=SECRET, on_connection=note)
        client = await context.__aenter__()
        messages = client.subscribe(channel, after="0")
        for number in range(10):
            store(number)
        assert [each.data for each in await take(messages, 10)] == [*range(10)]
    await lost.wait()
    for number in range(10, 20):
        store(number)
    waiting = asyncio.create_task(client.publish(channel, 20))
    async with gateway(redis_server, port):
        await back.wait()
        await waiting
        store(21)
        assert [each.data for each in await take(messages, 12)] == [*range(10, 22)]
        await context.__aexit__(None, None, None)


async def cut_again_and_again(proxy: Proxy, chance: random.Random) -> None:
    while True:
        await asyncio.sleep(chance.uniform(0, 0.03))
        proxy.cut()


@in_a_loop
async def test_over_a_link_that_is_cut_again_and_again_each_message_is_stored_once_and_in_order(
    redis_server: RedisServer, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "MAX_RETRY_S", 0.01)
    seed = random.randrange(10**9)
    ids: list[StreamId] = []
    calls_before = command_calls(redis_server, "evalsha")
    port = free_port()
    async with (
        gateway(redis_server, port),
        Proxy(port) as proxy,
        connect(f"ws://127.0.0.1:{proxy.port}", token=SECRET) as client,
    ):
        cutting = asyncio.create_task(cut_again_and_again(proxy, random.Random(seed)))
        with proxy.delayed(0.002):  # so that there is an ack to lose when a publish is stored
            for first in range(0, 300, 5):
                ids += await asyncio.gather(*[client.publish(channel, first + number) for number in range(5)])
        cutting.cancel()
    stored = redis_server.call("XRANGE", channel, "-", "+")
    assert [int(fields[1]) for _, fields in stored] == [*range(300)], f"seed {seed}"
    assert [id_.decode() for id_, _ in stored] == [*map(str, ids)], f"seed {seed}"
    assert command_calls(redis_server, "evalsha") - calls_before > 300, f"nothing was sent again, seed {seed}"


@in_a_loop
async def test_a_message_is_stored_once_by_a_redis_that_answers_too_late(own_redis: RedisServer, channel: str) -> None:
    async with gateway(own_redis, redis_timeout_s=0.3) as server, connect(server.url, token=SECRET) as client:
        first = await client.publish(channel, 1)
        with paused(own_redis):
            publishing = [asyncio.create_task(client.publish(channel, number)) for number in (2, 3)]
            _, undone = await asyncio.wait(publishing, timeout=1)
            assert len(undone) == 2
        ids = [first, *await asyncio.gather(*publishing)]
        assert {id_.decode() for id_, _ in own_redis.call("XRANGE", channel, "-", "+")} == {*map(str, ids)}

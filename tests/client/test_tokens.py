"""Tokens that end: the application is asked for others, to connect and on the open connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from kit.client import QUICK, Peer, Script, assert_no_token, ids, in_a_loop, message, scripted, sending_stops, take
from kit.gateway import UNAUTHORIZED, WELCOME, add, entries, gateway, until
from kit.support import RedisServer
from kit.tokens import SECRET, token
from rsws.client import Client, Disconnected, Reconnected, Subscription, connect
from rsws.client.limits import Limits
from rsws.errors import CannotConnect, ConnectionLost, PublishFailed, SubscribeRefused, Unauthorized, UsageError
from rsws.gateway.limits import DEFAULTS
from rsws.protocol import Error, StreamId, TokenChanged, TokenExpiring

EXPIRING = TokenExpiring("2026-11-27T10:08:15Z")
CHANGED = TokenChanged("2026-11-27T11:08:15Z")
BAD = Error("the token is wrong; the one before still holds", "bad_token")
STRICT = replace(DEFAULTS, clock_difference_s=0)
"""The gateway forgives no difference of clocks, so that a token ends at its ``exp``."""


class Tokens:
    """What an application gives: t1, t2 and so on, or what ``faults`` has in its place, once each.

    Attributes:
        asked: How often it was asked.
    """

    def __init__(self, *answers: str | BaseException) -> None:
        self._answers = [*answers]
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        answer = self._answers.pop(0) if self._answers else f"t{self.asked}"
        if isinstance(answer, BaseException):
            raise answer
        return answer


@asynccontextmanager
async def connected(
    tokens: Callable[[], Awaitable[str]], limits: Limits = QUICK, **options: Any
) -> AsyncIterator[tuple[Script, Peer, Client]]:
    async with scripted() as script, connect(script.url, token=tokens, limits=limits, **options) as client:
        yield script, await script.peer(), client


async def joined(peer: Peer, client: Client, channel: str = "c", after: int = 0) -> Subscription[Any]:
    """A live subscription."""
    messages = client.subscribe(channel, after=StreamId(after, 0))
    await peer.expect(action="subscribe", channel=channel, lastMessageId=f"{after}-0")
    await peer.grant(channel, after)
    return messages


# --- to connect ---


@in_a_loop
async def test_it_is_asked_at_each_attempt_to_connect() -> None:
    tokens = Tokens()
    async with connected(tokens) as (script, peer, client):
        assert peer.path == "/?token=t1"
        script.greetings = ['{"status":"what?"}']
        await peer.drop()
        assert (await script.peer()).path == "/?token=t2"
        script.greetings = [WELCOME]
        peer = await script.peer()
        assert peer.path == f"/?token=t{tokens.asked}"
        await joined(peer, client)


@in_a_loop
async def test_it_stands_in_for_the_token_of_the_url() -> None:
    async with scripted() as script, connect(f"{script.url}/ws?token=other&a=b", token=Tokens("s3cret/")) as client:
        assert (await script.peer()).path == "/ws?a=b&token=s3cret%2F"
        assert "s3cret" not in client.url


async def hangs() -> str:
    await asyncio.Event().wait()
    return ""


async def gives_none() -> Any:
    return None


async def cancels_itself() -> str:
    raise asyncio.CancelledError


WRONG: dict[str, tuple[Any, str, type[BaseException] | None]] = {
    "raises": (Tokens(ZeroDivisionError("no\nluck")), r"no token: ZeroDivisionError: no\\u000aluck", ZeroDivisionError),
    "raises a timeout of its own": (Tokens(TimeoutError("mine")), "no token: TimeoutError: mine", TimeoutError),
    "hangs": (hangs, "no token: none was given within 0.05 s", None),
    "is not async": (lambda: "t", "an async callable that returns one", TypeError),
    "gives none": (gives_none, "an async callable that returns one", TypeError),
    "is not UTF-8": (Tokens("t\ud800"), "no token: the one that was given is not valid UTF-8", None),
    "cancels itself": (cancels_itself, "no token: the callable was cancelled", asyncio.CancelledError),
}


@pytest.mark.parametrize("name", WRONG)
@in_a_loop
async def test_without_a_token_there_is_no_first_connection(name: str) -> None:
    tokens, said, cause = WRONG[name]
    async with scripted() as script:
        with pytest.raises(CannotConnect, match=said) as caught:
            await connect(script.url, token=tokens, limits=replace(QUICK, token_timeout_s=0.05)).__aenter__()
    assert type(caught.value.__cause__) is (cause or type(None))


@in_a_loop
async def test_what_it_raises_on_a_reconnect_is_said_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    back = asyncio.Event()

    def note(event: Disconnected | Reconnected) -> None:
        if isinstance(event, Reconnected):
            back.set()

    tokens = Tokens("t1", *[OSError("no luck")] * 3, asyncio.CancelledError(), "t6")
    async with connected(tokens, on_connection=note) as (script, peer, client):
        messages = await joined(peer, client)
        await peer.say(message("c", 1))
        await peer.drop()
        publishing = asyncio.create_task(client.publish("c", 1, message_id="m"))
        peer = await script.peer()
        assert peer.path == "/?token=t6"
        await peer.expect(action="subscribe", channel="c", lastMessageId="1-0")
        assert await peer.hear_publish() == "m"
        await back.wait()
        await peer.say('{"status":"ack","messageId":"m","streamId":"2-0"}')
        assert await publishing == StreamId(2, 0)
        assert ids(await take(messages, 1)) == [1]
    assert [line for line in caplog.messages if "no token" in line] == [
        f"{script.url}: no token: OSError: no luck; trying again",
        f"{script.url}: no token: the callable was cancelled; trying again",
    ]


@in_a_loop
async def test_giving_up_says_what_it_raised() -> None:
    tokens = Tokens("t1", *[OSError("no luck")] * 1000)
    async with connected(tokens, give_up_after_s=0.2) as (_, peer, client):
        messages = await joined(peer, client)
        await peer.drop()
        with pytest.raises(ConnectionLost, match=r"for 0\.2 s now: no token: OSError: no luck"):
            await anext(messages)


@pytest.mark.parametrize("refusals", [1, 2])
@in_a_loop
async def test_where_a_token_is_refused_it_is_asked_once_more(refusals: int) -> None:
    tokens = Tokens()
    async with connected(tokens) as (script, peer, client):
        messages = await joined(peer, client)
        script.greetings, script.close_code = [UNAUTHORIZED], 1008
        await peer.drop()
        assert (await script.peer()).path == "/?token=t2"
        if refusals == 1:
            script.greetings, script.close_code = [WELCOME], None
            peer = await script.peer()
            assert peer.path == "/?token=t3"
            await peer.expect(action="subscribe", channel="c", lastMessageId="0-0")
            return
        with pytest.raises(Unauthorized, match="refuses the token"):
            await anext(messages)
        assert tokens.asked == 3


@in_a_loop
async def test_a_first_token_that_is_refused_is_final() -> None:
    tokens = Tokens("s3cret")
    async with scripted() as script:
        script.greetings, script.close_code = [UNAUTHORIZED], 1008
        with pytest.raises(Unauthorized) as caught:
            await connect(script.url, token=tokens).__aenter__()
    assert_no_token(caught.value)
    assert tokens.asked == 1


@in_a_loop
async def test_after_the_end_the_client_comes_back_with_another_token_if_it_can_ask_for_one() -> None:
    async with connected(Tokens()) as (script, peer, client):
        messages = await joined(peer, client)
        await peer.say(message("c", 1))
        await peer.close(1008, "token expired")
        peer = await script.peer()
        assert peer.path == "/?token=t2"
        await peer.expect(action="subscribe", channel="c", lastMessageId="1-0")
        await peer.grant("c", 1)
        await peer.say(message("c", 2))
        assert ids(await take(messages, 2)) == [1, 2]
        await peer.close(1008, "go away")
        with pytest.raises(Unauthorized, match="go away"):
            await anext(messages)
    async with scripted() as script, connect(script.url, token="t1", limits=QUICK) as client:
        peer = await script.peer()
        messages = client.subscribe("c")
        await peer.close(1008, "token expired")
        with pytest.raises(Unauthorized, match="token expired"):
            await anext(messages)


# --- on the open connection ---


@in_a_loop
async def test_a_new_token_is_sent_before_the_one_of_now_ends() -> None:
    tokens = Tokens()
    async with connected(tokens) as (_, peer, client):
        messages = await joined(peer, client)
        for number in (2, 3):
            await peer.say(EXPIRING, EXPIRING)
            await peer.expect(action="token", token=f"t{number}")
            await peer.say(CHANGED, message("c", number))
        assert ids(await take(messages, 2)) == [2, 3]
        pinging = asyncio.create_task(client.ping())
        await peer.expect(action="ping")
        await peer.say('{"status":"pong"}')
        await pinging
    assert tokens.asked == 3


@in_a_loop
async def test_a_token_that_is_a_string_stays(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted() as script, connect(script.url, token="t1", limits=QUICK) as client:
        peer = await script.peer()
        await peer.say(EXPIRING, CHANGED, BAD)
        await joined(peer, client)
    assert not caplog.messages


@in_a_loop
async def test_a_token_goes_before_what_waits_to_be_sent() -> None:
    async with connected(Tokens(), replace(QUICK, close_timeout_s=0.05)) as (_, peer, client):
        publishing = [asyncio.create_task(client.publish("c", "x" * 100_000)) for _ in range(200)]
        await sending_stops(client)
        await peer.say(EXPIRING)
        renewal: Any = client._link._renewal
        await until(lambda: renewal._call is not None)
        left = client.queued
        assert left > 50
        before = [(await peer.hear())["action"] for _ in range(202 - left)]
        assert "token" in before
        for each in publishing:
            each.cancel()
        await asyncio.gather(*publishing, return_exceptions=True)


@in_a_loop
async def test_what_fails_is_said_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    faults: list[str | BaseException] = [OSError("no luck"), OSError("no luck"), "t1", "bad", "bad", "bad", "good"]
    tokens = Tokens("t1", *faults)
    async with connected(tokens) as (_, peer, client):
        messages = await joined(peer, client)
        await peer.say(EXPIRING)
        await peer.expect(action="token", token="bad")
        await peer.say(BAD, message("c", 1))
        await peer.expect(action="token", token="good")
        await peer.say(CHANGED, message("c", 2))
        assert ids(await take(messages, 2)) == [1, 2]
    said = "the token ends soon, and was not changed"
    same = f"{said}: the one that was given is the same; trying again"
    assert caplog.messages == [
        f"{said}: no token: OSError: no luck; trying again",
        same,
        f"{said}: the gateway refuses it: {BAD.error}; trying again",
        same,
    ]


@in_a_loop
async def test_a_token_that_is_not_utf_8_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with connected(Tokens("t1", "t\ud800")) as (_, peer, client):
        await peer.say(EXPIRING)
        await peer.expect(action="token", token="t3")
        await peer.say(CHANGED)
        await joined(peer, client)
    assert "not valid UTF-8" in caplog.text


@in_a_loop
async def test_a_gateway_that_does_not_answer_is_asked_with_another_token() -> None:
    async with connected(Tokens(), replace(QUICK, token_timeout_s=0.05)) as (_, peer, client):
        await peer.say(EXPIRING)
        await peer.expect(action="token", token="t2")
        await peer.expect(action="token", token="t3")
        await peer.say(CHANGED)
        await joined(peer, client)


@in_a_loop
async def test_a_token_under_way_is_not_sent_over_the_next_connection() -> None:
    async with connected(Tokens()) as (script, peer, client):
        await peer.say(EXPIRING)
        await peer.expect(action="token", token="t2")
        await peer.drop()
        peer = await script.peer()
        assert peer.path == "/?token=t3"
        await peer.say(CHANGED)
        await joined(peer, client)


@in_a_loop
async def test_a_gateway_that_says_it_again_and_again_storms_no_application() -> None:
    tokens = Tokens()

    async with connected(tokens, replace(QUICK, retry=replace(QUICK.retry, first_s=0.1, longest_s=60.0))) as (
        _,
        peer,
        _c,
    ):
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            await peer.say(EXPIRING, CHANGED)
            await asyncio.sleep(0)
    assert tokens.asked < 30


@in_a_loop
async def test_leaving_does_not_wait_for_who_is_asked() -> None:
    asked = asyncio.Event()

    async def once_only() -> str:
        if not asked.is_set():
            asked.set()
            return "t1"
        asked.clear()
        return await hangs()

    async with connected(once_only) as (_, peer, _client):
        await peer.say(EXPIRING)
        await until(lambda: not asked.is_set())
        began = time.monotonic()
    assert time.monotonic() - began < 5


@in_a_loop
async def test_a_subscription_that_the_new_token_does_not_cover_ends_and_the_others_go_on() -> None:
    async with connected(Tokens()) as (_, peer, client):
        kept, lost = await joined(peer, client, "kept"), await joined(peer, client, "lost")
        await peer.say(EXPIRING)
        await peer.hear()
        await peer.say(CHANGED, Error("no right", "not_allowed", "lost"), message("kept", 1))
        with pytest.raises(SubscribeRefused, match="lost: no right") as caught:
            await anext(lost)
        assert (caught.value.code, caught.value.channel) == ("not_allowed", "lost")
        assert ids(await take(kept, 1)) == [1]
        await joined(peer, client, "lost", 5)


# --- with the gateway ---


class Minted:
    """Tokens of a short life.

    Args:
        ttl_s: How long one lasts.
        renewed: Whether it gives a new one before the one of now has ended.
    """

    def __init__(self, ttl_s: float, *, renewed: bool, **claims: Any) -> None:
        self._ttl_s = ttl_s
        self._renewed = renewed
        self._claims = claims
        self._token, self._ends_at = "", 0.0
        self.made = 0

    async def __call__(self) -> str:
        now = time.time()
        if self._renewed or now >= self._ends_at:
            self.made += 1
            self._ends_at = now + self._ttl_s
            self._token = token(exp=self._ends_at, jti=self.made, **self._claims)
        return self._token


@pytest.mark.parametrize(("ttl_s", "renewed"), [(1.0, True), (0.5, False)], ids=["changed", "ended"])
@in_a_loop
async def test_nothing_is_lost_or_doubled_over_a_change_of_tokens_or_their_end(
    redis_server: RedisServer, channel: str, ttl_s: float, renewed: bool
) -> None:
    tokens = Minted(ttl_s, renewed=renewed)
    events: list[Disconnected | Reconnected] = []
    async with (
        gateway(redis_server.url, STRICT, jwt_key=SECRET) as server,
        connect(server.url, token=tokens, limits=QUICK, on_connection=events.append) as client,
    ):
        messages = client.subscribe(channel, after="0")
        number = 0
        while tokens.made < 4:
            await client.publish(channel, number)
            add(redis_server, channel, str(number + 1))
            number += 2
            await asyncio.sleep(0.002)
        assert [each.data for each in await take(messages, number)] == [*range(number)]
        metrics = server.server.board.metrics
        assert (metrics.tokens_ended, metrics.tokens_refused) == (len(events) / 2, 0)
    assert len(entries(redis_server, channel)) == number
    assert bool(events) is not renewed
    assert all("1008: token expired" in event.reason for event in events if isinstance(event, Disconnected))


@in_a_loop
async def test_the_rights_are_those_of_the_new_token(redis_server: RedisServer, channel: str) -> None:
    rights: Iterator[dict[str, str]] = iter([{channel: "rw", "x": "r"}, {"x": "r"}])
    lives = iter([0.4, 60.0])

    async def ask() -> str:
        return token(exp=time.time() + next(lives), channels=next(rights))

    async with (
        gateway(redis_server.url, STRICT, jwt_key=SECRET) as server,
        connect(server.url, token=ask, limits=QUICK) as client,
    ):
        kept, lost = client.subscribe("x"), client.subscribe(channel, after="0")
        await client.publish(channel, 1)
        assert (await anext(lost)).data == 1
        with pytest.raises(SubscribeRefused, match=f"{channel}, which needs the right 'r'; it allows x=r"):
            await anext(lost)
        with pytest.raises(PublishFailed) as caught:
            await client.publish(channel, 2)
        assert caught.value.code == "not_allowed"
        add(redis_server, "x", "3")
        assert (await anext(kept)).data == 3


@in_a_loop
async def test_a_token_of_another_kind() -> None:
    with pytest.raises(UsageError, match="must be a string, or an async callable"):
        async with connect("ws://127.0.0.1:1", token=7):  # type: ignore[arg-type]
            pass

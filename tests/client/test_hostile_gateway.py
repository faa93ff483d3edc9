"""A gateway that means harm: what it can make a client keep has a bound, and no gap is lost on the way."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from websockets.frames import Frame, Opcode
from websockets.sync.server import ServerConnection, serve

from kit.client import QUICK, connected, in_a_loop, message, take
from kit.gateway import WELCOME, until
from kit.support import run_python
from rsws.client import Disconnected
from rsws.client.limits import DEFAULTS
from rsws.client.log import Warnings
from rsws.errors import Outcome, PublishFailed
from rsws.options import KIB, MIB
from rsws.protocol import Ack, CaughtUp, Error, Gap, Message, Pong, Reply, StreamId, Subscribed, encode_reply
from rsws.text import SHOWN_CHARACTERS

GAP = Gap("c", StreamId(1, 0), StreamId(2, 0), "trimmed")
ERROR = Error("no", "bad_request", "c")
CAUGHT_UP = CaughtUp("c", StreamId(1, 0))
GRANTED = Subscribed("c", StreamId(1, 0), StreamId(1, 0))


# --- memory, measured from outside ---

BUSY_APPLICATION = """
import asyncio, logging, resource, sys
from pathlib import Path
from rsws import ConnectionLost, connect

def memory():
    return resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[1])

async def main():
    async with connect(sys.argv[1], token="x", reconnect=False) as client:
        busy = client.subscribe("c", after="0", events=True)
        await anext(busy)
        quiet = client.subscribe("quiet")
        before = most = memory()
        ended = asyncio.ensure_future(anext(quiet))
        while not ended.done():
            await asyncio.wait([ended], timeout=0.01)
            most = max(most, memory())
        assert isinstance(ended.exception(), ConnectionLost)
        print(most - before)

logging.disable()
asyncio.run(main())
"""

MANY: list[Reply | str] = [
    ERROR, GAP, CAUGHT_UP, ERROR, GRANTED, GAP, Error("no", "bad_request"), Error("no", "bad_request", "another"),
    '{"status":"ack","messageId":"nobody\'s","streamId":"1-0"}', '{"status":"pong"}', '{"status":"unsubscribed"}',
    '{"status":"error_ack","messageId":"nobody\'s","error":"no","code":"x","outcome":"unknown"}',
    '{"event":"unheard of"}',
]  # fmt: skip
HUGE: list[Reply | str] = [Error("\U0001f600" * 200_000, "x", "c"), Error("x", "y" * MIB, "c")]


def frame(reply: Reply | str) -> bytes:
    text = reply.encode() if isinstance(reply, str) else encode_reply(reply)
    return Frame(Opcode.TEXT, text).serialize(mask=False)


@contextmanager
def flooding(replies: list[Reply | str], size_bytes: int) -> Iterator[str]:
    """A gateway that grants one subscription, and then says ``replies`` again and again; yields its URL."""
    once = b"".join(map(frame, replies))

    def handle(connection: ServerConnection) -> None:
        connection.send(WELCOME)
        connection.recv()
        connection.send(encode_reply(GRANTED).decode())
        connection.recv()
        for _ in range(size_bytes // len(once)):
            connection.socket.sendall(once)

    with serve(handle, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("replies", "size_bytes", "most_bytes"),
    [(MANY, 6 * MIB, 5 * MIB), (HUGE, 64 * MIB, 20 * MIB)],
    ids=["many", "huge"],
)
def test_what_nobody_takes_needs_no_memory(replies: list[Reply | str], size_bytes: int, most_bytes: int) -> None:
    with flooding(replies, size_bytes) as url, run_python(BUSY_APPLICATION, url) as client:
        assert client.stdout is not None
        grown = int(client.stdout.readline())
    assert grown < most_bytes


@in_a_loop
async def test_pings_of_a_gateway_that_does_not_read_the_answers() -> None:
    limits = replace(QUICK, max_pong_bytes=64 * KIB)
    changes: list[object] = []
    pings = Frame(Opcode.PING, b"x" * 125).serialize(mask=False) * 1000
    async with connected(limits, on_connection=changes.append) as (_, peer, _client):
        gateway = peer.websocket.transport
        gateway.pause_reading()
        for _ in range(200):  # more than the buffers of any kernel
            gateway.write(pings)
            await until(lambda: changes or not gateway.get_write_buffer_size())
        await until(lambda: changes)
        assert isinstance(changes[0], Disconnected)


@in_a_loop
async def test_pings_are_answered() -> None:
    limits = replace(QUICK, max_pong_bytes=0)
    async with connected(limits) as (_, peer, _client):
        await (await peer.websocket.ping())


# --- what an application that does not read gets in the end ---


@in_a_loop
async def test_gaps_with_nothing_between_them_are_one() -> None:
    async with connected() as (_, peer, client):
        events = client.subscribe("c", after="0", events=True)
        await peer.hear()
        await peer.say(GRANTED, *[Gap("c", StreamId(n, 0), StreamId(n + 1, 0), "trimmed") for n in range(1, 5000)])
        await peer.say(Gap("c", StreamId(5000, 0), None, "reset"), Gap("c", StreamId(1, 0), StreamId(3, 0), "trimmed"))
        await peer.say(message("c", 7), GAP, message("c", 8))
        await until(lambda: events.queued == 5)
        assert await take(events, 5) == [
            GRANTED, Gap("c", StreamId(1, 0), StreamId(3, 0), "reset"), message("c", 7), GAP, message("c", 8)
        ]  # fmt: skip


@in_a_loop
async def test_of_errors_with_nothing_between_them_the_last_is_kept() -> None:
    async with connected() as (_, peer, client):
        events = client.subscribe("c", after="0", events=True)
        await peer.hear()
        await peer.say(GRANTED, *[Error(str(n), "x", "c") for n in range(5000)], message("c", 2))
        await until(lambda: events.queued == 3)
        assert await take(events, 3) == [GRANTED, Error("4999", "x", "c"), message("c", 2)]
        for text in ("first", "second"):  # each of those that were taken meanwhile
            await peer.say(Error(text, "x", "c"))
            assert await take(events, 1) == [Error(text, "x", "c")]


@in_a_loop
async def test_a_gap_is_told_though_the_queue_is_full() -> None:
    limits = replace(QUICK, queue_entries=3)
    async with connected(limits) as (_, peer, client):
        events = client.subscribe("c", after="0", events=True)
        await peer.hear()
        await peer.say(GRANTED, message("c", 2), message("c", 3), GAP, message("c", 4), GAP, message("c", 5))
        await peer.expect(action="unsubscribe", channel="c")
        assert await take(events, 4) == [GRANTED, message("c", 2), message("c", 3), GAP]
        await peer.say('{"status":"unsubscribed","channel":"c"}')
        await peer.expect(action="subscribe", channel="c", lastMessageId="3-0", marker=True)


@in_a_loop
async def test_only_what_was_asked_for_is_an_event() -> None:
    async with connected() as (_, peer, client):
        events = client.subscribe("c", after="0", events=True)
        await peer.hear()
        await peer.say(GRANTED, CAUGHT_UP, CAUGHT_UP, GRANTED, CAUGHT_UP, message("c", 2))
        assert await take(events, 3) == [GRANTED, CAUGHT_UP, message("c", 2)]
        plain = client.subscribe("d", after="0")
        await peer.hear()
        await peer.say(Subscribed("d", StreamId(1, 0), StreamId(1, 0)), CaughtUp("d", StreamId(1, 0)), message("d", 2))
        assert await take(plain, 1) == [message("d", 2)]


@in_a_loop
async def test_characters_count_with_the_bytes_they_take() -> None:
    limits = replace(QUICK, queue_bytes=4000)
    wide = [Message("c", StreamId(n, 0), json.dumps("\U0001f600" * 250, ensure_ascii=False)) for n in range(2, 9)]
    async with connected(limits) as (_, peer, client):
        messages = client.subscribe("c", after="0")
        await peer.hear()
        await peer.say(GRANTED, *wide)
        await peer.expect(action="unsubscribe", channel="c")
        assert messages.queued == 4


@in_a_loop
async def test_an_error_is_short_and_safe() -> None:
    async with connected() as (_, peer, client):
        publishing = asyncio.create_task(client.publish("c", 1))
        message_id = await peer.hear_publish()
        refusal = {"status": "error_ack", "messageId": message_id, "error": "\x1b" + "x" * MIB, "code": "y\x9b" * MIB}
        await peer.say(json.dumps({**refusal, "outcome": "not_stored"}))
        with pytest.raises(PublishFailed) as caught:
            await publishing
        assert str(caught.value) == "\\u001b" + "x" * (SHOWN_CHARACTERS - 1) + "..."
        assert caught.value.code.startswith("y\\u009by\\u009b")
        assert len(caught.value.code) < 7 * SHOWN_CHARACTERS


# --- the log ---


@in_a_loop
async def test_a_flood_of_errors_is_no_flood_of_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as (_, peer, client):
        messages = client.subscribe("c", "d", after="0")
        await peer.hear()
        await peer.hear()
        flood: list[Reply | str] = [ERROR, GAP, Error("no", "bad_request")]
        await peer.say(GRANTED, *flood * 1000, message("c", 2))
        await take(messages, 1)
        assert len(caplog.messages) == 2 * DEFAULTS.max_warnings
        assert sum("show none" in text for text in caplog.messages) == 2
        await peer.say(Subscribed("d", StreamId(1, 0), StreamId(1, 0)))
        await peer.say(Gap("d", StreamId(1, 0), StreamId(2, 0), "trimmed"), message("d", 2))
        await take(messages, 1)
        assert caplog.messages[-1] == "d: gap after 1-0 (trimmed)", "another channel has warnings of its own"


def test_after_a_flood_warnings_are_logged_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 5.0
    monkeypatch.setattr("rsws.client.log.time.monotonic", lambda: now)
    warnings = Warnings(replace(DEFAULTS, max_warnings=2, warning_period_s=10))
    for text in ("first", "second", "third"):
        warnings.add(text)
    now = 15.0
    warnings.add("later")
    assert caplog.messages == ["first", "second; of more like this the next 10 s show none", "later"]


@in_a_loop
async def test_a_close_reason_is_safe(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    events: list[object] = []
    async with connected(on_connection=events.append) as (script, peer, _client):
        await peer.close(1012, "\x1b[2J\u202e")
        await script.peer()
    assert isinstance(events[0], Disconnected)
    assert events[0].reason == "closed by the gateway with 1012: \\u001b[2J\\u202e"
    assert not any("\x1b" in text or "\u202e" in text for text in caplog.messages)


# --- answers that never come ---


@in_a_loop
async def test_pings_without_an_answer_are_bounded() -> None:
    limits = replace(QUICK, max_pings=3)
    async with connected(limits) as (_, peer, client):
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await client.ping(timeout_s=0.01)
        publishing = asyncio.create_task(client.publish("c", 1))
        for _ in range(3):
            await peer.expect(action="ping")
        name = await peer.hear_publish()  # and no more pings before it
        await peer.say(Pong(), Pong(), Pong(), Ack(name, StreamId(1, 0)))
        await publishing
        pinging = asyncio.create_task(client.ping())
        await peer.expect(action="ping")
        await peer.say('{"status":"pong"}')
        assert await pinging < 10


@in_a_loop
async def test_publishes_without_an_answer_are_bounded() -> None:
    limits = replace(QUICK, max_given_up=3)
    async with connected(limits) as (_, peer, client):
        for number in range(10):
            for name in (str(number), "the same again"):
                with pytest.raises(PublishFailed) as caught:
                    await client.publish("c", 1, message_id=name, timeout_s=0.01)
                assert caught.value.outcome is Outcome.UNKNOWN
                await peer.hear_publish()
        assert len(client._link._publishes._given_up) <= 3

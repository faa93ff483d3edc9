"""``GET /channels/NAME``: a subscription without a WebSocket, as Server-Sent Events or as lines of JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from kit.curl import Curl
from kit.faults import Proxy, stopped
from kit.gateway import KEY, Wire, add, async_test, connect, gateway, until, until_status
from kit.http import BEARER, HttpClient, http_client
from kit.odd_data import ODD_DATA
from kit.support import RedisServer, free_port
from kit.tokens import SECRET, token
from rsws.gateway.exchanges.forms import ServerSentEvents, form
from rsws.gateway.limits import Limits
from rsws.gateway.websocket.frames import MessageFramer
from rsws.protocol import message_template

both_loops = pytest.mark.usefixtures("event_loop_kind")

SSE = {"Accept": "text/event-stream"}
LINES = {"Accept": "application/x-ndjson"}


class Stream:
    """What comes of a response without an end, piece by piece."""

    def __init__(self, client: HttpClient, end: bytes) -> None:
        self._client = client
        self._end = end
        self._text = b""

    async def next(self) -> bytes:
        """The next event, or line."""
        while self._end not in self._text:
            event = await self._client.event()
            assert hasattr(event, "data"), event
            self._text += event.data
        event, _, self._text = self._text.partition(self._end)
        return bytes(event)

    async def rest(self) -> bytes:
        """Everything up to the end."""
        while hasattr(event := await self._client.event(), "data"):
            self._text += event.data
        return self._text


async def stream(client: HttpClient, path: str, headers: Mapping[str, str] = SSE) -> Stream:
    await client.begin("GET", path, headers=BEARER | dict(headers))
    head = await client.head()
    assert head.status_code == 200, await client.event()
    fields = dict(head.headers)
    assert fields[b"content-type"].decode() == headers["Accept"]
    assert fields[b"cache-control"] == b"no-store"
    return Stream(client, b"\n\n" if headers["Accept"] == SSE["Accept"] else b"\n")


def message(stream_id: str, data: str) -> bytes:
    return f"id: {stream_id}\ndata: {data}".encode()


@async_test
async def test_history_then_live(redis_server: RedisServer, channel: str) -> None:
    ids = add(redis_server, channel, "1", "2")
    async with gateway(redis_server.url) as server, http_client(server) as client:
        events = await stream(client, f"/channels/{channel}?from=0")
        assert await events.next() == b"id: 0-0"
        assert [await events.next() for _ in ids] == [message(ids[0], "1"), message(ids[1], "2")]
        caught_up = f'{{"event":"caught_up","channel":"{channel}","lastMessageId":"{ids[1]}"}}'
        assert await events.next() == f"event: caught_up\ndata: {caught_up}".encode()
        [live] = add(redis_server, channel, "3")
        assert await events.next() == message(live, "3")


@async_test
async def test_where_it_starts(redis_server: RedisServer, channel: str) -> None:
    ids = add(redis_server, channel, *map(str, range(5)))
    starts: list[tuple[str, dict[str, str], int]] = [
        ("", {}, 5),
        ("?from=$", {}, 5),
        ("?from=%24", {}, 5),
        ("?from=-2", {}, 3),
        (f"?from={ids[1]}", {}, 2),
        ("?from=0", {"Last-Event-ID": ids[3]}, 4),
        ("?from=10m", {}, 0),
        ("?from=2020-01-01T00:00:00%2B00:00", {}, 0),
        ("?from=2020-01-01T00:00:00+00:00", {}, 0),
    ]
    async with gateway(redis_server.url) as server:
        for query, headers, first in starts:
            async with http_client(server) as client:
                events = await stream(client, f"/channels/{channel}{query}", SSE | headers)
                assert (await events.next()).startswith(b"id: ")
                for number in range(first, 5):
                    assert await events.next() == message(ids[number], str(number))
                assert (await events.next()).startswith(b"event: caught_up\n")
        add(redis_server, f"{channel}-old", "1", id="1000-0")
        async with http_client(server) as client:  # a time after the last entry is no gap
            events = await stream(client, f"/channels/{channel}-old?from=1s")
            assert await events.next() == b"id: 1000-0"
            assert (await events.next()).startswith(b"event: caught_up\n")
        for query, headers in (("?from=x", {}), ("?from=*", {}), ("", {"Last-Event-ID": "x"}), ("?follow=2", {})):
            async with http_client(server) as client:
                answer = await client.ask("GET", f"/channels/{channel}{query}", headers=BEARER | SSE | headers)
                assert answer.status == 400
                assert answer.json["code"] in ("bad_cursor", "bad_request")
                assert answer.json["outcome"] is None


@async_test
async def test_lines_to_the_end(redis_server: RedisServer, channel: str) -> None:
    ids = add(redis_server, channel, *ODD_DATA)
    async with gateway(redis_server.url) as server, http_client(server) as client:
        path = f"/channels/{channel}?from=0&follow=0"
        text = await (await stream(client, path, LINES)).rest()
        lines = [f'{{"streamId":"{id}","data":{data}}}' for id, data in zip(ids, ODD_DATA, strict=True)]
        assert [json.loads(line) for line in text.split(b"\n")[:-1]] == [json.loads(line) for line in lines]
        assert text.decode().split("\n")[:-1] == [line.replace("\r", " ").replace("\n", " ") for line in lines]
        for name, start in ((channel, "$"), (channel, ids[-1]), (f"{channel}-nothing", "0")):
            async with http_client(server) as other:
                path = f"/channels/{name}?from={start}&follow=0"
                assert await (await stream(other, path, LINES)).rest() == b""


@async_test
async def test_the_end_is_that_of_the_start(redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, *["1"] * 5000)
    async with gateway(redis_server.url) as server, http_client(server) as client, connect(server) as other:
        lines = await stream(client, f"/channels/{channel}?from=0&follow=0", LINES)
        await lines.next()
        for _ in range(50):
            await other.publish(channel, 2)
        rest = await lines.rest()
        assert (rest.count(b'"data":1}'), rest.count(b'"data":2}')) == (4999, 0)


def test_line_breaks_are_joined_again() -> None:
    frame = MessageFramer(message_template('a","data":b')).frame(b"1-0", b"[1,\n2\r\n]")
    assert form(ServerSentEvents, in_chunks=False).translate(frame) == b"id: 1-0\ndata: [1,\ndata: 2\ndata: ]\n\n"


@async_test
async def test_it_is_encoded_once_and_only_if_there_is_one(
    redis_server: RedisServer, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    make = ServerSentEvents.make

    def noted(self: ServerSentEvents, frames: bytes) -> bytes:
        made.append(frames)
        return make(self, frames)

    monkeypatch.setattr(ServerSentEvents, "make", noted)
    async with gateway(redis_server.url) as server, connect(server) as other:
        await other.subscribe(channel)
        [first] = add(redis_server, channel, "1")
        await other.message(channel)
        assert not made
        async with http_client(server) as a, http_client(server) as b:
            streams = [await stream(client, f"/channels/{channel}") for client in (a, b)]
            for each in streams:
                assert await each.next() == f"id: {first}".encode()
                await each.next()
            [second] = add(redis_server, channel, "2")
            assert [await each.next() for each in streams] == [message(second, "2")] * 2
        assert len(made) == 1


@async_test
async def test_curl_goes_on_where_it_was(redis_server: RedisServer, channel: str) -> None:
    port = free_port()
    async with gateway(redis_server.url, port=port), Proxy(port) as link:
        curl = Curl(link.port, channel)
        reading = asyncio.create_task(curl.run())
        ids: list[str] = []

        async def read_on(started: int, last: int) -> None:
            await until(lambda: curl.started == started and len(curl.ids) >= last)

        for cuts in range(3):
            await read_on(cuts + 1, len(ids))
            ids += add(redis_server, channel, *map(str, range(500)))
            await read_on(cuts + 1, len(ids) - 499)
            link.cut()
        await read_on(4, len(ids))
        reading.cancel()
        await asyncio.wait([reading])
        assert curl.ids == ids


@pytest.mark.parametrize("turns", range(1, 8))
@async_test
async def test_a_curl_that_is_cancelled_leaves_nothing_open(turns: int) -> None:
    curl = Curl(free_port(), "nobody")
    reading = asyncio.create_task(curl.run())
    for _ in range(turns):  # at each step of its start
        await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])


@async_test
async def test_gaps(redis_server: RedisServer, channel: str) -> None:
    ids = add(redis_server, channel, *map(str, range(5)))
    redis_server.call("XTRIM", channel, "MAXLEN", "1")
    async with gateway(redis_server.url) as server, http_client(server) as client, http_client(server) as lines:
        events = await stream(client, f"/channels/{channel}", SSE | {"Last-Event-ID": ids[0]})
        assert await events.next() == f"id: {ids[0]}".encode()
        gap = (
            f'{{"event":"gap","channel":"{channel}","lastMessageId":"{ids[0]}","resumesAt":"{ids[4]}",'
            '"reason":"trimmed"}'
        )
        assert await events.next() == f"event: gap\ndata: {gap}".encode()
        assert await events.next() == message(ids[4], "4")
        assert await (await stream(lines, f"/channels/{channel}?from={ids[0]}", LINES)).next() == gap.encode()


@async_test
async def test_refusals(own_redis: RedisServer, channel: str) -> None:
    own_redis.call("SET", channel, "text")
    async with gateway(own_redis.url, jwt_key=SECRET) as server:
        refused: list[tuple[dict[str, str], int, str]] = [
            (BEARER | SSE, 409, "channel_unreadable"),
            (SSE, 401, "bad_token"),
            ({"Authorization": "Bearer " + token(channels={"*": "w"})} | SSE, 403, "not_allowed"),
            (BEARER | {"Accept": "text/html"}, 406, "bad_request"),
        ]
        for headers, status, code in refused:
            async with http_client(server) as client:
                answer = await client.ask("GET", f"/channels/{channel}", headers=headers)
                assert (answer.status, answer.json["code"], answer.json["outcome"]) == (status, code, None)
                assert client.is_kept


@async_test
async def test_a_stream_counts_as_a_client(
    redis_server: RedisServer, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rsws.gateway")
    async with gateway(redis_server.url) as server:
        metrics = server.server.board.metrics
        async with http_client(server) as client:
            assert (await client.ask("POST", f"/channels/{channel}", b"1")).status == 200
            assert (await client.ask("GET", f"/channels/{channel}?from=x", headers=BEARER | SSE)).status == 400
            assert metrics.clients_accepted == 0
            await stream(client, f"/channels/{channel}")
            assert metrics.clients_accepted == 1
        await until(lambda: "stream ends" in caplog.text)
    assert [word for word in ("begins", "ends") if caplog.text.count(f"stream {word} client=") == 1] == [
        "begins",
        "ends",
    ]


@async_test
async def test_head(redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "1")
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.send(f"HEAD /channels/{channel}?from=0&token={KEY} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        said = await wire.read_to_end()
        assert said.startswith(b"HTTP/1.1 200 OK\r\n")
        assert said.endswith(b"\r\n\r\n")
        assert said.count(b"\r\n\r\n") == 1


@both_loops
@async_test
async def test_http_1_0_has_no_chunks(redis_server: RedisServer, channel: str) -> None:
    [first] = add(redis_server, channel, "1")
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        path = f"/channels/{channel}?from=0&follow=0&token={KEY}"
        await wire.send(f"GET {path} HTTP/1.0\r\nAccept: application/x-ndjson\r\n\r\n".encode())
        head, _, body = (await wire.read_to_end()).partition(b"\r\n\r\n")
        assert b"Transfer-Encoding" not in head
        assert body == f'{{"streamId":"{first}","data":1}}\n'.encode()


@async_test
async def test_something_is_sent_in_silence(redis_server: RedisServer, channel: str) -> None:
    settings: dict[str, Any] = {"ping_interval_s": 0.1, "idle_timeout_s": 0.4, "handshake_timeout_s": 0.1}
    async with gateway(redis_server.url, Limits(blank_s=0.1), **settings) as server:
        async with http_client(server) as client, http_client(server) as lines:
            events = await stream(client, f"/channels/{channel}")
            other = await stream(lines, f"/channels/{channel}", LINES)
            assert (await events.next()).startswith(b"id: ")
            assert (await events.next()).startswith(b"event: caught_up")
            assert [await events.next() for _ in range(8)] == [b":"] * 8  # and it takes longer than the idle timeout
            assert [await other.next() for _ in range(8)] == [b""] * 8
        await until(lambda: not server.server.clients.sessions, "they are gone")
        assert not server.server.hub.channels


@async_test
async def test_it_waits_for_redis(own_redis: RedisServer, channel: str) -> None:
    async with gateway(own_redis.url) as server, http_client(server) as client, http_client(server) as late:
        events = await stream(client, f"/channels/{channel}")
        await events.next()
        await events.next()
        with stopped(own_redis):
            await until_status(server, "/readyz", 503)
            answer = await late.ask("GET", f"/channels/{channel}?follow=0", headers=BEARER | LINES)
            assert (answer.status, answer.json["code"]) == (503, "redis_unavailable")
            waiting = await stream(late, f"/channels/{channel}")
            assert (await waiting.next()).startswith(b": redis_unavailable: ")
        await until_status(server, "/readyz", 200)
        while not (await waiting.next()).startswith(b"id: "):
            pass
        assert (await waiting.next()).startswith(b"event: caught_up\n")
        [first] = add(own_redis, channel, "1")
        assert await waiting.next() == message(first, "1")
        while (event := await events.next()) != message(first, "1"):
            assert event.startswith((b":", b"event: gap\n")), event


@both_loops
@async_test
async def test_the_end_of_the_gateway_and_of_a_token(redis_server: RedisServer, channel: str) -> None:
    async with (
        gateway(redis_server.url, Limits(clock_difference_s=0.0), jwt_key=SECRET) as server,
        http_client(server) as client,
        http_client(server) as short,
    ):
        events = await stream(client, f"/channels/{channel}")
        bearer = {"Authorization": "Bearer " + token(ttl_s=1.2, channels={"*": "r"})}
        ending = await stream(short, f"/channels/{channel}", SSE | bearer)
        assert (await ending.rest()).count(b"\n\n") == 2
        stopping = asyncio.create_task(server.server.clients.close_all())
        await events.next()
        await events.next()
        retry = await events.rest()
        client.writer.close()
        short.writer.close()
        await stopping
        assert retry.startswith(b"retry: ")
        assert 1000 <= int(retry[7:]) <= 5000


@both_loops
@async_test
async def test_one_that_has_not_begun_when_the_gateway_stops(own_redis: RedisServer, channel: str) -> None:
    async with gateway(own_redis.url) as server, http_client(server) as client:
        await until_status(server, "/readyz", 200)
        own_redis.pause()
        await client.begin("GET", f"/channels/{channel}", headers=BEARER | SSE)
        await until(lambda: server.server.clients.sessions, "it has come")
        stopping = asyncio.create_task(server.server.clients.close_all())
        answer = await client.answer()
        assert (answer.status, answer.json["code"], answer.headers["connection"]) == (503, "stopping", "close")
        client.writer.close()
        await stopping
        own_redis.resume()


@both_loops
@async_test
async def test_a_slow_reader_lags_and_misses_nothing(redis_server: RedisServer, channel: str) -> None:
    data = json.dumps("x" * 10_000)
    async with gateway(redis_server.url) as server, Wire(server, 4096) as wire, connect(server) as other:
        await wire.send(f"GET /channels/{channel}?token={KEY} HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n".encode())
        while b"caught_up" not in wire.received:
            await wire.read_some()
        ids = [await other.publish(channel, "x" * 10_000) for _ in range(300)]
        await until(lambda: server.server.board.metrics.subscriptions_lagged, "it lags")
        [connection] = [each for each in server.server.clients.sessions if each.is_open is False]
        assert connection.buffered_bytes < 1_000_000
        while wire.received.count(b"id: ") < 301 or not wire.received.endswith(b"\n\n"):
            assert await wire.read_some()
        events = [each for each in bytes(wire.received).split(b"\n\n")[2:-1] if each != b":"]
        assert events == [message(each, data) for each in ids]

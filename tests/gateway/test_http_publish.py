"""``POST /channels/NAME``: a publish without a WebSocket."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from kit.faults import Proxy, stopped
from kit.fuzz_frames import Gateway, Transport
from kit.gateway import KEY, Wire, async_test, connect, entries, gateway, until, until_status
from kit.http import BEARER, http_client, publish_twice
from kit.odd_data import ODD_DATA
from kit.support import RedisServer, free_port
from kit.tls import Authority
from kit.tokens import SECRET, token

both_loops = pytest.mark.usefixtures("event_loop_kind")


@async_test
async def test_it_is_stored_and_delivered_like_any_other(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as reader, http_client(server) as client:
        await reader.subscribe(channel)
        for data in ODD_DATA:  # over one connection
            answer = await client.ask("POST", f"/channels/{channel}", f" {data}\r\n".encode())
            assert answer.status == 200, answer
            assert list(answer.json) == ["streamId"]
            text = f'{{"event":"message","channel":"{channel}","streamId":"{answer.json["streamId"]}","data":{data}}}'
            await reader.expect(text)
        assert [fields["messageData"] for _, fields in entries(redis_server, channel)] == ODD_DATA


@async_test
async def test_a_name_is_percent_encoded(redis_server: RedisServer, channel: str) -> None:
    name = f"{channel}/ä?%+&#"
    async with gateway(redis_server.url) as server, http_client(server) as client:
        assert (await client.ask("POST", f"/channels/{quote(name, safe='')}?token={KEY}", b"1", {})).status == 200
    assert len(entries(redis_server, name)) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/channels/CHANNEL", b"{", 400, "bad_json"),
        ("POST", "/channels/CHANNEL", b"", 400, "bad_json"),
        ("POST", "/channels/CHANNEL", b'"\xff"', 400, "bad_json"),
        ("POST", "/channels/CHANNEL", b"NaN", 400, "bad_json"),
        ("POST", "/channels/CHANNEL", b"[" * 257 + b"]" * 257, 400, "bad_json"),
        ("POST", "/channels/CHANNEL", b"1" * 1100, 413, "bad_request"),
        ("POST", "/channels/CHANNEL", [b"[1" + b" " * 3000, b" " * 3000 + b"]"], 413, "bad_request"),
        ("POST", "/channels/CHANNEL", [b"1"] * 6000, 413, "bad_request"),
        ("POST", "/channels/rsws:CHANNEL", b"1", 400, "bad_channel"),
        ("POST", "/channels/%ff", b"1", 400, "bad_channel"),
        ("POST", "/channels/%00", b"1", 400, "bad_channel"),
        ("POST", f"/channels/{'x' * 513}", b"1", 400, "bad_channel"),
        ("POST", "/channels/", b"1", 404, "bad_request"),
        ("POST", "/channels/CHANNEL/more", b"1", 404, "bad_request"),
        ("PUT", "/channels/CHANNEL", b"1", 405, "bad_request"),
        ("DELETE", "/channels/CHANNEL", b"", 405, "bad_request"),
    ],
)
@async_test
async def test_what_is_wrong(
    redis_server: RedisServer, channel: str, method: str, path: str, body: Any, status: int, code: str
) -> None:
    async with gateway(redis_server.url, max_message_bytes=1024) as server, http_client(server) as client:
        answer = await client.ask(method, path.replace("CHANNEL", channel), body)
        assert (answer.status, answer.json["code"]) == (status, code)
        assert list(answer.json) == ["error", "code", "outcome"]
        assert answer.json["outcome"] == ("not_stored" if method == "POST" else None)
        assert answer.headers["content-type"] == "application/json"
        if client.is_kept:
            assert (await client.ask("POST", f"/channels/{channel}", b"2")).status == 200
    assert len(entries(redis_server, channel)) <= 1


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eDp5"}])
@async_test
async def test_without_a_token(redis_server: RedisServer, channel: str, headers: dict[str, str]) -> None:
    async with gateway(redis_server.url) as server, http_client(server) as client:
        answer = await client.ask("POST", f"/channels/{channel}", b"1", headers)
        assert (answer.status, answer.json["code"]) == (401, "bad_token")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert (await client.ask("POST", f"/channels/{channel}", b"1")).status == 200  # the connection goes on
        assert len(entries(redis_server, channel)) == 1


@async_test
async def test_without_the_right(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, jwt_key=SECRET) as server, http_client(server) as client:
        bearer = {"Authorization": "Bearer " + token(channels={"news": "w", channel: "r"})}
        answer = await client.ask("POST", f"/channels/{channel}", b"1", bearer)
        assert (answer.status, answer.json["code"]) == (403, "not_allowed")
        assert "needs the right 'w'" in answer.json["error"]
    async with gateway(redis_server.url, channels=("news",)) as server, http_client(server) as client:
        answer = await client.ask("POST", f"/channels/{channel}", b"1")
        assert (answer.status, answer.json["code"]) == (400, "bad_channel")


@async_test
async def test_it_is_stored_once(redis_server: RedisServer, channel: str) -> None:
    path = f"/channels/{channel}"
    async with gateway(redis_server.url, jwt_key=SECRET) as server, http_client(server) as client:

        async def publish(body: bytes, headers: dict[str, str], key: str = "K") -> Any:
            return await client.ask("POST", path, body, headers | {"Idempotency-Key": key})

        first = await publish(b"1", BEARER)
        again = await publish(b"1", BEARER)
        assert again.json == {"streamId": first.json["streamId"], "duplicate": True}
        other = await publish(b"2", BEARER)
        assert (other.status, other.json["code"], other.json["outcome"]) == (409, "conflict", "not_stored")
        assert len(entries(redis_server, channel)) == 1
        long = "x" * 80
        for who in (
            "alice",
            f"{long}1",
            f"{long}2",
            None,
        ):  # each has their own keys, whatever the token
            for ttl_s, is_again in ((500, False), (600, True)):
                bearer = {"Authorization": "Bearer " + token(sub=who, ttl_s=ttl_s)}
                assert ("duplicate" in (await publish(b"1", bearer)).json) is is_again
        assert len(entries(redis_server, channel)) == 5
        assert (await publish(b"1", BEARER, "")).status == 400


@async_test
async def test_no_producer_of_a_websocket_has_the_keys_of_others(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, connect(server) as other, http_client(server) as client:
        request = {"action": "publish", "channel": channel, "data": 1, "messageId": "K"}
        await other.send(**request, producer="key")
        assert (await other.next())["status"] == "ack"
        for producer in ("rsws:key", "rsws:sub alice"):
            await other.send(**request, producer=producer)
            await other.expect_error_ack("K", "bad_request")
        answer = await client.ask("POST", f"/channels/{channel}", b"2", BEARER | {"Idempotency-Key": "K"})
        assert list(answer.json) == ["streamId"]


@async_test
async def test_it_is_stored_once_whose_answer_was_lost(redis_server: RedisServer, channel: str) -> None:
    port = free_port()
    async with gateway(redis_server.url, port=port):
        assert not await publish_twice(port, channel, 100)
    numbers = [int(fields["messageData"]) for _, fields in entries(redis_server, channel)]
    assert sorted(numbers) == [*range(100)]


@async_test
async def test_other_keys_and_an_outage(own_redis: RedisServer, channel: str) -> None:
    own_redis.call("SET", channel, "text")
    async with gateway(own_redis.url) as server, http_client(server) as client:
        answer = await client.ask("POST", f"/channels/{channel}", b"1")
        assert (answer.status, answer.json["code"], answer.json["outcome"]) == (409, "channel_unreadable", "not_stored")
        with stopped(own_redis):
            await until_status(server, "/readyz", 503)
            answer = await client.ask("POST", f"/channels/{channel}", b"1")
            text = {"error": "Server Redis tidak siap", "code": "redis_unavailable", "outcome": "not_stored"}
            assert (answer.status, answer.json) == (503, text)


@async_test
async def test_an_unknown_outcome(redis_server: RedisServer, channel: str) -> None:
    async with (
        Proxy(redis_server.port) as link,
        gateway(link.redis_url) as server,
        http_client(server) as client,
    ):
        await until_status(server, "/readyz", 200)
        with link.cut_reply(b"XADD"):
            answer = await client.ask("POST", f"/channels/{channel}", b"1")
        assert (answer.status, answer.json["outcome"]) == (504, "unknown")


@async_test
async def test_faster_than_allowed_over_any_connection(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, publish_rate="1,2") as server:
        answers = []
        for _ in range(3):
            async with http_client(server) as client:
                answers.append(await client.ask("POST", f"/channels/{channel}", b"1"))
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert (answers[2].json["code"], answers[2].json["outcome"]) == ("rate_limited", "not_stored")
        assert answers[2].headers["retry-after"] in ("1", "2")


@both_loops
@async_test
async def test_expect_and_chunks(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url) as server, http_client(server) as client:
        assert (await client.ask("POST", f"/channels/{channel}", [b'{"a"', b":", b"1}"])).status == 200
    assert entries(redis_server, channel)[0][1] == {"messageData": '{"a":1}'}
    async with gateway(redis_server.url) as server:
        for key, said in ((KEY, b"HTTP/1.1 100 "), ("wrong", b"HTTP/1.1 401 ")):
            async with Wire(server) as wire:
                head = f"POST /channels/{channel}?token={key} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
                await wire.send(f"{head}Expect: 100-continue\r\n\r\n".encode())
                assert (await wire.read_some()).startswith(said)
                if key == KEY:
                    await wire.send(b"7")
                    assert b"HTTP/1.1 200 OK\r\n" in await wire.read_some()
    assert len(entries(redis_server, channel)) == 2


@both_loops
@async_test
async def test_requests_in_a_row_a_byte_at_a_time_and_then_anything_else(
    redis_server: RedisServer, channel: str
) -> None:
    post = f"POST /channels/{channel}?token={KEY} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n7".encode()
    bad = f"POST /channels/{channel}/no?token={KEY} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n7".encode()
    upgrade = b"GET /?token=k HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + (
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    async with gateway(redis_server.url) as server:
        async with Wire(server) as wire:
            await wire.send(post * 200 + bad * 200 + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            said = await wire.read_to_end()
            assert (said.count(b"HTTP/1.1 200 OK\r\n"), said.count(b"HTTP/1.1 404 ")) == (201, 200)
            assert said.endswith(b"\r\n\r\nok\n")
        async with Wire(server) as wire:
            for byte in post + upgrade:
                await wire.send(bytes([byte]))
                await asyncio.sleep(0)
            while b"Welcome!" not in wire.received:
                assert await wire.read_some()
        assert len(entries(redis_server, channel)) == 201
        await until(lambda: not server.server.clients.sessions, "they are gone")


@both_loops
@async_test
async def test_nothing_is_read_before_the_next_request_has_had_its_turn() -> None:
    transport = Transport()
    connection = Gateway().connect(transport, compress=False)
    connection.data_received(b"DELETE /channels/x?token=k HTTP/1.1\r\nHost: x\r\n\r\nDELETE /channels/x?token=k HT")
    assert transport.paused
    await until(lambda: not transport.paused)
    connection.data_received(b"TP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: transport.written.count(b"HTTP/1.1 405 ") == 2)
    connection.connection_lost(None)


@both_loops
@async_test
async def test_who_has_ended_their_side_is_answered(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.send(f"GET /channels?match=none&token={KEY} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wire.socket.shutdown(socket.SHUT_WR)
        assert (await wire.read_to_end()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /channels/x?token=k HTTP/1.1\r\nContent-Length: 1\r\n\r\n1",  # no Host
        b"POST /channels/x?token=k HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n1",
        b"POST /channels/x?token=k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        b"POST /channels/x?token=k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /channels/x?token=k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n"
        b"1\r\n1\r\n0\r\n\r\n",
        b"POST /channels/x?token=k HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n",
    ],
)
@async_test
async def test_what_is_not_http(redis_server: RedisServer, sent: bytes) -> None:
    before = entries(redis_server, "x")
    async with gateway(redis_server.url) as server, Wire(server) as wire:
        await wire.send(sent)
        head, _, body = (await wire.read_to_end()).partition(b"\r\n\r\n")
        assert head.split()[1] in (b"400", b"501")
        assert b"Connection: close" in head
        assert json.loads(body)["outcome"] == "not_stored"
    assert entries(redis_server, "x") == before


@async_test
async def test_pages_of_other_origins(redis_server: RedisServer, channel: str) -> None:
    path, page = f"/channels/{channel}", {"Origin": "https://a.example"}
    async with gateway(redis_server.url) as server, http_client(server) as client:
        answer = await client.ask("OPTIONS", path, b"", page | {"Access-Control-Request-Method": "POST"})
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "Authorization" in answer.headers["access-control-allow-headers"]
        assert "POST" in answer.headers["access-control-allow-methods"]
        answer = await client.ask("POST", path, b"1", page | BEARER)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")
    async with gateway(redis_server.url, origin=("https://a.example",)) as server, http_client(server) as client:
        for headers in (page | BEARER, page):  # the page can read why, too
            answer = await client.ask("POST", path, b"1", headers)
            assert answer.headers["access-control-allow-origin"] == "https://a.example"
            assert answer.headers["vary"] == "Origin"
        answer = await client.ask("OPTIONS", path, b"", {"Origin": "https://b.example"})
        assert (answer.status, answer.json["code"]) == (403, "not_allowed")
        assert "access-control-allow-origin" not in answer.headers


@async_test
async def test_limits_on_addresses_and_clients(redis_server: RedisServer, channel: str) -> None:
    path = f"/channels/{channel}"
    async with gateway(redis_server.url, attempt_rate="1,1") as server:
        async with http_client(server) as client:  # an attempt is a connection, whatever comes over it
            assert [(await client.ask("POST", path, b"1")).status for _ in range(3)] == [200] * 3
        async with http_client(server) as client:
            answer = await client.ask("POST", path, b"1")
            assert (answer.status, answer.json["code"]) == (429, "rate_limited")
            assert int(answer.headers["retry-after"]) >= 1
    async with gateway(redis_server.url, max_clients=1) as server, http_client(server) as client, connect(server):
        answer = await client.ask("POST", path, b"1")
        assert (answer.status, answer.json["code"]) == (503, "too_many")


@both_loops
@async_test
async def test_a_request_that_never_ends_and_a_connection_that_is_kept(redis_server: RedisServer, channel: str) -> None:
    settings: dict[str, Any] = {"handshake_timeout_s": 0.2, "ping_interval_s": 0.2, "idle_timeout_s": 0.4}
    async with gateway(redis_server.url, **settings) as server, Wire(server) as slow, http_client(server) as kept:
        head = f"POST /channels/{channel}?token={KEY} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        await slow.send(head.encode())
        await until(lambda: server.server.clients.sessions, "it is a client")
        assert (await kept.ask("POST", f"/channels/{channel}", b"1")).status == 200
        assert await kept.reader.read() == b""
        assert await slow.read_to_end() == b""
        await until(lambda: not server.server.clients.sessions, "it is none any more")


@both_loops
@async_test
async def test_over_tls(redis_server: RedisServer, channel: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("localhost")
    options = {"ssl": authority.trusted, "server_hostname": "localhost"}
    async with (
        gateway(redis_server.url, tls_cert=certificate, tls_key=key) as server,
        http_client(server, **options) as client,
    ):
        for body in (b"1", b'"' + b"x" * 100_000 + b'"'):
            assert (await client.ask("POST", f"/channels/{channel}", body)).status == 200


@both_loops
@async_test
async def test_a_publish_under_way_when_the_gateway_stops(own_redis: RedisServer, channel: str) -> None:
    async with gateway(own_redis.url, shutdown_timeout_s=4.0) as server, http_client(server) as client:
        await until_status(server, "/readyz", 200)
        own_redis.pause()
        await client.begin("POST", f"/channels/{channel}", b"1")
        await until(lambda: server.server.clients.sessions, "it has come")
        stopping = asyncio.create_task(server.server.clients.close_all())
        await asyncio.sleep(0)
        own_redis.resume()
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        client.writer.close()
        await stopping

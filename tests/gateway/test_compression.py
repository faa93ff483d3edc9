"""permessage-deflate: who gets it, that it says the same, and that it is done once for all."""

from __future__ import annotations

import asyncio
import json
import os
import tracemalloc
import zlib
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import connect as websocket_connect
from websockets.frames import Frame, Opcode

from kit.gateway import KEY, Wire, add, async_test, first_frame, frame, gateway, handshake, request
from kit.support import RedisServer
from rsws.gateway.websocket.compression import COMPRESSION, Compressor, compressor
from rsws.gateway.websocket.frames import compressed_text_frame, text_frame
from rsws.gateway.websocket.translation import REMEMBERED_BYTES

BROWSER = "permessage-deflate; client_max_window_bits"
LONG = json.dumps({"text": "the same again and " * 20})
ZIPPED = 0x40
"""RSV1 in the first byte of a frame."""


def deflated(payload: bytes) -> bytes:
    zipper = zlib.compressobj(wbits=-12)
    return (zipper.compress(payload) + zipper.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(payload: bytes, window_bits: int = 12) -> bytes:
    """What one message says to a client that knows no other."""
    return zlib.decompressobj(wbits=-window_bits).decompress(payload + b"\x00\x00\xff\xff")


async def offer(wire: Wire, extensions: str) -> str:
    """What the gateway answers to an offer of extensions."""
    head = await wire.handshake(headers=f"Sec-WebSocket-Extensions: {extensions}\r\n")
    await wire.frame()  # welcome
    return next((line.partition(": ")[2] for line in head.split("\r\n") if "Extensions" in line), "")


async def next_raw(wire: Wire) -> tuple[int, bytes]:
    """The first byte of the next frame, and its payload."""
    while not wire.received:
        assert await wire.read_some()
    first = wire.received[0]
    return first, (await wire.frame())[1]


@pytest.mark.parametrize(
    ("offered", "answer"),
    [
        (BROWSER, {"client_max_window_bits=12"}),  # Netty's offer as well
        ("permessage-deflate", set()),
        ("permessage-deflate; client_max_window_bits=10", {"client_max_window_bits=10"}),
        ("permessage-deflate; client_no_context_takeover", {"client_no_context_takeover"}),
        ("permessage-deflate; server_max_window_bits=10", {"server_max_window_bits=10"}),
        ("permessage-deflate; server_max_window_bits=15; server_no_context_takeover", {"server_max_window_bits=15"}),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", set()),
    ],
)
@async_test
async def test_what_is_agreed_on(redis_server: RedisServer, offered: str, answer: set[str]) -> None:
    """Nothing that a client has not offered but ``server_no_context_takeover``, which all that are known take."""
    async with gateway(redis_server.url, compress=True) as server, Wire(server) as wire:
        agreed = await offer(wire, offered)
        name, *parameters = agreed.split("; ")
        assert name == "permessage-deflate"
        assert set(parameters) == {"server_no_context_takeover", *answer}
        assert len(parameters) == len(answer) + 1


@async_test
async def test_an_offer_that_can_not_be_read_is_refused(redis_server: RedisServer) -> None:
    async with gateway(redis_server.url, compress=True) as server, Wire(server) as wire:
        await wire.send(handshake("/", "Sec-WebSocket-Extensions: permessage-deflate; =\r\n"))
        assert (await wire.read_to_end()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("offered", ["permessage-deflate; server_max_window_bits=8", "x-webkit-deflate-frame"])
@async_test
async def test_who_offers_something_else_gets_plain_messages(
    redis_server: RedisServer, channel: str, offered: str
) -> None:
    add(redis_server, channel, LONG)
    async with gateway(redis_server.url, compress=True) as server, Wire(server) as wire:
        assert await offer(wire, offered) == ""
        await wire.send(request(action="subscribe", channel=channel))
        await wire.text()
        assert (await next_raw(wire))[0] & ZIPPED == 0


@async_test
async def test_history_and_live_say_the_same_to_all(redis_server: RedisServer, channel: str) -> None:
    ids = add(redis_server, channel, *[LONG] * 50)
    async with gateway(redis_server.url, compress=True) as server, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(server)) for _ in range(4)]
        narrow = "permessage-deflate; server_max_window_bits=9"
        for wire, offered in zip(wires, (BROWSER, BROWSER, narrow, "none"), strict=True):
            await offer(wire, offered)
            await wire.send(request(action="subscribe", channel=channel))
            await wire.text()  # a reply is not compressed
        ids += add(redis_server, channel, *[LONG] * 50)
        for wire, bits in zip(wires, (12, 12, 9, None), strict=True):
            for stream_id in ids:
                first, payload = await next_raw(wire)
                assert first == (0x81 if bits is None else 0x81 | ZIPPED)
                said = inflated(payload, bits or 12) if first & ZIPPED else payload
                assert json.loads(said)["streamId"] == stream_id
                assert f'"data":{LONG}}}'.encode() in said


@async_test
async def test_it_is_done_once_for_all_receivers(
    redis_server: RedisServer, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[bytes] = []

    def noted(payload: bytes) -> bytes:
        done.append(payload)
        return compressed_text_frame(payload)

    monkeypatch.setattr("rsws.gateway.websocket.compression.compressed_text_frame", noted)
    async with gateway(redis_server.url, compress=True) as server, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(server)) for _ in range(20)]
        for wire in wires:
            await offer(wire, BROWSER)
            await wire.send(request(action="subscribe", channel=channel, lastMessageId="$"))
            await wire.text()
        done.clear()
        add(redis_server, channel, LONG)
        frames = {bytes((await next_raw(wire))[1]) for wire in wires}
        assert len(frames) == 1
        assert len(done) == 1


@pytest.mark.parametrize("size", [100, 10_000, 1_000_000])
def test_what_is_remembered_is_bounded_in_bytes(size: int) -> None:
    """For each window it is kept for good."""
    tool = Compressor(12)
    tracemalloc.start()
    try:
        for number in range(max(20, 2 * REMEMBERED_BYTES // size)):
            tool.translate(text_frame(b"%d" % number + os.urandom(size)))
        assert tracemalloc.get_traced_memory()[0] < 4 * REMEMBERED_BYTES + 2 * size
    finally:
        tracemalloc.stop()


@async_test
async def test_a_client_may_compress_too(redis_server: RedisServer, channel: str) -> None:
    async with gateway(redis_server.url, compress=True) as server, Wire(server) as wire:
        await offer(wire, BROWSER)
        publish = json.dumps({"action": "publish", "channel": channel, "data": LONG, "messageId": "m"}).encode()
        small = deflated(publish)
        for _ in range(2):
            await wire.send(frame(small, reserved=4))
            await wire.send(frame(small[:9], reserved=4, fin=False) + frame(b"", 9) + frame(small[9:], 0))
            await wire.send(frame(b'{"action":"ping"}'))
        told = [await wire.frame() for _ in range(8)]
        acks = [json.loads(payload) for opcode, payload in told if opcode == 1]
        assert sum(reply["status"] == "ack" for reply in acks) == 4
        assert sum(reply["status"] == "pong" for reply in acks) == 2
        assert redis_server.call("XLEN", channel) == 4


@pytest.mark.parametrize("offered", [BROWSER, "permessage-deflate", "permessage-deflate; client_no_context_takeover"])
@async_test
async def test_what_a_client_sends_may_build_on_what_it_sent_before(redis_server: RedisServer, offered: str) -> None:
    async with gateway(redis_server.url, compress=True) as server, Wire(server) as wire:
        builds_on = "client_no_context_takeover" not in await offer(wire, offered)
        zipper = zlib.compressobj(wbits=-12)
        for number in range(5):
            text = json.dumps({"action": "unsubscribe", "channel": f"a rather long name of a channel {number}"})
            payload = (zipper.compress(text.encode()) + zipper.flush(zlib.Z_SYNC_FLUSH))[:-4]
            await wire.send(frame(payload, reserved=4))
            assert json.loads(await wire.text())["channel"].endswith(str(number))
            if not builds_on:
                zipper = zlib.compressobj(wbits=-12)


@pytest.mark.parametrize(
    ("payload", "code"),
    [(deflated(b'"' + b"0" * 3_000_000 + b'"'), 1009), (b"\xff\xff\xff", 1002), (deflated(b'"\xff"'), 1007)],
    ids=["bomb", "nonsense", "no text"],
)
@async_test
async def test_what_can_not_be_read_ends_the_connection(redis_server: RedisServer, payload: bytes, code: int) -> None:
    async with gateway(redis_server.url, compress=True) as server, Wire(server) as wire:
        await offer(wire, BROWSER)
        await wire.send(frame(payload, reserved=4))
        assert await wire.close_code() == code


@async_test
async def test_the_library_s_own_client_reads_it(redis_server: RedisServer, channel: str) -> None:
    texts = [json.dumps(os.urandom(size).hex()) for size in (1, 40, 200, 5_000, 100_000)]
    add(redis_server, channel, *texts)
    async with (
        gateway(redis_server.url, compress=True) as server,
        websocket_connect(f"{server.url}/?token={KEY}", proxy=None) as client,
        asyncio.timeout(5),
    ):
        assert client.protocol.extensions
        await client.recv()
        await client.send(json.dumps({"action": "subscribe", "channel": channel}))
        await client.recv()
        got = [json.loads(await client.recv())["data"] for _ in texts]
        assert got == [json.loads(text) for text in texts]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 3000, 65535, 65536, 200_000])
def test_a_frame_is_the_one_the_extension_would_have_made_or_a_smaller_one(size: int) -> None:
    payload = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    got = compressor(12).translate(text_frame(payload))
    assert len(got) <= len(text_frame(payload))
    [factory] = COMPRESSION
    _, extension = factory.process_request_params([], [])
    if got[0] & ZIPPED:
        theirs = Frame(Opcode.TEXT, payload).serialize(mask=False, extensions=[extension])
        assert len(got) <= len(theirs) + 8
        found = first_frame(got)
        assert found is not None
        assert inflated(found[1]) == payload

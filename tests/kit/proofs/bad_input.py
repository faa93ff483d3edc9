"""Proofs that no input, however wrong, harms the gateway."""

from __future__ import annotations

import asyncio
import json
import random
from functools import partial

from kit import fuzz_frames, fuzz_handshake, fuzz_http, fuzz_tokens
from kit.checker import decode
from kit.gateway import frame
from kit.load import GatewayProcess, tap
from kit.proofs.proof import Proof, has_ended, reached
from kit.support import MIB, RedisServer

Expected = tuple[str, str]
"""Status and code of the one reply."""


def malformed(chance: random.Random) -> tuple[bytes, Expected]:
    """A message that is wrong in some way, and the answer the protocol documents."""
    word = "".join(chance.choices("abcxyz 019_-.:é€", k=chance.randrange(1, 12)))
    error, error_ack = "error", "error_ack"
    good = {"action": "publish", "channel": "c", "messageId": word, "data": {"n": [1, word, None]}}
    text = json.dumps(good, ensure_ascii=chance.random() < 0.5)
    not_a_string: object = chance.choice([1, None, True, [], {}, 1.5, [word]])
    match chance.randrange(14):
        case 0:
            return text[: chance.randrange(1, len(text))].encode(), (error, "bad_json")
        case 1:
            return ("[" * chance.choice([2000, 60_000])).encode(), (error, "bad_json")
        case 2:
            return json.dumps(chance.choice([word, 1, None, True, [], [word], 1e300])).encode(), (error, "bad_request")
        case 3:
            return json.dumps({"action": "x" + word, "channel": "c"}).encode(), (error, "unknown_action")
        case 4:
            return json.dumps({"channel": "c", "action": not_a_string}).encode(), (error, "bad_request")
        case 5:
            action = chance.choice(["subscribe", "unsubscribe"])
            return json.dumps({"action": action, "channel": not_a_string}).encode(), (error, "bad_request")
        case 6:
            action = chance.choice(["subscribe", "unsubscribe"])
            bad = chance.choice(["", "x" * 513, "a\nb", "\0", "€" * 171, "\x7f"])
            return json.dumps({"action": action, "channel": bad}).encode(), (error, "bad_channel")
        case 7:
            cursor = chance.choice(
                ["", "+", "-", ">", "*", "1-", "-1", "1-1-1", "١", " 1", "0x1", f"{2**64}", "1.5", "x"]
            )
            return json.dumps({"action": "subscribe", "channel": "c", "lastMessageId": cursor}).encode(), (
                error,
                "bad_cursor",
            )
        case 8:
            key = chance.choice(["channel", "data"])
            return json.dumps({name: value for name, value in good.items() if name != key}).encode(), (
                error_ack,
                "bad_request",
            )
        case 9:
            return json.dumps({name: value for name, value in good.items() if name != "messageId"}).encode(), (
                error,
                "bad_request",
            )
        case 10:
            return json.dumps(good | {"channel": chance.choice(["", "x" * 600, "\n"])}).encode(), (
                error_ack,
                "bad_channel",
            )
        case 11:
            value = chance.choice(["NaN", "Infinity", "-Infinity", '"\\ud800"'])
            text = f'{{"action":"publish","channel":"c","messageId":"m","data":{value}}}'
            return text.encode(), (error_ack, "bad_json")
        case 12:
            last: object = chance.choice([-1, 1.5, "1", None, []])
            return json.dumps({"action": "subscribe", "channel": "c", "last": last}).encode(), (error, "bad_request")
        case _:
            return json.dumps(good | {"producer": chance.choice([1, [], {}])}).encode(), (error_ack, "bad_request")


def malformed_frame(chance: random.Random) -> tuple[bytes, int]:
    """Bytes that end a connection, and the close code."""
    body = chance.randbytes(chance.randrange(0, 100))
    match chance.randrange(8):
        case 0:
            return frame(body, 2), 1003
        case 1:
            return frame(b"\xff" + body), 1007
        case 2:
            return frame(b"{}", masked=False), 1002
        case 3:
            return frame(b"{}", reserved=chance.randrange(1, 8)), 1002
        case 4:
            return frame(b"{}", chance.choice([3, 4, 5, 6, 7, 11, 12, 13, 14, 15])), 1002
        case 5:
            return frame(b"x" * 126, chance.choice([8, 9, 10])), 1002
        case 6:
            return frame(b"x", 9, fin=False), 1002
        case _:
            return frame(b"x" * (MIB + 1))[:100], 1009


async def bad_input(proof: Proof) -> None:
    """1,000,000 malformed messages and frames."""
    messages, frames, at_once = 990_000, 10_000, 20
    proof.total(messages + frames)
    wrong: list[str] = []

    async def send_messages(number: int, count: int) -> None:
        chance = random.Random(f"{proof.seed} {number}")
        expected: list[tuple[bytes, Expected]] = []
        answered = 0
        all_answered = asyncio.Event()

        def on_frame(payload: bytes) -> None:
            nonlocal answered
            told = decode(payload)
            if answered >= len(expected) or (told.status, told.code) != expected[answered][1]:
                wrong.append(f"{expected[answered : answered + 1]}: {payload!r}")
            answered += 1
            if answered == len(expected):
                all_answered.set()

        async with tap(front.url, on_frame) as client:
            for _ in range(0, count, 250):
                expected[:] = [malformed(chance) for _ in range(250)]
                answered = 0
                all_answered.clear()
                client.transport.write(b"".join([frame(text) for text, _ in expected]))
                async with asyncio.timeout(30):
                    await all_answered.wait()
                proof.advance(250)
            client.send(action="ping")
            expected[:] = [(b"", ("pong", ""))]

    async def send_frames(number: int, count: int) -> None:
        chance = random.Random(f"{proof.seed} frames {number}")
        for _ in range(count):
            async with tap(front.url, lambda payload: wrong.append(repr(payload))) as client:
                data, code = malformed_frame(chance)
                client.transport.write(data)
                await reached(partial(has_ended, client))
                if client.code != code:
                    wrong.append(f"{data[:20]!r}: {client.code}, not {code}")
            proof.advance()

    with RedisServer() as redis, GatewayProcess(redis) as front:
        for part in (0.02, 0.98):  # what the first ones make it load is not growth
            memory = front.memory_bytes
            async with asyncio.TaskGroup() as tasks:
                for number in range(at_once):
                    tasks.create_task(send_messages(number, int(messages * part / at_once)))
                    tasks.create_task(send_frames(number, int(frames * part / at_once)))
            grown = front.memory_bytes - memory
        alive = front.process.process.poll() is None
        tracebacks = front.tracebacks
        keys = redis.call("DBSIZE")
    proof.none("crashes", int(not alive))
    proof.none("tracebacks", tracebacks)
    proof.figure("memory of the gateway grew by", grown / MIB, "< 20 MiB", grown < 20 * MIB, " MiB")
    proof.none(f"answered otherwise than documented {wrong[:2] or ''}", len(wrong))
    proof.none("keys left in Redis", keys)


async def fuzz(proof: Proof) -> None:
    """300,000 streams of frames and 100,000 opening requests, read as websockets does; 100,000 requests with tokens;
    50,000 connections with requests of plain HTTP."""
    streams, requests, tokens, plain = 300_000, 100_000, 100_000, 50_000
    proof.total(streams + requests + plain)

    def run() -> tuple[list[fuzz_frames.Failure], list[str]]:  # uvloop does not say when it is quiet
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            return (
                runner.run(fuzz_frames.search(proof.seed, streams, advance=proof.advance)),
                runner.run(fuzz_handshake.search(proof.seed, requests, advance=proof.advance)),
            )

    failures, faults = await asyncio.to_thread(run)
    proof.none("\n".join(["streams read otherwise than by websockets", *map(str, failures)]), len(failures))
    proof.none("\n".join(["opening requests without a right answer", *faults]), len(faults))
    let_in = await asyncio.to_thread(fuzz_tokens.search, proof.seed, tokens)
    proof.none("\n".join(["wrong tokens let in, or exceptions", *let_in]), len(let_in))
    with RedisServer() as redis:
        faults = await fuzz_http.search(redis, proof.seed, plain, advance=proof.advance)
    proof.none("\n".join(["connections with plain HTTP answered otherwise than they should be", *faults]), len(faults))

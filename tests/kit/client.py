"""What the tests of the client share: a scripted gateway, where each frame is the test's own.

async with connected() as (script, peer, client):
    messages = client.subscribe("c")
    await peer.hear()
    await peer.grant("c", 0)
"""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from kit.gateway import WELCOME
from rsws.backoff import Backoff
from rsws.client import Client, Subscription, connect
from rsws.client.limits import DEFAULTS, Limits
from rsws.errors import Outcome
from rsws.protocol import ErrorAck, Message, Reply, StreamId, Subscribed, encode_reply

SECRET = "s3cret/+&="
QUICK = replace(DEFAULTS, retry=Backoff(0.01, 0.05, least=0.0))
"""What failed, a connection or a request, is tried again soon."""


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the coroutine of a test, for at most 60 s."""

    async def limited(**fixtures: Any) -> None:
        try:
            await asyncio.wait_for(test(**fixtures), 60)
        except BaseException:
            # The tasks that a failed test leaves are no news. Python 3.11 crashes when the garbage collector has their
            # errors logged, and parses source for that, while pytest parses source for its report.
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            raise

    @wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(limited(**fixtures))

    return run


def message(channel: str, number: int, data: object = None) -> Message:
    return Message(channel, StreamId(number, 0), json.dumps(number if data is None else data))


def ids(items: list[Any]) -> list[int]:
    return [item.id.ms for item in items if isinstance(item, Message)]


async def take(events: Subscription[Any], count: int) -> list[Any]:
    return [await anext(events) for _ in range(count)]


class Peer:
    """The gateway's end of one connection: it hears and says what the test wants."""

    def __init__(self, websocket: ServerConnection) -> None:
        self.websocket = websocket
        assert websocket.request is not None
        self.path = websocket.request.path

    async def hear_text(self) -> str:
        text = await self.websocket.recv()
        assert isinstance(text, str)
        return text

    async def hear(self) -> dict[str, Any]:
        request = json.loads(await self.hear_text())
        assert isinstance(request, dict)
        return request

    async def hear_publish(self) -> str:
        request = await self.hear()
        assert request["action"] == "publish", request
        return str(request["messageId"])

    async def expect(self, **request: object) -> None:
        assert await self.hear() == request

    async def say(self, *replies: Reply | str) -> None:
        """All in one go, as the gateway does."""
        for reply in replies:
            self.websocket.protocol.send_text(reply.encode() if isinstance(reply, str) else encode_reply(reply))
        self.websocket.transport.write(b"".join(self.websocket.protocol.data_to_send()))
        await self.websocket.drain()

    async def grant(self, channel: str, after: int, latest: int = 0) -> None:
        """Answer a subscribe."""
        await self.say(Subscribed(channel, StreamId(after, 0), StreamId(latest, 0)))

    async def drop(self) -> None:
        """End the connection with no close frame, as a crash or a cut line does."""
        self.websocket.transport.abort()
        await self.websocket.wait_closed()

    async def close(self, code: int, reason: str = "") -> None:
        await self.websocket.close(code, reason)


class Script:
    """A gateway that lets everybody in and leaves the rest to the test."""

    def __init__(self) -> None:
        self.url = ""
        self.greetings = [WELCOME]
        self.close_code: int | None = None
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()

    async def handle(self, websocket: ServerConnection) -> None:
        for greeting in self.greetings:
            await websocket.send(greeting)
        if self.close_code is not None:
            await websocket.close(self.close_code)
        self._peers.put_nowait(Peer(websocket))
        await websocket.wait_closed()

    async def peer(self) -> Peer:
        """The next connection that was made."""
        return await self._peers.get()


@asynccontextmanager
async def scripted(port: int = 0) -> AsyncIterator[Script]:
    script = Script()
    async with serve(script.handle, "127.0.0.1", port, ping_interval=None, close_timeout=0.1) as server:
        script.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        yield script


@asynccontextmanager
async def connected(limits: Limits = QUICK, **options: Any) -> AsyncIterator[tuple[Script, Peer, Client]]:
    async with scripted() as script, connect(script.url, token=SECRET, limits=limits, **options) as client:
        yield script, await script.peer(), client


def assert_no_token(error: BaseException) -> None:
    text = "".join(traceback.format_exception(error)) + repr(error) + str(error)
    assert "s3cret" not in text


def refused(code: str, outcome: Outcome = Outcome.NOT_STORED) -> ErrorAck:
    return ErrorAck("m", f"says {code}", code, outcome)


UNKNOWN = refused("redis_unavailable", Outcome.UNKNOWN)


async def sending_stops(client: Client) -> None:
    left = -1
    while left != client.queued or not client._link._connection.paused:
        left = client.queued
        await asyncio.sleep(0.02)

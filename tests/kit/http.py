"""A client of plain HTTP that keeps its connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import h11

from kit.faults import Proxy
from kit.gateway import KEY, PATIENCE_S, Reachable

BEARER = {"Authorization": f"Bearer {KEY}"}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class HttpClient:
    """A client that sends one request after the other, over one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.http = h11.Connection(h11.CLIENT)
        self.host = "gateway"
        self.is_kept = True
        """Whether the connection went on after the last answer."""

    async def ask(
        self, method: str, path: str, body: bytes | list[bytes] = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        """The answer to a request; a body in pieces is sent in chunks. Without other headers it has the token."""
        await self.begin(method, path, body, headers)
        return await self.answer()

    async def begin(
        self, method: str, path: str, body: bytes | list[bytes] = b"", headers: dict[str, str] | None = None
    ) -> None:
        fields = {"Host": self.host} | (BEARER if headers is None else headers)
        if isinstance(body, list):
            fields["Transfer-Encoding"] = "chunked"
        elif body:
            fields["Content-Length"] = str(len(body))
        out = self.http.send(h11.Request(method=method, target=path, headers=[*fields.items()])) or b""
        for piece in body if isinstance(body, list) else [body]:
            out += self.http.send(h11.Data(data=piece)) or b""
        self.writer.write(out + (self.http.send(h11.EndOfMessage()) or b""))
        await self.writer.drain()

    async def head(self) -> h11.Response:
        """The head of an answer, whose body comes later."""
        event = await self.event()
        assert isinstance(event, h11.Response), event
        return event

    async def answer(self) -> Answer:
        response, body = await self.head(), b""
        while isinstance(event := await self.event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage)
        self.is_kept = self.http.our_state is h11.DONE and self.http.their_state is h11.DONE
        if self.is_kept:
            self.http.start_next_cycle()
        headers = {name.decode().lower(): value.decode() for name, value in response.headers}
        return Answer(response.status_code, headers, body)

    async def event(self) -> Any:
        """The next thing that comes, as h11 has it."""
        async with asyncio.timeout(PATIENCE_S):
            while (event := self.http.next_event()) is h11.NEED_DATA:
                self.http.receive_data(await self.reader.read(65536))
        return event


@asynccontextmanager
async def http_client(server: Reachable, **options: Any) -> AsyncIterator[HttpClient]:
    url = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port, **options)
    try:
        yield HttpClient(reader, writer)
    finally:
        writer.close()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])


async def everything(client: HttpClient, match: str, headers: dict[str, str] = BEARER) -> list[dict[str, Any]]:
    """All channels that match, page by page."""
    found, cursor = [], ""
    while True:
        answer = await client.ask("GET", f"/channels?match={quote(match)}{cursor}", headers=headers)
        assert answer.status == 200, answer
        assert list(answer.json) == ["channels", "cursor"]
        found += answer.json["channels"]
        if answer.json["cursor"] is None:
            return found
        cursor = f"&cursor={answer.json['cursor']}"


class Address(NamedTuple):
    """Where a gateway is reached."""

    url: str


async def publish_twice(
    port: int, channel: str, count: int, *, at_once: int = 20, done: Callable[[int], None] = lambda _: None
) -> list[str]:
    """Publish ``count`` messages with ``Idempotency-Key``, each twice; what is wrong with the answers.

    The first answer of each second message is lost: the connection is cut once the gateway has made it.
    """
    wrong: list[str] = []
    numbers = iter(range(count))

    async def publish(client: HttpClient, number: int, **more: str) -> Any:
        headers = BEARER | {"Idempotency-Key": f"key {number}"} | more
        return (await client.ask("POST", f"/channels/{channel}", str(number).encode(), headers)).json

    async def publish_some(link: Proxy) -> None:
        async with http_client(Address(f"http://127.0.0.1:{port}")) as client:
            for number in numbers:
                first = None
                if number % 2:
                    async with http_client(Address(f"http://127.0.0.1:{link.port}")) as cut_off:
                        with suppress(ConnectionResetError, h11.RemoteProtocolError):
                            wrong.append(f"answered: {await publish(cut_off, number, Lost='yes')}")
                else:
                    first = (await publish(client, number))["streamId"]
                again = await publish(client, number)
                if not again.get("duplicate") or first not in (None, again["streamId"]):
                    wrong.append(f"{number}: {first}, then {again}")
                done(1)

    async with Proxy(port) as link:
        with link.cut_reply(b"Lost: yes", times=count):
            async with asyncio.TaskGroup() as publishing:
                for _ in range(at_once):
                    publishing.create_task(publish_some(link))
    return wrong

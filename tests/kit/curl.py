"""curl as a subscriber: it is cut off again and again, and goes on with ``Last-Event-ID``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from kit.gateway import KEY
from kit.javascript import program


class Curl:
    """``curl -N``, which is started again after the last id whenever it ends.

    Attributes:
        ids: Those of the messages that it has shown whole.
        started: How often.
    """

    def __init__(self, port: int, channel: str) -> None:
        self._url = f"http://127.0.0.1:{port}/channels/{channel}"
        self._position = "0-0"
        self.ids: list[str] = []
        self.started = 0

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            self.started += 1
            headers = (f"Authorization: Bearer {KEY}", "Accept: text/event-stream", f"Last-Event-ID: {self._position}")
            arguments = [argument for header in headers for argument in ("-H", header)]
            async with output_of(program("curl"), "-sN", *arguments, self._url) as output:
                await self._read(output)

    async def _read(self, output: asyncio.StreamReader) -> None:
        event: dict[bytes, bytes] = {}
        async for line in output:
            name, _, value = line.rstrip(b"\n").partition(b": ")
            if name:
                event[name] = value
                continue
            if b"id" in event:
                self._position = event[b"id"].decode()
            if b"data" in event and b"event" not in event:
                self.ids.append(self._position)
            event.clear()


@asynccontextmanager
async def output_of(*command: str) -> AsyncIterator[asyncio.StreamReader]:
    """The standard output of a program, which is killed at the end of the block."""
    starting = asyncio.create_task(asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE))
    try:
        process = await asyncio.shield(starting)  # uvloop forgets a process whose start is cancelled
        assert process.stdout is not None
        yield process.stdout
    finally:
        process = await starting
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()  # the pipe, too, has to come to its end

"""curl as a subscriber: it is cut off again and again, and goes on with ``Last-Event-ID``."""

from __future__ import annotations

import asyncio

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
            process = await asyncio.create_subprocess_exec(
                program("curl"), "-sN", *arguments, self._url, stdout=asyncio.subprocess.PIPE
            )
            assert process.stdout is not None
            try:
                await self._read(process.stdout)
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()

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

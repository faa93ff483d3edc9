"""What the tests of the local Redis share: a gateway that can be killed, and looks at a server from outside."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from redis.backoff import NoBackoff
from redis.retry import Retry

import redis
from kit.support import (
    eventually,
)
from rsws.datadir import DataDir
from rsws.embedded.limits import DEFAULTS, Limits
from rsws.embedded.local import LocalRedis

Run = Callable[[Coroutine[Any, Any, None]], None]
GATEWAY = """
import asyncio, sys
from pathlib import Path
from rsws.datadir import DataDir
from rsws.embedded.local import LocalRedis

async def main():
    async with LocalRedis(DataDir(Path(sys.argv[1])), int(sys.argv[2])) as local:
        print(local.server.pid, local.server.watchdog_pid, flush=True)
        await local.watch()

asyncio.run(main())
"""
"""What of a gateway matters here, as a process that can be killed; prints the pids of server and watchdog."""


@asynccontextmanager
async def watched(local: LocalRedis) -> AsyncIterator[LocalRedis]:
    """Entered and watched, as the gateway does it."""
    async with local:
        watch = asyncio.create_task(local.watch())
        try:
            yield local
            assert not watch.done(), watch
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch


async def until_seen(condition: Callable[[], Any], what: str) -> None:
    """Wait until ``condition()`` is true, which may block: it is asked in a thread."""
    await asyncio.to_thread(eventually, condition, 10, what)


def call(port: int, *command: str | int) -> Any:
    with redis.Redis(port=port, protocol=2, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
        return client.execute_command(*command)


def answers(port: int) -> bool:
    try:
        return bool(call(port, "PING"))
    except redis.ConnectionError:
        return False


def server_pid(port: int) -> int:
    return int(call(port, "INFO", "server")["process_id"])


def add(port: int, data: str) -> None:
    call(port, "XADD", "history", "*", "messageData", data)


def history(port: int) -> list[str]:
    return [fields[b"messageData"].decode() for _, fields in call(port, "XRANGE", "history", "-", "+")]


def enter(data_dir: DataDir, port: int, limits: Limits = DEFAULTS) -> None:
    """Start and stop."""

    async def main() -> None:
        async with LocalRedis(data_dir, port, limits=limits):
            pass

    asyncio.run(main())


@dataclass
class Gateway:
    """A gateway in a process of its own: the pids of its server and of the watchdog."""

    process: subprocess.Popen[str]
    server: int
    watchdog: int

    def kill_9(self) -> None:
        self.process.kill()
        self.process.wait(10)

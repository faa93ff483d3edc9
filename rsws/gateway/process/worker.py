"""A worker: one of several processes on a port that serve clients. Its supervisor starts it::

    python -P -m rsws.gateway.process.worker NUMBER

It reads its :class:`~rsws.gateway.process.supervisor.WorkerConfig` from standard input. The end of that input is the
end of the supervisor, on which the worker ends immediately, as if killed with it. It writes one line to standard
output: that it listens, or why it can't. The first SIGTERM stops it, and others are ignored: a service manager may send
one to all processes while the supervisor sends another.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import sys
import threading

from rsws.errors import RswsError
from rsws.gateway import logs
from rsws.gateway.metrics import SharedMetrics
from rsws.gateway.process.lifecycle import reload_on_hangup, until_signalled
from rsws.gateway.process.single import SingleProcess
from rsws.gateway.process.supervisor import LISTENING, WorkerConfig
from rsws.runtime import collect_rarely, loop_factory


def main() -> None:
    """Serve as the supervisor's configuration says, and exit with the resulting code."""
    number = int(sys.argv[1])
    config: WorkerConfig = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_supervisor, name="rsws supervisor", daemon=True).start()
    logs.configure(config.settings, number)
    collect_rarely()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            code = runner.run(_until_signalled(number, config))
    except RswsError as error:
        _report(str(error))
        code = 1
    sys.exit(code)


def _end_with_supervisor() -> None:
    """End the process with its supervisor, even while the event loop hangs: this runs in a thread.

    It reads the descriptor, as Python can't close a file object that a thread is reading.
    """
    while os.read(0, 1):
        pass
    os._exit(1)


def _report(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def _until_signalled(number: int, config: WorkerConfig) -> int:
    listening = [socket.socket(fileno=descriptor) for descriptor in config.listening]
    board = SharedMetrics(config.processes, number, config.board)
    server = SingleProcess(config.settings, listening, board, limits=config.limits)
    return await until_signalled(_serve(server), lambda signal: None, reload_on_hangup(server))


async def _serve(server: SingleProcess) -> None:
    async with server:
        _report(LISTENING)
        await server.failed()


if __name__ == "__main__":
    main()

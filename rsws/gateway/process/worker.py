"""A worker: the process, one of several on a port, that serves clients. Its supervisor starts it::

    python -P -m rsws.gateway.process.worker NUMBER

Standard input brings the orders, and its end is the end of the supervisor: then the worker ends at once, as if it had
been killed with it. Standard output takes one line: that it listens, or why it can't. SIGTERM stops it, once: a service
manager may send one to all processes while the supervisor sends another.
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
from rsws.gateway.process.lifecycle import until_signalled
from rsws.gateway.process.single import SingleProcess
from rsws.gateway.process.supervisor import LISTENING, WorkerConfig
from rsws.runtime import collect_rarely, loop_factory


def main() -> None:
    """Do what the supervisor orders, and exit with the code of that."""
    number = int(sys.argv[1])
    orders: WorkerConfig = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_supervisor, name="rsws supervisor", daemon=True).start()
    logs.configure(orders.settings.log_level, number)
    collect_rarely()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            code = runner.run(until_signalled(_serve(number, orders), on_second=lambda signal: None))
    except RswsError as error:
        _report(str(error))
        code = 1
    sys.exit(code)


def _end_with_supervisor() -> None:
    """In a thread, which works while the event loop hangs; not by a file object, which Python can't close meanwhile."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _report(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def _serve(number: int, orders: WorkerConfig) -> None:
    listening = [socket.socket(fileno=descriptor) for descriptor in orders.listening]
    board = SharedMetrics(orders.processes, number, orders.board)
    async with SingleProcess(orders.settings, listening, board, limits=orders.limits) as server:
        _report(LISTENING)
        await server.failed()


if __name__ == "__main__":
    main()

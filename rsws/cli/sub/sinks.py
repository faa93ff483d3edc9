"""Where messages go: to standard output, or each to a command of the user's."""

from __future__ import annotations

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from rsws.cli import stdio, terminal
from rsws.cli.exits import ExitCode, Failure
from rsws.cli.message_display import iso_time
from rsws.cli.sub.output import Form
from rsws.cli.sub.state import Positions
from rsws.protocol import Message, StreamId

STOP_S = 5.0
"""How long a command may take to end once it was sent SIGTERM."""
LOOK_EVERY_S = 0.02
"""How often to look whether what it has started has ended, too."""


class Sink(ABC):
    """Takes the messages of a run one after the other, and notes in the positions what is dealt with."""

    @abstractmethod
    async def take(self, message: Message, tasks: asyncio.TaskGroup) -> None:
        """Deal with a message that is wanted. What goes on after the return is a task of ``tasks``."""

    @abstractmethod
    def skip(self, message: Message) -> None:
        """Handle that a message is not wanted."""


class Printing(Sink):
    """Prints each message."""

    def __init__(self, form: Form, positions: Positions) -> None:
        self._form = form
        self._positions = positions

    async def take(self, message: Message, tasks: asyncio.TaskGroup) -> None:
        await stdio.write(self._form.text(message).encode())
        self._positions.reached(message.channel, message.id)

    def skip(self, message: Message) -> None:
        self._positions.reached(message.channel, message.id)


@dataclass(slots=True, eq=False)
class _Job:
    id: StreamId
    is_done: bool = False
    is_skipped: bool = False
    """Whether no command was run for it; only the last one of several in a row is kept."""


class Executing(Sink):
    """Runs a command of the shell for each message, with the data on its standard input.

    Commands are started in the order of the messages. A channel's position is that of the last message up to which all
    commands have succeeded.

    Args:
        command: The command, for ``sh -c``.
        parallel: How many may run at the same time.
    """

    def __init__(self, command: str, parallel: int, positions: Positions) -> None:
        self._command = command
        self._room = asyncio.Semaphore(parallel)
        self._positions = positions
        self._jobs: dict[str, deque[_Job]] = {}
        """What of each channel is under way, and what came after it."""

    async def take(self, message: Message, tasks: asyncio.TaskGroup) -> None:
        await self._room.acquire()
        job = _Job(message.id)
        self._jobs.setdefault(message.channel, deque()).append(job)
        tasks.create_task(self._run(message, job))

    def skip(self, message: Message) -> None:
        jobs = self._jobs.setdefault(message.channel, deque())
        if jobs and jobs[-1].is_skipped:
            jobs[-1].id = message.id
        else:
            jobs.append(_Job(message.id, is_done=True, is_skipped=True))
        self._advance(message.channel)

    async def _run(self, message: Message, job: _Job) -> None:
        code = await self._execute(message)
        if code != 0:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            raise Failure(f"{message.channel}: --exec has failed for {message.id}, with {how}", ExitCode.ERROR)
        job.is_done = True
        self._advance(message.channel)
        self._room.release()

    def _advance(self, channel: str) -> None:
        jobs = self._jobs[channel]
        last: StreamId | None = None
        while jobs and jobs[0].is_done:
            last = jobs.popleft().id
        if last is not None:
            self._positions.reached(channel, last)

    async def _execute(self, message: Message) -> int:
        """Run the command, and return its exit code, negative for a signal; one that is cancelled is ended first."""
        process = await asyncio.create_subprocess_shell(
            self._command,
            stdin=asyncio.subprocess.PIPE,
            env=os.environ
            | {
                "RSWS_CHANNEL": message.channel,
                "RSWS_ID": str(message.id),
                "RSWS_TIME": iso_time(message.id) or "",
            },
            process_group=0,  # Ctrl-C reaches this process alone, which then ends the command and what it has started
        )
        try:
            await process.communicate(f"{terminal.one_line(message.json)}\n".encode())
            return await process.wait()
        except BaseException:
            await _stop(process)
            raise


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End a command and all that it has started: what outlives it would hold on to standard output."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
                while True:
                    os.killpg(process.pid, 0)  # raises where nothing of the group is left
                    await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

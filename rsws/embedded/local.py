"""The Redis on this machine that is used without REDIS_URL: one that is running, or else an embedded server.

Who runs it decides what happens when it dies:

- the user: the user's own Redis is used as it is, and nothing is ever started in its place;
- this gateway ("ours"): it restarts the embedded server;
- another gateway on the same directory ("shared"): when that one is gone, this gateway takes over.

Two locks in the server's directory ensure this. ``gateway.lock`` is held by the gateway that runs the server, and
``server.lock`` by the server itself, which inherits the descriptor: after a kill -9 of the gateway the first is free
immediately, the second only when the server has ended. A lock ends with its holder, even if another process has got the
recorded pid by then.

The loopback port is open to everybody on this machine. Gateways connect to the embedded server by a socket in its
directory, which only their user can enter: another process that listens on the port is never mistaken for the server.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Self

from rsws.datadir import DataDir
from rsws.embedded.limits import DEFAULTS, Limits
from rsws.embedded.valkey import (
    HOST,
    LOG,
    ServerProcess,
    Where,
    choose_server,
    disconnected,
    is_redis,
    ping,
    private_address,
    url_of,
)
from rsws.errors import LoginRefused, SetupError
from rsws.ownership import PrivateDir, strangers

logger = logging.getLogger("rsws.embedded")


class _Role(Enum):
    USERS = "the user's own"
    OURS = "ours"
    SHARED = "another gateway's"


@dataclass(frozen=True, slots=True)
class _Owner:
    """The content of ``gateway.lock``: the gateway that holds it and runs the server, and the server's port."""

    pid: int
    port: int


class LocalRedis:
    """The Redis of this machine: the user's own, or an embedded server that runs for the ``async with`` block.

        async with LocalRedis(DataDir(), 6379) as local:
            watch = asyncio.create_task(local.watch())
            ...  # serve with local.url
            watch.cancel()  # and wait for it, before the block ends

    Attributes:
        url: The URL at which the gateway connects to it.
        embedded: Whether it is an embedded server, this gateway's or another's.
        directory: The directory of the embedded server's data; None for the user's own Redis.
        description: A description of it for people.

    Raises:
        SetupError: On entry, when there is no Redis to use and none can be started; the text says what to do.
    """

    def __init__(
        self,
        data_dir: DataDir,
        port: int,
        max_memory_bytes: int | None = None,
        *,
        limits: Limits = DEFAULTS,
    ) -> None:
        """
        Args:
            data_dir: The data directory, in which the embedded server's directory is created when needed.
            port: The port on 127.0.0.1 on which a Redis is looked for and the embedded server listens.
            max_memory_bytes: The memory limit for the embedded server's data; None for no limit.
        """
        self.description = ""
        self._data_dir = data_dir
        self._directory = data_dir.redis.absolute()
        self._private = PrivateDir(self._directory)
        self._port = port
        self._where = private_address(self._directory, port)
        self._max_memory_bytes = max_memory_bytes
        self._limits = limits
        self._role: _Role | None = None
        self._owner_lock: int | None = None
        self._server: ServerProcess | None = None

    @property
    def url(self) -> str:
        return url_of(self._where if self.embedded else self._port)

    @property
    def embedded(self) -> bool:
        return self._role in (_Role.OURS, _Role.SHARED)

    @property
    def directory(self) -> Path | None:
        return self._directory if self.embedded else None

    @property
    def server(self) -> ServerProcess | None:
        """The embedded server that this gateway started last; None when it uses another Redis."""
        return self._server

    async def __aenter__(self) -> Self:
        await self._claim()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._server is not None:
                await self._server.stop()
        finally:
            self._release()

    async def watch(self) -> None:
        """Keep an embedded server running until cancelled: restart ours, take over when another gateway's is gone."""
        clock = asyncio.get_running_loop().time
        restart, failures = self._limits.restart, 0
        while True:
            since = clock()
            await self._ended()
            if clock() - since > self._limits.steady_s:
                failures = 0
            while True:
                failures += 1
                await restart.wait(failures)
                try:
                    await (self._launch() if self._role is _Role.OURS else self._claim())
                    break
                except SetupError as error:
                    logger.error("no embedded server, trying again in %.1f s: %s", restart.wait_s(failures + 1), error)

    async def _ended(self) -> None:
        """Return when the embedded server is gone."""
        if self._role is _Role.OURS:
            assert self._server is not None
            code = await self._server.ended()
            await self._server.stop()  # which ends its watchdog
            logger.error("the embedded server has ended (exit code %d), its log is in %s", code, self._log_file)
        elif self._role is _Role.SHARED:
            await disconnected(self._where)
            logger.warning("the embedded server of another gateway is gone")
        else:
            await asyncio.Event().wait()

    async def _claim(self) -> None:
        """Find the Redis to use, or start it.

        Raises:
            SetupError: There is no Redis, and none can be started.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._limits.takeover_timeout_s
        while not await self._find_or_start():
            if clock() > deadline:
                raise SetupError(
                    f"{self._owner_name()} runs the embedded server in {self._directory}, and that does not answer on "
                    f"{HOST}:{self._port}; end that gateway, or choose another directory with --data-dir"
                )
            await asyncio.sleep(self._limits.poll_s)

    async def _find_or_start(self) -> bool:
        """Find out who runs the Redis, or start it; return False, to retry, while another gateway starts or ends."""
        if not self._directory_exists():
            reply = await self._ping(self._port)
            if reply is None:
                self._make_directory()
            if reply is None or self._directory_exists():  # another gateway made it: its server may be what answered
                return False
            self._use_users_own(reply)
            return True
        if not self._acquire():
            return await self._share()
        try:
            # No other gateway can start a server on this directory now. Once the last server has ended, even that of
            # a gateway killed just now, a Redis that answers is the user's own.
            os.close(await self._server_lock())
            reply = await self._ping(self._port)
            if reply is None:
                await self._launch()
                return True
            self._use_users_own(reply)
        except BaseException:
            self._release()
            raise
        self._release()
        return True

    async def _share(self) -> bool:
        """Use the server of the gateway that holds the lock; return False when it does not answer (yet)."""
        owner = self._read_owner()
        if owner is None:
            return False
        if owner.port == self._port:
            reply = await self._ping(self._where)
            if reply is None or not is_redis(reply):
                return False
            self._role = _Role.SHARED
            self.description = f"the embedded server of the gateway with pid {owner.pid}, data in {self._directory}"
        elif (reply := await self._ping(self._port)) is not None:
            self._use_users_own(reply)
        else:
            raise SetupError(
                f"{self._owner_name()} runs the embedded server in {self._directory} on port {owner.port}; "
                f"set RSWS_LOCAL_REDIS_PORT={owner.port} to use it, or choose another directory with --data-dir"
            )
        return True

    async def _ping(self, where: Where) -> bytes | None:
        return await ping(where, self._limits.probe_timeout_s)

    def _use_users_own(self, reply: bytes) -> None:
        address = f"{HOST}:{self._port}"
        if reply.startswith(b"-NOAUTH"):
            raise LoginRefused(f"the Redis on {address} wants a password; set REDIS_URL=redis://:PASSWORD@{address}")
        if not is_redis(reply):
            answer = f"it answered {reply[:60].decode(errors='replace').strip()!r}" if reply else "it did not answer"
            raise SetupError(
                f"what listens on {address} is no Redis ({answer} to PING); end it, choose another port with "
                f"RSWS_LOCAL_REDIS_PORT, or set REDIS_URL"
            )
        if self._role is _Role.SHARED:
            raise SetupError(f"a Redis that is not the embedded server answers on {address} in its place")
        self._role = _Role.USERS
        self.description = f"the Redis on {address}"
        if owners := strangers(HOST, self._port):
            self.description += f", which is not yours: it belongs to {owners}"

    # The server's directory and its locks

    @property
    def _log_file(self) -> Path:
        return self._directory / LOG

    def _directory_exists(self) -> bool:
        """Whether the embedded server's directory exists; False also where this user may not look."""
        return os.path.isdir(self._directory)

    def _make_directory(self) -> None:
        self._data_dir.create()
        self._private.create()

    def _try_lock(self, name: str) -> int | None:
        """Return the descriptor that holds the lock; None when another process holds it."""
        try:
            descriptor = self._private.open(name, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                raise
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._private.unwritable(error) from None
        return descriptor

    def _acquire(self) -> bool:
        """Acquire the gateway's lock; return False when another gateway holds it."""
        if (descriptor := self._try_lock("gateway.lock")) is None:
            return False
        self._owner_lock = descriptor
        os.ftruncate(descriptor, 0)
        return True

    def _release(self) -> None:
        if self._owner_lock is not None:
            os.close(self._owner_lock)
            self._owner_lock = None

    def _read_owner(self) -> _Owner | None:
        """Return the gateway that runs the server; None when it has not recorded itself yet."""
        try:
            return _Owner(**json.loads(self._private.read("gateway.lock")))
        except (OSError, ValueError, TypeError):
            return None

    def _owner_name(self) -> str:
        owner = self._read_owner()
        return f"the gateway with pid {owner.pid}" if owner else "another gateway"

    # Running the server

    async def _launch(self) -> None:
        """Start our server and wait until it answers; the caller holds the gateway's lock.

        Raises:
            SetupError: No server is installed, or it does not start.
        """
        assert self._owner_lock is not None
        lock = await self._server_lock()
        try:
            self._private.make_private()
            engine, binary = await asyncio.to_thread(choose_server, self._private)
            os.pwrite(self._owner_lock, json.dumps(asdict(_Owner(os.getpid(), self._port))).encode(), 0)
            self._server = server = await ServerProcess.start(
                engine, binary, self._private, self._port, lock, self._max_memory_bytes, self._limits
            )
        except PermissionError as error:
            raise self._private.unwritable(error) from None
        except OSError as error:
            raise SetupError(f"the embedded server in {self._directory} can't be started: {error}") from None
        finally:
            os.close(lock)
        try:
            await server.ready()
        except BaseException:
            await server.stop()
            raise
        self._role = _Role.OURS
        self.description = f"embedded {engine}, data in {self._directory}"
        logger.info("started %s (pid %d) on %s:%d, data in %s", engine, server.pid, HOST, self._port, self._directory)

    async def _server_lock(self) -> int:
        """Acquire the server's lock, waiting for a server that is ending; the caller holds the gateway's lock.

        Raises:
            SetupError: The server of an earlier gateway does not end.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._limits.takeover_timeout_s
        waiting = False
        while (descriptor := self._try_lock("server.lock")) is None:
            if not waiting:
                logger.info("waiting for the end of the server that an earlier gateway ran in %s", self._directory)
                waiting = True
            if clock() > deadline:
                pid = self._private.read("server.lock").decode()
                raise SetupError(
                    f"the server that an earlier gateway ran in {self._directory} does not end; "
                    f"end it (kill {pid}), or choose another directory with --data-dir"
                )
            await asyncio.sleep(self._limits.poll_s)
        return descriptor

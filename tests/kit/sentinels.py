"""A primary, its replicas, and three sentinels that watch them, all real and on ports of their own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kit.faults import link_is_up
from kit.support import RedisServer, eventually, find_server_binary, free_port

NAME = "main"
DOWN_AFTER_MS = 500
"""After how long without an answer a sentinel takes a server for dead."""


class Sentinels:
    """Servers under the watch of three sentinels; a context manager.

    Args:
        replicas: How many replicas the primary has.
        password: Of the servers, and of the sentinels; None for none.

    Attributes:
        servers: The primary first, as it is at the beginning.
        sentinels: The sentinels.
    """

    def __init__(self, replicas: int = 1, password: str | None = None) -> None:
        self._replicas = replicas
        self._password = password
        self._stack = ExitStack()
        self.servers: list[RedisServer] = []
        self.sentinels: list[RedisServer] = []

    @property
    def url(self) -> str:
        """What REDIS_URL would say."""
        login = f":{self._password}@" if self._password else ""
        return f"redis+sentinel://{login}{','.join(f'127.0.0.1:{each.port}' for each in self.sentinels)}/{NAME}"

    @property
    def primary(self) -> RedisServer:
        """The server that the first sentinel that runs takes for the primary."""
        sentinel = next(each for each in self.sentinels if each.running)
        _, port = sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        return next(each for each in self.servers if each.port == int(port))

    def __enter__(self) -> Self:
        login: dict[str, Any] = {"requirepass": self._password, "masterauth": self._password} if self._password else {}
        options: dict[str, Any] = {"repl_diskless_sync_delay": "0", **login}
        primary = self._stack.enter_context(RedisServer(**options))
        self.servers = [primary]
        for _ in range(self._replicas):
            replica = RedisServer(replicaof=f"127.0.0.1 {primary.port}", **options)
            self.servers.append(self._stack.enter_context(replica))
        for replica in self.servers[1:]:
            link_is_up(replica)
        self.sentinels = [self._stack.enter_context(self._sentinel(primary)) for _ in range(3)]
        for sentinel in self.sentinels:
            eventually(lambda sentinel=sentinel: self._knows_all(sentinel), what="sentinels that know each other")  # type: ignore[misc]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _sentinel(self, primary: RedisServer) -> RedisServer:
        port = free_port()
        lines = [
            f"port {port}",
            f"sentinel monitor {NAME} 127.0.0.1 {primary.port} 2",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {NAME} 3000",
        ]
        if self._password:
            lines += [f"sentinel auth-pass {NAME} {self._password}", f"requirepass {self._password}"]
            lines += [f"sentinel sentinel-pass {self._password}"]
        return SentinelServer(port, lines, self._password)

    def _knows_all(self, sentinel: RedisServer) -> bool:
        state = dict(zip(*[iter(sentinel.call("SENTINEL", "MASTER", NAME))] * 2, strict=True))
        return (int(state[b"num-other-sentinels"]), int(state[b"num-slaves"])) == (2, self._replicas)

    def fail_over(self) -> None:
        """Have the sentinels make a replica the primary, with nothing lost that it has."""
        before = self.primary
        self.sentinels[0].call("SENTINEL", "FAILOVER", NAME)
        self.until_primary_is_not(before)

    def settle(self) -> None:
        """Wait until all others are replicas that have what the primary has, and the sentinels know it."""
        for each in self.servers:
            if each is not self.primary:
                eventually(lambda each=each: b"role:slave" in each.call("INFO", "replication"), what="a replica")  # type: ignore[misc]
                link_is_up(each)
        for sentinel in self.sentinels:
            eventually(lambda sentinel=sentinel: self._has_good_replica(sentinel), what="a replica to promote")  # type: ignore[misc]

    def _has_good_replica(self, sentinel: RedisServer) -> bool:
        replicas = sentinel.call("SENTINEL", "REPLICAS", NAME)
        states = [dict(zip(*[iter(each)] * 2, strict=True)) for each in replicas]
        return any(each[b"flags"] == b"slave" and each[b"master-link-status"] == b"ok" for each in states)

    def until_primary_is_not(self, server: RedisServer) -> None:
        """Wait until the sentinels name another one."""
        eventually(lambda: self.primary is not server, what="a failover")


class SentinelServer(RedisServer):
    """One sentinel. It keeps its state in its configuration file."""

    def __init__(self, port: int, lines: list[str], password: str | None) -> None:
        super().__init__(port, **({"requirepass": password} if password else {}))
        (self.directory / "sentinel.conf").write_text("\n".join(lines) + "\n")

    @property
    def command(self) -> list[str]:
        return [find_server_binary(), str(Path(self.directory) / "sentinel.conf"), "--sentinel"]

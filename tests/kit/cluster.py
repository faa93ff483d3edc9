"""A Redis Cluster, all real and on ports of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from kit.support import RedisServer, eventually, free_port
from rsws.streams.slots import SLOTS, slot_of

NODE_TIMEOUT_MS = 1000


class Cluster:
    """A cluster of primaries, each with as many replicas; a context manager.

    Args:
        primaries: How many primaries, with equal shares of the slots.
        replicas: How many replicas each has.
        binary: The server to run; None takes the one that is found.
        spare: How many primaries without slots there are besides.

    Attributes:
        servers: The primaries first, as they are at the beginning, then the spare ones, then the replicas.
    """

    def __init__(
        self, primaries: int = 3, replicas: int = 1, binary: str | None = None, spare: int = 0, **options: str
    ) -> None:
        self._shards = primaries
        self._replicas = replicas
        self._spare = spare
        self._binary = binary
        self._options: dict[str, Any] = {
            "cluster_enabled": "yes",
            "cluster_node_timeout": str(NODE_TIMEOUT_MS),
            "repl_diskless_sync_delay": "0",
            "cluster_replica_validity_factor": "0",
            "cluster_allow_replica_migration": "no",  # else a primary without slots becomes a replica
        } | options
        self._stack = ExitStack()
        self.servers: list[RedisServer] = []

    @property
    def url(self) -> str:
        """What REDIS_URL would say."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{each.port}" for each in self.servers[:3])

    def __enter__(self) -> Self:
        for number in range(self._shards + self._spare + self._shards * self._replicas):
            # The bus port is the port + 10000 by default, which may be another test's.
            server = RedisServer(binary=self._binary, cluster_port=str(free_port()), **self._options)
            self.servers.append(self._stack.enter_context(server))
            server.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        first, *others = self.servers
        for other in others:
            first.call("CLUSTER", "MEET", "127.0.0.1", other.port, other.options["cluster-port"])
        for shard in range(self._shards):
            start, end = SLOTS * shard // self._shards, SLOTS * (shard + 1) // self._shards
            self.servers[shard].call("CLUSTER", "ADDSLOTS", *range(start, end))
        for each in self.servers:
            eventually(lambda each=each: self._nodes(each) == len(self.servers), what="nodes that know each other")  # type: ignore[misc]
        primaries = self._shards + self._spare
        for number, replica in enumerate(self.servers[primaries:]):
            replica.call("CLUSTER", "REPLICATE", self.id_of(self.servers[number % self._shards]))
        self.settle()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @staticmethod
    def _nodes(server: RedisServer) -> int:
        lines = server.call("CLUSTER", "NODES").decode().splitlines()
        return sum("handshake" not in line and line.split()[7] == "connected" for line in lines)

    @staticmethod
    def id_of(server: RedisServer) -> bytes:
        """The id of a node."""
        found: bytes = server.call("CLUSTER", "MYID")
        return found

    def settle(self) -> None:
        """Wait until all slots are served, all nodes agree, and each replica has what its primary has."""
        for each in self.running:
            eventually(lambda each=each: b"cluster_state:ok" in each.call("CLUSTER", "INFO"), what="a whole cluster")  # type: ignore[misc]
        eventually(lambda: len({str(self._map(each)) for each in self.running}) == 1, what="one map")
        for each in self.running:
            eventually(lambda each=each: is_settled(each), what="replicas in step")  # type: ignore[misc]

    @staticmethod
    def _map(server: RedisServer) -> Any:
        slots = server.call("CLUSTER", "SLOTS")
        return sorted((first, last, nodes[0][1], sorted(node[1] for node in nodes)) for first, last, *nodes in slots)

    @property
    def running(self) -> list[RedisServer]:
        """The servers that run."""
        return [each for each in self.servers if each.running]

    def owner(self, key: str, among: Sequence[RedisServer] = ()) -> RedisServer:
        """The primary that has the slot of a key, as the servers that run have it, or these."""
        return self.owner_of_slot(slot_of(key), among)

    def owner_of_slot(self, slot: int, among: Sequence[RedisServer] = ()) -> RedisServer:
        """The primary that has a slot."""
        for first, last, node, *_ in (among or self.running)[0].call("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(each for each in self.servers if each.port == node[1])
        raise AssertionError(f"nobody has the slot {slot}")

    def call(self, key: str, *command: str | int | bytes) -> Any:
        """Send a command to the primary that has the key."""
        return self.owner(key).call(*command)

    def name_at(self, server: RedisServer, prefix: str) -> str:
        """A channel's name that this primary has the slot of."""
        ranges = [(first, last) for first, last, node, *_ in server.call("CLUSTER", "SLOTS") if node[1] == server.port]
        names = (f"{prefix}{number}" for number in range(100_000))
        return next(name for name in names if any(first <= slot_of(name) <= last for first, last in ranges))

    def names_for(self, slot: int, prefix: str, count: int) -> list[str]:
        """Names of one slot that have no hash tag in common."""
        names = (f"{prefix}{number}" for number in range(10_000_000))
        found = (name for name in names if slot_of(name) == slot)
        return [next(found) for _ in range(count)]

    @contextmanager
    def migrating(self, slot: int, to: RedisServer) -> Iterator[RedisServer]:
        """Move a slot: inside the block it is on its way. Yields the primary that has it."""
        source = self.owner_of_slot(slot)
        to.call("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(to))
        yield source
        self.move_keys(slot, source, to)
        others = [each for each in self.running if b"role:master" in each.call("INFO", "replication")]
        for each in dict.fromkeys((to, source, *others)):
            each.call("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(to))
        self.agree()

    def agree(self) -> None:
        """Wait until all know the latest epoch: before, who had a slot last may claim it back by what is under way."""
        eventually(lambda: len({self._epoch(each) for each in self.running}) == 1, what="one epoch")

    @staticmethod
    def _epoch(server: RedisServer) -> bytes:
        found: bytes = server.call("CLUSTER", "INFO").split(b"cluster_current_epoch:")[1].split()[0]
        return found

    @staticmethod
    def move_keys(slot: int, source: RedisServer, to: RedisServer, keys: Sequence[bytes] = ()) -> None:
        """Move these keys of a slot, by default all."""
        while found := [*keys] or source.call("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.call("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *found)
            if keys:
                return

    def move_slot(self, slot: int, to: RedisServer) -> None:
        """Move a slot and its keys."""
        with self.migrating(slot, to):
            pass

    def until_promoted(self, slot: int, dead: RedisServer) -> RedisServer:
        """Wait until another server has a slot, and takes commands for it; return it."""

        def promoted() -> RedisServer | None:
            return next((each for each in self.running if each is not dead and self._has(each, slot)), None)

        return eventually(promoted, what="a promoted replica")  # type: ignore[return-value]

    @staticmethod
    def _has(server: RedisServer, slot: int) -> bool:
        if b"cluster_state:ok" not in server.call("CLUSTER", "INFO"):
            return False
        slots = server.call("CLUSTER", "SLOTS")
        return any(first <= slot <= last and node[1] == server.port for first, last, node, *_ in slots)


def replicated(primary: RedisServer) -> None:
    """Wait until the replicas of a primary have all that it has."""

    def behind() -> bool:
        said = primary.client.info("replication")
        offsets = [said[f"slave{number}"]["offset"] for number in range(said["connected_slaves"])]
        return not offsets or min(offsets) < said["master_repl_offset"]

    eventually(lambda: not behind(), what="replicas in step")


def is_settled(server: RedisServer) -> bool:
    """Whether a replica is in step with its primary; a primary is."""
    said = server.call("INFO", "replication")
    return b"role:master" in said or b"master_link_status:up" in said

"""The Redis servers to look at, each with what it says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rsws.check.findings import Finding, critical
from rsws.errors import LoginRefused, RedisUnavailable, SetupError, UsageError
from rsws.patterns import Patterns
from rsws.redis.connection import RedisConnection, ReplyError, pack
from rsws.redis.target import RedisTarget
from rsws.streams.fields import DEFAULT_FIELDS, MessageFields
from rsws.streams.retention import Rule
from rsws.streams.slots import Slots, parse_slots, slot_of_key

NAME = "rsws-check"
_SETTINGS = (
    "appendfsync",
    "bind",
    "maxclients",
    "maxmemory-policy",
    "protected-mode",
    "save",
    "timeout",
    "tracking-table-max-keys",
)
"""What is asked for with ``CONFIG GET``; nothing of it is secret."""


class Lost(Exception):
    """A server has stopped answering; the text says how."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the gateway uses Redis, as far as the settings say it, and how long to wait for an answer."""

    rules: Sequence[Rule] = ()
    wait_replicas: int = 0
    timeout_s: float = 5
    channels: Patterns | None = None
    """Which keys are channels; None for all."""
    fields: MessageFields = DEFAULT_FIELDS
    """Which field of an entry holds a message."""


@dataclass(slots=True)
class Server:
    """A server that answers."""

    target: RedisTarget
    connection: RedisConnection
    plan: Plan
    slots: Sequence[Slots] = ()
    """The slots that it has, in a cluster."""
    unseen: set[str] = field(default_factory=set)
    """What some check wanted to know and the server does not say."""
    _info: dict[str, str] = field(default_factory=dict)
    _config: dict[str, str] = field(default_factory=dict)

    async def ask(self, *commands: Sequence[bytes]) -> list[Any]:
        """Return the replies to some commands, errors included.

        Raises:
            Lost: The connection is lost, or no answer came in time; nothing can be asked any more.
        """
        try:
            return await self.connection.ask(*[pack(*words) for words in commands], timeout_s=self.plan.timeout_s)
        except BaseException as error:
            await self.connection.close()  # its answers may still come
            if isinstance(error, OSError):
                raise Lost(f"{self.target.shown} has stopped answering: {error}") from None
            raise

    @property
    def is_there(self) -> bool:
        """Whether it can still be asked."""
        return self.connection.is_open

    async def read_facts(self) -> None:
        """Read what :meth:`info` and :meth:`setting` return."""
        [info, *settings] = await self.ask([b"INFO"], *[[b"CONFIG", b"GET", name.encode()] for name in _SETTINGS])
        if isinstance(info, bytes):
            lines = info.decode(errors="replace").splitlines()
            self._info = dict(line.split(":", 1) for line in lines if ":" in line)
        for pair in settings:
            if isinstance(pair, list) and len(pair) == 2:
                self._config[pair[0].decode()] = pair[1].decode(errors="replace")

    def info(self, name: str) -> str:
        """Return a field of ``INFO``; empty where it is not said, which is noted."""
        if name not in self._info:
            self.unseen.add(f"INFO {name}" if self._info else "INFO")
        return self._info.get(name, "")

    def number(self, name: str) -> int:
        """Return a field of ``INFO`` that is a number; 0 where it is not said."""
        text = self.info(name)
        return int(text) if text.isdecimal() else 0

    def setting(self, name: str) -> str | None:
        """Return a setting, from ``INFO`` where it is there, too; None where it is not said, which is noted."""
        value = self._info.get(name.replace("-", "_")) or self._config.get(name)
        if value is None:
            self.unseen.add(f"CONFIG GET {name}")
        return value

    @property
    def host(self) -> str:
        """Where it is; empty for a Unix socket."""
        if self.target.node is not None:
            return self.target.node[0]
        return self.target.primary.rpartition(":")[0].strip("[]") or str(self.target.url.arguments.get("host", ""))

    @property
    def user(self) -> str:
        """The name of the user that is logged in."""
        return self.target.url.arguments.get("username") or "default"

    def has(self, key: str) -> bool:
        """Whether a key is in this server."""
        slot = slot_of_key(key.encode())
        return not self.slots or any(each.first <= slot <= each.last for each in self.slots)


def refusal(reply: Any) -> ReplyError | None:
    """Return the error if a reply says that the command is forbidden or not there."""
    return reply if isinstance(reply, ReplyError) and reply.is_forbidden else None


async def open_servers(target: RedisTarget, plan: Plan) -> tuple[list[Server], list[Finding]]:
    """Connect to the server that the URL leads to, whatever its role, or to all primaries of a cluster.

    Returns:
        The servers that answer, each of which has to be closed; and what is wrong with those that don't.
    """
    target.takes_replicas = True
    try:
        first = await target.connect(NAME, any_node=True)
    except (RedisUnavailable, LoginRefused, SetupError, UsageError) as error:
        return [], [_unusable(error)]
    servers, findings = [Server(target, first, plan)], []
    try:
        if target.is_cluster:
            [reply] = await servers[0].ask([b"CLUSTER", b"SLOTS"])
            ranges = parse_slots(reply, (target.url.nodes or ((servers[0].host, 0),))[0][0])
            await first.close()
            opened = await asyncio.gather(
                *[_open_node(target.at(node), ranges, plan) for node in sorted({each.primary for each in ranges})]
            )
            servers = [each for each in opened if isinstance(each, Server)]
            findings = [each for each in opened if isinstance(each, Finding)]
        for each in servers:
            await each.read_facts()
    except (RedisUnavailable, Lost) as error:
        findings.append(_unusable(error))
    return [each for each in servers if each.is_there], findings


async def _open_node(target: RedisTarget, ranges: Sequence[Slots], plan: Plan) -> Server | Finding:
    try:
        connection = await target.connect(NAME, any_node=True)
    except (RedisUnavailable, LoginRefused, SetupError) as error:
        return _unusable(error)
    return Server(target, connection, plan, [each for each in ranges if each.primary == target.node])


def _unusable(error: Exception) -> Finding:
    cause = error.cause if isinstance(error, RedisUnavailable) else str(error)
    action = "start it, or say where it is with --redis-url or REDIS_URL; --no-redis leaves it out"
    if isinstance(error, LoginRefused):
        action = "give the user and password of the gateway in REDIS_URL or its file; --no-redis leaves it out"
    return critical(f"Redis can't be used: {cause}", action, "nothing of it was looked at")

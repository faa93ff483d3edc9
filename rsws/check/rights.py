"""The rights that a gateway needs: each command is tried in a form that changes nothing.

``ACL DRYRUN`` would not tell of commands that are renamed or that a service does not have, and needs a right itself.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from rsws.check.findings import Found, Severity, critical, note, warning
from rsws.check.redis_server import NAME, Server, refusal
from rsws.redis.connection import ReplyError, pack
from rsws.streams.refusals import COSTS

NO_KEY = f"{NAME}-{secrets.token_hex(8)}".encode()
"""A key that is not there."""
NO_ONCE = b"rsws:once:" + NO_KEY
TABLE_FULL = 0.9


class Right(NamedTuple):
    """A command that a gateway sends."""

    command: str
    """Its name in ``docs/redis.md``."""
    words: tuple[bytes, ...]
    """The command in a form that changes nothing."""
    severity: Severity
    """How bad it is to go without."""
    cost: str = ""
    """What it costs to go without; empty where :data:`rsws.streams.refusals.COSTS` says it."""

    @property
    def meaning(self) -> str:
        """What it costs to go without."""
        return self.cost or COSTS[self.command.replace("SCRIPT", "EVALSHA")]

    @property
    def rule(self) -> str:
        """The ACL rule that allows it."""
        has_subcommand = self.words[0] in (b"CLIENT", b"XINFO", b"SCRIPT", b"CLUSTER")
        return "+" + b"|".join(self.words[: 2 if has_subcommand else 1]).decode().lower()


_PRODUCERS = "publishes with a producer are refused (rsws pub and the Python client send one)"
NEEDED = [
    Right("XADD", (b"XADD", NO_KEY, b"NOMKSTREAM", b"*", b"f", b"v"), Severity.CRITICAL),
    Right("XRANGE", (b"XRANGE", NO_KEY, b"-", b"+", b"COUNT", b"1"), Severity.CRITICAL),
    Right("EVAL", (b"EVAL", b"return 1", b"0"), Severity.WARNING),
    Right("EVALSHA", (b"EVALSHA", b"0" * 40, b"0"), Severity.NOTE),
    Right("SCRIPT", (b"SCRIPT", b"LOAD", b"return 1"), Severity.NOTE),
    Right("GET", (b"GET", NO_ONCE), Severity.WARNING, _PRODUCERS),
    Right("SET", (b"SET", NO_ONCE, b"", b"XX", b"EX", b"1"), Severity.WARNING, _PRODUCERS),
    Right("DEL", (b"DEL", NO_ONCE), Severity.WARNING, _PRODUCERS),
    Right("XINFO", (b"XINFO", b"STREAM", NO_KEY), Severity.WARNING),
    Right("XREAD", (b"XREAD", b"COUNT", b"1", b"STREAMS", NO_KEY, b"0"), Severity.WARNING),
    Right("XREVRANGE", (b"XREVRANGE", NO_KEY, b"+", b"-", b"COUNT", b"1"), Severity.WARNING, "last: N needs scripts"),
    Right("ROLE", (b"ROLE",), Severity.WARNING, "a failover behind an address may go unnoticed"),
    Right("HELLO", (b"HELLO", b"2"), Severity.WARNING, "streams are read as without CLIENT TRACKING"),
    Right("CLIENT ID", (b"CLIENT", b"ID"), Severity.WARNING),
    Right("CLIENT UNBLOCK", (b"CLIENT", b"UNBLOCK", b"0"), Severity.WARNING),
    Right("CLIENT SETNAME", (b"CLIENT", b"SETNAME", NAME.encode()), Severity.NOTE, "no name in CLIENT LIST"),
    Right("PING", (b"PING",), Severity.NOTE, "nothing else"),
]
FOR_RETENTION = [
    Right("SCAN", (b"SCAN", b"0", b"COUNT", b"1"), Severity.CRITICAL, "--retain does nothing"),
    Right("XTRIM", (b"XTRIM", NO_KEY, b"MAXLEN", b"0"), Severity.CRITICAL, "--retain does nothing"),
    Right("UNLINK", (b"UNLINK", NO_KEY), Severity.WARNING, "--retain ...,expire deletes nothing"),
]
FOR_REPLICAS = [Right("WAIT", (b"WAIT", b"0", b"1"), Severity.CRITICAL, "every publish is answered not_replicated")]
FOR_CLUSTER = [
    Right("ASKING", (b"ASKING",), Severity.CRITICAL, "channels whose slot moves can't be used meanwhile"),
    Right("CLUSTER SLOTS", (b"CLUSTER", b"SLOTS"), Severity.CRITICAL, "the cluster can't be used"),
    Right("CLUSTER INFO", (b"CLUSTER", b"INFO"), Severity.WARNING, "a node that is cut off may be believed"),
]


async def rights(server: Server) -> Found:
    """Try each command that a gateway with these settings sends."""
    plan = server.plan
    wanted = [*NEEDED, *(FOR_RETENTION if plan.rules else []), *(FOR_REPLICAS if plan.wait_replicas else [])]
    if server.slots:
        wanted += FOR_CLUSTER
    if database := server.target.url.arguments.get("db"):
        number = b"%d" % int(database)
        wanted.append(Right("SELECT", (b"SELECT", number), Severity.CRITICAL, "only database 0 can be used"))
    replies = await server.ask(*[each.words for each in wanted])
    refused = [(right, error) for right, reply in zip(wanted, replies, strict=True) if (error := refusal(reply))]
    found = []
    if any(NO_KEY in right.words and not error.forbids_command for right, error in refused):
        action = f"ACL SETUSER {server.user} ~*, unless that is meant; --channel names one that it may use"
        why = "the others are channel_unreadable"
        found.append(note("This user of Redis may not use every channel", action, why))
        refused = [(right, error) for right, error in refused if NO_KEY not in right.words or error.forbids_command]
    for severity, make in ((Severity.CRITICAL, critical), (Severity.WARNING, warning), (Severity.NOTE, note)):
        missing = [(right, error) for right, error in refused if right.severity is severity]
        if missing:
            names = ", ".join(right.command for right, _ in missing)
            costs = dict.fromkeys(right.meaning for right, _ in missing)
            found.append(make(f"Redis refuses {names}", _allow(server, missing), "; ".join(costs)))
    return found


def _allow(server: Server, missing: list[tuple[Right, ReplyError]]) -> str:
    """Return how to allow what is refused."""
    absent = [right.command for right, error in missing if "unknown" in str(error).lower()]
    rules = [right.rule for right, error in missing if error.forbids_command and right.command not in absent]
    if any(not error.forbids_command for _, error in missing):
        rules += ["~rsws:once:*"]
    lines = [f"ACL SETUSER {server.user} {' '.join(rules)}"] if rules else []
    if absent:
        lines.append(f"{', '.join(absent)}: not there, or renamed in redis.conf (rename-command), so name it back")
    return "; ".join(lines)


async def tracking(server: Server) -> Found:
    """Ask for what a gateway asks for, over a connection that ends with that; and look at the table."""
    connection = await server.target.connect(NAME, any_node=True)
    try:
        commands = pack(b"HELLO", b"3"), pack(b"CLIENT", b"TRACKING", b"ON")
        replies = await connection.ask(*commands, timeout_s=server.plan.timeout_s)
    finally:
        await connection.close()
    errors = [reply for reply in replies if isinstance(reply, ReplyError)]
    if errors:
        action = f"ACL SETUSER {server.user} +hello +client|tracking, where Redis has it"
        return [warning(f"Redis does not tell of changes: {errors[0]}", action, COSTS["CLIENT TRACKING"])]
    most, keys = server.setting("tracking-table-max-keys") or "0", server.number("tracking_total_keys")
    if most != "0" and keys > TABLE_FULL * int(most):
        title = f"Redis remembers {keys} of {most} keys to tell of (tracking-table-max-keys)"
        why = "streams push each other out: gateways are told of every key that changes, which costs more"
        return [warning(title, f"CONFIG SET tracking-table-max-keys {2 * int(most)}", why)]
    return []

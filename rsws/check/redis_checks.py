"""What a Redis server is asked: whether it keeps what it has acknowledged, and has room for more."""

from __future__ import annotations

import re
import time

from rsws.check.examples import stands_in_examples
from rsws.check.findings import Check, Finding, Found, critical, note, unknown, warning
from rsws.check.growth import retention
from rsws.check.redis_server import Server
from rsws.check.rights import rights, tracking
from rsws.urls import is_loopback

OLDEST = (6, 0)
"""The oldest Redis that can be used."""
FIXED_SINCE = (7, 2)
"""The oldest Redis that still gets fixes from its makers."""
ALMOST_FULL = 0.9
CLOCK_S = 1.0
"""A difference of clocks that shows in the times of messages."""
LEEWAY_S = 30.0
"""What is forgiven where a JWT ends or begins."""
LAG_S = 10


async def eviction(server: Server) -> Found:
    policy = server.setting("maxmemory-policy")
    if policy is None:
        return None
    has_limit = server.number("maxmemory") > 0
    action = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf; bound streams with --retain"
    if policy.startswith("allkeys-"):
        if has_limit:
            why = "at maxmemory it deletes any key, and with a stream all its messages"
            return [critical(f"Redis may drop whole streams: maxmemory-policy is {policy}", action, why)]
        return [note(f"maxmemory-policy {policy} would drop streams if maxmemory were set", action)]
    if policy.startswith("volatile-") and has_limit:
        why = "streams are not dropped; rsws:once:* may be, and then a message that is sent again is stored twice"
        return [note(f"Redis may forget producers early: maxmemory-policy is {policy}", action, why)]
    return []


async def memory(server: Server) -> Found:
    used, limit = server.number("used_memory"), server.number("maxmemory")
    if not used:
        return None
    if not limit or used < ALMOST_FULL * limit:
        return []
    action = "raise maxmemory, or bound streams with --retain"
    why = "once it is full publishes are refused (OOM)"
    return [warning(f"Redis' memory is {100 * used / limit:.0f} % full", action, why)]


async def persistence(server: Server) -> Found:
    has_log = server.info("aof_enabled")
    if not has_log:
        return None
    found = []
    if server.info("rdb_last_bgsave_status") == "err":
        why = "a restart loses what came since, and publishes are refused (MISCONF) unless Redis is told otherwise"
        found.append(critical("Redis' last snapshot failed", "look at its log: the disk is full or read-only", why))
    if server.info("aof_last_write_status") == "err":
        found.append(critical("Redis can't write its append-only file", "look at its log: the disk may be full"))
    if server.info("aof_last_bgrewrite_status") == "err":
        found.append(warning("Redis can't rewrite its append-only file, which grows", "look at its log"))
    if has_log == "1":
        if server.setting("appendfsync") == "no":
            why = "a crash of the machine may take what came in the last half a minute or more"
            found.append(warning("appendfsync is no", "CONFIG SET appendfsync everysec", why))
        return found
    action = "CONFIG SET appendonly yes, and the same in redis.conf"
    snapshots = server.setting("save")
    if snapshots is None:
        return found
    if snapshots:
        why = f"a crash takes what came since the last one (save {snapshots})"
        found.append(warning("Redis keeps snapshots only", action, why))
    elif server.number("connected_slaves"):
        found.append(warning("Redis writes nothing to disk, and relies on its replicas", action))
    else:
        found.append(critical("A restart of Redis loses everything: it writes nothing to disk", action))
    return found


async def role(server: Server) -> Found:
    kind = server.info("role")
    if not kind:
        return None
    if kind == "slave":
        primary = f"{server.info('master_host')}:{server.info('master_port')}"
        action = "lead REDIS_URL to the primary, or to the sentinels (redis+sentinel://) that name it"
        return [critical(f"Redis is a replica of {primary}", action, "it takes no writes: nothing can be published")]
    replicas, wanted = server.number("connected_slaves"), server.plan.wait_replicas
    if replicas < wanted:
        title = f"Replicas of Redis: {replicas}, and --wait-replicas wants {wanted}"
        return [critical(title, "bring replicas back, or lower it", "every publish is answered not_replicated")]
    if not replicas:
        why = "what its machine loses is lost"
        return [note("Redis has no replica", "add one where that matters, and see --wait-replicas", why)]
    found = []
    for number in range(replicas):
        said = dict(part.split("=", 1) for part in server.info(f"slave{number}").split(",") if "=" in part)
        lag = said.get("lag", "0")
        if said and (said.get("state") != "online" or (lag.isdecimal() and int(lag) > LAG_S)):
            who = f"{said.get('ip')}:{said.get('port')}"
            title = f"Replica {who} is behind: {said.get('state')}, silent for {lag} s"
            found.append(warning(title, "look at its log", "a failover to it would lose what it has not got"))
    return found


async def cluster(server: Server) -> Found:
    if not server.slots:
        return None
    [reply] = await server.ask([b"CLUSTER", b"INFO"])
    if not isinstance(reply, bytes):
        return None  # that it is refused is one of the rights
    said = dict(line.split(":", 1) for line in reply.decode(errors="replace").split() if ":" in line)
    if said.get("cluster_state") == "fail" or said.get("cluster_slots_fail", "0") != "0":
        title = f"The cluster is down: {said.get('cluster_slots_ok', '?')} of 16384 slots are served"
        return [critical(title, "see CLUSTER NODES for what has failed; redis-cli --cluster fix")]
    if (failing := said.get("cluster_slots_pfail", "0")) != "0":
        return [warning(f"{failing} slots are on nodes that don't answer", "see CLUSTER NODES")]
    return []


async def version(server: Server) -> Found:
    facts = server.target.facts
    match = re.match(r"([0-9]+)\.([0-9]+)", facts.version)
    if match is None:
        return [unknown("Redis does not say which version it is", "allow HELLO or INFO")]
    number = int(match[1]), int(match[2])
    if number < OLDEST:
        return [critical(f"{facts.text} is too old: 6.0 or newer is needed", "upgrade it")]
    if number < FIXED_SINCE and facts.kind == "redis":
        return [warning(f"{facts.text} gets no fixes any more", "upgrade it, unless your distribution fixes it")]
    return []


async def connections(server: Server) -> Found:
    most, now = server.setting("maxclients"), server.number("connected_clients")
    if most is None:
        return None
    found = []
    if now > ALMOST_FULL * int(most):
        action = "raise maxclients, and the limit of open files of Redis with it"
        why = "when it is reached a gateway that lost its connections can't connect again"
        found.append(warning(f"Redis has {now} of {most} connections", action, why))
    if refused := server.number("rejected_connections"):
        found.append(note(f"Redis has refused {refused} connections since its start", "see maxclients"))
    if (idle_s := server.setting("timeout")) not in (None, "0"):
        action = "CONFIG SET timeout 0"
        found.append(note(f"Redis closes connections that are idle for {idle_s} s", action, "gateways connect again"))
    return found


async def clock(server: Server) -> Found:
    before = time.time()
    [reply] = await server.ask([b"TIME"])
    after = time.time()
    if not isinstance(reply, list):
        server.unseen.add("TIME")
        return None
    return clock_findings("Redis", int(reply[0]) + int(reply[1]) / 1e6 - (before + after) / 2, (after - before) / 2)


def clock_findings(whose: str, ahead_s: float, error_s: float) -> list[Finding]:
    """Return what follows from a clock that is ahead of this machine's by so much, give or take ``error_s``."""
    off_s = abs(ahead_s) - error_s
    title = f"{whose}'s clock is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    action = "run an NTP service on both machines"
    if off_s > LEEWAY_S:
        return [critical(title, action, "JWTs end too early or too late, ids and --retain by age are off")]
    if off_s > CLOCK_S:
        return [warning(title, action, "ids, --from 10m and --retain by age are off by that")]
    return []


async def exposure(server: Server) -> Found:
    url, host = server.target.url, server.host
    if not host:
        return []
    password = url.arguments.get("password") or ""
    has_password = bool(password)
    if has_password and stands_in_examples(password):
        return [critical("Redis' password is one that anybody would try first", "set another one")]
    if not is_loopback(host):
        if has_password and not url.is_tls:
            why = "whoever can listen on the way reads the password, and all messages"
            return [warning("Redis' password goes over the network as it is", "use rediss://", why)]
        if not has_password and not url.has_certificate:
            action = "set one with requirepass or ACL SETUSER, and put it into REDIS_URL_FILE"
            return [warning("Redis takes everybody on its network: it wants no password", action)]
        return []
    bind = server.setting("bind") or ""
    is_bound_to_loopback = bool(bind) and all(is_loopback(each.lstrip("-")) for each in bind.split())
    if not has_password and not is_bound_to_loopback and server.setting("protected-mode") == "no":
        action = "CONFIG SET protected-mode yes, or bind 127.0.0.1 in redis.conf, or set a password"
        return [warning("Redis wants no password, and other machines can connect to it", action)]
    return []


async def access(server: Server) -> Found:
    if not server.unseen:
        return []
    missing = ", ".join(
        "INFO (memory, persistence, replicas)" if each == "INFO" else each for each in sorted(server.unseen)
    )
    action = "allow it (docs/check.md has the line), or ask whoever runs Redis and leave this out with --skip access"
    return [unknown("Not everything could be looked at", action, f"Redis does not answer {missing}")]


REDIS_CHECKS: list[Check[Server]] = [
    Check("eviction", "a policy that may drop streams", eviction),
    Check("memory", "memory that is nearly full", memory),
    Check("persistence", "what a restart or a crash of Redis loses", persistence),
    Check("role", "a replica in place of the primary, replicas that are missing or behind", role),
    Check("cluster", "slots that nobody serves", cluster),
    Check("version", "a Redis that is too old", version),
    Check("connections", "room for connections to Redis", connections),
    Check("redis-clock", "a clock that differs from this machine's", clock),
    Check("exposure", "a Redis without password or TLS on a network", exposure),
    Check("retention", "streams that grow and that no --retain trims", retention),
    Check("rights", "commands and keys that Redis forbids to this user", rights),
    Check("tracking", "being told of changes (CLIENT TRACKING)", tracking),
    Check(
        "access", "what Redis does not let anybody see, such as CONFIG", access
    ),  # after all that want to see something
]

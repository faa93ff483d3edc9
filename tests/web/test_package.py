"""The npm package of rsws.js, installed as its users do, in Node.js against a real gateway."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from kit import tokens
from kit.javascript import PACKAGE, Node, install_client, npm, program
from kit.support import RedisServer, RswsProcess, eventually, free_port
from rsws.gateway.client_module import client_module

ROOT = PACKAGE.parent.parent
KEY = "kunci rahasia/+&=ä>?"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("npm")
    install_client(directory, "ws@8", "typescript@7", "@types/node@20")
    return directory


@pytest.fixture(scope="module")
def node_process(installed: Path) -> Iterator[Node]:
    with Node(installed) as node:
        yield node


@pytest.fixture
def node(node_process: Node) -> Iterator[Node]:
    node_process.run("Object.assign(globalThis, { seen: [], told: [], onEvent: (event) => told.push(event) })")
    node_process.run("globalThis.onMessages = (all) => seen.push(...all.map(({ data }) => data))")
    yield node_process
    node_process.run("globalThis.client?.close()")


@contextmanager
def serving(redis: RedisServer, port: int, *options: str) -> Iterator[RswsProcess]:
    environment = {"WEBSOCKET_SECRET_KEY": KEY, "REDIS_URL": redis.url, "PORT": str(port)}
    with RswsProcess("serve", *options, env=environment) as process:
        process.wait_for(rf"ws://.*:{port}")
        yield process


def connect(node: Node, port: int, token: str = KEY) -> None:
    options = "{ token: given[1], onEvent, maxDelay: 200 }"
    node.run(f"globalThis.client = connect(given[0], {options})", f"ws://127.0.0.1:{port}", token)


def add(redis: RedisServer, channel: str, *data: Any) -> list[str]:
    return [redis.call("XADD", channel, "*", "messageData", json.dumps(each)).decode() for each in data]


def stored(redis: RedisServer, channel: str) -> list[Any]:
    return [json.loads(fields[1]) for _, fields in redis.call("XRANGE", channel, "-", "+")]


# --- the package ---


def test_the_package_has_what_the_gateway_serves(installed: Path) -> None:
    package = installed / "node_modules" / "rsws"
    assert sorted(path.name for path in package.iterdir()) == [
        "LICENSE", "README.md", "package.json", "rsws.d.ts", "rsws.js",
    ]  # fmt: skip
    assert (package / "rsws.js").read_bytes() == client_module(gzipped=False)
    content = json.loads((package / "package.json").read_text())
    assert content["version"] == version("rsws")
    assert not {"dependencies", "peerDependencies"} & content.keys()


def test_the_types_are_strict(installed: Path) -> None:
    shutil.copy(PACKAGE / "test" / "types.ts", installed)
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom"]
    npm("exec", "--", "tsc", *options, "types.ts", cwd=installed)


# --- with a gateway ---


def test_history_live_messages_and_publishes(node: Node, redis_server: RedisServer, channel: str) -> None:
    first, second = add(redis_server, channel, "one", "two")
    port = free_port()
    with serving(redis_server, port):
        connect(node, port)
        node.run("client.subscribe(given[0], { after: '0', onMessages, end: true })", channel)
        eventually(lambda: node.run("return told.length") == 2, what="the end of history")
        expected = {"event": "caught_up", "channel": channel, "lastMessageId": second}
        assert node.run("return told") == [{"event": "status", "status": "open"}, expected]
        id = node.run("return client.publish(given[0], { n: [1, 2.5, null], text: '✓' })", channel)
        eventually(lambda: node.run("return seen.length") == 3, what="the message")
        assert node.run("return seen") == ["one", "two", {"n": [1, 2.5, None], "text": "✓"}]
        assert redis_server.call("XRANGE", channel, id, id)
        script = "for await (const { id } of client.subscribe(given[1], { after: given[0] })) return id"
        other = f"{channel}-other"
        add(redis_server, other, 1)
        assert node.run(script, "0", other) > first


def test_a_killed_gateway_costs_nothing(node: Node, redis_server: RedisServer, channel: str) -> None:
    port = free_port()
    publish = """
        let count = 0;
        globalThis.publishes = [];
        globalThis.timer = setInterval(() => publishes.push(client.publish(given[0], ++count)), 2);
    """
    with serving(redis_server, port) as gateway:
        connect(node, port)
        node.run("client.subscribe(given[0], { after: '0', onMessages })", channel)
        node.run(publish, channel)
        eventually(lambda: node.run("return seen.length") > 50, what="messages")
        gateway.kill()
    add(redis_server, channel, "meanwhile")
    with serving(redis_server, port):
        count = node.run("return seen.length")
        eventually(lambda: node.run("return seen.length") > count + 50, what="more messages")
        assert len(node.run("clearInterval(timer); return Promise.all(publishes)")) > 100
        expected = stored(redis_server, channel)
        eventually(lambda: node.run("return seen.length") >= len(expected), what="all messages")
        assert node.run("return seen") == expected
        numbers = [each for each in expected if each != "meanwhile"]
        assert sorted(numbers) == [*range(1, len(numbers) + 1)]


def test_a_gap_loads_the_state_again(node: Node, redis_server: RedisServer, channel: str) -> None:
    first, *_ = add(redis_server, channel, 1, 2)
    port = free_port()
    with serving(redis_server, port) as gateway:
        connect(node, port)
        node.run("globalThis.positions = [given[0], null]", first)
        state = "async () => (seen.push('state'), positions.shift() ?? globalThis.latest)"
        node.run(f"client.subscribe(given[0], {{ state: {state}, onMessages, onEvent }})", channel)
        eventually(lambda: node.run("return seen") == ["state", 2], what="what follows the state")
        gateway.kill()
    *_, latest, _ = add(redis_server, channel, 3, 4, 5)
    redis_server.call("XTRIM", channel, "MAXLEN", 2)
    node.run("globalThis.latest = given[0]", latest)
    with serving(redis_server, port):
        eventually(lambda: node.run("return seen.at(-1)") == 5, what="the last message")
    assert node.run("return seen") == ["state", 2, "state", 5]
    assert node.run("return told.filter(({ event }) => event === 'gap').length") == 1


def test_too_big_costs_that_message_alone(node: Node, redis_server: RedisServer, channel: str) -> None:
    port = free_port()
    with serving(redis_server, port, "--max-message-bytes", "2000"):
        connect(node, port)
        script = """
            const all = ["x", "é".repeat(1000), "y".repeat(1500), "z"].map((data) => client.publish(given[0], data));
            const outcomes = await Promise.allSettled(all);
            return outcomes.map(({ value, reason }) => (value ? "stored" : `${reason.code} ${reason.outcome}`));
        """
        assert node.run(script, channel) == ["stored", "too_big not_stored", "stored", "stored"]
    assert [each[0] for each in stored(redis_server, channel)] == ["x", "y", "z"]


def test_a_wrong_token_is_final(node: Node, redis_server: RedisServer) -> None:
    port = free_port()
    with serving(redis_server, port):
        connect(node, port, "wrong")
        eventually(lambda: node.run("return client.status") == "closed", what="the end")
        said = node.run("return told.map(({ status, error }) => [status, error.message])")
        assert said == [["closed", "closed with 1008 Unauthorized"]]


def test_a_token_that_ends_is_changed(node: Node, redis_server: RedisServer, channel: str) -> None:
    port = free_port()
    made = [tokens.token(ttl_s=ttl_s, channels={"*": "rw"}) for ttl_s in (-24, 600)]  # 30 s are forgiven
    with serving(redis_server, port, "--jwt-key", tokens.pair("HS256").public):
        node.run("globalThis.tokens = given", *made)
        node.run(
            "globalThis.client = connect(given[0], { token: () => tokens.shift(), onEvent })", f"ws://127.0.0.1:{port}"
        )
        eventually(lambda: node.run("return tokens.length") == 0, what="another token")
        assert node.run("return client.publish(given[0], 1)", channel)
        assert node.run("return told.map(({ event }) => event)") == ["status", "token_expiring"]


def test_subscribing_again_at_once(node: Node, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, 1)
    port = free_port()
    with serving(redis_server, port):
        connect(node, port)
        eventually(lambda: node.run("return client.status") == "open")
        script = """
            client.subscribe(given[0], { after: "0", onMessages: () => seen.push("first") }).close();
            client.subscribe(given[0], { after: "0", onMessages });
        """
        node.run(script, channel)
        eventually(lambda: node.run("return told.at(-1).event") == "caught_up", what="the end of history")
        assert node.run("return seen") == [1]


def test_a_process_ends_after_close(installed: Path, redis_server: RedisServer) -> None:
    port = free_port()
    (installed / "once.js").write_text("""
        import { connect } from "rsws";
        import WebSocket from "ws";
        const client = connect(process.argv[2], { token: process.argv[3], WebSocket });
        client.subscribe("any", { onMessages() {} });
        console.log(await client.publish("once", 1));
        client.close();
    """)
    with serving(redis_server, port):
        started = time.monotonic()
        command = [program("node"), "once.js", f"ws://127.0.0.1:{port}", KEY]
        done = subprocess.run(command, cwd=installed, capture_output=True, text=True, timeout=20)
        assert (done.returncode, done.stderr) == (0, "")
        assert time.monotonic() - started < 5

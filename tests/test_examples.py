"""The clients of the server that rsws replaces, as real programs: a page in Chromium, a backend in Node.js."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from websockets.asyncio.client import connect

from kit.browser import Browser
from kit.javascript import npm, program
from kit.support import RedisServer, RswsProcess, eventually, free_port

EXAMPLES = Path(__file__).parent.parent / "examples"
KEY = "kunci rahasia/+&=123"


class Gateway(NamedTuple):
    process: RswsProcess
    redis: RedisServer
    port: int

    @property
    def url(self) -> str:
        return f"ws://localhost:{self.port}?{urlencode({'token': KEY})}"


@pytest.fixture
def gateway(redis_server: RedisServer) -> Iterator[Gateway]:
    port = free_port()
    environment = {"WEBSOCKET_SECRET_KEY": KEY, "REDIS_URL": redis_server.url, "PORT": str(port)}
    with RswsProcess("serve", env=environment) as process:
        process.wait_for(rf"ws://.*:{port}")
        yield Gateway(process, redis_server, port)


# --- the browser page ---


class Page(Browser):
    """What the example's page shows."""

    def rows(self, style: str) -> list[str]:
        """The text of the log's rows of one kind, without the time."""
        script = """
            return [...document.querySelectorAll(`#log .${arguments[0]}`)].map(
                row => [...row.querySelectorAll('span')].map(cell => cell.textContent).filter(text => text).join(' '))
        """
        rows: list[str] = self.run(script, style)
        return rows

    def type(self, field: str, text: str) -> None:
        self.run("document.getElementById(arguments[0]).value = arguments[1]", field, text)

    def click(self, button: str) -> None:
        """Click when the button can be clicked."""
        eventually(lambda: self.run("return !document.getElementById(arguments[0]).disabled", button), what=button)
        self.run("document.getElementById(arguments[0]).click()", button)


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with Page() as browser:
        yield browser


def page(**given: str | int) -> str:
    return f"{(EXAMPLES / 'browser.html').as_uri()}?{urlencode(given)}"


def test_the_page_shows_history_acks_and_messages(browser: Page, gateway: Gateway, channel: str) -> None:
    gateway.redis.call("XADD", channel, "*", "messageData", '{"from":"earlier","text":"old"}')
    browser.open(page(port=gateway.port, token=KEY, channel=channel))
    browser.click("subscribe")
    eventually(lambda: len(browser.rows("message")) == 1, what="history")
    browser.type("message", "Halo <b>semua</b>!")
    browser.click("publish")
    eventually(lambda: browser.rows("ack") and len(browser.rows("message")) == 2, what="ack and message")

    (first_id, _), (second_id, fields) = gateway.redis.call("XRANGE", channel, "-", "+")
    assert fields == [b"messageData", b'{"from":"browser","text":"Halo <b>semua</b>!"}']
    assert browser.rows("message") == [
        f'{channel} {{"from":"earlier","text":"old"}} {first_id.decode()}',
        f'{channel} {{"from":"browser","text":"Halo <b>semua</b>!"}} {second_id.decode()}',
    ]
    [ack] = browser.rows("ack")
    assert re.fullmatch(rf"ack msg-\d+-1 {second_id.decode()}", ack)
    assert browser.rows("error") == []


def test_the_page_is_told_that_its_token_is_wrong(browser: Page, gateway: Gateway) -> None:
    browser.open(page(port=gateway.port))
    browser.type("token", "wrong")
    browser.click("connect")
    eventually(lambda: browser.run("return document.getElementById('status').textContent") == "refused")
    assert browser.rows("error") == ["error Unauthorized", "closed 1008 Unauthorized"]


def test_the_page_goes_on_where_it_was_after_an_outage(browser: Page, gateway: Gateway, channel: str) -> None:
    browser.open(page(port=gateway.port, token=KEY, channel=channel))
    browser.click("subscribe")
    browser.type("message", "before")
    browser.click("publish")
    eventually(lambda: len(browser.rows("message")) == 1, what="the message")
    assert gateway.process.stop() == 0
    eventually(lambda: browser.rows("note")[-1].startswith("closed 1001"), what="the close")
    gateway.redis.call("XADD", channel, "*", "messageData", '"meanwhile"')
    environment = {"WEBSOCKET_SECRET_KEY": KEY, "REDIS_URL": gateway.redis.url, "PORT": str(gateway.port)}
    with RswsProcess("serve", env=environment):
        eventually(lambda: len(browser.rows("message")) == 2, what="the message sent meanwhile")
        assert '"meanwhile"' in browser.rows("message")[-1]


# --- the backends ---


def received(gateway: Gateway, channel: str, publish: Callable[[], None]) -> Any:
    """What a subscriber of ``channel`` gets when ``publish`` runs while it listens."""

    async def listen() -> Any:
        async with asyncio.timeout(20), connect(gateway.url) as websocket:
            await websocket.send(json.dumps({"action": "subscribe", "channel": channel, "lastMessageId": "$"}))
            assert json.loads(await websocket.recv())["status"] == "connected"
            assert json.loads(await websocket.recv())["status"] == "subscribed"
            await asyncio.to_thread(publish)
            return json.loads(await websocket.recv())

    return asyncio.run(listen())


def check_backend(gateway: Gateway, channel: str, *command: str | Path) -> None:
    data = {"type": "ALERT", "details": 'Server "A" ✓ maintenance', "n": [1, 2.5, None]}
    printed: list[str] = []

    def publish() -> None:
        environment = {**os.environ, "REDIS_URL": gateway.redis.url}
        done = subprocess.run(
            [*command, channel, json.dumps(data)], env=environment, capture_output=True, text=True, timeout=20
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)

    message = received(gateway, channel, publish)
    assert message == {"event": "message", "channel": channel, "streamId": message["streamId"], "data": data}
    assert printed == [f"published to '{channel}' with id {message['streamId']}\n"]


def check_backend_fails(*command: str | Path) -> None:
    environment = {**os.environ, "REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    done = subprocess.run([*command, "any"], env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stderr.startswith("not published: ")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def node_backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node.js example with its dependency, installed as its users do."""
    directory = tmp_path_factory.mktemp("node")
    for name in ("backend_publisher.js", "package.json"):
        shutil.copy(EXAMPLES / name, directory)
    npm("install", "--no-audit", "--no-fund", cwd=directory)
    return directory / "backend_publisher.js"


def test_a_node_backend_publishes_through_redis(gateway: Gateway, channel: str, node_backend: Path) -> None:
    check_backend(gateway, channel, program("node"), node_backend)


def test_a_node_backend_says_that_redis_is_gone(node_backend: Path) -> None:
    check_backend_fails(program("node"), node_backend)


def test_a_python_backend_publishes_through_redis(gateway: Gateway, channel: str) -> None:
    check_backend(gateway, channel, sys.executable, EXAMPLES / "backend_publisher.py")


def test_a_python_backend_says_that_redis_is_gone() -> None:
    check_backend_fails(sys.executable, EXAMPLES / "backend_publisher.py")


# --- an answer that is streamed ---


def calls(redis: RedisServer, command: str) -> int:
    """How often clients have called ``command`` of ``redis``."""
    [found] = re.findall(rf"cmdstat_{command}:calls=(\d+)", redis.call("INFO", "commandstats").decode()) or ["0"]
    return int(found)


def test_an_answer_is_streamed_and_found_again_after_a_reload(browser: Page, gateway: Gateway) -> None:
    script, page = EXAMPLES / "llm_backend.py", EXAMPLES / "llm_page.html"
    environment = os.environ | {"REDIS_URL": gateway.redis.url, "PAUSE_S": "0.02"}
    command = [sys.executable, "-u", str(script)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as backend, ExitStack() as stack:
        stack.callback(backend.terminate)
        assert backend.stdout is not None
        assert backend.stdout.readline() == "waiting for questions\n"
        eventually(lambda: calls(gateway.redis, "xread") > 1, what="a wait for questions after another")
        given = {"gateway": f"127.0.0.1:{gateway.port}", "token": KEY}
        browser.open(f"{page.as_uri()}?{urlencode(given)}")

        def shown(what: str) -> str:
            return str(browser.run("return document.getElementById(arguments[0])?.textContent ?? ''", what))

        browser.type("text", "Why <b>not</b>?")
        browser.click("ask")
        eventually(lambda: shown("answer").startswith("You have asked: Why <b>not</b>? "), what="the first tokens")
        address = browser.run("return location.href")
        browser.run("location.reload()")
        eventually(lambda: shown("state") == "done", what="the end")
        [entry] = gateway.redis.call("XREVRANGE", f"answers.{address.partition('#')[2]}", "+", "-", "COUNT", "1")
        assert entry[1] == [b"end", b"1"]
        assert shown("answer").startswith("You have asked: Why <b>not</b>? A model ")
        assert shown("answer").endswith("each an entry of a Redis Stream. ")
        browser.open("about:blank")
        browser.open(address)  # who comes later
        eventually(lambda: shown("state") == "done", what="the end")
        assert shown("answer").endswith("each an entry of a Redis Stream. ")

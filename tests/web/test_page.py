"""rsws.js in Chromium, and EventSource."""

from __future__ import annotations

import random
from pathlib import Path
from urllib.parse import urlencode

from kit.browser import Browser
from kit.gateway import KEY, async_test
from kit.load import GatewayProcess
from kit.page import EVENT_SOURCE, storm
from kit.support import RedisServer, eventually

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "browser_module.html"


@async_test
async def test_a_page_gets_everything_once_whatever_happens() -> None:
    seed = random.SystemRandom().getrandbits(32)
    found = await storm(
        random.Random(seed), channels=20, kills=2, cuts=2, freezes=1, pause_s=0.2, options={"maxDelay": 500}
    )
    wrong = [found.lost, found.repeated, found.reordered, found.after_close, found.gaps, found.stored_twice]
    assert [*wrong, found.false_acks, found.failed] == [0] * 7 + [[]], seed
    assert found.reconnected >= 4
    assert found.written > 500  # how many there were time for is the machine's
    assert found.published > 50


@async_test
async def test_event_sources_get_everything_once_whatever_happens() -> None:
    seed = random.SystemRandom().getrandbits(32)
    found = await storm(random.Random(seed), channels=20, kills=1, cuts=1, freezes=1, pause_s=0.2, script=EVENT_SOURCE)
    wrong = [found.lost, found.repeated, found.reordered, found.after_close, found.gaps, found.stored_twice]
    assert [*wrong, found.false_acks, found.failed] == [0] * 7 + [[]], seed
    assert found.reconnected >= 2
    assert found.written > 500  # how many there were time for is the machine's
    assert found.published > 20


def test_the_example_shows_history_and_what_it_publishes(redis_server: RedisServer, channel: str) -> None:
    redis_server.call("XADD", channel, "*", "messageData", '"old"')
    with GatewayProcess(redis_server) as gateway, Browser() as browser:

        def log() -> list[str]:
            rows: list[str] = browser.run(
                "return [...document.querySelectorAll('#log li')].map((row) => row.textContent)"
            )
            return rows

        given = {"gateway": f"127.0.0.1:{gateway.port}", "channel": channel, "token": KEY}
        browser.open(f"{EXAMPLE.as_uri()}?{urlencode(given)}")
        eventually(lambda: log() == ['"old"', "you have read everything"], what="history")
        browser.run("text.value = 'Halo <b>semua</b>!'; send.click()")
        eventually(lambda: log()[2:] == ['{"text":"Halo <b>semua</b>!"}'], what="the message")
        assert browser.run("return document.getElementById('status').textContent") == "open"
        gateway.kill()
        eventually(lambda: browser.run("return document.getElementById('status').textContent") == "connecting")

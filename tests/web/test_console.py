"""The console in Chromium: one page, as a person uses it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rsws
from kit import tokens
from kit.browser import Browser
from kit.console import Console, add, console, console_browser, starts, stored
from kit.gateway import KEY
from kit.support import RedisServer, eventually

LIVE = "live from here"
NUMBER = '{"n": 12345678901234567890.10, "text":"<b>é</b>"}'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with console_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def its_page(browser: Browser, redis_server: RedisServer) -> Iterator[Console]:
    with console(redis_server, browser, "--jwt-key", tokens.pair("HS256").public) as (page, _):
        yield page


@pytest.fixture
def page(its_page: Console) -> Iterator[Console]:
    yield its_page
    assert its_page.faults == []


# --- who is there ---


def test_signing_in(page: Console) -> None:
    page.open(token=None)
    assert page.run("return $('app').hidden")
    page.set("token", "wrong")
    page.run("$('sign-in-form').requestSubmit()")
    page.wait_for("sign-in-error", "does not take this token")
    page.set("token", KEY)
    page.run("$('sign-in-form').requestSubmit()")
    page.wait_for("connection", "Connected")
    assert page.run("return [$('sign-in').open, $('token').value]") == [False, ""]
    assert page.run("return [Object.values(sessionStorage), localStorage.length]") == [[KEY], 0]
    page.browser.open(page.base)
    page.wait_for("connection", "Connected")  # in this tab without being asked again
    page.click("sign-out")
    page.wait_for("sign-in-title", "rsws")
    eventually(lambda: page.run("return sessionStorage.length") == 0, 15)


def test_a_token_in_the_link_does_not_stay_there(page: Console) -> None:
    page.open("some/channel", x="1")
    assert page.run("return location.href") == f"{page.base}?x=1#some%2Fchannel"
    assert page.text("view-title") == "some/channel"


def test_a_channel_that_is_open_begins_after_a_wrong_token(
    page: Console, redis_server: RedisServer, channel: str
) -> None:
    add(redis_server, channel, "1")
    page.open(channel, token=None)
    for token, id, text in (("wrong", "sign-in-error", "does not take this token"), (KEY, "connection", "Connected")):
        page.set("token", token)
        page.run("$('sign-in-form').requestSubmit()")
        page.wait_for(id, text)
    page.wait_for_messages("1", LIVE)


def test_a_token_that_ends(page: Console, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "1")
    page.open(channel, tokens.token(ttl_s=-28, channels={channel: "r"}))  # 30 s are forgiven
    page.wait_for_messages("1", LIVE)
    page.wait_for("sign-in-error", "Your token has ended")
    add(redis_server, channel, "2")
    page.set("token", KEY)
    page.run("$('sign-in-form').requestSubmit()")
    page.wait_for_messages("1", LIVE, "2", starts("caught up"))


def test_what_a_token_does_not_allow(page: Console, redis_server: RedisServer, channel: str) -> None:
    other = f"{channel}-other"
    add(redis_server, channel, "1")
    add(redis_server, other, "1")
    page.open(other, tokens.token(channels={channel: "r"}))
    page.wait_for("view-error", "the token does not allow it")
    eventually(lambda: [row[0] for row in page.rows("channel-list")] == [channel])
    page.run("location.hash = arguments[0]", channel)
    page.wait_for_messages("1", LIVE)
    assert page.text("view-error") == ""
    page.set("data", "2")
    page.run("$('publish').requestSubmit()")
    page.wait_for("publish-result", "Not stored: the token does not allow it")


# --- a channel ---


def test_history_live_messages_and_a_publish(page: Console, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, '"old"')
    page.open(channel)
    page.wait_for_messages('"old"', LIVE)
    page.set("data", f" {NUMBER}\n")
    page.run("$('publish').requestSubmit()")
    page.wait_for("publish-result", "Stored as ")
    [id] = page.run("return $('publish-result').textContent.match(/\\d+-\\d+/)")
    assert redis_server.call("XRANGE", channel, id, id)[0][1][1].decode() == NUMBER
    page.wait_for_messages('"old"', LIVE, NUMBER)
    assert page.rows("message-list")[2][1] == id
    page.wait_for("view-state", "live")
    assert page.run("return $('data').value") == ""


def test_a_publish_whose_answer_is_lost_is_stored_once(page: Console, redis_server: RedisServer, channel: str) -> None:
    page.open(channel)
    lose = """
        const real = fetch;
        globalThis.fetch = async (url, options) => {
            const answer = await real(url, options);
            if (options?.method !== "POST") return answer;  // the page asks for the list and the numbers, too
            fetch = real;
            throw Error("cut");
        };
    """
    page.wait_for("view-count", "Nothing yet")
    page.run(lose)
    page.set("data", "1")
    page.run("$('publish').requestSubmit()")
    page.wait_for("publish-result", "It may be stored or not")
    page.run("$('publish').requestSubmit()")
    page.wait_for("publish-result", "It was stored before")
    assert stored(redis_server, channel) == [1]


def test_what_is_no_json_is_not_published(page: Console, redis_server: RedisServer, channel: str) -> None:
    page.open(channel)
    page.wait_for("view-count", "Nothing yet")
    page.set("data", "hi")
    page.run("$('publish').requestSubmit()")
    page.wait_for("publish-result", "That is not JSON")
    assert page.run("return $('data').value") == "hi"
    assert stored(redis_server, channel) == []


def test_a_message_for_reading_and_as_it_was_published(page: Console, redis_server: RedisServer, channel: str) -> None:
    text = '{"a": 1.0, "b":[], "c":{"d":[1e400,"x: {y}, \\"z\\""]},"é":null}'
    [id] = add(redis_server, channel, text)
    page.open(channel)
    page.wait_for_messages(text, LIVE)
    page.run("$('message-list').focus()")
    page.press("Home")
    page.press("Enter")
    page.wait_for("detail-title", id)
    pretty = """{
  "a": 1.0,
  "b": [],
  "c": {
    "d": [
      1e400,
      "x: {y}, \\"z\\""
    ]
  },
  "é": null
}"""
    assert page.text("detail-data") == pretty
    page.run("navigator.clipboard.writeText = (text) => { globalThis.copied = text }")
    page.click("show-raw")
    page.click("copy")
    page.wait_for("copy", "Copied")
    assert page.run("return [$('detail-data').textContent, copied]") == [text, text]
    page.press("Escape")
    assert page.text("detail") == ""


def test_pause_and_catch_up(page: Console, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "1")
    page.open(channel)
    page.wait_for_messages("1", LIVE)
    page.click("pause")
    page.wait_for("view-state", "paused")
    add(redis_server, channel, "2", "3")
    page.click("pause")
    page.wait_for_messages("1", LIVE, starts("paused at"), "2", "3", starts("caught up at"))
    add(redis_server, channel, "4")
    seen: list[str | Callable[[str], bool]] = ["1", LIVE, starts("paused at"), "2", "3", starts("caught up at"), "4"]
    page.wait_for_messages(*seen)
    page.click("pause")
    page.wait_for("view-state", "paused")
    page.click("pause")
    page.wait_for_messages(*seen, starts("paused at"), starts("caught up at"))


def test_a_gap_is_shown_where_it_is(page: Console, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "1")
    page.open(channel)
    page.wait_for_messages("1", LIVE)
    page.click("pause")
    page.wait_for("view-state", "paused")
    add(redis_server, channel, "2", "3")
    redis_server.call("XTRIM", channel, "MAXLEN", 1)
    page.click("pause")
    gap = starts("messages are missing here")
    page.wait_for_messages("1", LIVE, starts("paused at"), gap, "3", starts("caught up at"))


@pytest.mark.parametrize("start", ["id", "time", "number"])
def test_where_to_start(page: Console, redis_server: RedisServer, channel: str, start: str) -> None:
    redis_server.call("XADD", channel, "1000-1", "messageData", "1")
    redis_server.call("XADD", channel, "2000000-1", "messageData", "2")
    page.open(channel)
    page.wait_for_messages("1", "2", LIVE)
    page.set("from", "other")
    page.set("from-other", {"id": "1000-1", "time": "1970-01-01T00:10:00Z", "number": "-1"}[start])
    page.wait_for_messages("2", LIVE)
    page.set("from-other", "1970-01-01T00:00:00.5Z")
    page.wait_for_messages("1", "2", LIVE)  # the channel begins later, so that nothing is missing
    page.set("from", "$")
    page.wait_for("view-count", "Nothing yet")
    page.set("from", "other")
    page.set("from-other", "then")
    page.wait_for("view-error", "then")


def test_who_reads_further_up_is_left_there(page: Console, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, *map(str, range(100)))
    page.open(channel)
    eventually(lambda: page.messages[-2:] == ["99", LIVE], 15)
    page.run("$('message-list').scrollTop = 0")
    page.wait_for("to-latest", "Latest")
    add(redis_server, channel, "100")
    page.wait_for("view-count", "101 messages")
    assert page.messages[:1] == ["0"]
    page.click("to-latest")
    eventually(lambda: page.messages[-1] == "100", 15)
    add(redis_server, channel, "101")
    eventually(lambda: page.messages[-1] == "101", 15)
    assert page.text("to-latest") == ""


def test_a_filter(page: Console, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, '"Apple"', '"pear"')
    page.open(channel)
    page.wait_for_messages('"Apple"', '"pear"', LIVE)
    page.set("filter", "APPLE")
    page.wait_for_messages('"Apple"', LIVE)
    add(redis_server, channel, '"plum"', '"pineapple"')
    page.wait_for_messages('"Apple"', LIVE, '"pineapple"')
    page.wait_for("view-count", "4 messages · 2 shown")
    page.set("filter", "")
    page.wait_for_messages('"Apple"', '"pear"', LIVE, '"plum"', '"pineapple"')


def test_a_long_history_is_read_in_pieces(page: Console, redis_server: RedisServer, channel: str) -> None:
    script = "for n = 1, 6000 do redis.call('XADD', KEYS[1], '*', 'messageData', n) end"
    redis_server.call("EVAL", script, 1, channel)
    page.open(channel)
    page.set("from", "0")
    page.wait_for("pause", "Read on")
    page.wait_for("view-count", " messages")
    eventually(lambda: "".join(page.messages[-1:]).endswith("there is more"), 15)
    page.run("$('message-list').scrollTop = 0")
    eventually(lambda: page.messages[:1] == ["1"], 15, "the beginning")
    page.click("pause")
    page.wait_for("view-state", "live")
    page.wait_for("view-count", "6,000 messages, the newest")
    eventually(lambda: page.messages[-2:] == ["6000", LIVE], 15)


# --- the gateway ---


def test_a_gateway_that_is_killed_and_comes_back(browser: Browser, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "1")
    with console(redis_server, browser) as (page, gateway):
        page.open(channel)
        page.wait_for_messages("1", LIVE)
        gateway.kill()
        page.wait_for("connection", "Connection lost")
        page.set("data", "3")
        page.run("$('publish').requestSubmit()")
        page.wait_for("publish-result", "the gateway can't be reached")
        add(redis_server, channel, "2")
        gateway.start()
        page.wait_for("connection", "Connected")
        page.run("$('publish').requestSubmit()")
        page.wait_for("publish-result", "Stored as")
        lost, again = starts("connection lost at"), starts("caught up at")
        page.wait_for("view-state", "live")
        eventually(lambda: [each for each in page.messages if each.isdigit()] == ["1", "2", "3"], 15)
        found = page.messages
        assert (lost(found[2]), sum(map(again, found))) == (True, 1)
        assert page.faults == []


def test_numbers_that_are_elsewhere(browser: Browser, redis_server: RedisServer) -> None:
    with console(redis_server, browser, "--admin", "0") as (page, _):
        page.open()
        page.wait_for("charts", "--admin")
        assert page.faults == []


def test_numbers(page: Console, channel: str) -> None:
    page.open(channel)
    page.wait_for("charts", "Redisup")
    page.wait_for("charts", "Clients1")


def test_a_page_that_origin_does_not_list_is_told_so(browser: Browser, redis_server: RedisServer) -> None:
    with console(redis_server, browser, "--origin", "https://example.com") as (page, _):
        page.open(token=None)
        page.set("token", KEY)
        page.run("$('sign-in-form').requestSubmit()")
        page.wait_for("sign-in-error", f"--origin has to list {page.base.removesuffix('/')}")


# --- the list ---


def test_ten_thousand_channels(browser: Browser, own_redis: RedisServer) -> None:
    script = "for n = 1, 10000 do redis.call('XADD', 'c' .. n, '*', 'messageData', '1') end"
    own_redis.call("EVAL", script, 0)
    own_redis.call("XADD", "c7", "*", "messageData", "2")
    with console(own_redis, browser) as (page, _):
        page.open()
        page.wait_for("channel-count", "10,000")
        assert page.run("return document.querySelectorAll('#channel-list [role=row]').length") < 100
        page.run("$('channel-list').focus()")
        page.press("End")
        eventually(lambda: [row[0] for row in page.rows("channel-list")[-1:]] == ["c9999"], 15, "the last one")
        page.run("document.querySelector('[data-sort=entries]').click(); $('channel-list').scrollTop = 0")
        eventually(lambda: [row[:2] for row in page.rows("channel-list")[:1]] == [["c7", "2"]], 15, "the longest one")
        page.set("search", "c99*9")
        page.wait_for("channel-count", "11 of 10,000")
        page.set("search", "new-one")
        page.wait_for("channels-empty", "new-one")
        page.run("document.querySelector('#channels-empty button').click()")
        page.wait_for("view-title", "new-one")
        assert page.faults == []


def test_the_keyboard(page: Console, redis_server: RedisServer, channel: str) -> None:
    names = [f"{channel}-{letter}" for letter in "abc"]
    for name in names:
        add(redis_server, name, "1")
    page.open()
    page.press("/")
    assert page.run("return document.activeElement.id") == "search"
    page.set("search", channel)
    eventually(lambda: [row[0] for row in page.rows("channel-list")] == names)
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "Enter"):
        page.press(key)
    page.wait_for("view-title", names[1])
    assert page.run("return document.querySelector('[aria-selected=true]').textContent").startswith(names[1])
    page.press("Escape")
    eventually(lambda: page.text("view-title") == "", 15)


def test_nothing_of_a_name_or_of_data_becomes_markup(page: Console, redis_server: RedisServer, channel: str) -> None:
    evil = "<img src=x onerror=faults.push(1)><script>faults.push(2)</script>"
    name = f"{channel}-{evil}"
    add(redis_server, name, json.dumps({evil: [evil, "</pre>", "javascript:faults.push(3)"]}))
    page.open(name)
    page.wait_for("view-title", evil)
    page.wait_for("message-list", evil)
    page.set("search", channel)
    eventually(lambda: [row[0] for row in page.rows("channel-list")] == [name])
    page.run("document.querySelector('#message-list [role=row]').click()")
    page.wait_for("detail-data", evil)
    page.set("search", evil * 2)
    page.wait_for("channels-empty", evil * 2)
    assert page.run("return [document.images.length, document.scripts.length]") == [0, 1]


# --- how it is for people ---


def test_both_languages_say_the_same(page: Console) -> None:
    page.open(token=None)
    script = """
        return import("/console/texts.js").then(({ LANGUAGES, TEXTS }) => {
            const slots = (text) => text.match(/\\{\\w+\\}/g)?.sort().join();
            const isWrong = (texts) => texts.length !== LANGUAGES.length || new Set(texts.map(slots)).size > 1;
            return [Object.entries(TEXTS).filter(([, texts]) => isWrong(texts)), Object.keys(TEXTS)];
        });
    """
    wrong, there = page.run(script)
    assert wrong == []
    source = "\n".join(path.read_text() for path in (Path(rsws.__file__).parent / "web" / "console").iterdir())
    said = set(re.findall(r"""\bt\("(\w+)"|data-t(?:-\w+)?="(\w+)\"""", source))
    assert {name for pair in said for name in pair if name} <= set(there)
    page.run("const e = document.querySelector('.pick-language'); e.value = 'id'; e.dispatchEvent(new Event('change'))")
    assert page.run("return document.documentElement.lang") == "id"
    page.browser.open(page.base)
    eventually(lambda: page.run("return document.querySelector('#sign-in button').textContent") == "Masuk", 15)

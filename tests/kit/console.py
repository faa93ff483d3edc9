"""The console in Chromium, as a person uses it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

from kit.browser import Browser
from kit.gateway import KEY
from kit.load import GatewayProcess
from kit.support import RedisServer, eventually

_WATCH = """
    globalThis.faults = [];
    const note = ({ message, reason, violatedDirective }) =>
        faults.push(String(message ?? reason?.stack ?? violatedDirective));
    for (const type of ["error", "unhandledrejection", "securitypolicyviolation"]) addEventListener(type, note);
    console.error = (...all) => faults.push(all.join(" "));
"""


class Console:
    """A page of the console.

    Args:
        browser: Where it is opened.
        base: The URL of the gateway, as ``http://127.0.0.1:8080/``.
    """

    def __init__(self, browser: Browser, base: str) -> None:
        self.browser = browser
        self.base = base

    def open(self, channel: str = "", token: str | None = KEY, **query: str) -> None:
        """Open it in a tab that knows no token yet, signed in where there is a token."""
        self.browser.open(f"{self.base}healthz")
        self.browser.run("sessionStorage.clear(); localStorage.clear()")
        query |= {} if token is None else {"token": token}
        self.browser.open(f"{self.base}?{urlencode(query)}#{quote(channel, safe='')}")
        if token is not None:
            self.wait_for("connection", "Connected")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.run(f"const $ = (id) => document.getElementById(id); {script}", *arguments)

    def text(self, id: str) -> str:
        """What stands in an element; "" where it can't be seen."""
        text: str = self.run("const e = $(arguments[0]); return e.checkVisibility() ? e.textContent : ''", id)
        return text

    def wait_for(self, id: str, text: str) -> None:
        """Wait until an element says so."""
        eventually(lambda: text in self.text(id), 15, f"{text} in #{id}")

    def click(self, id: str) -> None:
        self.run("$(arguments[0]).click()", id)

    def set(self, id: str, value: str) -> None:
        """Type into a field, or choose."""
        script = "const e = $(arguments[0]); e.value = arguments[1];"
        self.run(script + "for (const t of ['input', 'change']) e.dispatchEvent(new Event(t))", id, value)

    def press(self, key: str) -> None:
        """Press a key, as a keyboard does."""
        for kind in ("rawKeyDown", "keyUp"):
            self.browser.devtools("Input.dispatchKeyEvent", type=kind, key=key)

    def rows(self, id: str) -> list[list[str]]:
        """The cells of the rows that are there, from the top."""
        script = """
            const rows = [...$(arguments[0]).querySelectorAll(".body > [role=row]:not([hidden])")];
            rows.sort((a, b) => a.ariaRowIndex - b.ariaRowIndex);
            return rows.map((row) => [...row.children].map((cell) => cell.textContent));
        """
        rows: list[list[str]] = self.run(script, id)
        return rows

    @property
    def messages(self) -> list[str]:
        """The data of the messages that can be seen, and what is said between them."""
        return [row[-1] for row in self.rows("message-list")]

    def wait_for_messages(self, *expected: str | Callable[[str], bool]) -> None:
        """Wait until these can be seen, and no others."""

        def are_there() -> bool:
            found = self.messages
            return len(found) == len(expected) and all(
                want(got) if callable(want) else want == got for want, got in zip(expected, found, strict=True)
            )

        try:
            eventually(are_there, 15)
        except AssertionError:
            raise AssertionError(f"{self.messages} instead of {expected}") from None

    @property
    def faults(self) -> list[str]:
        """Errors of the page."""
        faults: list[str] = self.run("return globalThis.faults")
        return faults


@contextmanager
def console_browser() -> Iterator[Browser]:
    """Chromium that keeps what goes wrong in a page."""
    with Browser() as browser:
        browser.devtools("Page.enable")
        browser.devtools("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
        yield browser


@contextmanager
def console(redis: RedisServer, browser: Browser, *options: str) -> Iterator[tuple[Console, GatewayProcess]]:
    """The console of a gateway of its own."""
    with GatewayProcess(redis, *options) as gateway:
        yield Console(browser, f"http://127.0.0.1:{gateway.port}/"), gateway


def add(redis: RedisServer, channel: str, *texts: str) -> list[str]:
    """Store entries, each a JSON text; their ids."""
    return [redis.call("XADD", channel, "*", "messageData", text).decode() for text in texts]


def starts(text: str) -> Callable[[str], bool]:
    """For :meth:`Console.wait_for_messages`."""
    return lambda got: got.startswith(text)


def stored(redis: RedisServer, channel: str) -> list[Any]:
    return [json.loads(fields[1]) for _, fields in redis.call("XRANGE", channel, "-", "+")]

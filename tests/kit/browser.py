"""Chromium, driven from a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from http.client import HTTPConnection
from types import TracebackType
from typing import Any, Self

from kit.javascript import program
from kit.support import eventually, free_port


class Browser:
    """Headless Chromium, driven through chromedriver: https://www.w3.org/TR/webdriver2/."""

    FLAGS = (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
        "--disable-features=BackForwardCache",  # in which pages that were left stay connected
    )  # fmt: skip

    def __enter__(self) -> Self:
        chromium, driver = program("chromium"), program("chromedriver")
        self._profile = tempfile.TemporaryDirectory(prefix="rsws-test-chromium-", ignore_cleanup_errors=True)
        self._port = free_port()
        self._driver = subprocess.Popen(
            [driver, f"--port={self._port}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # with all of Chromium's processes in it, to be ended together
        )
        try:
            eventually(self._ready, what="start of chromedriver")
            options = {"binary": chromium, "args": [*self.FLAGS, f"--user-data-dir={self._profile.name}"]}
            answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
            self._session = f"/session/{answer['sessionId']}"
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._call("DELETE", self._session)
        finally:
            self._end()

    def _end(self) -> None:
        os.killpg(self._driver.pid, signal.SIGKILL)
        self._driver.wait()
        self._profile.cleanup()

    def _ready(self) -> bool:
        try:
            return bool(self._call("GET", "/status")["ready"])
        except ConnectionRefusedError:
            return False

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        assert not (isinstance(value, dict) and "error" in value), value
        return value

    def open(self, url: str) -> None:
        self._call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a JavaScript function returns, or the promise that it returns."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": arguments})

    def devtools(self, command: str, **parameters: Any) -> Any:
        """The answer to a command of https://chromedevtools.github.io/devtools-protocol/."""
        return self._call("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def new_tab(self) -> str:
        """Open a tab, which is then in front."""
        tab: str = self._call("POST", f"{self._session}/window/new", {"type": "tab"})["handle"]
        return tab

    @property
    def tab(self) -> str:
        """The tab that scripts run in."""
        tab: str = self._call("GET", f"{self._session}/window")
        return tab

    def switch_to(self, tab: str) -> None:
        """Run scripts in this tab from now on."""
        self._call("POST", f"{self._session}/window", {"handle": tab})

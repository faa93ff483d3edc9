"""The console for everybody: axe-core finds no fault, in either theme and language, wide and narrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.console import Console, add, console, console_browser
from kit.javascript import npm
from kit.support import RedisServer, eventually

RUN = """
    return axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }).then(
        ({ violations }) => violations.map(({ id, help, nodes }) => [id, help, nodes.map(({ html }) => html)]));
"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("axe")
    (directory / "package.json").write_text('{"private": true}')
    npm("install", "--no-audit", "--no-fund", "axe-core@4", cwd=directory)
    return Path(directory, "node_modules", "axe-core", "axe.min.js").read_text()


@pytest.fixture(scope="module")
def page(redis_server: RedisServer) -> Iterator[Console]:
    with console_browser() as browser, console(redis_server, browser) as (page, _):
        yield page


@pytest.mark.parametrize(
    ("language", "theme", "width"),
    [("en", "light", 1440), ("id", "dark", 360)],
)
def test_no_fault_is_found(
    page: Console, redis_server: RedisServer, channel: str, axe: str, language: str, theme: str, width: int
) -> None:
    def faults() -> object:
        page.browser.run("const script = arguments[0]; if (!globalThis.axe) globalThis.eval(script)", axe)
        return page.browser.run(RUN)

    add(redis_server, channel, '{"text": "hi", "n": [1, true]}', "2")
    view = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.browser.devtools("Emulation.setDeviceMetricsOverride", **view)
    page.browser.devtools("Page.setBypassCSP", enabled=True)  # for axe, which is given as a text
    page.open(token=None)
    page.run("localStorage['rsws language'] = arguments[0]; localStorage['rsws theme'] = arguments[1]", language, theme)
    page.browser.open(f"{page.base}?token=wrong#{channel}")
    eventually(lambda: page.text("sign-in-error"), 10)
    assert faults() == []
    page.browser.open(f"{page.base}?token=k#{channel}")
    eventually(lambda: len(page.messages) == 3, 10)
    page.run("document.querySelector('#message-list [role=row]').click()")
    page.set("data", "x")
    page.run("$('publish').requestSubmit()")
    eventually(lambda: page.text("publish-result"), 10)
    page.click("pause")
    assert faults() == []
    page.run("location.hash = ''; $('menu').showPopover()")
    eventually(lambda: page.text("detail") == "", 10)
    assert faults() == []
    assert page.run("return document.documentElement.scrollWidth") == width

"""The programs of docs/clients.md, each run where its language is on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest

from kit.javascript import npm
from kit.support import RedisServer, RswsProcess, free_port

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "clients.md").read_text()
PROGRAMS = dict(re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)^```$", DOCUMENT, flags=re.DOTALL | re.MULTILINE))
KEY = "the-key-of-the-clients"
GO_PATH = Path("/usr/share/gocode")  # where Debian has Go's libraries
GO_PACKAGES = ("gorilla/websocket", "gomodule/redigo")
USER_HOME = os.environ.get("HOME", "")  # where Go has its cache; each test has an empty HOME


def in_python(program: Path) -> list[str | Path]:
    return [sys.executable, "-W", "error", program]


def in_node(program: Path) -> list[str | Path]:
    if not (program.parent / "node_modules").exists():
        npm("install", "--no-audit", "--no-fund", "redis", "ws", cwd=program.parent)
    return ["node", program]


def in_go(program: Path) -> list[str | Path]:
    made = program.with_suffix("")
    if not made.exists():
        cache = Path(os.environ.get("GOCACHE") or f"{USER_HOME or program.parent}/.cache/go-build")
        environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(GO_PATH), "GOCACHE": str(cache)}
        subprocess.run(["go", "build", "-o", made, program], env=environment, check=True, timeout=120)
    return [made]


def in_php(program: Path) -> list[str | Path]:
    return ["php", "-d", "display_errors=stderr", program]


GO_IS_HERE = bool(shutil.which("go")) and all((GO_PATH / "src/github.com" / name).is_dir() for name in GO_PACKAGES)
PHP_HAS_REDIS = ["php", "-r", "exit((int) !class_exists('Redis'));"]
PHP_IS_HERE = bool(shutil.which("php")) and not subprocess.run(PHP_HAS_REDIS, capture_output=True).returncode
LANGUAGES: dict[str, tuple[Callable[[Path], list[str | Path]], str, bool]] = {
    "Node.js": (in_node, "mjs", bool(shutil.which("node") and shutil.which("npm"))),
    "Python": (in_python, "py", True),
    "Go": (in_go, "go", GO_IS_HERE),
    "PHP": (in_php, "php", PHP_IS_HERE),
}
HERE = [name for name, (_, _, is_here) in LANGUAGES.items() if is_here]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clients")
    for name, text in PROGRAMS.items():
        (made / name).write_text(text)
    return made


def test_there_are_two_programs_in_each_of_five_languages() -> None:
    endings = [Path(name).suffix for name in PROGRAMS if "rsws" not in name]
    assert endings == [each for ending in (".mjs", ".py", ".go", ".php", ".cs") for each in (ending, ending)]


@contextmanager
def started(command: list[str | Path], environment: dict[str, str]) -> Iterator[IO[str]]:
    """A program that runs, by what it prints."""
    with subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


def test_what_is_published_is_printed_and_nothing_is_missed_in_an_outage(
    directory: Path, own_redis: RedisServer
) -> None:
    port = free_port()
    settings = {"REDIS_URL": own_redis.url, "WEBSOCKET_SECRET_KEY": KEY, "PORT": str(port)}
    environment = {"REDIS_URL": own_redis.url, "RSWS_URL": f"ws://127.0.0.1:{port}", "RSWS_TOKEN": KEY}

    def program(language: str, name: str) -> list[str | Path]:
        command, ending, _ = LANGUAGES[language]
        return command(directory / f"{name}.{ending}")

    def publish(language: str) -> str:
        publisher = program(language, "publish")
        done = subprocess.run(publisher, env=os.environ | environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return f'{done.stdout.strip()} {{"text":"hi from {language}"}}\n'

    with ExitStack() as running:
        subscribers = {each: running.enter_context(started(program(each, "subscribe"), environment)) for each in HERE}

        def check(published: list[str]) -> None:
            for language, printed in subscribers.items():
                lines = [printed.readline().replace('": "', '":"') for _ in published]
                assert lines == published, language

        before = [publish(language) for language in HERE]
        with RswsProcess("serve", env=settings):
            check(before)
        meanwhile = [publish(language) for language in HERE]
        with RswsProcess("serve", env=settings):
            check(meanwhile)


def test_the_one_with_the_library_prints_it(directory: Path, own_redis: RedisServer) -> None:
    stream_id = own_redis.call("XADD", "news", "*", "messageData", '{"text":"hi"}').decode()
    settings = {"REDIS_URL": own_redis.url, "WEBSOCKET_SECRET_KEY": KEY}
    with RswsProcess("serve", "--port", "0", env=settings) as gateway:
        environment = {"RSWS_URL": gateway.wait_for(r"url=(ws://\S+)")[1], "RSWS_TOKEN": KEY}
        with started(in_python(directory / "subscribe_rsws.py"), environment) as printed:
            assert printed.readline() == f"{stream_id} {{'text': 'hi'}}\n"

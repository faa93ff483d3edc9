"""Node.js, npm, and the npm package of the client as its users install it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "clients" / "js"
USER_HOME = os.environ.get("HOME", "")  # where npm finds its settings and its cache; each test has an empty HOME


def program(name: str) -> str:
    """The path of a program; the test is skipped where there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def npm(*arguments: str | Path, cwd: Path) -> str:
    """What ``npm ARGUMENTS`` prints, run with the user's own settings and cache, which is asked first."""
    program("node")
    done = subprocess.run(
        [program("npm"), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "HOME": USER_HOME, "npm_config_prefer_offline": "true"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def install_client(directory: Path, *more: str) -> None:
    """Pack the client, and install it in ``directory`` with ``more``."""
    program("npm")
    [packed] = json.loads(npm("pack", "--json", "--pack-destination", directory, cwd=PACKAGE))
    (directory / "package.json").write_text('{"private": true, "type": "module"}')
    npm("install", "--no-audit", "--no-fund", f"./{packed['filename']}", *more, cwd=directory)


class Node:
    """Node.js where the client is installed; scripts find ``connect``, and what others put into ``globalThis``.

    Before version 22, which has a WebSocket, ``ws`` has to be installed there, too.
    """

    DRIVER = """
        import { createInterface } from "node:readline";
        import { connect } from "rsws";
        const WebSocket = globalThis.WebSocket ?? (await import("ws")).default;
        Object.assign(globalThis, { connect: (url, options) => connect(url, { WebSocket, ...options }) });
        const AsyncFunction = (async () => {}).constructor;
        for await (const line of createInterface(process.stdin)) {
          const { script, values } = JSON.parse(line);
          let answer;
          try {
            answer = { value: await new AsyncFunction("...given", script)(...values) };
          } catch (error) {
            answer = { error: `${error}` };
          }
          console.log(JSON.stringify(answer));
        }
        process.exit();
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [program("node"), "--input-type=module", "-e", self.DRIVER],
            cwd=self._directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, script: str, *values: Any) -> Any:
        """What the body of an async function returns; ``values`` are in ``given``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"script": script, "values": values}), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline() or '{"error": "Node.js has ended"}')
        assert "error" not in answer, answer["error"]
        return answer.get("value")

"""The conformance tests of the Durable Streams protocol, through an adapter onto plain HTTP.

Those that don't apply stand in ``conformance/left_out.json``, by the name of a group or a test or its beginning, with
the reason.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from kit.gateway import KEY
from kit.javascript import npm, program
from kit.load import GatewayProcess
from kit.support import RedisServer

FILES = Path(__file__).parent / "conformance"
PACKAGES = ("@durable-streams/server-conformance-tests@0.3.6", "vitest@4")


class Found(NamedTuple):
    """How many tests there are, how many were passed, and which were not."""

    total: int
    passed: int
    left_out: int
    failed: list[str]


def conformance(redis: RedisServer, directory: Path, *also_left_out: str) -> Found:
    """Run the tests that apply, in an empty directory."""
    for name in ("adapter.mjs", "conformance.test.mjs"):
        shutil.copy(FILES / name, directory)
    (directory / "package.json").write_text('{"private": true, "type": "module"}')
    npm("install", "--no-audit", "--no-fund", *PACKAGES, cwd=directory)
    left_out = [*json.loads((FILES / "left_out.json").read_text()), *also_left_out]
    command = ["node_modules/vitest/vitest.mjs", "run", "--reporter=json", "--outputFile=found.json"]
    with GatewayProcess(redis, "--attempt-rate", "0") as gateway:
        subprocess.run(
            [program("node"), *command, "-t", f"^(?!.*(?:{'|'.join(map(re.escape, left_out))}))"],
            cwd=directory,
            env={**os.environ, "GATEWAY": f"http://127.0.0.1:{gateway.port}", "TOKEN": KEY},
            capture_output=True,
            timeout=170,
        )
    found = json.loads((directory / "found.json").read_text())
    tests = [test for file in found["testResults"] for test in file["assertionResults"]]
    failed = [f"{test['fullName']}: {test['failureMessages']}" for test in tests if test["status"] == "failed"]
    return Found(found["numTotalTests"], found["numPassedTests"], found["numPendingTests"], failed)

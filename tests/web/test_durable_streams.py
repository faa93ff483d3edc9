"""A foreign suite: the conformance tests of the Durable Streams protocol, through an adapter onto plain HTTP.

Those that are left out stand in ``durable_streams/left_out.json``, by the beginning of a group's name or a test's, with
the reason. All others pass.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from kit.gateway import KEY
from kit.javascript import npm, program
from kit.load import GatewayProcess
from kit.support import RedisServer

FILES = Path(__file__).parent / "durable_streams"
PACKAGES = ("@durable-streams/server-conformance-tests@0.3.6", "vitest@4")
TESTS, LEFT_OUT = 338, 193


def test_what_applies_passes(redis_server: RedisServer, tmp_path: Path) -> None:
    for name in ("adapter.mjs", "conformance.test.mjs"):
        shutil.copy(FILES / name, tmp_path)
    left_out = json.loads((FILES / "left_out.json").read_text())
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    npm("install", "--no-audit", "--no-fund", *PACKAGES, cwd=tmp_path)
    with GatewayProcess(redis_server, "--attempt-rate", "0") as gateway:
        done = subprocess.run(
            [
                program("node"), "node_modules/vitest/vitest.mjs", "run", "--reporter=json", "--outputFile=found.json",
                "-t", f"^(?!.*(?:{'|'.join(map(re.escape, left_out))}))",
            ],
            cwd=tmp_path,
            env={**os.environ, "GATEWAY": f"http://127.0.0.1:{gateway.port}", "TOKEN": KEY},
            capture_output=True,
            text=True,
            timeout=100,
        )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    failed = [
        (test["fullName"], test["failureMessages"])
        for file in found["testResults"]
        for test in file["assertionResults"]
        if test["status"] == "failed"
    ]
    assert not failed
    assert done.returncode == 0, done.stdout + done.stderr
    assert (found["numTotalTests"], found["numPendingTests"]) == (TESTS, LEFT_OUT)
    assert found["numPassedTests"] == TESTS - LEFT_OUT

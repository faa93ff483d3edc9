"""rsws.js against a gateway that does whatever a test wants: see clients/js/test/."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

from kit.javascript import PACKAGE, program
from rsws.gateway.client_module import client_module

DOCUMENT = (PACKAGE / "README.md").read_text()


def test_it_is_small() -> None:
    size = len(gzip.compress(client_module(gzipped=False), 9, mtime=0))
    assert size < 4096
    assert f"**{size / 1024:.1f} KiB**" in DOCUMENT


def test_its_own_tests() -> None:
    tests = sorted(Path(PACKAGE, "test").glob("*.test.mjs"))
    assert len(tests) == 3
    done = subprocess.run([program("node"), "--test", *tests], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout

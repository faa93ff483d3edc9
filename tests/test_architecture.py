"""docs/architecture.md names what is there: every file, and every name of the code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text()
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", TEXT)))
FILES = [name for name in QUOTED if re.fullmatch(r"[\w./]+(\.py|\.md|/)", name)]
NAMES = [name for name in QUOTED if re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", name) and name not in FILES]
FOREIGN = {"websockets.http11", "READONLY", "XADD", "SIGTERM", "TaskGroup", "h11", "trimmed", "redis", "micro.py"}
SOURCE = "\n".join(path.read_text() for path in (ROOT / "rsws").rglob("*.py"))


def test_every_file_exists() -> None:
    assert not [name for name in FILES if not any((ROOT / room / name).exists() for room in ("rsws", "."))]


def test_every_name_exists() -> None:
    parts = {part for name in NAMES if name not in FOREIGN for part in name.removesuffix("()").split(".")}
    unknown = parts - {*re.findall(r"\w+", SOURCE)}
    assert not {part for part in unknown if not re.search(rf"\b{part}\b", SOURCE)}


def test_it_names_many() -> None:
    assert len(FILES) > 30
    assert len(NAMES) > 40

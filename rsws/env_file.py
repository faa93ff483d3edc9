"""The ``.env`` file of the working directory, from which nothing is taken but settings."""

from __future__ import annotations

import os
from pathlib import Path


def _names() -> set[str]:
    """Return the names of all settings' environment variables."""
    from rsws.options import options
    from rsws.settings import ClientSettings, Settings  # which take a while to make, and few have such a file

    return {each.env for settings in (Settings, ClientSettings) for each in options(settings).values() if each.env}


_of_env_file: dict[str, str] = {}
"""The variables that were set from ``.env``, with their values."""


def load_env_file(path: Path = Path(".env")) -> list[int]:
    """Set the environment variables of settings that are unset or empty from ``.env``, literally (a ``$`` is a ``$``).

    Other names are ignored: whoever wrote that file may not decide which code is loaded or what is trusted.

    Returns:
        The numbers of the lines that are not NAME=VALUE.
    """
    _of_env_file.clear()
    if not path.is_file():
        return []
    values, bad_lines = parse_env_file(path)
    for name, value in values.items():
        if value and name in _names() and not os.environ.get(name):
            os.environ[name] = _of_env_file[name] = value
    return bad_lines


def parse_env_file(path: Path) -> tuple[dict[str, str | None], list[int]]:
    """Return the value of each name in a ``.env`` file, and the numbers of the lines that are not NAME=VALUE."""
    from dotenv.parser import parse_stream

    with path.open(encoding="utf-8") as file:
        said = [*parse_stream(file)]
    bad_lines = [_first_line(each.original.string, each.original.line) for each in said if each.error]
    return {each.key: each.value for each in said if each.key is not None and not each.error}, bad_lines


def _first_line(text: str, line: int) -> int:
    """Return the number of the first line of ``text`` that is not blank; ``line`` is that of its first line."""
    return line + text[: len(text) - len(text.lstrip())].count("\n")


def is_from_env_file(name: str) -> bool:
    """Whether an environment variable has its value from ``.env``."""
    return name in _of_env_file and os.environ.get(name) == _of_env_file[name]


def environment_of_others() -> dict[str, str]:
    """Return the environment for other programs: without the settings of rsws, some of which are secret."""
    return {name: value for name, value in os.environ.items() if name not in _names()}

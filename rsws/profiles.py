"""Profiles: named gateways and Redis servers in a file of the user's, which holds no secret but where each one is."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rsws.errors import UsageError
from rsws.ownership import PrivateDir
from rsws.settings import config_dir
from rsws.urls import redact_url

GATEWAY = ("url", "token_file", "ca")
REDIS = ("redis_url", "redis_url_file", "redis_tls_ca", "redis_tls_cert", "redis_tls_key")
PROFILED = (*GATEWAY, *REDIS)
"""The settings that a profile may have. Those of a gateway belong together, and those of a Redis."""
FILES = tuple(name for name in PROFILED if name not in ("url", "redis_url"))
"""Those whose value is the path of a file."""
FILE = "profiles.toml"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass
class Profiles:
    """The user's profiles, as their file says."""

    of: dict[str, dict[str, str]] = field(default_factory=dict)
    """The settings of each profile, by its name."""
    default: str | None = None
    """The profile that is used where none is named."""

    def get(self, name: str) -> dict[str, str]:
        """Return the settings of a profile.

        Raises:
            UsageError: There is none of that name.
        """
        if name not in self.of:
            there = f"there are {', '.join(self.of)}" if self.of else "there is none; `rsws profile add` makes one"
            raise UsageError(f"there is no profile {name!r} in {path()}: {there}")
        return self.of[name]


def path() -> Path:
    """Return the path of the file of profiles, which need not exist."""
    return config_dir() / FILE


def shown_path() -> str:
    """Return that path as a person writes it, with ``~`` for the home directory."""
    home = os.path.expanduser("~")
    text = str(path())
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") else text


def file_of(value: str) -> Path:
    """Return the file that a profile names: a relative path is one from the directory of profiles on."""
    return path().parent / Path(value).expanduser()


def _directory() -> PrivateDir:
    return PrivateDir(path().parent, what="directory of profiles", other="with XDG_CONFIG_HOME")


def read_profiles() -> Profiles:
    """Return the user's profiles; none where there is no file of them.

    Raises:
        UsageError: The file can't be read, or something in it can't be used.
        SetupError: The file is somebody else's.
    """
    try:
        content = _directory().read(FILE)
    except FileNotFoundError:
        return Profiles()
    except OSError as error:
        raise UsageError(f"{path()} can't be read: {error.strerror}") from None
    import tomllib  # which few need

    try:
        return _parsed(tomllib.loads(content.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path()} is no TOML: {error}") from None
    except UsageError as fault:
        raise UsageError(f"{path()}: {fault}") from None


def _parsed(said: Mapping[str, Any]) -> Profiles:
    tables = said.get("profile", {})
    default = said.get("default")
    if unknown := set(said) - {"profile", "default"}:
        raise UsageError(f"there is no {min(unknown)!r}: write `default = NAME` and tables [profile.NAME]")
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UsageError("`profile` is no table of tables: write [profile.NAME]")
    for name, table in tables.items():
        check_profile(name, table)
    if default is not None and (not isinstance(default, str) or default not in tables):
        raise UsageError(f"`default` is {default!r}, and there is no such profile")
    return Profiles(dict(tables), default)


def check_profile(name: str, settings: Mapping[str, Any]) -> None:
    """Check a profile.

    Raises:
        UsageError: It can't be used; the text says why, and never has a secret in it.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a profile: write up to 64 letters, digits, - and _")
    for setting, value in settings.items():
        if setting == "token":
            raise UsageError(f"profile {name}: no secret is kept here: write it into a file, and name that token_file")
        if setting not in PROFILED:
            raise UsageError(f"profile {name}: there is no {setting!r}; there are {', '.join(PROFILED)}")
        if not isinstance(value, str) or not value:
            raise UsageError(f"profile {name}: {setting} is no text")
        if (file := _file_for_secret(setting, value)) is not None:
            raise UsageError(f"profile {name}: {setting} has a secret, and none is kept here: {file}")
    for names, needed in (((*GATEWAY,), ("url",)), ((*REDIS,), ("redis_url", "redis_url_file"))):
        if settings.keys() & set(names) and not settings.keys() & set(needed):
            alone = next(each for each in names if each in settings)
            raise UsageError(f"profile {name}: {alone} without {' or '.join(needed)}: it would be for any server")
    if "redis_url" in settings and "redis_url_file" in settings:
        raise UsageError(f"profile {name}: redis_url and redis_url_file: give one of them")


def _file_for_secret(setting: str, value: str) -> str | None:
    """Return where the secret of a URL goes; None where it has none."""
    if setting == "url" and "token" in parse_qs(urlsplit(value).query, keep_blank_values=True):
        return "write the token into a file, and name that token_file"
    if setting in ("url", "redis_url") and "***@" in redact_url(value):
        return "write the URL into a file, and name that redis_url_file" if setting == "redis_url" else "take it out"
    return None


def write_profiles(profiles: Profiles) -> None:
    """Write the file of profiles anew (0600), at once or not at all. Comments in it are lost.

    Raises:
        SetupError: The file is somebody else's, or can't be written.
    """
    lines = [f"default = {_quoted(profiles.default)}", ""] if profiles.default is not None else []
    for name, settings in profiles.of.items():
        lines += [f"[profile.{name}]", *(f"{key} = {_quoted(value)}" for key, value in settings.items()), ""]
    directory = _directory()
    try:
        directory.create()
        directory.write_durably(FILE, "\n".join(lines).encode())
    except OSError as error:
        raise directory.unwritable(error) from None


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

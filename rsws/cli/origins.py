"""Where the value of each setting came from: a flag, a profile, the environment, or ``.env``."""

from __future__ import annotations

import os
from contextvars import ContextVar
from dataclasses import dataclass

from rsws.env_file import is_from_env_file
from rsws.options import options
from rsws.profiles import shown_path
from rsws.settings import ClientSettings, ProfileSettings, Settings, TokenSettings

FLAGS: ContextVar[frozenset[str]] = ContextVar("rsws_flags", default=frozenset())
"""The settings that are given on the current command line, not in the environment or in ``.env``."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The profile that the current command uses, and the settings that it has from there."""

    name: str = ""
    settings: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"profile {self.name} ({shown_path()})"


_NO_PROFILE = Profile()
PROFILE: ContextVar[Profile] = ContextVar("rsws_profile", default=_NO_PROFILE)


_OPTIONS = options(TokenSettings) | options(ClientSettings) | options(Settings) | options(ProfileSettings)


def flag(name: str) -> str:
    """Return the flag of a settings field: ``redis_timeout_s`` is ``--redis-timeout``, whose help has the unit."""
    return "--" + name.removesuffix("_s").replace("_", "-")


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return _OPTIONS[name].env


def is_from_profile(name: str) -> bool:
    """Whether the current command has a setting from its profile."""
    return name in PROFILE.get().settings


def is_in_env_file(name: str) -> bool:
    """Whether the current command has a setting from ``.env``."""
    return name not in FLAGS.get() and not is_from_profile(name) and is_from_env_file(variable(name))


def origin(name: str) -> str:
    """Return where the value of a setting came from, such as ``RSWS_URL in .env``; "" for the default."""
    if name in FLAGS.get():
        return flag(name)
    if is_from_profile(name):
        return str(PROFILE.get())
    return variable_shown(name) if os.environ.get(variable(name)) else ""


def variable_shown(name: str) -> str:
    """Return the environment variable of a setting, and whether ``.env`` says it."""
    return variable(name) + (" in .env" if is_from_env_file(variable(name)) else "")


def origin_of(names: tuple[str, ...]) -> str:
    """Return where that of several settings came from which counts: flags first, then the profile."""
    given = [name for name in names if origin(name)]
    rank = sorted(given, key=lambda name: (name not in FLAGS.get(), not is_from_profile(name)))
    return origin(rank[0]) if rank else ""

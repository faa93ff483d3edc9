"""What a library imports and few commands use is loaded when it is used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

_NAMES = {
    "importlib.metadata",  # websockets looks there for the version that a release knows
    "urllib.request",  # websockets looks there for proxies; with it come http.client and email
}
"""Modules of the standard library. A second import loads one, so rsws imports none of them where a command starts."""


class _Finder:
    """Finds these modules, and lets Python load each at the first look at something in it."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _NAMES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def load_lazily() -> None:
    """Load these modules when they are used, from now on."""
    sys.meta_path.insert(0, _Finder)

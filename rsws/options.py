"""What an option is: type, default, unit, environment name, help, and what is wrong with a value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

KIB = 1024
MIB = 1024 * KIB
SECONDS = 1.0
UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
"""The seconds of each unit that may follow a number, as in ``10m``."""
MAX_NUMBER = 2**31 - 1
"""The greatest value of any number without a maximum; what uses them, from timers to Redis, allows far more."""


@dataclass(frozen=True, slots=True)
class Option:
    """The properties of a setting beside its type and default."""

    env: str
    """The environment variable; empty where only a flag sets it."""
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False
    """Whether the value is a secret, which is never part of a text, ``repr`` included."""
    text_fault: Callable[[str], str | None] | None = None
    """A function that returns why a text (valid UTF-8) can't be used, or None when it can."""

    def fault(self, value: object) -> str | None:
        """Return why ``value`` can't be used, beside its type, range and choices; None when it can."""
        match value:
            case float() if not math.isfinite(value):
                return "it must be a finite number"
            case int() | float() if self.maximum is None and value > MAX_NUMBER:
                return f"it must be at most {MAX_NUMBER}"
            case str():
                try:
                    value.encode()
                except UnicodeEncodeError:
                    return "it is not valid UTF-8"
                return self.text_fault(value) if self.text_fault is not None else None
            case list():
                return next(filter(None, map(self.fault, value)), None)
            case _:
                return None


def option(
    default: Any,
    env: str,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    secret: bool = False,
    text_fault: Callable[[str], str | None] | None = None,
) -> Any:
    """Return a field of a settings class."""
    said = Option(env, help, minimum, maximum, choices, secret, text_fault)
    return field(default=default, repr=not secret, metadata={"option": said})


def options(settings: type[Any]) -> dict[str, Option]:
    """Return a map from each field's name to its option."""
    return {item.name: item.metadata["option"] for item in fields(settings)}

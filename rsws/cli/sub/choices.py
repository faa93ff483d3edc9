"""The values of options of ``rsws sub`` that are one of a few."""

from __future__ import annotations

from enum import StrEnum


class OnGap(StrEnum):
    """What to do where messages may be missing."""

    WARN = "warn"
    EXIT = "exit"


class Output(StrEnum):
    """The format in which messages are printed."""

    PRETTY = "pretty"
    JSON = "json"
    RAW = "raw"

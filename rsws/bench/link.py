"""What the coordinator and its processes say to each other, one JSON object a line over pipes."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from rsws.bench.plan import Plan
from rsws.bench.works import Findings, Phase, Published


class Start(msgspec.Struct, tag=True):
    """To a process, first of all."""

    plan: Plan
    token: str
    process: int


class Go(msgspec.Struct, tag=True):
    """To a process that is ready: so are all the others."""

    published: dict[int, Published]
    """By all of them."""


class Stop(msgspec.Struct, tag=True):
    """To a process: publish no more, and come to an end."""


class Abort(msgspec.Struct, tag=True):
    """To a process: report what there is, at once."""


class Ready(msgspec.Struct, tag=True):
    """From a process: it has come as far as this phase."""

    phase: Phase
    published: dict[int, Published]
    """By this process, in the phase before."""


class Fault(msgspec.Struct):
    """Why a process could not go on."""

    kind: str
    """The name of the exception's class."""
    text: str
    code: str = ""
    channel: str = ""


class Result(msgspec.Struct, tag=True):
    """From a process, last of all."""

    findings: Findings
    latencies: dict[str, dict[str, int]]
    gaps: int
    foreign: int
    refused: int
    refusal: str
    refusal_code: str
    unknown: int
    fault: Fault | None = None


MAX_LINE_BYTES = 64 * 1024 * 1024
"""Of what is said; the longest says what became of each of many channels."""

ToProcess: TypeAlias = Start | Go | Stop | Abort
FromProcess: TypeAlias = Ready | Result

encode = msgspec.json.Encoder().encode
decode_to_process = msgspec.json.Decoder(ToProcess).decode
decode_from_process = msgspec.json.Decoder(FromProcess).decode

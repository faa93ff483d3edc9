"""What the gateway may hold, and how long it waits, beside what its settings say."""

from __future__ import annotations

from dataclasses import dataclass

from rsws.streams.limits import DEFAULTS as STREAM_DEFAULTS
from rsws.streams.limits import Limits as StreamLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds and waits of one process of the gateway. Sizes are in bytes, times in seconds."""

    streams: StreamLimits = STREAM_DEFAULTS
    """Those of what it asks of Redis."""


DEFAULTS = Limits()

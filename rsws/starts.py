"""The start of a subscription as a person writes it, ``--from``, ``/from`` and ``?from=``, made into a position; and
its end, ``--until``."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime

from rsws.errors import UsageError
from rsws.options import UNIT_S
from rsws.protocol import ZERO, Gap, StreamId

_AGO = re.compile(r"([0-9]{1,9})([smhd])")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Start:
    """The position to start at: ``last`` entries before the end, or after ``after``; the end where both are None."""

    after: StreamId | None = None
    last: int | None = None
    is_time: bool = False
    """Whether ``after`` was made of a time. It is then no entry's id, so a gap right after it means nothing."""
    is_resumed: bool = False
    """Whether ``after`` is what was received last, so that the end of the channel may be all that is missing."""

    def is_false_alarm(self, gap: Gap) -> bool:
        """Whether ``gap`` only says that the channel begins later than the time that was given."""
        return self.is_time and gap.reason == "trimmed" and gap.last_message_id == self.after


def parse_start(text: str, now_ms: int | None = None) -> Start:
    """Parse a start.

    Args:
        now_ms: The current time in milliseconds since 1970; None asks the clock.

    Raises:
        UsageError: The text has none of the known forms, or is a time in the future.
    """
    text = text.strip()
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    if text == "$":
        return Start()
    if re.fullmatch(r"-[0-9]{1,18}", text):
        return Start(last=int(text[1:]))
    try:
        return Start(StreamId.parse(text))
    except ValueError:
        pass
    ms = _moment_ms(text, now_ms)
    if ms is not None:
        if ms <= now_ms:
            return _since(ms)
        raise UsageError(f"{text!r} is in the future: nothing is there yet; $ starts with what is new")
    raise UsageError(
        f"{text!r} is no place to start: write 0, $, -N, an ID, a time ago such as 10m, or a time such as "
        "2026-11-23T10:00"
    )


def parse_until(text: str, now_ms: int | None = None) -> StreamId:
    """Parse an end, and return the last id before it: an id is the last one itself, a time the first that is not.

    Args:
        now_ms: The current time in milliseconds since 1970; None asks the clock.

    Raises:
        UsageError: The text has none of the known forms.
    """
    text = text.strip()
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    try:
        return StreamId.parse(text)
    except ValueError:
        pass
    if text.startswith("+") and (match := _AGO.fullmatch(text[1:])):
        ms: int | None = now_ms + int(match[1]) * UNIT_S[match[2]] * 1000
    else:
        ms = _moment_ms(text, now_ms)
    if ms is None:
        raise UsageError(
            f"{text!r} is no place to stop: write an ID, a time from now such as +10m, a time ago such as 10m, or a "
            "time such as 2026-11-23T10:00"
        )
    return StreamId(max(0, ms), 0).before()


def _moment_ms(text: str, now_ms: int) -> int | None:
    """Return the moment that is written as a time, or as a time ago, in milliseconds since 1970; None if it is none."""
    if match := _AGO.fullmatch(text):
        return now_ms - int(match[1]) * UNIT_S[match[2]] * 1000
    try:
        if _DATE.match(text):
            return int(datetime.fromisoformat(text).timestamp() * 1000)  # without a zone: local time
    except (ValueError, OverflowError, OSError):  # no such date, or one out of the system's range
        pass
    return None


def _since(ms: int) -> Start:
    return Start(StreamId(ms, 0).before(), is_time=True) if ms > 0 else Start(ZERO)

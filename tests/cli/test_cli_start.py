"""What ``--from`` says."""

from __future__ import annotations

from datetime import datetime

import pytest

from rsws.errors import UsageError
from rsws.protocol import ZERO, Gap, StreamId
from rsws.starts import Start, parse_start

NOW_MS = 1_700_000_000_000
LAST = 2**64 - 1


def since(ms: int) -> Start:
    """What is stored in that very millisecond is printed, too."""
    return Start(StreamId(ms - 1, LAST), is_time=True)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("0", Start(ZERO)),
        ("0-0", Start(ZERO)),
        ("$", Start()),
        (" $ ", Start()),
        ("1700000001234-7", Start(StreamId(1700000001234, 7))),
        ("1700000001234", Start(StreamId(1700000001234, 0))),
        ("20261123", Start(StreamId(20261123, 0))),
        ("-1", Start(last=1)),
        ("-0", Start(last=0)),
        ("10s", since(NOW_MS - 10_000)),
        ("10m", since(NOW_MS - 600_000)),
        ("2h", since(NOW_MS - 7_200_000)),
        ("3d", since(NOW_MS - 259_200_000)),
        ("0s", since(NOW_MS)),
        ("999999999d", Start(ZERO)),
        ("1970-01-01T00:00:01Z", since(1000)),
        ("1969-01-01T00:00:00Z", Start(ZERO)),
        ("2023-11-14T10:00+07:00", since(1699930800000)),
        ("2023-11-14 10:00:00.5Z", since(1699956000500)),
    ],
)
def test_start(text: str, start: Start) -> None:
    assert parse_start(text, NOW_MS) == start


def test_a_time_without_a_zone_is_local() -> None:
    local = datetime(2023, 11, 14, 10, 0)
    assert parse_start("2023-11-14T10:00") == since(int(local.timestamp() * 1000))
    assert parse_start("2023-11-14") == parse_start("2023-11-14T00:00")


@pytest.mark.parametrize("text", ["2023-11-14T22:13:20.001Z", "2123-01-01", "9999-12-31T23:59"])
def test_a_time_to_come_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"'{text}' is in the future"):
        parse_start(text, NOW_MS)


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "+", "*", ">", "--1", "1-2-3", "10w", "-x", "2026-13-01", "1" * 21, "\u0661", "0001-01-01"],
)
def test_no_start(text: str) -> None:
    with pytest.raises(UsageError, match="no place to start"):
        parse_start(text, NOW_MS)


def test_a_channel_that_begins_after_a_time_has_no_gap() -> None:
    start = since(NOW_MS)
    assert start.after is not None
    later = StreamId(NOW_MS + 5, 0)
    assert start.is_false_alarm(Gap("c", start.after, later, "trimmed"))
    assert not start.is_false_alarm(Gap("c", start.after, later, "reset"))
    assert not start.is_false_alarm(Gap("c", later, StreamId(NOW_MS + 9, 0), "trimmed"))
    assert not Start(start.after).is_false_alarm(Gap("c", start.after, later, "trimmed"))

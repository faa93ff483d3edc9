"""How things look."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len
from rich.text import Text

from rsws.cli import terminal
from rsws.cli.message_display import HIGHLIGHT_CHARACTERS, MessageFormat, format_gap, format_json, format_reconnected
from rsws.protocol import Gap, Message, StreamId

NOW = StreamId(int(datetime.now().timestamp() * 1000), 7)


def styles(line: Text, part: str) -> set[str]:
    """The styles that the first occurrence of ``part`` has throughout."""
    start = line.plain.index(part)
    return {str(span.style) for span in line.spans if span.start <= start and span.end >= start + len(part)}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"a":  1}', '{"a":  1}'),
        ('{\n  "a": 1\n}', '{ "a": 1 }'),
        ("[1,\r\n\r\n\t2]", "[1, 2]"),
        ('["a  \\n  b"]', '["a  \\n  b"]'),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert terminal.one_line(text) == line
    assert json.loads(line) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "[\n1," + " " * 100_000 + "1]",
        "[\n" + " \t" * 50_000 + "\n1]",
        "[\n" + "\n" * 100_000 + "1]",
        "[\n" + "1, " * 30_000 + "1]",
    ],
    ids=["blanks", "blanks before a line break", "line breaks", "many blanks"],
)
def test_one_line_takes_time_in_proportion(text: str) -> None:
    began = time.process_time()
    line = terminal.one_line(text)
    assert time.process_time() - began < 0.5
    assert "\n" not in line
    assert json.loads(line) == json.loads(text)


# --- messages ---


def test_json_of_a_message() -> None:
    message = Message('ne"ws', StreamId(1700000001234, 5), '{"a": 1.0,\n "b":1e400}')
    assert format_json(message) == (
        '{"channel":"ne\\"ws","id":"1700000001234-5","time":"2023-11-14T22:13:21.234Z","data":{"a": 1.0, "b":1e400}}'
    )


ZONES = [f"XXX{offset:+d}" for offset in range(-24, 25)]
MADE_UP = [0, 1, 253402300799999, 253402300800000, 2**53, 2**63 - 1, 2**63, 2**64 - 1]
"""Milliseconds; the third are the last ones of the year 9999."""


@pytest.mark.parametrize("zone", ZONES)
def test_any_id_is_shown_in_every_time_zone(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for ms in MADE_UP:
            message = Message("news", StreamId(ms, 2**64 - 1), "1")
            assert json.loads(format_json(message))["id"] == str(message.id)
            shown = MessageFormat(["news"]).format(message).plain
            assert re.fullmatch(rf"(\(no time\)|[0-9: .-]{{23}})  news  {message.id}  1", shown)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_an_id_that_no_calendar_has_has_no_time() -> None:
    message = Message("news", StreamId(2**64 - 1, 0), "1")
    assert json.loads(format_json(message))["time"] is None
    assert MessageFormat(["news"]).format(message).plain == f"(no time)  news  {2**64 - 1}-0  1"


@pytest.mark.parametrize("ms", [1700000001234, 253402300799999, 100000000000001])
def test_the_time_is_the_id_to_the_millisecond(ms: int) -> None:
    shown = json.loads(format_json(Message("news", StreamId(ms, 0), "1")))["time"]
    since = datetime.fromisoformat(shown) - datetime(1970, 1, 1, tzinfo=UTC)
    assert since == timedelta(milliseconds=ms)


def test_a_message_of_today_has_its_time_and_an_older_one_its_date() -> None:
    lines = MessageFormat(["news"])
    clock = datetime.fromtimestamp(NOW.ms / 1000).strftime("%H:%M:%S")
    assert lines.format(Message("news", NOW, '{"a":1}')).plain == f'{clock}.{NOW.ms % 1000:03d}  news  {NOW}  {{"a":1}}'
    old = lines.format(Message("news", StreamId(1700000001234, 5), "1")).plain
    assert re.match(r"2023-11-1[45] \d\d:\d\d:21\.234  news  ", old)


def test_columns_are_as_wide_as_the_channels() -> None:
    channels = ["news", "weather", "日本"]
    lines = MessageFormat(channels)
    plain = [lines.format(Message(channel, NOW, "1")).plain for channel in channels]
    assert {cell_len(line.partition(str(NOW))[0]) for line in plain} == {len("00:00:00.000  weather  ")}


def test_each_channel_has_its_own_colour_and_keeps_it() -> None:
    channels = [f"channel-{number}" for number in range(10)]
    colours = MessageFormat(channels)
    assert len({colours.colour(channel) for channel in channels}) == 10
    assert MessageFormat(["news"]).colour("news") == MessageFormat(["news"]).colour("news")
    assert MessageFormat(channels).colour("another")


def test_data_is_highlighted() -> None:
    data = r'{"key": "va\"lue", "n": -1.5e3, "t": true, "f": false, "z": null}'
    line = MessageFormat([]).format(Message("news", NOW, data))
    assert line.plain.endswith(data)
    for part, style in (
        ('"key"', "json.key"), (r'"va\"lue"', "json.str"), ("-1.5e3", "json.number"),
        ("true", "json.bool_true"), ("false", "json.bool_false"), ("null", "json.null"),
    ):  # fmt: skip
        assert style in styles(line, part), part


def test_nothing_unsafe_gets_into_a_line() -> None:
    line = MessageFormat([]).format(Message("a\x9bb\u202e", NOW, '"\x9b31m"'))
    assert "a\\u009bb\\u202e" in line.plain
    assert '"\\u009b31m"' in line.plain


@pytest.mark.parametrize("length", [HIGHLIGHT_CHARACTERS, 1024 * 1024])
@pytest.mark.parametrize("piece", ["[],", '"",', "1,", r'"\"\"\"\"",', '"a" ,', '"\u200f\u202e",', '"日本",'])
def test_no_data_takes_long(piece: str, length: int) -> None:
    data = f"[{piece * (length // len(piece) - 1)}1]"
    began = time.process_time()
    terminal.render(MessageFormat([]).format(Message("news", NOW, data)))
    assert time.process_time() - began < 2  # a tenth of it here


def test_data_that_is_very_long_is_left_plain() -> None:
    data = json.dumps("x" * HIGHLIGHT_CHARACTERS)
    assert "json.str" not in styles(MessageFormat([]).format(Message("news", NOW, data)), "xxx")


# --- beside the data ---


def test_a_gap_says_what_happened_and_how_it_goes_on() -> None:
    trimmed = Gap("news", StreamId(1, 0), StreamId(5, 0), "trimmed")
    assert format_gap(trimmed).plain == (
        "news: gap, messages after 1-0 may be missing (they were trimmed); going on at 5-0"
    )
    reset = Gap("news", StreamId(1, 0), None, "reset")
    assert format_gap(reset).plain == (
        "news: gap, messages after 1-0 may be missing (the stream was deleted, made anew or rolled back); "
        "nothing is there yet"
    )


def test_how_it_came_back() -> None:
    assert format_reconnected(3.21, 14).plain == "reconnected after 3.2 s, caught up 14"
    assert format_reconnected(3.21).plain == "reconnected after 3.2 s"


def test_a_line_on_standard_error_is_marked_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_line(terminal.format_error("it\n broke \x1b[31m" + "x" * 200))
    assert capsys.readouterr() == ("", "rsws: it broke \\u001b[31m" + "x" * 200 + "\n")


def test_a_banner(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_banner("rsws 1", {"URL": "ws://h", "Redis": "x" * 100}, "Try:", ["rsws sub news"])
    assert (
        capsys.readouterr().err == f"\nrsws 1\n\n  URL    ws://h\n  Redis  {'x' * 100}\n\n  Try:\n    rsws sub news\n\n"
    )

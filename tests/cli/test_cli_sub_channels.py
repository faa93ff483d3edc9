"""``rsws sub`` of several channels: in the order of time, by patterns, up to a time, and where a name is mistyped."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from kit.cli import Gateway, call_main, fake_gateway, run_main, serving, subscriptions, unread
from kit.gateway import add, async_test
from kit.support import RedisServer, RswsProcess, eventually
from rsws.cli.endpoint import Endpoint
from rsws.cli.exits import ExitCode
from rsws.cli.gateway_http import ListedChannel, list_channels
from rsws.cli.sub.merging import Merge
from rsws.cli.sub.reading import Reading
from rsws.cli.sub.run import Run
from rsws.errors import UsageError
from rsws.protocol import StreamId
from rsws.starts import parse_until

LATER = 4_000_000_000_000
"""A time that has not come, in milliseconds."""


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer) -> Iterator[Gateway]:
    with serving(redis_server.url) as gateway:
        yield gateway


# --- in the order of time ---


@async_test
async def test_a_merge_hands_on_the_earliest_and_waits_for_those_behind_alone() -> None:
    merge, chance = Merge(), random.Random(7)
    histories = {name: sorted(chance.sample(range(1000), 50)) for name in "abc"}
    printed: list[int] = []
    for name in histories:
        merge.join(name)
    hurry = asyncio.Event()

    async def read(name: str) -> None:
        for number in histories[name]:
            if chance.random() < 0.3:
                await asyncio.sleep(0)
            await merge.turn(name, StreamId(number, 0))
            printed.append(number)
        if name == "c":
            await hurry.wait()
        merge.leave(name)

    async with asyncio.TaskGroup() as tasks:
        for name in histories:
            tasks.create_task(read(name))
        live = tasks.create_task(merge.turn("live", StreamId(10_000, 0)))  # waits for c, whose history is not over
        for _ in range(500):
            await asyncio.sleep(0)
        assert not live.done()
        assert printed[-1] < max(histories["c"]) + 1
        hurry.set()
    assert printed == sorted(printed)
    assert sorted(printed) == sorted(number for numbers in histories.values() for number in numbers)
    await merge.turn("a", StreamId(1, 0))  # nobody is behind: at once


def test_history_is_merged_and_goes_on_live(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    names = [f"{channel}-{letter}" for letter in "abc"]
    for number in range(1, 3001):
        redis_server.client.xadd(names[number * 7 % 13 % 2], {"messageData": str(number)}, id=f"{number}-0")
    arguments = ("sub", *names, "-f", "0", "--format", "{data}", "-q")
    with RswsProcess(*arguments, env=gateway.env) as process:
        assert process.wait_lines(3000) == [str(number) for number in range(1, 3001)]
        add(redis_server, names[2], "3001")
        assert process.wait_lines(3001)[-1] == "3001"
    as_it_comes = run_main(*arguments, "--no-merge", "--no-follow", env=gateway.env).stdout.split()
    assert as_it_comes != sorted(as_it_comes, key=int)
    assert sorted(as_it_comes, key=int) == [str(number) for number in range(1, 3002)]


def test_a_channel_in_trouble_is_not_waited_for() -> None:
    replies = (
        {"status": "subscribed", "channel": "a", "lastMessageId": "0-0", "latestId": "9-0"},
        {"status": "subscribed", "channel": "b", "lastMessageId": "0-0", "latestId": "9-0"},
        {"event": "message", "channel": "a", "streamId": "2-0", "data": 2},
        {"status": "error", "error": "away", "code": "channel_unreadable", "channel": "b"},
    )
    with fake_gateway(*replies) as env:
        shown = run_main("sub", "a", "b", "-f", "0", "-n", "1", "-o", "raw", env=env)
    assert (shown.returncode, shown.stdout, shown.stderr) == (ExitCode.DONE, "2\n", "rsws: b: away\n")


# --- up to where ---


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("1700000001234-7", StreamId(1700000001234, 7)),
        ("5", StreamId(5, 0)),
        ("+10m", StreamId(1_600_000, 0).before()),
        ("10s", StreamId(990_000, 0).before()),
        ("1970-01-01T00:00:02Z", StreamId(2000, 0).before()),
        ("2123-01-01T00:00:00Z", StreamId(4_828_204_800_000, 0).before()),
        ("9999d", StreamId(0, 0)),
    ],
)
def test_an_end(text: str, last: StreamId) -> None:
    assert parse_until(text, 1_000_000) == last


@pytest.mark.parametrize("text", ["", "$", "-5", "+10", "+5-0", "tomorrow", "2026-13-01", "++1s"])
def test_no_end(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="is no place to stop: write an ID, a time from now such as"):
        parse_until(text)


def test_until_something_of_the_past(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    other = f"{channel}-2"
    for number in (1, 3, 5, LATER):
        add(redis_server, channel, str(number), id=f"{number}-0")
    add(redis_server, other, "2", id="2-0")

    def shown(*options: str) -> list[str]:
        done = run_main("sub", channel, other, "-f", "0", "-o", "raw", *options, env=gateway.env)
        assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
        return done.stdout.split()

    assert shown("--until", "3-0") == ["1", "2", "3"]
    assert shown("--until", "4-0") == ["1", "2", "3"]
    assert shown("--until", "10m") == ["1", "2", "3", "5"]
    assert shown("--until", "1970-01-01T00:00:00.003Z", "--no-follow") == ["1", "2"]
    assert shown("--until", "0") == []


def test_until_a_moment_to_come(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, "1")
    arguments = ("sub", channel, "-f", "-1", "--until", "+1s", "-o", "raw")
    with RswsProcess(*arguments, env=gateway.env) as process:
        process.wait_lines(1)
        add(redis_server, channel, "2")
        assert process.wait() == ExitCode.DONE
    assert process.stdout == ["1", "2"]


def test_until_a_moment_with_a_reader_that_is_slow(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    """What was not received when the moment came is printed, too."""
    (sentinel,) = add(redis_server, channel, *[f'"{"x" * 20_000}"'] * 100)[-1:]
    arguments = [sys.executable, "-m", "rsws", "sub", channel, "-f", "0", "--until", "+1s", "--format", "{id} {data}"]
    environment = {name: value for name, value in (os.environ | gateway.env).items() if value is not None}
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            eventually(lambda: unread(process.stdout) > 40_000, what="a pipe that is full")
            eventually(lambda: subscriptions(gateway) == 0, what="the moment")
            lines = process.stdout.read().splitlines()
            assert process.wait(10) == ExitCode.DONE
        finally:
            process.kill()
    assert len(lines) == 100
    assert lines[-1].startswith(f"{sentinel} ".encode())


# --- patterns ---


def test_a_pattern_is_all_that_match_and_those_that_come(
    gateway: Gateway, redis_server: RedisServer, channel: str
) -> None:
    for name in (f"{channel}.a", f"{channel}.b", f"{channel}-other"):
        add(redis_server, name, f'"{name}"')
    arguments = ("sub", f"{channel}.*", "--from", "-1", "--format", "{channel} {data}")
    with RswsProcess(*arguments, env=gateway.env) as process:
        assert sorted(process.wait_lines(2)) == [f'{channel}.{letter} "{channel}.{letter}"' for letter in "ab"]
        add(redis_server, f"{channel}.c", "1", "2", "3")
        add(redis_server, f"{channel}-other", "1")
        assert process.wait_lines(5)[2:] == [f"{channel}.c {number}" for number in (1, 2, 3)]
    assert process.stderr == []
    done = run_main("sub", f"{channel}.*", "-f", "0", "--no-follow", "-o", "raw", env=gateway.env)
    assert (done.returncode, len(done.stdout.split()), done.stderr) == (ExitCode.DONE, 5, "")


def test_channels_that_are_over_before_all_are_found(
    gateway: Gateway, redis_server: RedisServer, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, is_over = Run._read, asyncio.Event()

    async def noted(run: Run, reading: Reading) -> None:
        await read(run, reading)
        is_over.set()

    async def slowly(gateway: Endpoint, match: str) -> AsyncIterator[list[ListedChannel]]:
        async for page in list_channels(gateway, match):
            yield page
        await is_over.wait()  # the last page may be one without a channel

    add(redis_server, channel, "1")
    monkeypatch.setattr(Run, "_read", noted)
    monkeypatch.setattr("rsws.cli.sub.names.list_channels", slowly)
    done = run_main("sub", f"{channel}*", "-f", "0", "--no-follow", "-o", "raw", env=gateway.env)
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.DONE, "1\n", "")


def test_a_pattern_that_nothing_matches(gateway: Gateway, channel: str) -> None:
    done = run_main("sub", f"{channel}*", f"{channel}?*", "--no-follow", env=gateway.env)
    assert (done.returncode, done.stdout) == (ExitCode.DONE, "")
    assert done.stderr == f"rsws: no channel matches {channel}* or {channel}?* yet\n"


def test_a_pattern_that_matches_too_many(redis_server: RedisServer, channel: str) -> None:
    for number in range(3):
        add(redis_server, f"{channel}.{number}", "1")
    with serving(redis_server.url, RSWS_MAX_SUBSCRIPTIONS="2") as gateway:
        done = run_main("sub", f"{channel}.*", env=gateway.env)
    assert done.returncode == ExitCode.ERROR
    assert f"rsws: {channel}.* match more channels than a connection may have; choose narrower ones" in done.stderr


def test_a_name_with_a_star(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, f"{channel}*", "1")
    add(redis_server, f"{channel}-2", "2")
    done = run_main("sub", f"{channel}*", "--literal", "-f", "0", "--no-follow", "-o", "raw", env=gateway.env)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_pattern_at_a_gateway_that_has_no_list() -> None:
    with fake_gateway() as env:
        done = run_main("sub", "a*", env=env)
    assert (done.returncode, done.stdout) == (ExitCode.ERROR, "")
    assert "does not tell which channels there are: " in done.stderr


# --- mistyped ---


def test_what_may_have_been_meant(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, f"{channel}-weather", "1")
    mistyped = f"{channel}-wether"
    done = run_main("sub", mistyped, "--no-follow", env=gateway.env)
    assert (done.returncode, done.stdout) == (ExitCode.DONE, "")
    assert done.stderr == f"rsws: {mistyped}: no such stream yet; did you mean '{channel}-weather'?\n"
    assert run_main("sub", mistyped, "--no-follow", "-q", env=gateway.env).stderr == ""


def test_a_new_name_where_there_is_no_list() -> None:
    replies = (
        {"status": "subscribed", "channel": "c", "lastMessageId": "0-0", "latestId": "0-0"},
        {"event": "message", "channel": "c", "streamId": "1-0", "data": 1},
    )
    with fake_gateway(*replies) as env:
        done = run_main("sub", "c", "-n", "1", "-o", "raw", env=env)
    assert (done.returncode, done.stdout) == (ExitCode.DONE, "1\n")
    assert done.stderr == "rsws: c: no such stream yet\n"


def test_a_pattern_is_checked_before_it_connects(capfd: pytest.CaptureFixture[str]) -> None:
    assert call_main("sub", "a\x01*", "--token", "x") == ExitCode.USAGE
    assert "control characters" in capfd.readouterr().err

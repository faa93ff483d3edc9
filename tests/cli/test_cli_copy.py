"""``rsws copy``, run for real, up to a gateway that moves with its clients."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cli import KEY, Terminal, run_main
from kit.support import RedisServer, RswsProcess, eventually
from rsws import Client, PublishFailed, connect
from rsws.cli.exits import ExitCode
from rsws.errors import Outcome
from rsws.protocol import Gap, Message

END = -1


@pytest.fixture(scope="module")
def new_server() -> Iterator[RedisServer]:
    """Where to copy to."""
    with RedisServer() as server:
        yield server


def test_once(redis_server: RedisServer, new_server: RedisServer, channel: str) -> None:
    for number in range(1200):
        redis_server.call("XADD", channel, f"{number + 1}-0", "messageData", number, "other", "é")
    done = run_main("copy", redis_server.url, new_server.url, channel, "--no-follow")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.endswith(
        f"rsws: {channel}: 1,200 copied, up to 1200-0\nrsws: copied 1,200 entries of 1 stream, behind 0\n"
    )
    assert new_server.call("XRANGE", channel, "-", "+") == redis_server.call("XRANGE", channel, "-", "+")


def test_a_name_without_a_stream(redis_server: RedisServer, new_server: RedisServer, channel: str) -> None:
    redis_server.call("XADD", channel, "1-0", "messageData", "1")
    done = run_main("copy", redis_server.url, new_server.url, channel, f"{channel}z", f"{channel}y*", "--no-follow")
    assert done.returncode == ExitCode.ERROR
    assert f"rsws: {channel}z: no such stream in the source\n" in done.stderr
    assert done.stderr.endswith("rsws: 1 stream is not there, see above\n")
    assert new_server.call("XLEN", channel) == 1


def test_a_url_from_a_file_is_not_shown(tmp_path: Path, channel: str) -> None:
    with RedisServer(requirepass="hunter2") as source, RedisServer(requirepass="hunter3") as target:
        source.call("XADD", channel, "1-0", "messageData", "1")
        files = []
        for name, server in (("from", source), ("to", target)):
            path = tmp_path / name
            path.write_text(server.url + "\n")
            files.append(f"@{path}")
        done = run_main("copy", *files, "--no-follow")
        assert (done.returncode, target.call("XLEN", channel)) == (0, 1)
        target.call("CONFIG", "SET", "requirepass", "other")
        refused = run_main("copy", *files, "--no-follow")
        assert refused.returncode == ExitCode.REFUSED
        assert refused.stderr.startswith("rsws: DST: ")
        assert "hunter" not in done.stderr + refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["redis://a"], ExitCode.USAGE, "DST is missing"),
        (["redis://a", "redis://a"], ExitCode.USAGE, "SRC and DST are the same"),
        (["http://a", "redis://b"], ExitCode.USAGE, "SRC: "),
        (["redis://a", "@nowhere"], ExitCode.USAGE, "DST: the file of the Redis URL"),
        (["redis://a", "redis://b", "rsws:x"], ExitCode.USAGE, "rsws:"),
        (
            ["redis://127.0.0.1:1", "redis://b"],
            ExitCode.NOT_CONNECTED,
            "rsws: SRC: Redis can't be reached (redis://127",
        ),
    ],
)
def test_what_can_not_be_copied(arguments: list[str], code: ExitCode, said: str) -> None:
    done = run_main("copy", *arguments, "--no-follow")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_exit_codes_say_what_is_missing(redis_server: RedisServer, new_server: RedisServer, channel: str) -> None:
    for number in range(1, 4):
        redis_server.call("XADD", channel, f"{number}-0", "messageData", "1")
    new_server.call("XADD", channel, "1-0", "messageData", "1")
    redis_server.call("XTRIM", channel, "MAXLEN", 1)
    gap = run_main("copy", redis_server.url, new_server.url, channel, "--no-follow")
    assert (gap.returncode, f"{channel}: gap, " in gap.stderr) == (ExitCode.GAP, True)
    redis_server.call("DEL", channel)
    redis_server.call("XADD", channel, "2-0", "messageData", "1")
    refused = run_main("copy", redis_server.url, new_server.url, channel, "--no-follow")
    assert (refused.returncode, f"{channel}: refused, " in refused.stderr) == (ExitCode.ERROR, True)


def test_what_is_forbidden(own_redis: RedisServer, new_server: RedisServer) -> None:
    own_redis.call("XADD", "c", "1-0", "messageData", "1")
    own_redis.call("ACL", "SETUSER", "ann", "on", ">secret", "~*", "+@all", "-scan")
    url = own_redis.url.replace("//", "//ann:secret@")
    done = run_main("copy", url, new_server.url, "--no-follow")
    assert (done.returncode, "NOPERM" in done.stderr) == (ExitCode.ERROR, True)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.DONE)])
def test_it_goes_on_until_it_is_told_to_stop(
    redis_server: RedisServer, new_server: RedisServer, channel: str, how: signal.Signals, code: ExitCode
) -> None:
    redis_server.call("XADD", channel, "1-0", "messageData", "1")
    with RswsProcess("copy", redis_server.url, new_server.url, channel) as process:
        process.wait_for("copied 1 entry of 1 stream, behind 0", stream="stderr")
        redis_server.call("XADD", channel, "2-0", "messageData", "1")
        eventually(lambda: new_server.call("XLEN", channel) == 2, what="the second entry")
        assert process.stop(how) == code
    summary = [f"rsws: {channel}: 2 copied, up to 2-0", "rsws: copied 2 entries of 1 stream, behind 0"]
    interrupted = ["rsws: interrupted: the same command goes on where it was"]
    assert process.stderr[1:] == summary + (interrupted if code else [])


def test_a_terminal_has_a_line_that_says_how_far_it_is(
    redis_server: RedisServer, new_server: RedisServer, channel: str
) -> None:
    redis_server.call("XADD", channel, "1-0", "messageData", "1")
    with Terminal("copy", redis_server.url, new_server.url, channel, env={}) as terminal:
        terminal.wait_for("copied 1 entry of 1 stream, behind 0")
        redis_server.call("XADD", channel, "2-0", "messageData", "1")
        terminal.wait_for("copied 2 entries of 1 stream, behind 0")
        terminal.type("\x03")
        assert terminal.wait() == ExitCode.INTERRUPTED
        assert "interrupted: the same command goes on where it was" in terminal.text


def test_a_gateway_moves_with_its_clients(tmp_path: Path) -> None:
    """The recipe of docs/moving.md: nobody is disconnected, and nothing is lost, doubled or reordered."""
    file = tmp_path / "url"
    env = {"REDIS_URL_FILE": str(file), "WEBSOCKET_SECRET_KEY": KEY}
    with RedisServer() as old, RedisServer() as new:
        file.write_text(old.url)
        old.call("XADD", "quiet", "*", "messageData", "0")
        with (
            RswsProcess("serve", "--port", "0", env=env, cwd=tmp_path) as serving,
            RswsProcess("copy", old.url, new.url) as copy,
        ):
            url = serving.wait_for(r"url=(ws://\S+)")[1]
            asyncio.run(_move(url, old, new, file, copy))
        old_id = old.call("XREVRANGE", "news", "+", "-", "COUNT", 1)[0][0]
        ids = [stream_id for stream_id, _ in new.call("XRANGE", "news", "-", "+")]
        assert old_id in ids
        assert old_id != ids[-1]


async def _move(url: str, old: RedisServer, new: RedisServer, file: Path, copy: RswsProcess) -> None:
    some, moved = asyncio.Event(), asyncio.Event()
    disconnected: list[object] = []
    published: list[int] = []

    async def publish() -> None:
        after = 0
        async with connect(url, token=KEY, on_connection=disconnected.append) as client:
            while after < 50:
                published.append(len(published))
                await _publish(client, published[-1])
                if len(published) == 50:
                    some.set()
                after += moved.is_set()
            await _publish(client, END)

    async def read(name: str, after: str) -> list[int]:
        found: list[int] = []
        async with connect(url, token=KEY, on_connection=disconnected.append) as client:
            async for event in client.subscribe(name, after=after, events=True):
                assert not isinstance(event, Gap)
                if isinstance(event, Message):
                    if event.data == END:
                        break
                    found.append(event.data)
        return found

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        publishing, reading = tasks.create_task(publish()), tasks.create_task(read("news", "0"))
        waiting = tasks.create_task(read("quiet", "$"))
        await some.wait()
        await asyncio.to_thread(copy.wait_for, "behind 0", stream="stderr")
        await asyncio.to_thread(_switch, old, new, file, copy)
        moved.set()
        await publishing
        new.call("XADD", "quiet", "*", "messageData", END)
    assert reading.result() == published
    assert waiting.result() == []
    assert disconnected == []


def _switch(old: RedisServer, new: RedisServer, file: Path, copy: RswsProcess) -> None:
    file.write_text(new.url)
    old.call("CONFIG", "SET", "min-replicas-to-write", 1)
    assert copy.stop() == ExitCode.DONE
    with RswsProcess("copy", old.url, new.url, "--no-follow") as rest:
        assert rest.wait() == ExitCode.DONE
    old.call("CLIENT", "KILL", "TYPE", "normal")
    old.call("CLIENT", "KILL", "TYPE", "pubsub")


async def _publish(client: Client, number: int) -> None:
    """Publish it, again and again while the old Redis takes no writes."""
    while True:
        try:
            await client.publish("news", number)
        except PublishFailed as error:
            if error.outcome != Outcome.NOT_STORED:
                raise
            await asyncio.sleep(0.01)
        else:
            return

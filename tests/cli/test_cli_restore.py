"""``rsws restore``, run for real: what ``rsws sub`` has printed comes back."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from kit.cli import Gateway, Terminal, run_main, serving
from kit.support import RedisServer, RswsProcess, eventually
from rsws.cli.exits import ExitCode
from rsws.protocol import MAX_DEPTH


@pytest.fixture
def env(redis_server: RedisServer) -> dict[str, str | None]:
    return {"REDIS_URL": redis_server.url}


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer) -> Iterator[Gateway]:
    with serving(redis_server.url) as gateway:
        yield gateway


def line(channel: str, stream_id: str, data: str = "1") -> str:
    return f'{{"channel":{json.dumps(channel)},"id":"{stream_id}","time":null,"data":{data}}}\n'


def entries(server: RedisServer, channel: str) -> list[tuple[str, list[bytes]]]:
    return [(stream_id.decode(), fields) for stream_id, fields in server.call("XRANGE", channel, "-", "+")]


def stored(server: RedisServer, channel: str) -> list[tuple[str, str]]:
    return [(stream_id, fields[1].decode()) for stream_id, fields in entries(server, channel)]


def test_a_dump_comes_back_as_it_was(
    redis_server: RedisServer, gateway: Gateway, channel: str, env: dict[str, str | None]
) -> None:
    other = f"{channel}-é"
    for number in range(3000):
        redis_server.call("XADD", (channel, other)[number % 2], "*", "messageData", f'{{"n" :{number},"é":1e400}}')
    redis_server.call("XADD", channel, "*", "messageData", '{"lines":\n  1}')
    dump = run_main("sub", channel, other, "--from", "0", "--no-follow", "-o", "json", env=gateway.env)
    assert dump.stdout, dump.stderr
    before = {name: entries(redis_server, name) for name in (channel, other)}
    again = run_main("restore", input=dump.stdout, env=env)  # over what it was made of
    assert (again.returncode, again.stdout) == (0, "")
    assert again.stderr == "rsws: restored 0 entries of 2 channels (3,001 were there)\n"
    redis_server.call("DEL", channel, other)
    done = run_main("restore", input=dump.stdout, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "rsws: restored 3,001 entries of 2 channels\n")
    last = before[channel][-1]
    before[channel][-1] = (last[0], [b"messageData", b'{"lines": 1}'])  # a line has no line break
    assert {name: entries(redis_server, name) for name in (channel, other)} == before


def test_one_that_ended_early_goes_on(redis_server: RedisServer, channel: str, env: dict[str, str | None]) -> None:
    lines = [line(channel, f"{number}-1", str(number)) for number in range(1, 1501)]
    assert run_main("restore", input="".join(lines[:700]), env=env).returncode == 0
    done = run_main("restore", input="".join(lines), env=env)
    assert (done.returncode, done.stderr) == (0, "rsws: restored 800 entries of 1 channel (700 were there)\n")
    assert stored(redis_server, channel) == [(f"{number}-1", str(number)) for number in range(1, 1501)]


@pytest.mark.parametrize(
    ("there", "refused", "why"),
    [
        ("2-0", line("{}", "2-0", "3"), "2-0 is there with other data"),
        ("3-0", line("{}", "2-0"), "2-0 comes before 3-0, the last id"),
    ],
)
def test_what_would_change_what_is_there_is_refused(
    redis_server: RedisServer, channel: str, env: dict[str, str | None], there: str, refused: str, why: str
) -> None:
    other = f"{channel}-other"
    redis_server.call("XADD", channel, "1-0", "messageData", "1")
    redis_server.call("XADD", channel, there, "messageData", "1")
    lines = [line(channel, "1-0"), refused.replace("{}", channel), line(other, "1-0"), line(channel, "9-0")]
    done = run_main("restore", input="".join(lines), env=env)
    assert done.returncode == ExitCode.ERROR
    assert f"line 2: {channel}: {why}; nothing after it of that channel is written" in done.stderr
    assert "restored 1 entry of 2 channels (1 were there)" in done.stderr
    assert f"refused, as it would change what is there: {channel} from line 2 on" in done.stderr
    assert stored(redis_server, channel) == [("1-0", "1"), (there, "1")]
    assert stored(redis_server, other) == [("1-0", "1")]


def test_a_dump_in_disorder_is_refused_where_that_begins(
    redis_server: RedisServer, channel: str, env: dict[str, str | None]
) -> None:
    lines = [line(channel, stream_id) for stream_id in ("1-0", "3-0", "3-0", "2-0", "4-0")]
    done = run_main("restore", input="".join(lines), env=env)
    assert done.returncode == ExitCode.ERROR
    assert "line 4: " in done.stderr
    assert stored(redis_server, channel) == [("1-0", "1"), ("3-0", "1")]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("hello", "is none of `rsws sub -o json`"),
        ('{"channel":"x","data":1}', "is none of `rsws sub -o json`"),
        ('{"channel":"x","id":"$","data":1}', "not a stream id"),
        ('{"channel":"x","id":"0-0","data":1}', "0-0"),
        ('{"channel":"rsws:x","id":"1-0","data":1}', "rsws:"),
        ('{"channel":"x","id":"1-0","data":"\\ud800"}', "is none of `rsws sub -o json`"),
        (line("x", "1-0", "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)), "no JSON that can be published"),
    ],
)
def test_a_line_that_is_none_of_a_dump(
    redis_server: RedisServer, channel: str, env: dict[str, str | None], bad: str, why: str
) -> None:
    done = run_main("restore", input=f"{line(channel, '1-0')}\n{bad}\n{line(channel, '2-0')}", env=env)
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert done.stderr.startswith("rsws: line 3")
    assert why in done.stderr
    assert "; before it restored 1 entry of 1 channel" in done.stderr
    assert stored(redis_server, channel) == [("1-0", "1")]


def test_other_names(redis_server: RedisServer, channel: str, env: dict[str, str | None]) -> None:
    dump = line("a", "1-0", "1") + line("b", "2-0", "2")
    renamed = run_main("restore", "--rename", f"a={channel}-a", "--rename", f"b={channel}-b", input=dump, env=env)
    assert renamed.returncode == 0
    assert stored(redis_server, f"{channel}-a") == [("1-0", "1")]
    assert stored(redis_server, f"{channel}-b") == [("2-0", "2")]
    assert run_main("restore", "--channel", channel, input=dump, env=env).returncode == 0
    assert stored(redis_server, channel) == [("1-0", "1"), ("2-0", "2")]
    for wrong in (["--rename", "a"], ["--rename", "a="], ["--rename", "a=b", "--channel", "c"], ["--channel", ""]):
        assert run_main("restore", *wrong, input=dump, env=env).returncode == ExitCode.USAGE


def test_new_ids(redis_server: RedisServer, channel: str, env: dict[str, str | None]) -> None:
    dump = line(channel, "2-0", "1") + line(channel, "1-0", "2")
    for _ in range(2):
        assert run_main("restore", "--new-ids", input=dump, env=env).returncode == 0
    assert [data for _, data in stored(redis_server, channel)] == ["1", "2", "1", "2"]
    assert stored(redis_server, channel)[0][0] > "1700000000000"


def test_only_the_newest_are_kept(redis_server: RedisServer, channel: str, env: dict[str, str | None]) -> None:
    dump = "".join(line(channel, f"{number}-0") for number in range(1, 2001))
    done = run_main("restore", "--maxlen", "10", input=dump, env=env)
    assert done.returncode == 0
    left = redis_server.call("XLEN", channel)
    assert 10 <= left < 200
    again = run_main("restore", "--maxlen", "10", input=dump, env=env)
    said = f"restored 0 entries of 1 channel ({left:,} were there, {2000 - left:,} are older than what is kept)"
    assert (again.returncode, said in again.stderr) == (0, True)


def test_another_field(redis_server: RedisServer, channel: str, env: dict[str, str | None]) -> None:
    for _ in range(2):
        assert run_main("restore", "--field", "payload", input=line(channel, "1-0"), env=env).returncode == 0
    assert entries(redis_server, channel) == [("1-0", [b"payload", b"1"])]
    assert run_main("restore", "--field", "end", input="", env=env).returncode == ExitCode.USAGE


def test_what_an_entry_has_besides_is_no_difference(
    redis_server: RedisServer, channel: str, env: dict[str, str | None]
) -> None:
    redis_server.call("XADD", channel, "1-0", "messageData", "1", "end", "1")
    done = run_main("restore", input=line(channel, "1-0"), env=env)
    assert (done.returncode, "1 were there" in done.stderr) == (0, True)


def test_large_entries(redis_server: RedisServer, channel: str, env: dict[str, str | None]) -> None:
    big = json.dumps("x" * 900_000)
    dump = line(channel, "1-0", big) + line(channel, "2-0") + line(channel, "3-0", big)
    assert run_main("restore", input=dump, env=env).returncode == 0
    assert stored(redis_server, channel) == [("1-0", big), ("2-0", "1"), ("3-0", big)]


# --- what goes wrong ---


def test_no_redis_and_no_right(own_redis: RedisServer) -> None:
    nobody = run_main("restore", "--redis-url", "redis://127.0.0.1:1", input=line("c", "1-0"))
    assert nobody.returncode == ExitCode.NOT_CONNECTED
    own_redis.call("SET", "text", "1")
    refused = run_main("restore", "--redis-url", own_redis.url, input=line("text", "1-0"))
    assert (refused.returncode, "not a stream" in refused.stderr) == (ExitCode.ERROR, True)
    own_redis.call("CONFIG", "SET", "requirepass", "x")
    assert run_main("restore", "--redis-url", own_redis.url, input="").returncode == ExitCode.REFUSED


def test_scripts_that_are_forbidden_only_cost_time(own_redis: RedisServer) -> None:
    own_redis.call("ACL", "SETUSER", "ann", "on", ">secret", "~*", "+@all", "-@scripting")
    url = own_redis.url.replace("//", "//ann:secret@")
    dump = "".join(line("c", f"{number}-0", str(number)) for number in range(1, 101))
    for said in ("restored 100 entries of 1 channel\n", "restored 0 entries of 1 channel (100 were there)"):
        done = run_main("restore", "--redis-url", url, input=dump)
        assert (done.returncode, said in done.stderr) == (0, True)
    assert len(stored(own_redis, "c")) == 100


def test_redis_that_goes_and_comes_back(own_redis: RedisServer) -> None:
    own_redis.options["appendonly"] = "yes"
    own_redis.stop()
    own_redis.start()
    with RswsProcess("restore", "--redis-url", own_redis.url) as process:
        process.send("".join(line("c", f"{number}-0", json.dumps("x" * 1000)) for number in range(1, 2001)))
        eventually(lambda: own_redis.call("EXISTS", "c"), what="the first entries")
        own_redis.kill()
        own_redis.start()
        process.close_stdin()
        assert process.wait() == ExitCode.DONE, process.stderr
    assert len(stored(own_redis, "c")) == 2000
    assert process.stderr[-1] == "rsws: restored 2,000 entries of 1 channel"


def test_redis_that_is_gone(own_redis: RedisServer) -> None:
    with RswsProcess("restore", "--redis-url", own_redis.url, "--redis-timeout", "0.5") as process:
        process.send("".join(line("c", f"{number}-0", json.dumps("x" * 1000)) for number in range(1, 2001)))
        eventually(lambda: own_redis.call("EXISTS", "c"), what="the first entries")
        own_redis.kill()
        process.close_stdin()
        assert process.wait() == ExitCode.NOT_CONNECTED
    assert process.stderr[-1].endswith(" entries of 1 channel, the same command goes on where it was")


def test_ctrl_c_says_how_far_it_came(redis_server: RedisServer, channel: str, env: dict[str, str | None]) -> None:
    with RswsProcess("restore", env=env) as process:
        process.send("".join(line(channel, f"{number}-0", json.dumps("x" * 1000)) for number in range(1, 1501)))
        eventually(lambda: redis_server.call("XLEN", channel), what="the first entries")
        assert process.stop(signal.SIGINT) == ExitCode.INTERRUPTED
    assert process.stderr[-1].startswith("rsws: interrupted: restored ")
    assert process.stderr[-1].endswith("; the same command goes on where it was")


def test_a_terminal_shows_how_far_it_is(own_redis: RedisServer, tmp_path: object) -> None:
    dump = "".join(line("c", f"{number}-0") for number in range(1, 10_001))
    path = f"{tmp_path}/dump"
    with open(path, "w") as file:
        file.write(dump)
    with open(path) as file, Terminal("restore", env={"REDIS_URL": own_redis.url}, stdin=file.fileno()) as terminal:
        assert terminal.wait() == ExitCode.DONE
    assert "restored 10,000 entries of 1 channel" in terminal.text

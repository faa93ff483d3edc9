"""Which messages ``rsws sub`` prints, and in what form."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from kit.cli import Gateway, Terminal, call_main, run_main, serving
from kit.gateway import add
from kit.support import RedisServer
from rsws.cli.exits import ExitCode
from rsws.cli.sub.filters import Where
from rsws.cli.sub.templates import Template
from rsws.protocol import Message, StreamId


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer) -> Iterator[Gateway]:
    with serving(redis_server.url) as gateway:
        yield gateway


def message(json: str, channel: str = "news") -> Message:
    return Message(channel, StreamId(1700000001234, 5), json)


# --- which ones ---

DATA = (
    '{"n" : 12345678901234567890123, "f":1e400,"s":"5","t":true,"z":null,"one":1.0,"a":[{"p":1},{"p":[ 2 ]}],'
    '"a.b":{"c\\"d":"x"},"neg":-3,"":"empty","huge":1e99999999999999999999}'
)


@pytest.mark.parametrize(
    "where",
    [
        "data.n=12345678901234567890123",
        "data.n>12345678901234567890122",
        "data.n<12345678901234567890123.5",
        "data.n!=12345678901234567890124",
        "data.f>1e399",
        "data.huge>1e400",
        "data.s=\"5\"",
        "data.s!=5",
        "data.s>40x",
        "data.one=1",
        "data.one>=1",
        "data.t=true",
        "data.t!=1",
        "data.one!=true",
        "data.z=null",
        "data.a.0.p=1",
        "data.a.-1.p=[2]",
        "data.a.1={\"p\":[2.0]}",
        "data.a.1.p~2",
        "data.\"a.b\".\"c\\\"d\"=x",
        "data.\"\"=empty",
        "data.neg<-2.5",
        "data.s~^[0-9]$",
        "data~\"neg\":-3",
        "channel=news",
        "channel~^n",
        "data.none!=1",
        "data.a.2!=1",
        "data.a.x!=1",
        "data.s.x!=1",
        "data.s!=",
        "data.s!=NaN",
    ],
)  # fmt: skip
def test_where_that_is_so(where: str) -> None:
    assert Where.parse(where)(message(DATA))


@pytest.mark.parametrize(
    "where",
    [
        "data.n=12345678901234567890124",
        "data.n>12345678901234567890123",
        "data.s=5",
        "data.s>4",
        "data.one=true",
        "data.one>x",
        "data.t=1",
        "data.t>0",
        "data.z=0",
        "data.z<1",
        "data.none=null",
        "data.none<1",
        "data.none~.",
        "data.a.2.p=1",
        "data.a.p=1",
        "data.a=[1]",
        "data.a.1={\"p\":[2],\"q\":1}",
        "channel=chat",
    ],
)  # fmt: skip
def test_where_that_is_not_so(where: str) -> None:
    assert not Where.parse(where)(message(DATA))


def test_what_passes(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, *(f'{{"n":{n},"s":"{"ab"[n % 2]}"}}' for n in range(8)))

    def shown(*options: str) -> list[str]:
        done = run_main("sub", channel, "-f", "0", "--no-follow", "--format", "{data.n}", *options, env=gateway.env)
        assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
        return done.stdout.split()

    assert shown("--include", '"a"') == ["0", "2", "4", "6"]
    assert shown("--include", "n.:1", "--include", "n.:2", "--exclude", "b") == ["2"]
    assert shown("--exclude", "a", "--exclude", "n.:[15]") == ["3", "7"]
    assert shown("--where", "data.s=a", "--where", "data.n>3") == ["4", "6"]
    assert shown("--where", "data.s=b", "--count", "2") == ["1", "3"]
    assert shown("--where", "data.s=b", "-n", "1", "--include", "7") == ["7"]


# --- in what form ---


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{channel} {id}: {data.s}", "news 1700000001234-5: 5\n"),
        ("{ms}/{seq}", "1700000001234/5\n"),
        ("{data.n} {data.f} {data.a.1.p} {data.t}{data.z}", "12345678901234567890123 1e400 [ 2 ] truenull\n"),
        ('{data."a.b"."c\\"d"}|{data.none}|{data.s.x}|', "x|||\n"),
        ("{channel:>6}{channel:<6}|{channel:*^8}|{channel:.2}", "  newsnews  |**news**|ne\n"),
        ("{{{data.s}}}\\t\\\\n\\0", "{5}\t\\n\0"),
        ("{data.s}\\n", "5\n"),
        ("", "\n"),
        ("{time:%Y-%m-%d %H:%M:%S}", "2023-11-14 22:13:21\n"),
        ("{time:%H:%M}", "22:13\n"),
        ("{time:%-d %b %Y 100%%}", "14 Nov 2023 100%\n"),
        ("{time}", "2023-11-14T22:13:21.234+00:00\n"),
    ],
)
def test_a_format(template: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert Template.parse(template).format(message(DATA), on_terminal=False) == shown


def test_what_comes_of_a_message_is_no_line_of_its_own() -> None:
    odd = message('{"s":"a\\nb\\r\\u0000\\u001b[31m\\u009b"}')
    template = Template.parse("{data.s}|{data}\\n.")
    assert template.format(odd, on_terminal=False) == f"a\\nb\\r\\u0000\x1b[31m\x9b|{odd.json}\n.\n"
    assert template.format(odd, on_terminal=True) == f"a\\nb\\r\\u0000\\u001b[31m\\u009b|{odd.json}\n.\n"
    assert Template.parse("{time:%Y}").format(Message("c", StreamId(2**64 - 1, 0), "1"), on_terminal=False) == (
        "(no time)\n"
    )


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--where", "user=al"], "PATH is channel, data, or begins with data, as in data.user"),
        (["--where", "channel.x=al"], "PATH is channel, data, or begins with data"),
        (["--where", "data.x"], "after PATH comes =, !=, <, <=, >, >= or ~"),
        (["--where", "data..x=1"], "a name or an index is missing"),
        (["--where", 'data."\\x"=1'], "is no JSON string"),
        (["--where", "data~("], "--where '(': no regular expression"),
        (["--include", "["], "--include '[': no regular expression"),
        (["--exclude", "*"], "--exclude '*': no regular expression"),
        (["--highlight", "(?"], "--highlight '(?': no regular expression"),
        (["--format", "{user}"], "there is no {user}; there are channel, id, time, ms, seq, data and data.PATH"),
        (["--format", "{channel.x}"], "there is no {channel.x}"),
        (["--format", "{data.__class__!r}"], "'!r' can't follow 'data.__class__'"),
        (["--format", "{data.x"], "a { without its }"),
        (["--format", "{data.x[0]}"], "'[0]' can't follow 'data.x': elements are data.0"),
        (["--format", "{}"], "a name or an index is missing"),
        (["--format", "}"], "a } alone"),
        (["--format", "\\x"], "there is no \\x"),
        (["--format", "{id:zz}"], "'zz' is no alignment"),
        (["--format", "{id:>99999999999}"], "is no alignment"),
        (["--format", "{time:%H:%Q}"], "%Q is no part of a time"),
        (["--from", "yesterday"], "--from: 'yesterday' is no place to start"),
        (["--until", "tomorrow"], "--until: 'tomorrow' is no place to stop"),
        (["--format", "{id}", "--pretty"], "--format says all of a line"),
        (["--format", "{id}", "-o", "raw"], "--format says all of a line"),
    ],
)
def test_what_is_wrong_is_said_before_it_connects(
    options: list[str], fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call_main("sub", "news", "--url", "ws://127.0.0.1:1", "--token", "x", *options) == ExitCode.USAGE
    assert fault in capfd.readouterr().err


def test_nothing_of_python_is_behind_a_field() -> None:
    odd = message('{"s":"x"}')
    template = Template.parse("{data.__class__}{data.s.__class__.__init__.__globals__}|")
    assert template.format(odd, on_terminal=False) == "|\n"


def test_pretty_in_a_pipe(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    add(redis_server, channel, '{"n" : 1e400,\n"b":["\\n", { }]}', id="1700000001234-5")
    indented = '{\n  "n": 1e400,\n  "b": [\n    "\\n",\n    {}\n  ]\n}'
    for output, expected in (
        ("raw", f"{indented}\n"),
        (
            "json",
            f'{{\n  "channel": "{channel}",\n  "id": "1700000001234-5",\n  "time": "2023-11-14T22:13:21.234Z",\n'
            f'  "data": {indented.replace(chr(10), chr(10) + "  ")}\n}}\n',
        ),
    ):
        done = run_main("sub", channel, "-f", "0", "-n", "1", "-o", output, "--pretty", env=gateway.env)
        assert (done.stdout, done.stderr) == (expected, "")
    done = run_main(
        *("sub", channel, "-f", "0", "-n", "1", "-o", "pretty", "--pretty", "--highlight", "b"), env=gateway.env
    )
    assert done.stdout.endswith(f"  {channel}  1700000001234-5\n{indented}\n")
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--highlight", "al.ce"], r"\x1b\[[0-9;]*30;43m[^\x1b]*alice"),
        (["--format", "- {data.user} -", "--highlight", "lic"], r"- a\x1b\[30;43mlic\x1b\[0me -\r\n"),
        (["-o", "raw", "--highlight", "alice"], r'\{"user":"\x1b\[30;43malice\x1b\[0m"'),
        (["-o", "raw", "--pretty"], r'\{.*\r\n  .*"user".*"alice\\u001b\[31m'),
        (["-o", "pretty", "--pretty"], r'\{.*\r\n  .*"user".*"alice'),
    ],
)
def test_on_a_terminal(
    gateway: Gateway, redis_server: RedisServer, channel: str, options: list[str], expected: str
) -> None:
    data = '{"user":"alice"}' if "raw" not in options or "--pretty" not in options else '{"user":"alice\\u001b[31m"}'
    add(redis_server, channel, data)
    with Terminal("sub", channel, "-f", "0", "-n", "1", *options, env=gateway.env) as terminal:
        terminal.wait_for(expected, raw=True)
        assert terminal.wait() == ExitCode.DONE


def test_quiet(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    for number in (1, 2, 3):
        add(redis_server, channel, str(number), id=f"{number}-0")
    redis_server.call("XTRIM", channel, "MAXLEN", 1)
    options = ("-f", "1-0", "--no-follow", "-o", "pretty")
    loud = run_main("sub", channel, *options, env=gateway.env)
    assert "gap" in loud.stderr
    quiet = run_main("sub", channel, *options, "-q", env=gateway.env)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (ExitCode.DONE, loud.stdout, "")
    ends = run_main("sub", channel, *options, "-q", "--on-gap", "exit", env=gateway.env)
    assert ends.returncode == ExitCode.GAP
    assert "gap" in ends.stderr
    done = run_main("sub", channel, "-f", "$", "-t", "0.1", "-q", env=gateway.env)
    assert (done.returncode, done.stdout) == (ExitCode.TIMEOUT, "")

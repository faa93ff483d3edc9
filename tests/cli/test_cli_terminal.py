"""The commands in a real terminal: colours, the rule, the prompt, progress."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kit.cli import Gateway, Terminal, acking, messages_in, run_main, serving
from kit.support import RedisServer, eventually, free_port
from rsws.cli.exits import ExitCode
from rsws.cli.prompt.typed import lines_of


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer) -> Iterator[Gateway]:
    with serving(redis_server.url) as gateway:
        yield gateway


# --- sub ---


def test_history_rule_live(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    redis_server.call("XADD", channel, "*", "messageData", '{"text":"old"}')
    with Terminal("sub", channel, "--from", "0", env=gateway.env, columns=100) as terminal:
        terminal.wait_for("─ live ─")
        redis_server.call("XADD", channel, "*", "messageData", json.dumps("new" * 50))
        terminal.wait_for("(new){50}")
        assert terminal.stop(signal.SIGINT) == ExitCode.INTERRUPTED
    old, rule, new = terminal.text.split("\n")[:3]
    assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{3}}  {channel}  \d+-\d+  {{\"text\":\"old\"}}", old)
    assert len(rule) == 100
    assert new.endswith(f'  "{"new" * 50}"'), "only the terminal may break it"
    assert re.search(rf"\x1b\[1;\d+m{channel}\x1b\[0m", terminal.shown), "the channel has its colour"
    assert '\x1b[32m"old"\x1b[0m' in terminal.shown, "the data is highlighted"


def test_no_color(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    redis_server.call("XADD", channel, "*", "messageData", '"old"')
    env = gateway.env | {"NO_COLOR": "1"}
    with Terminal("sub", channel, "--from", "0", "--count", "1", env=env) as terminal:
        assert terminal.wait() == ExitCode.DONE
    assert '"old"' in terminal.text
    assert not re.search(r"\x1b\[[0-9;]*[34][0-9]", terminal.shown)


@pytest.mark.parametrize("output", ["pretty", "json", "raw"])
def test_a_message_can_not_talk_to_the_terminal(
    gateway: Gateway, redis_server: RedisServer, channel: str, output: str
) -> None:
    name = f"{channel}\u202e"
    redis_server.call("XADD", name, "*", "messageData", '["\x9b2J", "\x7f",\t"\u2066"]')
    with Terminal("sub", name, "--from", "0", "--count", "1", "--output", output, env=gateway.env) as terminal:
        assert terminal.wait() == ExitCode.DONE
    assert '["\\u009b2J", "\\u007f", "\\u2066"]' in terminal.text
    assert not re.search("[\x7f\x9b\u202e\u2066\t]", terminal.shown)


def test_in_a_pipe_data_is_data(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    data = '["\x9b2J", "\x7f", "\u2066", "\u202e"]'
    redis_server.call("XADD", channel, "*", "messageData", data)
    for output in ("json", "raw"):
        done = run_main("sub", channel, "--from", "0", "--count", "1", "--output", output, env=gateway.env)
        assert data in done.stdout


@pytest.mark.parametrize("output", ["pretty", "json"])
@pytest.mark.parametrize("zone", ["XXX-14", "XXX+12"])
def test_any_id_that_can_be_stored_is_shown(
    gateway: Gateway, redis_server: RedisServer, channel: str, output: str, zone: str
) -> None:
    ids = ["0-1", "253402300799999-0", "253402300800000-0", f"{2**64 - 1}-{2**64 - 1}"]
    for stream_id in ids:
        redis_server.call("XADD", channel, stream_id, "messageData", '"x"')
    env = gateway.env | {"TZ": zone}
    with Terminal("sub", channel, "--from", "0", "--count", "4", "--output", output, env=env, columns=200) as terminal:
        assert terminal.wait() == ExitCode.DONE
    assert re.findall(r"\b\d+-\d+\b(?=  |\")", terminal.text) == ids


def test_a_command_to_copy_can_not_talk_to_the_terminal(channel: str) -> None:
    data = '["\x9b2J","\u202e"]'
    env = {"REDIS_URL": "redis://127.0.0.1:1"}
    with Terminal("xadd", channel, data, "--print-command", env=env, columns=200) as terminal:
        assert terminal.wait() == ExitCode.DONE
    assert terminal.text == f"""redis-cli -p 1 XADD {channel} '*' messageData '["\\u009b2J","\\u202e"]'\n"""
    assert data in run_main("xadd", channel, data, "--print-command", env=env).stdout, "in a pipe it is data"


# --- prompt ---


def test_what_is_typed_is_published(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    with Terminal("pub", channel, env=gateway.env) as terminal:
        terminal.wait_for(f"{channel}>")
        terminal.type("hello there\r")
        terminal.wait_for(r"stored \d+-\d+  \d+ ms")
        terminal.type('{"n": 1}\r')
        terminal.wait_for(rf"stored (?s:.*)stored .*\n{channel}>")
        terminal.type("\x04")
        assert terminal.wait() == ExitCode.DONE
    stored = messages_in(redis_server, channel)
    assert [data for _, data in stored] == ['{"text":"hello there"}', '{"n": 1}']
    for stream_id, _ in stored:
        assert len(re.findall(stream_id, terminal.text)) == 1, "one's own message is not shown twice"


def test_what_others_publish_appears(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    other = f"{channel}-2"
    redis_server.call("XADD", channel, "*", "messageData", '"before"')
    with Terminal("pub", channel, env=gateway.env) as terminal:
        terminal.wait_for(f"{channel}>")
        terminal.type("half a li")
        terminal.wait_for("half a li")
        redis_server.call("XADD", channel, "*", "messageData", '"evil \x9b2J"')
        terminal.wait_for(rf'{channel}  \d+-\d+  "evil \\u009b2J"')
        terminal.type("ne\r")
        terminal.wait_for("stored ")
        terminal.type(f"/sub {other}\r")
        terminal.wait_for(f"{other} is shown from now on")
        redis_server.call("XADD", other, "*", "messageData", '"yes"')
        terminal.wait_for('"yes"')
        shown = len(terminal.text)
        terminal.type(f"/unsub {other}\r")
        terminal.wait_for(rf"{other} is shown no more\n(?s:.*){channel}>", after=shown)
        terminal.type(f"/from -3 {channel}\r")
        terminal.wait_for(rf"─ {channel} live ─")
        shown = len(terminal.text)
        redis_server.call("XADD", other, "*", "messageData", '"no more"')
        redis_server.call("XADD", channel, "*", "messageData", '"the last"')
        terminal.wait_for('"the last"', after=shown)
        terminal.type("/quit\r")
        assert terminal.wait() == ExitCode.DONE
    assert '"before"' in terminal.text
    assert '"no more"' not in terminal.text
    assert messages_in(redis_server, channel)[2][1] == '{"text":"half a line"}'


def test_the_prompt_shows_any_id(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    redis_server.call("XADD", channel, "253402300799999-0", "messageData", '"the end of time"')
    with Terminal("pub", channel, env=gateway.env | {"TZ": "XXX-14"}, columns=120) as terminal:
        terminal.wait_for(f"{channel}>")
        terminal.type("/from 0\r")
        # A key that is typed while something is shown above the prompt goes to a terminal that is cooked meanwhile.
        terminal.wait_for(rf'"the end of time"(?s:.*)\n{channel}>')
        terminal.type("\x04")
        assert terminal.wait() == ExitCode.DONE


def test_commands(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    redis_server.call("SET", f"{channel}-x", "1")
    with Terminal("pub", channel, env=gateway.env | {"VISUAL": "no-such-editor"}, columns=120) as terminal:
        terminal.wait_for(f"{channel}>")
        for typed, answer in (
            ("/ping", r"answers within \d+\.\d ms"),
            ("/nonsense", "/nonsense: no such command; /help lists them"),
            ("/from yesterday", "'yesterday' is no place to start"),
            ("/unsub other", "other is not subscribed to"),
            ("/sub", "which one"),
            ("/text", "which one"),
            ("/info", rf"RSWS_TOKEN\npublished  0 on {channel}\nshown      {channel}"),
            ("/edit", "/edit: no-such-editor: No such file or directory; name another editor in VISUAL or EDITOR"),
            (f"/sub {channel}", "is subscribed already"),
            (f"/sub {channel}-x", "is not a stream"),
            ("/help", r"/from START \[CHANNEL\] +show it"),
        ):
            shown = len(terminal.text)
            terminal.type(f"{typed}\r")
            terminal.wait_for(rf"{answer}(?s:.*)\n{channel}>", after=shown)
        shown = len(terminal.text)
        terminal.type("/pi")
        terminal.wait_for("how long the gateway takes", after=shown)
        terminal.type("\t")
        terminal.type("\r")
        terminal.wait_for(rf"answers within .*\n{channel}>", after=shown)
        terminal.type("/quit\r")
        assert terminal.wait() == ExitCode.DONE
    assert messages_in(redis_server, channel) == []


def test_a_message_is_written_in_an_editor(
    gateway: Gateway, redis_server: RedisServer, channel: str, tmp_path: Path
) -> None:
    editor = tmp_path / "an editor"
    editor.write_text(
        "#!/bin/sh\n"
        "cat /proc/$$/environ | tr '\\0' '\\n' | grep -q RSWS_TOKEN && exit 9\n"  # a secret that is not its business
        'cat "$1"; read -r line; test "$line" = "" || printf "%s" "$line" | tr "|" "\\n" > "$1"\n'
    )
    editor.chmod(0o755)
    files = tmp_path / "files"
    files.mkdir()
    env = gateway.env | {"EDITOR": f"'{editor}'", "VISUAL": "", "TMPDIR": str(files)}
    with Terminal("pub", channel, env=env, columns=120) as terminal:
        terminal.wait_for(f"{channel}>")
        for typed, begins_with, saved, answer in (
            ('/text {"not json', None, "", "stored "),
            ("/edit", r'\{"text":"\{\\"not json"\}', "first|[2]", "stored (?s:.*)stored "),
            ("/edit", r"\[2\]", "", "nothing was saved, and nothing is sent"),
            ("/edit", r"\[2\]", "sent?|{", r"line 2: not JSON: fix it, .*: \{; /edit opens it again"),
            ("/edit", r"sent\?\n\{", '{|"n": 3}', "stored "),
        ):
            shown = len(terminal.text)
            terminal.type(f"{typed}\r")
            if begins_with is not None:
                terminal.wait_for(begins_with, after=shown)
                terminal.type(f"{saved}\r")
            terminal.wait_for(rf"{answer}(?s:.*)\n{channel}>", after=shown)
        terminal.type("\x04")
        assert terminal.wait() == ExitCode.DONE
    stored = [data for _, data in messages_in(redis_server, channel)]
    assert stored == ['{"text":"{\\"not json"}', '{"text":"first"}', "[2]", '{\n"n": 3}']
    assert list(files.iterdir()) == []


def paste(terminal: Terminal, *lines: str) -> None:
    """What a terminal sends when several lines are pasted, and Enter after it."""
    terminal.type("\x1b[200~" + "\n".join([*lines, ""]) + "\x1b[201~\r")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\r\nb\rc\n\nd ", ["a", "b", "c", "d"]),
        ("x\u2028y\x0bz\x85", ["x\u2028y\x0bz"]),
        ('["a",\n"b"]', ['["a",\n"b"]']),
    ],
)
def test_lines_end_where_a_terminal_ends_them(text: str, lines: list[str]) -> None:
    assert lines_of(text) == lines


def test_each_line_that_is_pasted_is_a_message(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    with Terminal("pub", channel, env=gateway.env) as terminal:
        terminal.wait_for(f"{channel}>")
        paste(terminal, "first", "", '{"n": 2}', "[3]")
        terminal.wait_for(rf"(?:stored (?s:.*)){{3}}\n{channel}>")
        paste(terminal, "{", '  "n": 4', "}")
        terminal.wait_for(rf"(?:stored (?s:.*)){{4}}\n{channel}>")
        terminal.type("\x04")
        assert terminal.wait() == ExitCode.DONE
    stored = [data for _, data in messages_in(redis_server, channel)]
    assert stored == ['{"text":"first"}', '{"n": 2}', "[3]", '{\n  "n": 4\n}']


def test_broken_json_is_not_sent_and_can_be_mended(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    with Terminal("pub", channel, env=gateway.env, columns=80) as terminal:
        terminal.wait_for(f"{channel}>")
        for broken, rest in (('{"user":"budi"', "}"), ("[1, 2", "]"), ('"hi', '"')):
            shown = len(terminal.text)
            terminal.type(f"{broken}\r")
            terminal.wait_for(
                f"not JSON: fix it, or send it as text with /text in front: {re.escape(broken)}", after=shown
            )
            shown = len(terminal.text)
            terminal.type(f"\x05{rest}\r")  # Ctrl-E goes to the end of the line
            terminal.wait_for(rf"stored .*\n(?s:.*){channel}>", after=shown)
        shown = len(terminal.text)
        paste(terminal, "good", '{"bad"', "good, too")
        terminal.wait_for(r"line 2: not JSON: fix it, or send it as text with /text in front: \{\"bad\"", after=shown)
        terminal.type("\x03\x04")
        assert terminal.wait() == ExitCode.DONE
    assert [data for _, data in messages_in(redis_server, channel)] == ['{"user":"budi"}', "[1, 2]", '"hi"']


def test_broken_json_is_not_sent_from_a_dumb_terminal(
    gateway: Gateway, redis_server: RedisServer, channel: str
) -> None:
    with Terminal("pub", channel, env=gateway.env | {"TERM": "dumb"}, columns=100) as terminal:
        terminal.wait_for(f"{channel}>")
        terminal.type('{"user":"budi"\r')
        terminal.wait_for(rf'not JSON: fix it, .*: \{{"user":"budi"(?s:.*)\n{channel}>')
    assert messages_in(redis_server, channel) == []


def test_ctrl_c_while_an_ack_is_awaited_says_what_became_of_the_message() -> None:
    with acking(1, 2) as (env, all_came), Terminal("pub", "c", env=env) as terminal:
        terminal.wait_for("c>")
        paste(terminal, "one", "two", "three")
        assert all_came.wait(10)
        terminal.type("\x03")
        assert terminal.wait() == ExitCode.INTERRUPTED
    assert "rsws: interrupted: 1 stored, 1 may be stored (from line 2 on), line 3 on not sent" in terminal.text


def test_ctrl_c_while_there_is_no_connection_says_that_nothing_was_sent(
    redis_server: RedisServer, channel: str
) -> None:
    with serving(redis_server.url) as gateway, Terminal("pub", channel, env=gateway.env) as terminal:
        terminal.wait_for(f"{channel}>")
        gateway.process.stop()
        terminal.wait_for("; reconnecting")
        terminal.type("hello\r")
        eventually(lambda: terminal.is_cooked, what="the end of the prompt")
        while terminal.process.poll() is None:  # one that comes in the very moment in which the prompt ends is lost
            terminal.type("\x03")
            with suppress(subprocess.TimeoutExpired):
                terminal.process.wait(3)
        assert terminal.wait() == ExitCode.INTERRUPTED
    assert "rsws: interrupted: not sent" in terminal.text


def test_a_start_that_redis_has_to_say_does_not_block_the_prompt(own_redis: RedisServer, channel: str) -> None:
    with serving(own_redis.url) as gateway, Terminal("pub", channel, env=gateway.env) as terminal:
        terminal.wait_for(f"{channel}>")
        stream_id = own_redis.call("XADD", "other", "*", "messageData", '"before"').decode()
        own_redis.kill()
        terminal.type("/from 10m other\r")
        terminal.wait_for(r"other: Redis can't be reached \(Server Redis tidak siap\)")
        shown = len(terminal.text)
        terminal.type("/ping\r")
        terminal.wait_for("answers within", after=shown)
        own_redis.start()
        own_redis.call("XADD", "other", stream_id, "messageData", '"before"')
        terminal.wait_for('"before"')
        terminal.type("/quit\r")
        assert terminal.wait() == ExitCode.DONE


def test_ctrl_c_clears_the_line_and_then_ends_it(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    with Terminal("pub", channel, env=gateway.env) as terminal:
        terminal.wait_for(f"{channel}>")
        terminal.type("not this")
        terminal.wait_for("not this")
        terminal.type("\x03this\r")
        terminal.wait_for(rf"stored .*\n{channel}>")
        terminal.type("\x03")
        assert terminal.wait() == ExitCode.INTERRUPTED
    assert [data for _, data in messages_in(redis_server, channel)] == ['{"text":"this"}']


def test_lines_are_remembered(gateway: Gateway, redis_server: RedisServer, channel: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)  # not made by rsws, which would have closed it to others
    for typed in ("remember me\r", "\x1b[A\r"):
        with Terminal("pub", channel, env=gateway.env) as terminal:
            terminal.wait_for(f"{channel}>")
            terminal.type(typed)
            terminal.wait_for(rf"stored .*\n{channel}>")
            terminal.type("\x04")
            assert terminal.wait() == ExitCode.DONE
    assert [data for _, data in messages_in(redis_server, channel)] == ['{"text":"remember me"}'] * 2
    history = tmp_path / "data" / "pub_history"
    assert "remember me" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


def test_a_prompt_that_can_not_remember_says_so(gateway: Gateway, channel: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Terminal("pub", channel, "--data-dir", "file", env=gateway.env) as terminal:
        terminal.wait_for("no history is kept")
        terminal.wait_for(f"{channel}>")
        terminal.type("\x04")
        assert terminal.wait() == ExitCode.DONE


def test_the_connection_goes_and_comes(redis_server: RedisServer, channel: str) -> None:
    with (
        serving(redis_server.url, port := free_port()) as gateway,
        Terminal("pub", channel, env=gateway.env) as terminal,
    ):
        terminal.wait_for(f"{channel}>")
        gateway.process.stop()
        terminal.wait_for("; reconnecting")
        with serving(redis_server.url, port):
            terminal.wait_for(r"reconnected after \d+\.\d s")
            terminal.type("again\r")
            terminal.wait_for(rf"stored .*\n{channel}>")
            terminal.type("\x04")
            assert terminal.wait() == ExitCode.DONE


def test_a_token_that_is_refused(gateway: Gateway) -> None:
    with Terminal("pub", "c", env=gateway.env | {"RSWS_TOKEN": "wrong"}) as terminal:
        assert terminal.wait() == ExitCode.REFUSED
    assert "refuses the token" in terminal.text


# --- progress, help ---


def test_long_input_shows_progress_and_each_id_once(gateway: Gateway, redis_server: RedisServer, channel: str) -> None:
    Path("lines").write_text('{"text":"some text"}\n' * 5_000)
    with Path("lines").open("rb") as lines:
        terminal = Terminal("pub", channel, "--lines", env=gateway.env, stdin=lines.fileno())
    with terminal:
        assert terminal.wait() == ExitCode.DONE
    ids = re.findall(r"\d{13}-\d+", terminal.text)
    assert ids == [stream_id for stream_id, _ in messages_in(redis_server, channel)]
    assert re.search(r"\d+% +[\d,]+ messages", terminal.text)


def test_help_is_as_wide_as_the_terminal(channel: str) -> None:
    for columns in (60, 100):
        with Terminal("sub", "--help", env={}, columns=columns) as terminal:
            assert terminal.wait() == ExitCode.DONE
        assert max(len(line) for line in terminal.text.split("\n")) == columns


def test_errors_are_red(channel: str) -> None:
    with Terminal("sub", channel, "--from", "yesterday", env={}) as terminal:
        assert terminal.wait() == ExitCode.USAGE
    assert re.match(r"\x1b\[1;31mrsws: \x1b\[0m\x1b\[31m--from: 'yesterday' is no place", terminal.shown)
    assert run_main("sub", channel, "--from", "yesterday").stderr.startswith("rsws: --from: 'yesterday'")

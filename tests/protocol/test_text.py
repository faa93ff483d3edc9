"""Text from others: in log lines, in tracebacks, in the texts of errors."""

from __future__ import annotations

import json
import logging
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit.cli import fake_gateway, run_main
from kit.support import RswsProcess
from rsws.gateway import logs
from rsws.log_lines import JsonFormatter, LogLine, Record, SafeFormatter
from rsws.settings import Settings
from rsws.text import SHOWN_CHARACTERS, excerpt, safe, safe_lines

EVIL = "\x1b]52;c;ZXZpbA==\x07\x9b2J\u202e\r\n2026-01-01T00:00:00.000Z INFO    rsws.gateway forged"
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]")


@pytest.mark.parametrize(
    "unsafe",
    [
        *("\x1b", "\x07", "\x00", "\x7f", "\x9b", "\x90", "\r", "\n", "\u2028", "\u2029"),
        *("\u061c", "\u200e", "\u200f"),  # marks of direction
        *map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]),  # embeddings, overrides, isolates
    ],
)
def test_what_a_terminal_would_obey_is_shown(unsafe: str) -> None:
    assert safe(f"a{unsafe}b") == f"a\\u{ord(unsafe):04x}b"


@pytest.mark.parametrize("text", ["é", "日本語", "👩‍👩‍👧", "سلام", "a b"])
def test_what_is_only_text_stays(text: str) -> None:
    assert safe(text) == text


def test_safe_json_is_the_same_json() -> None:
    text = '{"a\x9b":\t["\x7f\u202e", 1]}'
    assert json.loads(safe(text)) == json.loads(text)


def test_all_lines_but_the_first_are_indented() -> None:
    assert safe_lines("one\ntwo\x1b") == "one\n    two\\u001b"


def test_an_excerpt_is_safe_and_short() -> None:
    assert excerpt("no\x1b") == "no\\u001b"
    assert excerpt("x" * SHOWN_CHARACTERS) == "x" * SHOWN_CHARACTERS
    assert excerpt("x" * 10_000_000) == "x" * SHOWN_CHARACTERS + "..."


# --- logs ---


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_no_log_line_of_the_gateway_talks_to_the_terminal(capsys: pytest.CaptureFixture[str], level: str) -> None:
    logs.configure(Settings(log_level=level))
    log = logging.getLogger("rsws.test")
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        log.error("refused %s", EVIL, exc_info=True, stack_info=True)
        log.log(getattr(logging, level.upper()), "%s", error)
    shown = capsys.readouterr().err
    assert not UNSAFE.search(shown)
    assert "\\u001b]52" in shown
    lines = shown.splitlines()
    ours = [line for line in lines if re.match(r"\d{4}-\d\d-\d\dT[0-9:.]+Z ", line)]
    assert len(ours) == 2, "one line an event"
    assert "ValueError" in shown
    assert all(line.startswith("    ") for line in lines if line not in ours)


def test_a_line_in_json_has_its_facts_as_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format="json"), worker=2)
    log = logging.getLogger("rsws.test")
    log.info(LogLine("client gone", client="192.0.2.1:5", who=EVIL, code=1000, left_out=None))
    try:
        raise ValueError(EVIL)
    except ValueError:
        log.exception("refused %s", EVIL)
        sys.excepthook(*sys.exc_info())
    shown = capsys.readouterr().err
    assert shown.isascii()
    assert not UNSAFE.search(shown.replace("\n", ""))
    first, second, uncaught = map(json.loads, shown.splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "info", "logger": "rsws.test", "worker": 2,
        "message": "client gone", "client": "192.0.2.1:5", "who": EVIL, "code": 1000,
    }  # fmt: skip
    assert second["exception"].startswith("Traceback")
    assert second["message"] == "refused " + safe(EVIL)
    assert (uncaught["level"], uncaught["exception"]) == ("critical", second["exception"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [("news", "news"), ("192.0.2.1:5", "192.0.2.1:5"), ("a b", '"a b"'), ('"', r'"\""'), ("", '""'), (0.5, "0.5")],
)
def test_a_fact_in_text_is_quoted_where_it_would_not_be_one_word(value: str | float, shown: str) -> None:
    assert str(LogLine("said", name=value)) == f"said name={shown}"
    record = logging.LogRecord("x", logging.INFO, "x", 1, LogLine("said", name=value), (), None)
    assert json.loads(JsonFormatter().format(record))["name"] == value


def test_a_formatter_trusts_no_traceback_that_another_has_made() -> None:
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "text", (), None)
    record.exc_text = "Traceback\nValueError: \x1b[2J"
    assert SafeFormatter().format(record) == "text\n    Traceback\n    ValueError: \\u001b[2J"


@contextmanager
def redis_that_says(line: str) -> Iterator[str]:
    """A server that gives this answer to everything; yields its URL."""

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while commands := self.request.recv(65536):
                self.request.sendall(f"{line}\r\n".encode() * len(re.findall(rb"^\*[0-9]", commands, re.MULTILINE)))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("error", ["-LOADING", "-ERR"])
def test_what_a_redis_says_is_safe_in_the_log_of_a_gateway_and_in_a_command(error: str) -> None:
    evil = EVIL.replace("\r\n", "")
    with (
        redis_that_says(f"{error} {evil}") as url,
        RswsProcess("serve", "--port", "0", env={"REDIS_URL": url}) as serve,
    ):
        serve.wait_for("forged")
        added = run_main("xadd", "c", "1", env={"REDIS_URL": url})
    assert "forged" in added.stderr
    assert not UNSAFE.search(added.stderr + serve.output())


# --- commands ---


@pytest.mark.parametrize("error", [{"channel": "c"}, {}], ids=["of a channel", "of nothing"])
def test_what_a_gateway_says_is_safe_in_a_command(error: dict[str, object]) -> None:
    reply = {"status": "error", "error": EVIL, "code": f"what{EVIL}", **error}
    granted = {"status": "subscribed", "channel": "c", "lastMessageId": "0-0", "latestId": "0-0"}
    with fake_gateway(granted, reply, {"status": "error", "error": EVIL, "code": "redis_unavailable", **error}) as env:
        done = run_main("sub", "c", "--timeout", "1", env=env)
    assert not UNSAFE.search(done.stderr)
    assert done.stderr.count("\n") == len(re.findall("^rsws: ", done.stderr, flags=re.MULTILINE))


@pytest.mark.parametrize("command", [("sub", "c"), ("pub", "c", "1")])
def test_a_refusal_is_safe_in_a_command(command: tuple[str, ...]) -> None:
    refusals = (
        {"status": "error", "error": EVIL, "code": EVIL, "channel": "c"},
        {"status": "error_ack", "error": EVIL, "code": EVIL, "outcome": "not_stored"},
    )
    with fake_gateway(*refusals) as env:
        refused = run_main(*command, env=env)
    assert refused.returncode == 1
    assert "forged" in refused.stderr
    assert not UNSAFE.search(refused.stderr)
    assert all(line.startswith("rsws: ") for line in refused.stderr.splitlines())


def test_a_bug_of_a_command_shows_a_safe_traceback(tmp_path: Path) -> None:
    script = tmp_path / "bug.py"
    script.write_text(
        "import sys\nfrom unittest import mock\nfrom rsws.cli import app\n"
        f"with mock.patch.object(app, 'app', side_effect=ValueError({EVIL!r})):\n    app.main()\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "ValueError: \\u001b]52" in done.stderr
    assert not UNSAFE.search(done.stderr)


# --- the library, where nobody has configured logging ---

LIBRARY = """
import asyncio, sys
from rsws import connect

async def main():
    async with connect(sys.argv[1], token="x") as client:
        async for message in client.subscribe("c", after="0"):
            print(message.data)

asyncio.run(main())
"""


def test_the_library_s_own_words_are_safe_without_any_logging(tmp_path: Path) -> None:
    granted = {"status": "subscribed", "channel": "c", "lastMessageId": "0-0", "latestId": "0-0"}
    errors: list[dict[str, object]] = [
        {"status": "error", "error": EVIL, "code": EVIL},
        {"status": "error", "error": EVIL, "code": EVIL, "channel": "c"},
        {"event": "message", "channel": "c", "streamId": EVIL, "data": 1},
    ]
    with fake_gateway(granted, *errors) as env:
        done = subprocess.run(
            [sys.executable, "-c", LIBRARY, str(env["RSWS_URL"])], capture_output=True, text=True, timeout=20
        )
    assert "forged" in done.stderr
    assert "does not speak the protocol" in done.stderr
    assert not UNSAFE.search(done.stderr)


@pytest.mark.parametrize("message", [LogLine("said", name=1), "said name=1"])
def test_a_record_has_what_other_formatters_ask_for(message: object) -> None:
    usual = logging.LogRecord("x", logging.INFO, "x", 1, message, (), None)
    record = Record("x", logging.INFO, "x", 1, message, (), None)
    assert vars(record).keys() >= vars(usual).keys()
    assert logging.Formatter("%(levelname)s %(name)s %(message)s").format(record) == "INFO x said name=1"

"""The documents say what is there, all of it, and what they tell the reader to do works."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import make_reference
import pytest
from websockets.asyncio.client import connect

from kit.cli import run_main
from kit.javascript import program
from kit.support import RedisServer, RswsProcess, eventually, free_port
from kit.wheels import wheels
from rsws.check.run import CHECKS
from rsws.cli.commands import SUMMARIES, make
from rsws.options import options
from rsws.protocol import decode_reply, decode_request, encode_reply, encode_request
from rsws.settings import ClientSettings, Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SETTINGS = (ROOT / "docs/settings.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
BENCH = (ROOT / "docs" / "bench.md").read_text()
MOVING = (ROOT / "docs" / "moving.md").read_text()
CHECK = (ROOT / "docs" / "check.md").read_text()
LOOKING = (ROOT / "docs" / "looking.md").read_text()
SUB = (ROOT / "docs" / "sub.md").read_text()
OWN_PAGES = {
    "check": CHECK,
    "sub": SUB,
    "restore": MOVING,
    "copy": MOVING,
    **dict.fromkeys(("ls", "info", "top"), LOOKING),
}
"""The commands that have a page of their own."""
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
NOT_OURS = (
    ".git",
    ".venv",
    ".*_cache",
    ".hypothesis",
    "__pycache__",
    "node_modules",
    "build",
    "dist",
    "site",
    "*.egg-info",
)


def blocks(language: str, text: str = README) -> list[str]:
    """The fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


SERVE, TOUR, *_ = blocks("sh")


# --- all of it is said ---


MADE = make_reference.outputs()


@pytest.mark.parametrize("path", MADE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_is_made_from_the_code_is_up_to_date(path: Path) -> None:
    assert path.read_text() == MADE[path], "run docs/make_reference.py"


def test_what_is_made_from_the_code_has_every_command_and_option() -> None:
    shown = run_main("--help", env={"COLUMNS": "120"}).stdout
    names = re.findall(r"^│ ([a-z]+) ", shown, flags=re.MULTILINE)
    page, man = (MADE[ROOT / name] for name in ("docs/commands.md", "man/rsws.1"))
    assert len(names) > 5
    for name in names:
        help_text = run_main(name, "--help", env={"COLUMNS": "120"}).stdout
        part = page.partition(f"\n## rsws {name}\n")[2].partition("\n## ")[0]
        for option in set(re.findall(r"^│ [* ]*(?:-\w, )?(--[a-z][a-z-]+)", help_text, flags=re.MULTILINE)) - {
            "--help"
        }:
            assert f"`{option}" in part, f"rsws {name}"
            assert option.replace("-", r"\-") in man, f"rsws {name}"


COMMANDS: dict[str, Any] = {name: make(name) for name in SUMMARIES}
WORKS: dict[str, Any] = COMMANDS["bench"].commands


def test_the_documents_have_every_work_and_option_of_its_own() -> None:
    assert all(f"| `{name}` |" in BENCH for name in WORKS)
    for name, command in (WORKS | {name: COMMANDS[name] for name in OWN_PAGES}).items():
        said = set(re.findall(r"`(--[a-z-]+)", SETTINGS + OWN_PAGES.get(name, BENCH)))
        for parameter in command.params:
            assert {text for text in parameter.opts if text.startswith("--")} - {"--help"} <= said, f"rsws {name}"


@pytest.mark.parametrize(
    ("document", "commands"), [(BENCH, WORKS), *((page, COMMANDS) for page in {*OWN_PAGES.values()})]
)
def test_the_documents_name_no_option_that_is_not_there(document: str, commands: dict[str, Any]) -> None:
    said = set(re.findall(r"^\| `(--[a-z-]+)", document, flags=re.MULTILINE))
    assert said <= options_of(*commands.values())


PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name not in ("bench.md", "performance.md"))


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_the_lines_to_copy_have_only_options_that_are_there(path: Path) -> None:
    for line in re.findall(r"\brsws (?:[a-z]+ )?[^`\n|]*", path.read_text()):
        command = COMMANDS.get(line.split()[1] if len(line.split()) > 1 else "")
        if command is not None:
            named = set(re.findall(r"(?<=\s)--[a-z][a-z-]+", line.partition("#")[0].partition(";")[0]))
            assert named <= options_of(command) | {"--help", "--ulimit"}, line


def options_of(*commands: Any) -> set[str]:
    """All options of commands, and of those in them."""
    inner = [each for command in commands for each in getattr(command, "commands", {}).values()]
    parameters = [parameter for command in [*commands, *inner] for parameter in command.params]
    return {text for each in parameters for text in (*each.opts, *each.secondary_opts)}


OPERATING = [
    *(ROOT / "deploy").iterdir(),
    *(ROOT / name for name in ("docs/security.md", "Dockerfile", "docker-compose.yaml", ".env.example")),
]
OF_OTHERS = {"--build", "--dry-run", "--from-file", "--name", "--network", "--now", "--system"}
"""The options of other programs that these files name."""


@pytest.mark.parametrize("path", OPERATING, ids=lambda path: path.name)
def test_what_is_for_operators_names_no_option_that_is_not_there(path: Path) -> None:
    there = options_of(*COMMANDS.values())
    text = path.read_text()
    if path.name != "Dockerfile":  # whose options are others'
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= there | OF_OTHERS
    names = {option.env for settings in (Settings, ClientSettings) for option in options(settings).values()}
    assert set(re.findall(r"\b(?:RSWS|WEBSOCKET)_[A-Z_]+\b", text)) <= names


def test_the_checks_are_those_of_the_document() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*?) \|", CHECK, flags=re.MULTILINE)
    assert rows == [(each.name, each.looks_for) for each in CHECKS]


# --- and it is so ---


@pytest.mark.parametrize("frame", re.findall(r"-> (\{.*?\})(?: {2,}.*)?$", PROTOCOL + README, flags=re.MULTILINE))
def test_requests_in_the_documents_are_requests(frame: str) -> None:
    assert encode_request(decode_request(frame)) == frame.replace('"lastMessageId":"0"', '"lastMessageId":"0-0"')


@pytest.mark.parametrize("frame", re.findall(r"<- (\{.*\})$", PROTOCOL + README, flags=re.MULTILINE))
def test_replies_in_the_documents_are_replies(frame: str) -> None:
    reply = decode_reply(frame)
    assert reply is not None
    assert encode_reply(reply).decode() == frame


LINKING = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(ROOT / name / "README.md" for name in ("deploy", "examples", "clients/js")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


@pytest.mark.parametrize("document", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)", without_code(document.read_text())):
        file = (document.parent / target) if target else document
        assert file.exists(), target
        if anchor:
            assert anchor in [slug for _, slug in headings(file.read_text())], f"{target}#{anchor}"


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def headings(text: str) -> list[tuple[int, str]]:
    """The levels of a page's headings, and their anchors on a code host."""
    found = re.findall(r"^(#+) (.*)$", without_code(text), flags=re.MULTILINE)
    return [(len(level), re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")) for level, title in found]


# --- in Indonesian, too ---


IN_BOTH = sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_each_page_is_in_both_languages() -> None:
    assert sorted(path.name for path in (ROOT / "docs" / "id").iterdir()) == IN_BOTH


@pytest.mark.parametrize("name", IN_BOTH)
def test_the_indonesian_page_says_the_same(name: str) -> None:
    """Headings, code, rows of tables, options and addresses: what is not prose."""
    english, indonesian = ((ROOT / "docs" / folder / name).read_text() for folder in ("", "id"))
    for what in (
        lambda text: [level for level, _ in headings(text)],
        lambda text: re.findall(r"^```.*?^```$|^(?: {4}|\t)[^\n]*$", text, flags=re.DOTALL | re.MULTILINE),
        lambda text: [line.count("|") for line in text.splitlines() if line.lstrip().startswith("|")],
        lambda text: sorted(re.findall(r"(?<=`)--[a-z][a-z-]+|`[A-Z_]{6,}`", text)),
        lambda text: sorted(re.findall(r"\]\((https?://[^)]*)\)", text)),
        lambda text: sorted(Path(target).name for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", text)),
    ):
        assert what(indonesian) == what(english)


@pytest.mark.parametrize("config", ["mkdocs.yml", "mkdocs.id.yml"])
def test_the_site_has_every_page(config: str) -> None:
    navigation = (ROOT / config).read_text().partition("\nnav:\n")[2]
    assert {each.rpartition(" ")[2] for each in navigation.split("\n") if each.endswith(".md")} >= {*IN_BOTH}


def test_the_first_screen_is_short_and_the_rest_not_long() -> None:
    assert README.index("rsws sub news") < 2_000
    assert README.count("\n") < 100


def test_the_changelog_ends_with_this_version() -> None:
    latest = re.search(r"^## \[(\d\S*)\] - \d{4}-\d\d-\d\d$", CHANGELOG, flags=re.MULTILINE)
    assert latest is not None
    assert run_main("--version").stdout == f"rsws {latest[1]}\n"


def test_nothing_says_where_it_was_written() -> None:
    elsewhere = re.compile(r"(?<![\w.~$}])/(?:work|root|home|Users)/\w")
    ignore = shutil.ignore_patterns(*NOT_OURS)
    for directory, names, files in os.walk(ROOT):
        skipped = ignore(directory, [*names, *files])
        names[:] = [name for name in names if name not in skipped]
        for name in set(files) - skipped:
            text = Path(directory, name).read_text(errors="replace")
            assert not elsewhere.search(text), Path(directory, name)


# --- what the reader is told to do ---


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone of the project has in it."""
    target = tmp_path_factory.mktemp("clone") / "rsws"
    return Path(shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*NOT_OURS)))


def test_the_two_commands_and_the_tour(clone: Path, tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("RSWS_DATA_DIR", "XDG_DATA_HOME")},
        "PORT": str(free_port()),
        **wheels(tmp_path / "wheels", "embedded"),
        "PIP_NO_COMPILE": "0",  # which is pip's way to say yes; modules that are used are compiled when they are
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        serving = subprocess.Popen(
            ["bash", "-c", SERVE],
            cwd=clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        eventually(
            lambda: "Try in another terminal" in log.read_text() or serving.poll() is not None, 170, "the gateway"
        )
        assert serving.poll() is None, log.read_text()
        on_path = environment | {"PATH": f"{clone / '.venv' / 'bin'}:{environment['PATH']}"}
        shown = [
            subprocess.run(
                ["bash", "-c", line], env=on_path, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=True
            ).stdout
            for line in TOUR.splitlines()
        ]
    finally:
        os.killpg(serving.pid, signal.SIGINT)
        try:
            serving.wait(10)
        finally:
            if serving.poll() is None:
                os.killpg(serving.pid, signal.SIGKILL)
                serving.wait()
    assert len(shown) == 4
    alert, news = json.loads(shown[1]), json.loads(shown[3])
    assert alert == {"channel": "pending", "id": shown[0].strip(), "time": alert["time"], "data": {"type": "ALERT"}}
    assert news == {"channel": "news", "id": shown[2].strip(), "time": news["time"], "data": {"text": "hi"}}
    assert (tmp_path / "home" / ".local" / "share" / "rsws" / "key").is_file()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(environment["RSWS_LOCAL_REDIS_PORT"]))), "the embedded server is gone"


def test_ci_finds_the_test_command() -> None:
    """It takes the first line of the README that looks like it."""
    [command] = [line for line in README.splitlines() if re.match("python3 -m venv .*pytest", line)]
    assert f"{command}\n" in blocks("sh")


@pytest.mark.parametrize("block", blocks("python", (ROOT / "docs" / "start.md").read_text()))
def test_python_blocks_run(block: str, own_redis: RedisServer) -> None:
    with RswsProcess("serve", "--port", "0", env={"REDIS_URL": own_redis.url, "WEBSOCKET_SECRET_KEY": "k"}) as gateway:
        url = gateway.wait_for(r"url=(ws://\S+)")[1]
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block],
            env={**os.environ, "RSWS_URL": url, "RSWS_TOKEN": "k"},
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"stored as (\S+)\nnews \1 \{'text': 'hi'\}\n", done.stdout)


@pytest.mark.parametrize("document", [README, PROTOCOL], ids=["README.md", "docs/protocol.md"])
def test_the_lines_of_curl_work(document: str, own_redis: RedisServer) -> None:
    program("curl")

    def said(line: str) -> list[str]:
        """What curl says, until it ends or has read everything there is."""
        with subprocess.Popen(["bash", "-c", f"exec {line}"], stdout=subprocess.PIPE, text=True) as curl:
            assert curl.stdout is not None
            lines = []
            for each in curl.stdout:
                lines.append(each)
                if each == "event: caught_up\n":
                    curl.terminate()
            return lines

    with RswsProcess("serve", "--port", "0", env={"REDIS_URL": own_redis.url, "WEBSOCKET_SECRET_KEY": "k"}) as gateway:
        address = gateway.wait_for(r"url=ws://(\S+)")[1]
        os.environ["RSWS_TOKEN"] = "k"
        lines = [
            line.replace("127.0.0.1:8080", address).replace("curl ", "curl -sS ", 1)
            for line in re.findall(r"^ *(curl .*?)(?: +#.*)?$", document, flags=re.MULTILINE)
        ]
        publish, events, json_lines, listed = map(said, lines)
    stream_id = json.loads(publish[0])["streamId"]
    message = [f"id: {stream_id}\n", 'data: {"text":"hi"}\n']
    assert events[2:4] == message
    assert json.loads(json_lines[0]) == {"streamId": stream_id, "data": {"text": "hi"}}
    assert [each["channel"] for each in json.loads(listed[0])["channels"]] == ["news"]


def test_the_examples_of_tokens_make_one(tmp_path: Path) -> None:
    [block] = [each for each in blocks("sh", (ROOT / "docs" / "secrets.md").read_text()) if "rsws token" in each]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", block], env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=40, check=True
    )
    assert done.stdout.endswith("valid for this gateway\n")
    assert re.search(
        r"^news\.\*    r   subscribe\nchat\.\*    rw  subscribe, publish$", done.stdout, flags=re.MULTILINE
    )


def test_the_redis_user_of_the_document_has_the_rights_it_needs(own_redis: RedisServer, channel: str) -> None:
    document = (ROOT / "docs" / "redis.md").read_text()
    for rights in re.findall(r"^ACL SETUSER .*$", document, flags=re.MULTILINE):
        own_redis.call(*rights.split())
    own_redis.call("SELECT", 3)
    own_redis.call("XADD", channel, "5-1", "messageData", "1")
    settings = {
        "REDIS_URL": own_redis.url.replace("//", "//gateway:PASSWORD@") + "/3",
        "WEBSOCKET_SECRET_KEY": "k",
        "RSWS_RETAIN": "*=1000",
    }

    def waits_at_an_end() -> bool:
        clients = own_redis.client.client_list(_type="normal")
        return any(client["name"] == "rsws-ends" and "b" in client["flags"] for client in clients)

    async def use(url: str) -> list[str]:
        async with asyncio.timeout(10), connect(f"{url}/?token=k") as websocket:
            said = [json.loads(await websocket.recv())]

            async def ask(expected: int, **request: Any) -> None:
                await websocket.send(json.dumps(request))
                said.extend([json.loads(await websocket.recv()) for _ in range(expected)])

            await ask(3, action="subscribe", channel=channel, lastMessageId="5-0")
            await ask(2, action="publish", channel=channel, data=2, messageId="2")
            for emptied in ("a", "b"):
                own_redis.call("XADD", emptied, "5-1", "messageData", "1")
                own_redis.call("XDEL", emptied, "5-1")
                await ask(1, action="subscribe", channel=emptied)
                await asyncio.to_thread(eventually, waits_at_an_end)  # so that it has to be woken for the other
            await ask(2, action="subscribe", channel=f"{channel}-2", last=1, marker=True)
            await ask(2, action="publish", channel=f"{channel}-2", data=3, messageId="3", producer="p")
            await ask(1, action="publish", channel=f"{channel}-2", data=3, messageId="3", producer="p")
            return [reply.get("event") or reply.get("status") for reply in said]

    with RswsProcess("serve", "--port", "0", env=settings) as gateway:
        url = gateway.wait_for(r"url=(ws://\S+)")[1]
        said = asyncio.run(use(url))
        with urlopen(f"{url.replace('ws', 'http')}/readyz", timeout=5) as ready:
            assert ready.status == 200
        gateway.stop()
    connected, joined, gap_and_rest = said[0], said[1:3], said[3:]
    assert [connected, *joined] == ["connected", "subscribed", "gap"]
    assert sorted(gap_and_rest) == sorted(
        ["message", "ack", *["subscribed"] * 3, "message", "caught_up", "ack", "message", "ack"]
    )
    assert not re.search("NOPERM|WARNING|ERROR", "\n".join(gateway.stderr))

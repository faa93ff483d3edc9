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
import tomllib
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import typer
from websockets.asyncio.client import connect

from kit.cli import run_main
from kit.javascript import program
from kit.support import RedisServer, RswsProcess, eventually, free_port
from rsws.check.run import CHECKS
from rsws.cli.app import app
from rsws.cli.options import flag
from rsws.errors import CLOSE_HELP, ERROR_HELP
from rsws.gateway.metrics import INFO, METRICS, PRIMARIES, PRIMARY_UP
from rsws.options import options
from rsws.protocol import decode_reply, decode_request, encode_reply, encode_request
from rsws.settings import ClientSettings, Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SETTINGS = (ROOT / "docs/settings.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
BENCH = (ROOT / "docs" / "bench.md").read_text()
CHECK = (ROOT / "docs" / "check.md").read_text()
LOOKING = (ROOT / "docs" / "looking.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
NOT_OURS = (".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "node_modules", "build", "dist", "*.egg-info")
USER_HOME = Path(os.environ.get("HOME", ""))  # where pip finds its settings and its cache; each test has an empty HOME


def table(*rows: tuple[str, ...]) -> str:
    head, *body = rows
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, *body)).replace(
        "|\n", f"|\n|{'---|' * len(head)}\n", 1
    )  # fmt: skip


def settings_table(settings: type[Any]) -> str:
    """What docs/settings.md says of a settings class."""
    rows = [("flag", "environment", "default", "meaning")]
    for name, option in options(settings).items():
        default = getattr(settings(), name)
        if isinstance(default, bool):
            default = "on" if default else "off"
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        choices = f" One of {', '.join(option.choices)}." if option.choices else ""
        rows.append(
            (
                f"`{flag(name)}`",
                f"`{option.env}`" if option.env else "",
                "" if default in (None, ()) else f"`{shown}`",
                option.help + choices,
            )
        )
    return table(*rows)


def blocks(language: str, text: str = README) -> list[str]:
    """The fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


SERVE, TOUR, *_ = blocks("sh")


# --- all of it is said ---


@pytest.mark.parametrize("settings", [Settings, ClientSettings])
def test_the_readme_has_every_setting(settings: type[Any]) -> None:
    assert settings_table(settings) in SETTINGS


COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
WORKS: dict[str, Any] = COMMANDS["bench"].commands


def test_the_documents_have_every_command_and_option() -> None:
    assert all(f"| `rsws {name}" in README for name in COMMANDS)
    assert all(f"| `{name}` |" in BENCH for name in WORKS)
    for name, command in (COMMANDS | WORKS).items():
        own = BENCH if name in WORKS else {"check": CHECK}.get(name, LOOKING if name in ("ls", "info", "top") else "")
        said = set(re.findall(r"`(--[a-z-]+)", README + SETTINGS + own))
        for parameter in command.params:
            flags = {text for text in parameter.opts if text.startswith("--")} - {"--help"}
            assert flags <= said, f"rsws {name}"
            assert parameter.envvar is None or f"`{parameter.envvar}`" in SETTINGS


@pytest.mark.parametrize(
    ("document", "commands"), [(README, COMMANDS), (BENCH, WORKS), (CHECK, COMMANDS), (LOOKING, COMMANDS)]
)
def test_the_documents_name_no_option_that_is_not_there(document: str, commands: dict[str, Any]) -> None:
    said = set(re.findall(r"^\| `(--[a-z-]+)", document, flags=re.MULTILINE))
    parameters = [parameter for command in commands.values() for parameter in command.params]
    there = {text for each in parameters for text in (*each.opts, *each.secondary_opts)}
    assert said <= there


OPERATING = [
    *(ROOT / "deploy").iterdir(),
    *(ROOT / name for name in ("docs/security.md", "Dockerfile", "docker-compose.yaml", ".env.example")),
]
OF_OTHERS = {"--build", "--dry-run", "--from-file", "--name", "--network", "--now", "--system"}
"""The options of other programs that these files name."""


@pytest.mark.parametrize("path", OPERATING, ids=lambda path: path.name)
def test_what_is_for_operators_names_no_option_that_is_not_there(path: Path) -> None:
    there = {
        text
        for command in COMMANDS.values()
        for parameter in command.params
        for text in parameter.opts + parameter.secondary_opts
    }
    text = path.read_text()
    if path.name != "Dockerfile":  # whose options are others'
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= there | OF_OTHERS
    names = {option.env for settings in (Settings, ClientSettings) for option in options(settings).values()}
    assert set(re.findall(r"\b(?:RSWS|WEBSOCKET)_[A-Z_]+\b", text)) <= names


def test_the_exit_codes_are_those_of_the_help() -> None:
    said = re.search(r"\*\*Exit codes:\*\* (.*?)\n\n", README, flags=re.DOTALL)
    assert said is not None
    shown = " ".join(run_main("--help", env={"COLUMNS": "120"}).stdout.split())
    assert f"Exit codes: {' '.join(said[1].split())}" in shown


def test_the_checks_are_those_of_the_document() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*?) \|", CHECK, flags=re.MULTILINE)
    assert rows == [(each.name, each.looks_for) for each in CHECKS]


def test_the_protocol_has_every_error_code() -> None:
    rows = [(f"`{code}`", when, what_to_do) for code, (when, what_to_do) in ERROR_HELP.items()]
    assert table(("code", "when", "what to do"), *rows) in PROTOCOL


def test_the_protocol_has_every_close_code() -> None:
    rows = [(str(int(code)), why, "yes" if again else "no") for code, (why, again) in CLOSE_HELP.items()]
    assert table(("code", "why", "come back?"), *rows) in PROTOCOL


def test_the_protocol_has_every_metric() -> None:
    rows = [
        (f"`{metric.name}`", metric.kind, metric.help) for metric in (INFO, *METRICS.values(), PRIMARIES, PRIMARY_UP)
    ]
    assert table(("metric", "type", "meaning"), *rows) in PROTOCOL


# --- and it is so ---


@pytest.mark.parametrize("frame", re.findall(r"-> (\{.*?\})(?: {2,}.*)?$", PROTOCOL + README, flags=re.MULTILINE))
def test_requests_in_the_documents_are_requests(frame: str) -> None:
    assert encode_request(decode_request(frame)) == frame.replace('"lastMessageId":"0"', '"lastMessageId":"0-0"')


@pytest.mark.parametrize("frame", re.findall(r"<- (\{.*\})$", PROTOCOL + README, flags=re.MULTILINE))
def test_replies_in_the_documents_are_replies(frame: str) -> None:
    reply = decode_reply(frame)
    assert reply is not None
    assert encode_reply(reply).decode() == frame


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "docs/protocol.md",
        "docs/bench.md",
        "docs/proxies.md",
        "docs/check.md",
        "docs/looking.md",
        "docs/redis.md",
        "docs/scaling.md",
        "docs/secrets.md",
        "docs/security.md",
        "docs/settings.md",
        "deploy/README.md",
        "SECURITY.md",
        "examples/README.md",
        "clients/js/README.md",
        "CHANGELOG.md",
    ],
)
def test_links_lead_somewhere(path: str) -> None:
    document = ROOT / path
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", document.read_text()):
        file = (document.parent / target) if target else document
        assert file.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


def test_the_first_screen_is_short_and_the_rest_not_long() -> None:
    assert README.index("rsws sub news") < 2_000
    assert README.count("\n") < 250


def test_the_changelog_ends_with_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    latest = re.search(r"^## \[(\d\S*)\] - \d{4}-\d\d-\d\d$", CHANGELOG, flags=re.MULTILINE)
    assert latest is not None
    assert latest[1] == version
    assert run_main("--version").stdout == f"rsws {version}\n"


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
        "PIP_CACHE_DIR": str(USER_HOME / ".cache" / "pip"),
        "PIP_CONFIG_FILE": str(USER_HOME / ".config" / "pip" / "pip.conf"),
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


@pytest.mark.parametrize("block", blocks("python"))
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


@pytest.mark.parametrize("document", ["README.md", "docs/secrets.md"])
def test_the_examples_of_tokens_make_one(document: str, tmp_path: Path) -> None:
    [block] = [each for each in blocks("sh", (ROOT / document).read_text()) if "rsws token" in each]
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

"""``rsws bench`` as users run it: against gateways and servers that get it wrong, on terminals and in pipes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from kit.cli import KEY, Gateway, Terminal, call_main, serving
from kit.support import RedisServer, RswsProcess, eventually, free_port, is_running, run_rsws
from rsws.cli.exits import ExitCode

BENCH = (Path(__file__).parents[2] / "docs" / "bench.md").read_text()
FAULTS = ("lost", "duplicated", "reordered", "foreign")


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer) -> Iterator[Gateway]:
    with serving(redis_server.url) as running:
        yield running


def measure(*arguments: str, env: Mapping[str, str | None], expected: ExitCode = ExitCode.DONE) -> dict[str, Any]:
    """What ``rsws bench ARGUMENTS --json`` prints."""
    done = run_rsws("bench", *arguments, "--json", env=env)
    assert done.returncode == expected, done.stderr
    assert done.stdout.count("\n") == 1
    result: dict[str, Any] = json.loads(done.stdout)
    return result | {"stderr": done.stderr}


def faults(result: Mapping[str, Any]) -> dict[str, int]:
    return {name: result[name] for name in FAULTS if result[name]}


# --- against a gateway ---


@pytest.mark.parametrize(
    ("arguments", "expected", "latencies"),
    [
        (
            ("fanout", "--clients", "5", "--messages", "300", "--processes", "2"),
            {"published": 300, "acked": 300, "delivered": 1500, "connected": 6, "publishers": 1, "rounds": 0},
            {"ack": 300, "connected": 6, "delivery": 1500, "subscribed": 5},
        ),
        (
            ("pairs", "--clients", "7", "--messages", "300", "--processes", "2", "--size", "1000"),
            {"published": 300, "acked": 300, "delivered": 300, "connected": 14, "publishers": 7, "rounds": 0},
            {"ack": 300, "connected": 14, "delivery": 300, "subscribed": 7},
        ),
        (
            ("connect", "--clients", "30", "--processes", "2"),
            {"published": 0, "delivered": 0, "connected": 30, "publishers": 0, "cuts": 0},
            {"connected": 30, "subscribed": 30},
        ),
    ],
)
def test_what_is_counted(
    arguments: tuple[str, ...], expected: dict[str, int], latencies: dict[str, int], gateway: Gateway
) -> None:
    result = measure(*arguments, env=gateway.env)
    assert {name: result[name] for name in expected} == expected
    assert {name: each["count"] for name, each in result["latency_ms"].items()} == latencies
    assert faults(result) == {}
    assert (result["work"], result["url"], result["ended"]) == (arguments[0], gateway.url, "done")
    for each in result["latency_ms"].values():
        quantiles = [each[name] for name in ("min", "p50", "p90", "p99", "p99_9", "max")]
        assert quantiles == sorted(quantiles)


def test_histories_are_read_again_and_again(gateway: Gateway) -> None:
    result = measure("catchup", "--clients", "3", "--messages", "2000", "--duration", "0.5", env=gateway.env)
    assert result["published"] == 2000
    assert result["rounds"] >= 3
    assert result["delivered"] == 2000 * result["rounds"]
    assert result["latency_ms"]["history"]["count"] == result["rounds"]
    assert faults(result) == {}


def test_the_keys_are_those_of_the_document(gateway: Gateway) -> None:
    result = measure("connect", "--clients", "1", env=gateway.env)
    del result["stderr"]
    assert [*result] == re.findall(r"^\| `(\w+)` \|", BENCH.partition("## The JSON object")[2], re.MULTILINE)


def test_what_it_leaves_in_redis_is_said(gateway: Gateway, redis_server: RedisServer) -> None:
    env = gateway.env | {"RSWS_LOCAL_REDIS_PORT": None}
    result = measure("pairs", "--clients", "3", "--messages", "3", "--prefix", "mine-", env=env)
    assert result["channels"].startswith("mine-")
    keys = redis_server.call("KEYS", result["channels"])
    assert len(keys) == 3
    remove = f"redis-cli --scan --pattern '{result['channels']}' | xargs redis-cli UNLINK"
    assert f"rsws: left in Redis: 3 streams; to remove: {remove}\n" in result["stderr"]


@pytest.mark.parametrize("name", ["REDIS_URL", "RSWS_LOCAL_REDIS_PORT"])
def test_the_line_that_removes_it_leads_to_its_redis(gateway: Gateway, redis_server: RedisServer, name: str) -> None:
    env = gateway.env | {name: redis_server.url if name == "REDIS_URL" else str(redis_server.port)}
    result = measure("fanout", "--clients", "1", "--messages", "1", env=env)
    cli = f"redis-cli -p {redis_server.port}"
    assert f"{cli} --scan --pattern '{result['channels']}' | xargs {cli} UNLINK\n" in result["stderr"]


@pytest.mark.parametrize("work", ["fanout", "pairs", "catchup"])
def test_nothing_is_lost_when_connections_are_cut(work: str, gateway: Gateway) -> None:
    count = ("--messages", "5000") if work == "catchup" else ("--clients", "20", "--window", "4")
    result = measure(work, *count, "--duration", "0.5", "--kill-every", "0.1", "--processes", "2", env=gateway.env)
    assert faults(result) == {}
    assert result["unknown"] == 0
    assert 0 < result["latency_ms"]["resumed"]["count"] <= result["cuts"]


def test_the_gateway_may_be_restarted_meanwhile(redis_server: RedisServer) -> None:
    port, prefix = free_port(), "restart-"
    options = ["--clients", "10", "--rate", "500", "--duration", "2.5", "--kill-every", "0.5", "--prefix", prefix]
    with ExitStack() as stack:
        first = stack.enter_context(serving(redis_server.url, port))
        bench = stack.enter_context(RswsProcess("bench", "pairs", *options, "--json", env=first.env))
        eventually(lambda: redis_server.client.keys(f"{prefix}*"), what="publishes")
        first.process.kill()
        stack.enter_context(serving(redis_server.url, port))
        assert bench.wait() == ExitCode.DONE, bench.output()
    result = json.loads(bench.stdout[0])
    assert faults(result) == {}
    assert result["unknown"] == 0
    assert result["latency_ms"]["resumed"]["count"] >= 20, "all of them"


def test_the_rate_is_kept(gateway: Gateway) -> None:
    result = measure("pairs", "--clients", "4", "--messages", "40", "--rate", "80", env=gateway.env)
    assert result["published"] == 40
    assert result["seconds"] > 0.4  # at the earliest; by when at the latest depends on the machine


def test_how_long_a_server_has_kept_messages_waiting_is_not_forgotten(redis_server: RedisServer) -> None:
    options = ("--clients", "1", "--rate", "200", "--window", "2", "--duration", "2", "--prefix", "wait-", "--json")
    with serving(redis_server.url) as gateway, RswsProcess("bench", "pairs", *options, env=gateway.env) as bench:
        eventually(lambda: redis_server.client.keys("wait-*"), what="publishes")
        gateway.process.process.send_signal(signal.SIGSTOP)
        time.sleep(0.6)
        gateway.process.process.send_signal(signal.SIGCONT)
        assert bench.wait() == ExitCode.DONE, bench.output()
    result = json.loads(bench.stdout[0])
    assert result["latency_ms"]["delivery"]["p90"] > 100, "more than the two that were under way"


# --- when something is wrong ---


class OldServer:
    """What clients rely on, and no more, in a thread of its own; spoiled as a test wants it.

    Args:
        spoil: For the number of a message and its event, the events that are sent for it.

    Attributes:
        requests: All that came.
        env: What a command needs to find it.
    """

    def __init__(self, spoil: Callable[[int, str], list[str]]) -> None:
        self.requests: list[dict[str, Any]] = []
        self._spoil = spoil
        self._history: dict[str, list[tuple[int, str]]] = {}
        self._subscribers: dict[str, set[ServerConnection]] = {}

    @contextmanager
    def running(self) -> Iterator[dict[str, str | None]]:
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(serve_in(self._handle))
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            port = server.sockets[0].getsockname()[1]
            yield {"RSWS_URL": f"ws://127.0.0.1:{port}", "RSWS_TOKEN": KEY}
        finally:
            asyncio.run_coroutine_threadsafe(close(server), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _handle(self, connection: ServerConnection) -> None:
        await connection.send('{"status":"connected","message":"Welcome!"}')
        with suppress(ConnectionClosed):
            async for text in connection:
                request = json.loads(text)
                self.requests.append(request)
                for answer in self.answer(connection, request):
                    await self.send(connection, answer)
        for subscribers in self._subscribers.values():
            subscribers.discard(connection)

    async def send(self, connection: ServerConnection, text: str) -> None:
        await connection.send(text)

    def answer(self, connection: ServerConnection, request: Mapping[str, Any]) -> list[str]:
        channel = request["channel"]
        if request["action"] == "publish":
            self._publish(channel, request)
            return [compact({"status": "ack", "messageId": request["messageId"]})]
        self._subscribers.setdefault(channel, set()).add(connection)
        last = int(request["lastMessageId"].removeprefix("7-"))
        history = [event for number, event in self._history.get(channel, []) if number > last]
        return [compact({"status": "subscribed", "channel": channel}), *history]

    def _publish(self, channel: str, request: Mapping[str, Any]) -> None:
        number = int(request["messageId"])
        event = {"event": "message", "channel": channel, "streamId": f"7-{number + 1}", "data": request["data"]}
        events = self._spoil(number, compact(event))
        self._history.setdefault(channel, []).extend((number + 1, event) for event in events)
        for text in events:
            broadcast(self._subscribers.get(channel, ()), text)


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


async def serve_in(handle: Callable[[ServerConnection], Any]) -> Any:
    return await serve(handle, "127.0.0.1", 0)


async def close(server: Any) -> None:
    server.close()
    await server.wait_closed()


def lose(number: int, event: str) -> list[str]:
    return [] if number in (3, 4, 29) else [event]


def duplicate(number: int, event: str) -> list[str]:
    return [event] * (3 if number == 5 else 1)


def reorder() -> Callable[[int, str], list[str]]:
    kept: list[str] = []

    def spoil(number: int, event: str) -> list[str]:
        if number == 6:
            kept.append(event)
            return []
        return [event, *kept] if number == 8 else [event]

    return spoil


def intrude(number: int, event: str) -> list[str]:
    return [event, re.sub('"data":.*', '"data":{"by":"somebody else"}}', event)] if number == 9 else [event]


def change(number: int, event: str) -> list[str]:
    return [event.replace("xx", "xy", 1) if number == 2 else event]


def right(number: int, event: str) -> list[str]:
    return [event]


def spaced(number: int, event: str) -> list[str]:
    return [json.dumps(json.loads(event))]


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lose, {"lost": 6}),
        (duplicate, {"duplicated": 4}),
        (reorder(), {"reordered": 2}),
        (intrude, {"foreign": 2}),
        (change, {"lost": 2, "foreign": 2}),
    ],
    ids=["lose", "duplicate", "reorder", "intrude", "change"],
)
def test_a_server_that_gets_it_wrong_is_found_out(
    spoil: Callable[[int, str], list[str]], found: dict[str, int]
) -> None:
    with OldServer(spoil).running() as env:
        result = measure(
            "fanout", "--clients", "2", "--messages", "30", "--timeout", "1", env=env, expected=ExitCode.GAP
        )
    assert faults(result) == found
    assert result["published"] == result["acked"] == 30
    assert ", ".join(f"{name}: {result[name]}" for name in FAULTS) in result["stderr"]


@pytest.mark.parametrize("spoil", [right, spaced])
@pytest.mark.parametrize("work", ["fanout", "pairs", "catchup", "connect"])
def test_any_server_of_the_protocol_can_be_measured(work: str, spoil: Callable[[int, str], list[str]]) -> None:
    server = OldServer(spoil)
    messages = () if work == "connect" else ("--messages", "40")
    duration = ("--duration", "0.2") if work == "catchup" else ()
    with server.running() as env:
        result = measure(work, "--clients", "3", *messages, *duration, env=env)
    assert faults(result) == {}
    assert result["published"] == (40 if messages else 0)
    keys = {"subscribe": {"lastMessageId"}, "publish": {"data", "messageId"}}
    assert all(request.keys() == {"action", "channel"} | keys[request["action"]] for request in server.requests)


class Fragmenting(OldServer):
    """A server that sends its answers in pieces, and pings between them."""

    async def send(self, connection: ServerConnection, text: str) -> None:
        await connection.ping()
        await connection.send([text[:5], text[5:20], text[20:]])


class Binary(OldServer):
    """A server that sends its answers as bytes."""

    async def send(self, connection: ServerConnection, text: str) -> None:
        await connection.send(text.encode())


def test_messages_may_come_in_pieces() -> None:
    options = ("--clients", "2", "--messages", "40", "--duration", "0.2")
    with Fragmenting(right).running() as env:
        result = measure("catchup", *options, env=env)
    assert faults(result) == {}
    assert result["acked"] == 40
    assert result["delivered"] == 40 * result["rounds"] > 0


@pytest.mark.parametrize("workload", ["fanout", "connect"])
def test_a_server_that_sends_bytes_is_of_another_protocol(workload: str) -> None:
    with Binary(right).running() as env:
        done = run_rsws("bench", workload, "--clients", "2", env=env)
    assert done.returncode == ExitCode.NOT_CONNECTED
    assert "it sent a binary frame; the protocol is text" in done.stderr


def test_what_an_old_server_does_not_answer_before_a_cut_is_unknown() -> None:
    with OldServer(right).running() as env:
        result = measure("fanout", "--clients", "3", "--duration", "0.5", "--kill-every", "0.1", env=env)
    assert faults(result) == {}
    assert result["unknown"] + result["acked"] == result["published"]


class Refusing(OldServer):
    """A server that stores nothing, and says so with this outcome."""

    def __init__(self, outcome: str, error: str = "no room", code: str = "redis_refused") -> None:
        super().__init__(right)
        self._outcome = outcome
        self._about = {"error": error, "code": code}

    def answer(self, connection: ServerConnection, request: Mapping[str, Any]) -> list[str]:
        if request["action"] == "publish":
            about = {"messageId": request["messageId"], **self._about}
            return [compact({"status": "error_ack", **about, "outcome": self._outcome})]
        return super().answer(connection, request)


def test_publishes_that_are_refused_are_said() -> None:
    options = ("--clients", "1", "--messages", "8", "--window", "4")
    with Refusing("not_stored").running() as env:
        result = measure("fanout", *options, env=env, expected=ExitCode.ERROR)
    assert (result["refused"], result["unknown"], result["refusal"]) == (8, 0, "no room")
    assert result["refusal_code"] == "redis_refused"
    assert faults(result) == {}
    assert "publishes refused: 8; the first: no room" in result["stderr"]
    with Refusing("unknown").running() as env:
        result = measure("fanout", *options, env=env, expected=ExitCode.ERROR)
    assert (result["refused"], result["unknown"], result["refusal"]) == (0, 8, None)
    assert "publishes not acked, stored or not: 8" in result["stderr"]
    assert faults(result) == {}


def test_a_redis_that_is_away_is_told_as_by_every_command(own_redis: RedisServer) -> None:
    with serving(own_redis.url) as gateway:
        own_redis.kill()
        for work in ("fanout", "pairs", "connect"):
            done = run_rsws("bench", work, "--clients", "2", env=gateway.env)
            assert done.returncode == ExitCode.NOT_CONNECTED, work
            assert done.stderr.endswith("Redis can't be reached (Server Redis tidak siap)\n"), work


def test_publishes_that_redis_is_not_there_for_are_told_likewise() -> None:
    with Refusing("not_stored", "Server Redis tidak siap", "redis_unavailable").running() as env:
        done = run_rsws("bench", "fanout", "--clients", "1", "--messages", "8", env=env)
    assert done.returncode == ExitCode.NOT_CONNECTED
    assert "publishes; Redis can't be reached (Server Redis tidak siap)\n" in done.stdout
    assert "publishes refused: 8; the first: Redis can't be reached (Server Redis tidak siap)\n" in done.stderr


def test_a_proxy_is_not_measured_along() -> None:
    env = {"RSWS_URL": "ws://gateway.example:1", "RSWS_TOKEN": KEY, "http_proxy": "http://127.0.0.1:1"}
    done = run_rsws("bench", "connect", env=env)
    assert done.returncode == ExitCode.USAGE
    assert "the environment names a proxy" in done.stderr


def test_so_many_connections_are_made_at_once_and_no_more() -> None:
    result_of = {}
    with OldServer(right).running() as env:
        for concurrency in ("1", "3"):
            options = ("--clients", "8", "--processes", "2", "--concurrency", concurrency)
            result_of[concurrency] = measure("connect", *options, env=env)
    assert (result_of["1"]["processes"], result_of["3"]["processes"]) == (1, 2)
    assert all(result["connected"] == 8 for result in result_of.values())


def test_ctrl_c_while_nobody_answers_ends_it_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {"RSWS_URL": f"ws://127.0.0.1:{silent.getsockname()[1]}", "RSWS_TOKEN": KEY}
        with RswsProcess("bench", "connect", env=env) as bench, silent.accept()[0]:
            assert bench.stop(signal.SIGINT) == ExitCode.INTERRUPTED


def test_how_it_ends_is_the_same_whoever_reads_the_result() -> None:
    script = f'"{sys.executable}" -m rsws bench fanout --clients 1 --messages 8 | true; exit ${{PIPESTATUS[0]}}'
    with Refusing("not_stored").running() as env:
        environment = {name: value for name, value in (os.environ | env).items() if value is not None}
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == ExitCode.ERROR
    assert "publishes refused: 8" in done.stderr


def test_a_token_that_is_refused(gateway: Gateway) -> None:
    done = run_rsws("bench", "fanout", "--token", "wrong", env=gateway.env)
    assert (done.returncode, done.stdout) == (ExitCode.REFUSED, "")
    assert "refuses the token" in done.stderr


def test_nobody_there() -> None:
    done = run_rsws("bench", "pairs", "--url", f"ws://127.0.0.1:{free_port()}", "--token", "x")
    assert (done.returncode, done.stdout) == (ExitCode.NOT_CONNECTED, "")
    assert "is the gateway running?" in done.stderr


def test_a_gateway_that_takes_no_more_clients(redis_server: RedisServer) -> None:
    with serving(redis_server.url, RSWS_MAX_CLIENTS="5") as gateway:
        done = run_rsws("bench", "connect", "--clients", "20", "--concurrency", "1", env=gateway.env)
    assert done.returncode == ExitCode.NOT_CONNECTED
    assert "closed by the gateway with 1013" in done.stderr
    assert "(after 5 connections)" in done.stderr


def test_a_gateway_that_goes_ends_it(redis_server: RedisServer) -> None:
    with serving(redis_server.url) as gateway, RswsProcess("bench", "fanout", env=gateway.env) as bench:
        before = len(redis_server.client.keys("rsws-bench:*"))
        eventually(lambda: len(redis_server.client.keys("rsws-bench:*")) > before, what="publishes")
        gateway.process.kill()
        assert bench.wait() == ExitCode.NOT_CONNECTED
    assert re.search(r"the connection to \S+ is lost", bench.stderr[-1])
    assert any(line.startswith("checked: 0 lost") for line in bench.stdout), "what was measured until then"


@pytest.mark.parametrize(
    ("limit", "code"), [("ulimit -n 90", ExitCode.USAGE), ("ulimit -S -n 90", ExitCode.DONE)], ids=["hard", "soft"]
)
def test_the_limit_of_open_files(limit: str, code: ExitCode, gateway: Gateway) -> None:
    command = f"{limit}; exec {sys.executable} -m rsws bench connect --clients 100 --processes 1"
    environment = os.environ | {name: value for name, value in gateway.env.items() if value is not None}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == code, done.stderr
    if code:
        assert re.search(r"100 clients need 132 open files .* allows 90 .*--clients.*--processes", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fanout", "--clients", "0"), "--clients"),
        (("fanout", "--size", "35"), "--size"),
        (("fanout", "--rate", "nan"), "--rate"),
        (("pairs", "--kill-every", "0.01"), "--kill-every"),
        (("pairs", "--duration", "inf"), "--duration"),
        (("catchup", "--messages", "0"), "--messages"),
        (("connect", "--processes", "1000"), "--processes"),
        (("fanout", "--prefix", "a b"), "--prefix"),
        (("pairs", "--window", "10000", "--size", "100000", "--processes", "1"), "--window"),
    ],
)
def test_options_that_can_not_be_used(arguments: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert call_main("bench", *arguments, "--token", "x") == ExitCode.USAGE
    assert said in capfd.readouterr().err


# --- on a terminal, and how it ends ---


def test_the_result_in_a_pipe_is_plain(gateway: Gateway) -> None:
    done = run_rsws("bench", "fanout", "--clients", "3", "--messages", "50", env=gateway.env)
    assert done.returncode == ExitCode.DONE
    assert "\x1b" not in done.stdout + done.stderr
    assert re.search(r"^published +50 +\d", done.stdout, re.MULTILINE)
    assert re.search(r"^publish to delivery( +[\d.]+ (µs|ms|s)){5}$", done.stdout, re.MULTILINE)
    assert "│" in done.stdout
    assert "checked: 0 lost, 0 duplicated, 0 reordered, 0 foreign\n" in done.stdout
    assert all(line == line.rstrip() for line in done.stdout.splitlines())
    assert len(done.stderr.splitlines()) == 1


def test_the_terminal_shows_how_it_gets_on(gateway: Gateway) -> None:
    with Terminal("bench", "fanout", "--clients", "3", "--duration", "1", env=gateway.env) as terminal:
        terminal.wait_for(r"measuring .*━.* \d+% .*[\d,k]+ published/s  [\d.,kM]+ delivered/s")
        terminal.wait_for(r"checked: 0 lost")
        assert terminal.wait() == ExitCode.DONE
    result = terminal.text[terminal.text.rindex("fanout ws://") :]
    assert "left in Redis: a stream" in result
    assert len(re.findall("^─{40,}$", result, re.MULTILINE)) == 2, "below the heads of the tables"
    assert all(len(line) <= 80 for line in result.partition("rsws: ")[0].splitlines())
    assert "\x1b[32m" in terminal.shown, "the verdict is green"


def test_no_colour_where_none_is_wanted(gateway: Gateway) -> None:
    env = {**gateway.env, "NO_COLOR": "1"}
    with Terminal("bench", "connect", "--clients", "3", env=env) as terminal:
        assert terminal.wait() == ExitCode.DONE
    assert not re.search(r"\x1b\[3\dm", terminal.shown)


@pytest.mark.parametrize("work", ["fanout", "catchup"])
def test_ctrl_c_ends_it_early_with_a_result(work: str, gateway: Gateway) -> None:
    with Terminal("bench", work, "--clients", "3", "--duration", "60", env=gateway.env) as terminal:
        terminal.wait_for("measuring")
        terminal.type("\x03")
        assert terminal.wait() == ExitCode.INTERRUPTED
    assert "checked: 0 lost, 0 duplicated, 0 reordered, 0 foreign" in terminal.text
    assert "Traceback" not in terminal.text


def test_ctrl_c_before_anything_is_measured(gateway: Gateway) -> None:
    with Terminal("bench", "catchup", "--messages", "10000000", env=gateway.env) as terminal:
        terminal.wait_for("publishing the history")
        terminal.type("\x03")
        assert terminal.wait() == ExitCode.INTERRUPTED
    assert "checked" not in terminal.text
    assert "left in Redis" in terminal.text


def test_a_second_ctrl_c_ends_it_at_once(redis_server: RedisServer) -> None:
    with serving(redis_server.url) as gateway, Terminal("bench", "fanout", env=gateway.env) as terminal:
        terminal.wait_for("measuring")
        gateway.process.process.send_signal(signal.SIGSTOP)
        try:
            terminal.type("\x03")
            terminal.wait_for("Ctrl-C again ends it at once")
            terminal.type("\x03")
            assert terminal.wait() == ExitCode.INTERRUPTED
        finally:
            gateway.process.process.send_signal(signal.SIGCONT)
    assert "checked" not in terminal.text
    assert "Traceback" not in terminal.text


# --- processes ---


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc")
def test_a_process_that_dies_ends_it(gateway: Gateway) -> None:
    with RswsProcess("bench", "fanout", "--processes", "2", env=gateway.env) as bench:
        eventually(lambda: len(children(bench.process.pid)) == 2, what="the processes")
        workers = children(bench.process.pid)
        os.kill(workers[1], signal.SIGKILL)
        assert bench.wait() == ExitCode.ERROR
    assert "a process of the benchmark has died" in bench.stderr[-1]
    assert not any(map(is_running, workers))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc")
def test_no_process_outlives_the_command(gateway: Gateway, redis_server: RedisServer) -> None:
    options = ("--processes", "2", "--duration", "60", "--rate", "200", "--prefix", "orphan-")
    with RswsProcess("bench", "fanout", *options, env=gateway.env) as bench:
        eventually(lambda: redis_server.client.keys("orphan-*"), what="publishes")
        workers = children(bench.process.pid)
        assert len(workers) == 2
        bench.kill()
        eventually(lambda: not any(map(is_running, workers)), what="their end")

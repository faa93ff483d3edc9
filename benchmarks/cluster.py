"""What a message costs the gateway when the channels are in a cluster of three primaries, beside one server.

    .venv/bin/python benchmarks/cluster.py                  # 100 and 2,000 channels, 2,000 messages/s in all
    .venv/bin/python benchmarks/cluster.py 100 10000        # 10,000 need 21,000 open files
    .venv/bin/python benchmarks/cluster.py --json           # for programs

Each run starts its own servers and `rsws serve`, and has `rsws bench pairs` publish and read: one publisher and one
subscriber for each channel, at the same steady pace. A short and a long run are compared, so that what connecting costs
is in neither figure. CPU is the gateway's, user and system, in microseconds per message published and delivered; the
figure to look at is the ratio, the median of rounds in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

from channels import wait_for

from rsws.embedded.valkey import choose_server
from rsws.ownership import PrivateDir
from rsws.streams.slots import SLOTS

KEY = "benchmark"
RSWS = (sys.executable, "-m", "rsws")
PRIMARIES = 3
TIMEOUT_S = 30.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def redis_server(*options: str) -> Iterator[int]:
    """A server on a free port, which is yielded."""
    with tempfile.TemporaryDirectory() as directory:
        _, binary = choose_server(PrivateDir(Path(directory)))
        port = free_port()
        command = (binary, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", directory, *options)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                wait_for(port)
                yield port
            finally:
                server.kill()


def ask(port: int, *words: str | int) -> str:
    """The reply to one command, as it stands."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as server:
        server.sendall(" ".join(map(str, words)).encode() + b"\r\n")
        return server.recv(65536).decode()


@contextmanager
def cluster() -> Iterator[str]:
    """Three primaries; yields their URL."""
    with ExitStack() as stack:
        bus_ports = [free_port() for _ in range(PRIMARIES)]
        ports = [
            stack.enter_context(redis_server("--cluster-enabled", "yes", "--cluster-port", str(bus)))
            for bus in bus_ports
        ]
        for number, port in enumerate(ports):
            first, end = SLOTS * number // PRIMARIES, SLOTS * (number + 1) // PRIMARIES
            ask(port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            ask(port, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            ask(ports[0], "CLUSTER", "MEET", "127.0.0.1", port, bus_ports[number])
        deadline = time.monotonic() + TIMEOUT_S
        while not all("cluster_state:ok" in ask(port, "CLUSTER", "INFO") for port in ports):
            assert time.monotonic() < deadline, "the cluster does not form"
            time.sleep(0.05)
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)


@contextmanager
def gateway(redis_url: str) -> Iterator[int]:
    """A gateway on a free port, which is yielded."""
    port = free_port()
    environment = {**os.environ, "WEBSOCKET_SECRET_KEY": KEY, "RSWS_LOG_LEVEL": "warning"}
    command = (*RSWS, "serve", "--port", str(port), "--redis-url", redis_url)
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port)
            yield port
        finally:
            process.terminate()


def cpu_s(port: int) -> float:
    """What the gateway has used."""
    with urlopen(f"http://127.0.0.1:{port}/metrics?token={KEY}", timeout=TIMEOUT_S) as answer:
        found = re.search(r"^process_cpu_seconds_total ([\d.]+)$", answer.read().decode(), flags=re.MULTILINE)
    assert found is not None
    return float(found[1])


def run(redis_url: str, channels: int, rate: float, seconds: float) -> tuple[float, int]:
    """The CPU seconds of one run, and how many messages were delivered."""
    with gateway(redis_url) as port:
        options = ("--clients", channels, "--rate", rate, "--duration", seconds, "--processes", 1, "--json")
        command = (*RSWS, "bench", "pairs", *map(str, options), "--url", f"ws://127.0.0.1:{port}", "--token", KEY)
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return cpu_s(port), int(json.loads(done.stdout)["delivered"])


def cost_us(redis_url: str, channels: int, rate: float, seconds: float) -> float:
    """CPU microseconds per message, without what connecting costs."""
    before_s, before = run(redis_url, channels, rate, 1)
    after_s, after = run(redis_url, channels, rate, 1 + seconds)
    return (after_s - before_s) / (after - before) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of a message in a cluster, beside one server.")
    parser.add_argument("channels", nargs="*", type=int, default=[100, 2000], help="default: 100 2000")
    parser.add_argument("--rate", type=float, default=2000, help="messages/s in all (2000)")
    parser.add_argument("--seconds", type=float, default=10, help="how long a run takes (10)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in turn (3)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    with redis_server() as port, cluster() as three:
        for channels in arguments.channels:
            one_us, three_us = [], []
            for _ in range(arguments.rounds):
                one_us.append(cost_us(f"redis://127.0.0.1:{port}", channels, arguments.rate, arguments.seconds))
                three_us.append(cost_us(three, channels, arguments.rate, arguments.seconds))
            one, several = statistics.median(one_us), statistics.median(three_us)
            if arguments.json:
                print(json.dumps({"channels": channels, "one_us": one, "three_us": several, "ratio": several / one}))
            else:
                figures = f"1 server {one:6.1f} us, 3 primaries {several:6.1f} us, {several / one:.2f}x"
                print(f"{channels:6,} channels: {figures}", flush=True)


if __name__ == "__main__":
    main()

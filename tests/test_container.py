"""The container files, as far as they can be checked without a Docker engine: parsed, and their commands run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from dotenv import dotenv_values

from kit.cli import run_main
from kit.support import RedisServer, eventually, free_port
from kit.wheels import wheels
from rsws.settings import Settings

ROOT = Path(__file__).parent.parent
PREFIX = "/opt/rsws"
KEY = "kunci_rahasia_lokal_123"
BWRAP = shutil.which("bwrap") or "bwrap"
CONTAINER = [BWRAP, "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--cap-drop", "ALL"]
CONTAINER += ["--unshare-pid", "--as-pid-1", "--chdir", "/"]
"""What makes of this machine a container that can write nothing, has no capability, and runs one program as PID 1."""
CAN_CONTAIN = os.access(BWRAP, os.X_OK) and not subprocess.run([*CONTAINER, "true"], capture_output=True).returncode
"""Whether that can be had; in another container often not."""


class Instruction(NamedTuple):
    name: str
    text: str


def dockerfile_stages() -> list[list[Instruction]]:
    """The instructions of the Dockerfile, stage by stage."""
    stages: list[list[Instruction]] = []
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, text = line.partition(" ")
        if name == "FROM":
            stages.append([])
        if name:
            stages[-1].append(Instruction(name, text))
    return stages


BUILD, IMAGE = dockerfile_stages()


def in_image(name: str) -> str:
    """The text of the one instruction of that name in the final stage."""
    [text] = [instruction.text for instruction in IMAGE if instruction.name == name]
    return text


DATA = dict(pair.split("=", 1) for pair in in_image("ENV").split())["RSWS_DATA_DIR"]


class Image(NamedTuple):
    prefix: Path
    """What is /opt/rsws in the image."""

    @property
    def environment(self) -> dict[str, str]:
        """What a process finds in a container that is run without -e."""
        said = dict(pair.split("=", 1) for pair in in_image("ENV").split())
        said["PATH"] = said["PATH"].replace(PREFIX, str(self.prefix)).removesuffix(":$PATH")  # nothing of this machine
        return said | {"HOME": "/dev/null"}  # nothing in it may be needed

    @contextmanager
    def run(self, volume: Path | None, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """CMD as it is written there, with -e ENVIRONMENT; killed at the end of the block if it runs then."""
        with contained(self.command(json.loads(in_image("CMD"))), self.environment | environment, volume) as process:
            yield process

    def is_healthy(self, **environment: str) -> bool:
        """What HEALTHCHECK as it is written there says."""
        command = json.loads(in_image("HEALTHCHECK").partition("CMD ")[2])
        return not subprocess.run(
            self.command(command), env=self.environment | environment, stderr=subprocess.DEVNULL, timeout=10
        ).returncode

    def command(self, words: list[str]) -> list[str]:
        """Found on the image's PATH, not on ours."""
        return [shutil.which(words[0], path=self.environment["PATH"]) or words[0], *words[1:]]


@contextmanager
def contained(
    command: list[str], environment: dict[str, str], volume: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A command as in a container that is read-only but for ``volume``; killed at the end of the block."""
    around = [*CONTAINER, *(("--bind", volume, volume) if volume is not None else ())] if CAN_CONTAIN else []
    process = subprocess.Popen(
        [*around, *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def stop(process: subprocess.Popen[str]) -> str:
    """Stop what runs in the container as ``docker stop`` does; its log."""
    pid = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text() if CAN_CONTAIN else process.pid
    os.kill(int(pid), signal.SIGTERM)
    return process.communicate(timeout=10)[1]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """What the first stage builds, in another directory than /opt/rsws."""
    context, prefix = tmp_path_factory.mktemp("context"), tmp_path_factory.mktemp("image") / "rsws"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["PIP_NO_COMPILE"] = "0"  # which is pip's way to say yes: most modules are never used here
    environment |= wheels(tmp_path_factory.mktemp("pip") / "wheels", "jwt")
    for name, text in BUILD:
        if name == "COPY":
            *sources, target = text.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, context / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, context / target)
        elif name == "ARG":
            variable, _, default = text.partition("=")
            environment[variable] = default
        elif name == "RUN":
            built = subprocess.run(
                ["sh", "-c", text.replace(PREFIX, str(prefix))],
                cwd=context,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=170,
            )
            assert built.returncode == 0, built.stdout + built.stderr
    used = "import rsws.cli.serve, rsws.gateway.process.supervisor, rsws.gateway.process.worker"
    subprocess.run([prefix / "bin" / "python", "-c", used], check=True)  # compiled, as the container can't do it
    return Image(prefix)


# --- Dockerfile ---


def reachable() -> dict[str, str]:
    """Ports of its own for a container that shares the network with all others."""
    return {"PORT": str(free_port()), "RSWS_ADMIN": f"127.0.0.1:{free_port()}", "WEBSOCKET_SECRET_KEY": KEY}


def test_the_image_serves_is_healthy_and_stops(image: Image, redis_server: RedisServer) -> None:
    given = reachable() | {"REDIS_URL": redis_server.url, "RSWS_WORKERS": "2"}
    with image.run(None, **given) as process:
        eventually(lambda: image.is_healthy(**given), what="health")
        assert process.stderr is not None
        log = ""
        for line in process.stderr:  # a worker is healthy before all of them are
            log += line
            if f"url=ws://0.0.0.0:{given['PORT']} " in line:
                break
        log += stop(process)
    assert process.returncode == 0
    assert f"url=ws://0.0.0.0:{given['PORT']} " in log
    assert not re.search("WARNING|ERROR", log)
    assert not image.is_healthy(**given)


def test_with_a_volume_it_can_bring_its_own_redis(image: Image, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o700)
    given = reachable() | {"RSWS_DATA_DIR": str(volume), "RSWS_LOCAL_REDIS_PORT": str(free_port())}
    command = [sys.executable, "-m", "rsws", *json.loads(in_image("CMD"))[1:]]  # here the extra `embedded` is installed
    environment = image.environment | given | {"REDIS_URL": "", "PATH": os.defpath}
    client: dict[str, str | None] = {"RSWS_URL": f"ws://127.0.0.1:{given['PORT']}", "RSWS_TOKEN": KEY}
    for start in range(2):
        with contained(command, environment, volume) as process:
            eventually(lambda: image.is_healthy(**given), what="health")
            seen = run_main("sub", "c", "--from", "0", "--no-follow", "--output", "raw", env=client).stdout
            assert seen == "1\n" * start
            assert run_main("pub", "c", "1", env=client).returncode == 0
            stop(process)
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"REDIS_URL": "redis://127.0.0.1:1", "WEBSOCKET_SECRET_KEY": "k"},
            "WEBSOCKET_SECRET_KEY must have 8 characters or more",
        ),
        ({"REDIS_URL": "redis://127.0.0.1:1"}, "WEBSOCKET_SECRET_KEY must be set to listen on 0.0.0.0"),
        ({"WEBSOCKET_SECRET_KEY": KEY}, "REDIS_URL"),  # the extra `embedded` is not in it
    ],
)
def test_the_image_says_what_it_needs(image: Image, given: dict[str, str], text: str, tmp_path: Path) -> None:
    ports = {"PORT": str(free_port()), "RSWS_ADMIN": str(free_port()), "RSWS_LOCAL_REDIS_PORT": str(free_port())}
    given = ports | {"RSWS_DATA_DIR": str(tmp_path)} | given
    with image.run(tmp_path, **given) as process:
        _, log = process.communicate(timeout=10)
    assert process.returncode == 1
    assert text in log.splitlines()[-1]


def test_the_image_runs_without_root() -> None:
    user = re.fullmatch(r"(\d+):(\d+)", in_image("USER"))
    assert user is not None
    assert "0" not in user.groups()
    assert [name for name, _ in IMAGE].index("USER") < [name for name, _ in IMAGE].index("CMD")
    made = in_image("RUN")
    assert f"--uid {user[1]} --gid {user[2]} " in made
    assert f"install --directory --owner={user[1]} --group={user[2]} --mode=0700 {DATA}" in made


def test_the_image_says_its_port() -> None:
    assert in_image("EXPOSE") == str(Settings().port)
    assert f"PORT={Settings().port}" in in_image("ENV").split()


def test_metrics_and_health_are_for_the_container_alone() -> None:
    assert "RSWS_ADMIN=127.0.0.1:9090" in in_image("ENV").split()


def test_the_context_is_what_is_copied_and_nothing_else() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored[0] == "*"
    copied = [source for name, text in BUILD if name == "COPY" for source in text.split()[:-1]]
    assert sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(copied)


# --- docker-compose.yaml and .env.example ---


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
    return loaded


def test_compose_keeps_what_its_users_have(compose: dict[str, Any]) -> None:
    [service] = compose["services"].values()
    assert service["build"] == "."
    assert service["container_name"] == "websocket_server"
    assert service["ports"] == ["8080:8080"]
    assert service["env_file"] == ".env"
    assert service["networks"] == ["my-shared-network"]
    assert service["restart"] == "unless-stopped"
    assert compose["networks"] == {"my-shared-network": {"external": True}}


def test_in_compose_it_can_do_no_more_than_it_needs(compose: dict[str, Any]) -> None:
    [service] = compose["services"].values()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "volumes", "tmpfs"}


def test_in_compose_there_is_time_to_stop(compose: dict[str, Any]) -> None:
    [service] = compose["services"].values()
    assert float(service["stop_grace_period"].removesuffix("s")) > Settings().stop_s


def test_the_embedded_server_needs_a_volume_and_nothing_else(compose: dict[str, Any]) -> None:
    added = yaml.safe_load((ROOT / "deploy" / "compose.embedded.yaml").read_text())
    [(name, service)] = added["services"].items()
    assert name in compose["services"]
    assert service == {
        "build": {"context": ".", "args": {"EXTRAS": "jwt,embedded"}},
        "environment": {"REDIS_URL": ""},
        "volumes": [f"rsws-data:{DATA}"],
    }
    assert added["volumes"] == {"rsws-data": None}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"jwt", "embedded"} <= extras.keys()


def test_the_labels_say_what_it_is() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', in_image("LABEL")))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [base] = [instruction.text for instruction in IMAGE if instruction.name == "FROM"]
    assert labels["title"] == project["name"]
    assert project["description"].startswith(labels["description"])
    assert labels["licenses"] == project["license"]
    assert labels["base.name"] == f"docker.io/library/{base}"


def test_images_are_pinned_by_version() -> None:
    texts = [(ROOT / name).read_text() for name in ("Dockerfile", "docker-compose.yaml", "docs/container.md")]
    images = re.findall(r"^FROM (\S+)", texts[0], flags=re.MULTILINE) + re.findall(r"\bredis:\S+", "".join(texts[1:]))
    images = [image for image in images if not image.startswith("redis://")]
    assert len(images) == 4
    for image in images:
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+(-[a-z-]+)?", image), image


@pytest.mark.parametrize("line", ["PORT=9000", "HOST=127.0.0.1", ""])
def test_in_compose_the_mapped_port_is_served_whatever_the_env_file_says(
    compose: dict[str, Any], line: str, tmp_path: Path
) -> None:
    [service] = compose["services"].values()
    env_file = tmp_path / ".env"
    env_file.write_text(line)
    environment = {**dotenv_values(env_file), **{name: str(value) for name, value in service["environment"].items()}}
    assert environment["PORT"] == service["ports"][0].split(":")[1]
    assert environment["HOST"] == "0.0.0.0"


def test_the_env_example_names_redis_by_its_container(compose: dict[str, Any]) -> None:
    example = dotenv_values(ROOT / ".env.example")
    assert example == {"WEBSOCKET_SECRET_KEY": "", "REDIS_URL": "redis://my-redis-container:6379", "PORT": "8080"}


def test_an_env_example_that_was_not_filled_in_is_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".env.example", tmp_path / ".env")
    done = run_main("serve", env={"HOST": "0.0.0.0", "PORT": str(free_port())})
    assert done.returncode == 1
    assert "WEBSOCKET_SECRET_KEY must be set" in done.stderr

"""The unit of systemd and the manifest of Kubernetes: what they say is so, and the gateway runs as they say."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.cli import KEY, run_main
from kit.fronts import DEPLOY
from kit.support import RedisServer, RswsProcess, free_port
from rsws.options import options
from rsws.settings import Settings

SECURITY = (DEPLOY.parent / "docs" / "security.md").read_text()
UNIT = (DEPLOY / "rsws.service").read_text()
SERVICE: dict[str, list[str]] = defaultdict(list)
for name, value in re.findall(r"^(\w+)=(.*)$", UNIT.partition("[Service]")[2], flags=re.MULTILINE):
    SERVICE[name].append(value)
UNIT_ENVIRONMENT = dict(each.split("=", 1) for each in SERVICE["Environment"])

MANIFESTS: dict[str, Any] = {
    each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
}
POD = MANIFESTS["Deployment"]["spec"]["template"]
[CONTAINER] = POD["spec"]["containers"]
POD_ENVIRONMENT = {each["name"]: each["value"] for each in CONTAINER["env"]}


def stop_s(environment: dict[str, str]) -> float:
    """How long a gateway of that environment may take to stop."""
    of = options(Settings)
    names = ("shutdown_delay_s", "drain_s", "shutdown_timeout_s")
    return sum(float(environment.get(of[name].env, getattr(Settings(), name))) for name in names)


@pytest.mark.parametrize("environment", [UNIT_ENVIRONMENT, POD_ENVIRONMENT])
def test_their_settings_are_settings(environment: dict[str, str]) -> None:
    assert environment.keys() <= {option.env for option in options(Settings).values()}


def test_there_is_time_to_stop() -> None:
    assert stop_s({}) == Settings().stop_s
    [timeout] = SERVICE["TimeoutStopSec"]
    assert int(timeout) > stop_s(UNIT_ENVIRONMENT) > Settings().stop_s
    assert POD["spec"]["terminationGracePeriodSeconds"] > stop_s(POD_ENVIRONMENT) > Settings().stop_s


# --- systemd ---


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("drop_in", ["", *re.findall(r"```ini\n(.*?)```", SECURITY, flags=re.DOTALL)])
def test_systemd_understands_the_unit(drop_in: str, tmp_path: Path) -> None:
    unit = tmp_path / "rsws.service"
    (tmp_path / "rsws.service.d").mkdir()
    (tmp_path / "rsws.service.d" / "override.conf").write_text(textwrap.dedent(drop_in))
    unit.write_text(UNIT.replace("/opt/rsws/bin/rsws", sys.executable))  # it looks whether that is there
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_unit_leaves_the_service_little() -> None:
    for name in ("NoNewPrivileges", "DynamicUser", "MemoryDenyWriteExecute", "PrivateTmp", "PrivateDevices"):
        assert SERVICE[name] == ["yes"]
    assert SERVICE["ProtectSystem"] == ["strict"]
    assert SERVICE["CapabilityBoundingSet"] == SERVICE["AmbientCapabilities"] == [""]
    assert SERVICE["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]


def test_the_unit_serves_with_its_credentials_and_reads_them_again(redis_server: RedisServer, tmp_path: Path) -> None:
    secrets = {"secret-key": KEY, "previous-secret-key": KEY, "redis-url": redis_server.url}
    assert {each.partition(":")[0] for each in SERVICE["LoadCredential"]} == secrets.keys()
    for name, secret in secrets.items():
        (tmp_path / name).write_text(secret)
    said = {name: value.replace("%d", str(tmp_path)) for name, value in UNIT_ENVIRONMENT.items()}
    environment = said | {
        "RSWS_DATA_DIR": str(tmp_path / "nothing is put here"),
        "RSWS_ADMIN": str(free_port()),
        "RSWS_DRAIN": "0",
    }
    assert SERVICE["ExecStart"] == ["/opt/rsws/bin/rsws serve"]
    assert SERVICE["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    with RswsProcess("serve", "--port", "0", env=environment) as gateway:
        url = gateway.wait_for(r"url=(ws://\S+)")[1]
        (tmp_path / "secret-key").write_text("another key than before")
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_for("the file of the secret key was read again")
        done = run_main("pub", "c", "1", env={"RSWS_URL": url, "RSWS_TOKEN": "another key than before"})
        assert done.returncode == 0, done.stderr
        assert gateway.stop() == 0
    assert not (tmp_path / "nothing is put here").exists()


# --- Kubernetes ---


def test_the_probes_go_to_the_admin_listener() -> None:
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    assert ports == {"ws": Settings().port, "admin": int(POD_ENVIRONMENT["RSWS_ADMIN"].partition(":")[2])}
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(ports["admin"])
    probes = {kind: CONTAINER[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert probes == {
        "startup": {"path": "/healthz", "port": "admin"},
        "liveness": {"path": "/healthz", "port": "admin"},
        "readiness": {"path": "/readyz", "port": "admin"},
    }
    assert MANIFESTS["Service"]["spec"]["ports"] == [{"name": "ws", "port": 80, "targetPort": "ws"}]


def test_the_secrets_are_files() -> None:
    [mount] = CONTAINER["volumeMounts"]
    [volume] = POD["spec"]["volumes"]
    assert mount == {"name": volume["name"], "mountPath": mount["mountPath"], "readOnly": True}
    files = {Path(value) for name, value in POD_ENVIRONMENT.items() if name.endswith("_FILE")}
    assert {each.parent for each in files} == {Path(mount["mountPath"])}
    created = re.search(r"kubectl create secret generic (\w+) (.*)", (DEPLOY / "kubernetes.yaml").read_text())
    assert created is not None
    assert created[1] == volume["secret"]["secretName"]
    assert {f"--from-file={each.name}" for each in files} == set(created[2].split())
    assert not set(POD_ENVIRONMENT) & {option.env for option in options(Settings).values() if option.secret}


def test_the_pod_can_do_no_more_than_it_needs() -> None:
    assert POD["spec"]["automountServiceAccountToken"] is False
    of_pod = POD["spec"]["securityContext"]
    image = re.search(r"^USER (\d+):(\d+)$", (DEPLOY.parent / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert image is not None
    assert of_pod.pop("seccompProfile") == {"type": "RuntimeDefault"}
    user, group = int(image[1]), int(image[2])
    assert of_pod == {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": group, "fsGroup": group}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_all_of_it_is_about_the_same_pods() -> None:
    labels = POD["metadata"]["labels"]
    specs = {kind: each["spec"] for kind, each in MANIFESTS.items()}
    assert specs["Deployment"]["replicas"] >= 2
    assert specs["Deployment"]["selector"]["matchLabels"] == labels
    assert specs["Service"]["selector"] == labels
    assert specs["PodDisruptionBudget"] == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}
    assert specs["NetworkPolicy"]["podSelector"]["matchLabels"] == labels

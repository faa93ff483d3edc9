"""The proxies of ``deploy/``, which really run in front of a gateway, with the files as they are shipped.

with front("nginx", directory, server.url) as proxy, connect(proxy, **proxy.options) as client:
    ...
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kit.support import eventually, free_port, run_program
from kit.tls import Authority

DEPLOY = Path(__file__).parents[2] / "deploy"
HOST = "example.com"
"""The host of the shipped files."""


class Front:
    """A proxy that listens.

    Attributes:
        url: Its URL.
        options: What ``connect`` needs beside it.
        directory: Where its logs are.
    """

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"wss://{HOST}:{self.port}"
        self.trusted = authority.trusted
        self.options: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "ssl": self.trusted}
        self._syslog = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._syslog.bind(("127.0.0.1", 0))
        self.syslog_port: int = self._syslog.getsockname()[1]

    @property
    def log(self) -> str:
        """Everything that it has written so far, anywhere."""
        with open(self.directory / "syslog.log", "ab") as file:
            while True:
                try:
                    file.write(self._syslog.recv(65536, socket.MSG_DONTWAIT) + b"\n")
                except BlockingIOError:
                    break
        return "".join([path.read_text() for path in self.directory.glob("*.log")])

    @property
    def listens(self) -> bool:
        """Whether one can connect."""
        with socket.socket() as probe:
            return not probe.connect_ex(("127.0.0.1", self.port))

    def close(self) -> None:
        self._syslog.close()

    async def get(self, target: str) -> tuple[int, str]:
        """The status and body for a target to the letter, over TLS."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trusted, server_hostname=HOST)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(10):
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body


class Program(NamedTuple):
    """How a proxy is run."""

    name: str
    file: str
    """The shipped file."""
    command: Callable[[Path, Path], tuple[str | Path, ...]]
    """The command line, of the directory for what it writes and its configuration there."""

    @property
    def is_here(self) -> bool:
        """Whether it is installed."""
        return shutil.which(self.name) is not None


def _nginx(directory: Path, configuration: Path) -> tuple[str | Path, ...]:
    main = directory / "main.conf"
    temporary = " ".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main.write_text(
        f"daemon off; master_process off; pid {directory}/pid; error_log {directory}/main.log;\n"
        f"events {{ }}\nhttp {{ {temporary} include {configuration}; }}\n"
    )
    return "nginx", "-e", directory / "start.log", "-c", main


def _apache(directory: Path, configuration: Path) -> tuple[str | Path, ...]:
    main = directory / "main.conf"
    said = re.search(r"a2enmod (.*) &&", configuration.read_text())
    assert said is not None
    modules = [
        "mpm_event",
        "authz_core",
        "socache_shmcb",
        *said[1].split(),
    ]  # what Debian has on, and what the file says
    [port] = re.findall(r"<VirtualHost \*:(\d+)>", configuration.read_text())
    main.write_text(
        f"ServerRoot {directory}\nServerName localhost\nPidFile {directory}/pid\nDefaultRuntimeDir {directory}\n"
        f"ErrorLog {directory}/main.log\nListen 127.0.0.1:{port}\nMutex file:{directory}\n"
        + "".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in modules)
        + ("User nobody\nGroup nogroup\n" if os.geteuid() == 0 else "")
        + f"Include {configuration}\n"
    )
    return "apache2", "-X", "-f", main


PROGRAMS = {
    each.name: each
    for each in (
        Program("nginx", "nginx.conf", _nginx),
        Program("haproxy", "haproxy.cfg", lambda _, file: ("haproxy", "-db", "-f", file)),
        Program("apache2", "apache.conf", _apache),
        Program("caddy", "Caddyfile", lambda _, file: ("caddy", "run", "--adapter", "caddyfile", "--config", file)),
    )
}


@contextmanager
def front(name: str, directory: Path, gateway_port: int, **changed: str) -> Iterator[Front]:
    """A proxy as ``deploy/`` has it, but for ports, paths and how many clients there may be.

    Args:
        directory: For all that it writes.
        changed: Other texts to replace, and with what.
    """
    program = PROGRAMS[name]
    authority = Authority(directory)
    certificate, key = authority.issue(HOST)
    (directory / f"{HOST}-with-key.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
    proxy = Front(directory, authority)
    text = (DEPLOY / program.file).read_text()
    replaced = {
        "/etc/ssl/": f"{directory}/",
        "127.0.0.1:8080": f"127.0.0.1:{gateway_port}",
        r"/var/log/\w+/": f"{directory}/",
        r"\*:443\b": f"*:{proxy.port}",
        r"bind :443\b": f"bind 127.0.0.1:{proxy.port}",
        r"listen 443\b": f"listen 127.0.0.1:{proxy.port}",
        r"maxconn \d+": "maxconn 100",  # this process may not open more files
        "/dev/log": f"127.0.0.1:{proxy.syslog_port}",
        r"(?m)^example\.com \{": f"{HOST}:{proxy.port} {{",
        r"(?m)^\{$": "{\n\tadmin off\n\tauto_https disable_redirects",
        **changed,
    }
    if os.geteuid() != 0:
        replaced[r"(?m)^    (user|group) \w+\n"] = ""
    for pattern, replacement in replaced.items():
        text = re.sub(pattern, replacement, text)
    configuration = directory / program.file
    configuration.write_text(text)
    with run_program(*program.command(directory, configuration), output=directory / "output.log") as process:
        try:
            eventually(lambda: proxy.listens or process.poll() is not None, 20, f"start of {name}")
            assert proxy.listens, proxy.log
            yield proxy
        finally:
            proxy.close()

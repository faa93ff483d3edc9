"""The user's data directory: the key of the user's gateways, which of them run, the embedded server's data, and the
prompt's history."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rsws.errors import SetupError
from rsws.ownership import PrivateDir, listeners
from rsws.settings import default_data_dir

log = logging.getLogger("rsws.datadir")


_ANNOUNCEMENT = re.compile(r"(?:new-)?[0-9]+-(?P<pid>[0-9]+)-[0-9]+")
"""The name of a file that announces a gateway; other files in that directory are not touched."""


class DataDir:
    """A data directory and the files in it, which are made when first needed and are readable by their owner alone."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path if path is not None else default_data_dir()
        self._private = PrivateDir(self.path, frozenset({"key", "pub_history", "redis", "gateways"}))
        self._gateways = PrivateDir(self.path / "gateways")

    @property
    def key_file(self) -> Path:
        return self.path / "key"

    @property
    def redis(self) -> Path:
        """The directory of the embedded server's data."""
        return self.path / "redis"

    @property
    def prompt_history(self) -> Path:
        return self.path / "pub_history"

    def create(self) -> Path:
        """Make the directory if it doesn't exist, make it private, and return its path.

        Raises:
            SetupError: The directory is somebody else's, or can't be made or written.
        """
        self._private.create()
        return self.path

    def read_key(self) -> str | None:
        """Return the key that :meth:`make_key` made earlier; None when there is none or it can't be read.

        Raises:
            SetupError: The directory or the key is somebody else's.
        """
        try:
            return self._private.read("key").decode().strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def make_key(self) -> str:
        """Return the key of this user's gateways on loopback, which the first call makes and stores (mode 0600).

        Raises:
            SetupError: The data directory is somebody else's or can't be written, or the key there can't be read.
        """
        self.create()
        was_open = _is_open_to_others(self.key_file)
        self._private.make_private()
        try:
            if not os.path.lexists(self.key_file):
                self._write_key()
        except OSError as error:
            raise self._private.unwritable(error) from None
        key = self.read_key()
        if key is None:
            raise SetupError(f"the key in {self.key_file} can't be read; remove the file and a new one is made")
        if was_open:
            log.warning("others could read the key in %s, and can't any more; remove it for a new one", self.key_file)
        return key

    def _write_key(self) -> None:
        """Write a new key under another name first, then link it: gateways that start together agree on one key."""
        draft = f"key.{secrets.token_hex(8)}"
        with open(self._private.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
        try:
            with suppress(FileExistsError):
                self._private.link(draft, "key")
        finally:
            self._private.remove(draft)

    def create_history(self) -> Path:
        """Return the path of the prompt's history, and make the file (mode 0600) if there is none.

        Raises:
            SetupError: The data directory is somebody else's or can't be written.
        """
        self.create()
        try:
            os.close(self._private.open(self.prompt_history.name, os.O_WRONLY | os.O_CREAT))
        except OSError as error:
            raise self._private.unwritable(error) from None
        return self.prompt_history

    # --- the gateways that run ---

    @contextmanager
    def announce(self, addresses: Iterable[tuple[str, int]], scheme: str = "ws") -> Iterator[None]:
        """Announce a gateway of this directory to this user's commands, for as long as the block lasts.

        There is one file for each address, and the process holds a lock on it, which ends with the process however it
        ends.

        Args:
            addresses: Where the gateway listens: IP address and port.
            scheme: That of its URL: ``ws`` or ``wss``.

        Raises:
            SetupError: The directory is somebody else's or can't be written.
        """
        with ExitStack() as stack:
            try:
                self._private.create()
                self._gateways.create()
                self._remove_dead()
                for number, (host, port) in enumerate(addresses):
                    self._announce(f"{port}-{os.getpid()}-{number}", f"{scheme}://{host}", stack)
            except OSError as error:
                raise self._gateways.unwritable(error) from None
            yield

    def _announce(self, name: str, place: str, stack: ExitStack) -> None:
        draft = f"new-{name}"  # locked before it gets its name: a file of that name without a lock is a dead gateway's
        descriptor = self._gateways.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, place.encode())
        self._gateways.rename(draft, name)
        stack.callback(self._gateways.discard, name)

    def _remove_dead(self) -> None:
        for name in self._gateways.names():
            ours = _ANNOUNCEMENT.fullmatch(name)
            if ours is not None and not _is_alive(int(ours["pid"])):
                self._gateways.discard(name)

    def runs_gateway(self, host: str, port: int) -> bool:
        """Whether a gateway of this directory provably listens at that address of this machine: it has announced itself
        and is alive, and only this user listens there, as far as the system tells.

        Args:
            host: An IP address or ``localhost``.

        Raises:
            SetupError: The directory is somebody else's.
        """
        hosts = {place.rpartition("://")[2] for place in self._announced_at(port)}
        if not hosts & {host, "0.0.0.0", "::"} and not (host == "localhost" and hosts):
            return False
        return listeners(host, port) in (None, {os.geteuid()})

    def gateway_pids(self, port: int) -> set[int]:
        """Return the processes of this directory's gateways that are announced for a port, dead ones perhaps included.

        Raises:
            SetupError: The directory is somebody else's.
        """
        matches = [_ANNOUNCEMENT.fullmatch(name) for name in self._names_at(port)]
        return {int(match["pid"]) for match in matches if match is not None}

    def scheme_at(self, port: int) -> str:
        """Return the scheme of the URL of this directory's gateway on that port; ``ws`` where there is none.

        Raises:
            SetupError: The directory is somebody else's.
        """
        return "wss" if any(place.startswith("wss://") for place in self._announced_at(port)) else "ws"

    def _announced_at(self, port: int) -> list[str]:
        return [*filter(None, map(self._announced, self._names_at(port)))]

    def _names_at(self, port: int) -> list[str]:
        try:
            return [name for name in self._gateways.names() if name.startswith(f"{port}-")]
        except OSError:
            return []

    def _announced(self, name: str) -> str | None:
        """Return the scheme and host of a gateway, as its file says; None when that gateway has ended."""
        try:
            with open(self._gateways.open(name, os.O_RDONLY)) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._gateways.read(name).decode()
        except OSError:
            pass
        return None


def _is_open_to_others(path: Path) -> bool:
    try:
        return bool(path.lstat().st_mode & 0o077)
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

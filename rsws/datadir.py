"""The user's data directory: the key of this machine's gateway, which gateways run with it, the embedded server's data,
the prompt's history."""

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
"""A file that announces a gateway; what else lies there is not touched."""


class DataDir:
    """Paths below one directory, made when they are first needed, readable by their owner alone."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path if path is not None else default_data_dir()
        self._private = PrivateDir(self.path, frozenset({"key", "pub_history", "redis", "gateways"}))
        self._gateways = PrivateDir(self.path / "gateways")

    @property
    def key_file(self) -> Path:
        return self.path / "key"

    @property
    def redis(self) -> Path:
        """The embedded server's own directory."""
        return self.path / "redis"

    @property
    def prompt_history(self) -> Path:
        return self.path / "pub_history"

    def create(self) -> Path:
        """Make the directory, or make it private.

        Raises:
            SetupError: It is somebody else's, or can't be made or written.
        """
        self._private.create()
        return self.path

    def read_key(self) -> str | None:
        """The key made by :meth:`make_key` earlier; None when there is none or it can't be read.

        Raises:
            SetupError: The directory or the key is somebody else's.
        """
        try:
            return self._private.read("key").decode().strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def make_key(self) -> str:
        """The key of this user's gateways on loopback, made at the first call and kept (mode 0600).

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
        """Written whole under another name first: gateways that start at once agree on one key."""
        draft = f"key.{secrets.token_hex(8)}"
        with open(self._private.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
        try:
            with suppress(FileExistsError):
                self._private.link(draft, "key")
        finally:
            self._private.remove(draft)

    def create_history(self) -> Path:
        """The file of the prompt's history (mode 0600), made if there is none.

        Raises:
            SetupError: The data directory is somebody else's or can't be written.
        """
        self.create()
        try:
            os.close(self._private.open(self.prompt_history.name, os.O_WRONLY | os.O_CREAT))
        except OSError as error:
            raise self._private.unwritable(error) from None
        return self.prompt_history

    # --- which gateways run ---

    @contextmanager
    def announce(self, addresses: Iterable[tuple[str, int]]) -> Iterator[None]:
        """Let this user's commands know that a gateway of this directory listens there, for as long as the block lasts.

        A file says so for each address, and a lock on it, which ends with this process however that ends.

        Raises:
            SetupError: The directory is somebody else's or can't be written.
        """
        with ExitStack() as stack:
            try:
                self._private.create()
                self._gateways.create()
                self._forget_the_dead()
                for number, (host, port) in enumerate(addresses):
                    self._announce(f"{port}-{os.getpid()}-{number}", host, stack)
            except OSError as error:
                raise self._gateways.unwritable(error) from None
            yield

    def _announce(self, name: str, host: str, stack: ExitStack) -> None:
        draft = f"new-{name}"  # locked when it gets its name: whoever finds it unlocked may take it for left behind
        descriptor = self._gateways.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, host.encode())
        self._gateways.rename(draft, name)
        stack.callback(self._gateways.discard, name)

    def _forget_the_dead(self) -> None:
        for name in self._gateways.names():
            ours = _ANNOUNCEMENT.fullmatch(name)
            if ours is not None and not _is_alive(int(ours["pid"])):
                self._gateways.discard(name)

    def runs_gateway(self, host: str, port: int) -> bool:
        """Whether what listens at that address of this machine is proven to be a gateway of this directory: it has
        announced itself and lives, and nobody but this user listens there, as far as the system tells.

        Args:
            host: An IP address or ``localhost``.

        Raises:
            SetupError: The directory is somebody else's.
        """
        try:
            names = [name for name in self._gateways.names() if name.startswith(f"{port}-")]
        except OSError:
            return False
        hosts = set(filter(None, map(self._announced, names)))
        if not hosts & {host, "0.0.0.0", "::"} and not (host == "localhost" and hosts):
            return False
        return listeners(host, port) in (None, {os.geteuid()})

    def _announced(self, name: str) -> str | None:
        """The host that a file says a gateway listens on; None when that gateway is gone."""
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

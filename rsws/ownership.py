"""Ownership: directories and files that are this user's alone, and which users listen on a port of this machine."""

from __future__ import annotations

import ipaddress
import os
import pwd
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rsws.errors import SetupError

_NOT_FOLLOWED = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # nonblocking: opening a FIFO could wait for ever


def user_name(uid: int) -> str:
    """Return a user's login name, or ``uid N`` when there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


class PrivateDir:
    """A directory that nobody but its owner, this user, can look into.

    Each operation opens the directory anew and works through its descriptor, so whoever replaces the path meanwhile
    gains nothing. Symbolic links are never followed, neither in the directory nor in its place.

    Args:
        own: The names of what rsws keeps in it. Where there is anything else, the directory has another purpose, too,
            and its mode is left as it is; None when everything in it belongs to rsws.
        what: What kind of directory it is, for the text of an error.
        other: How the user chooses another one, likewise.
    """

    def __init__(
        self,
        path: Path,
        own: frozenset[str] | None = None,
        *,
        what: str = "data directory",
        other: str = "with --data-dir or RSWS_DATA_DIR",
    ) -> None:
        self.path = path
        self._own = own
        self._what = what
        self._other = other

    def create(self) -> None:
        """Make the directory if it doesn't exist, and make it private.

        Raises:
            SetupError: The directory is not this user's, or can't be made or written.
        """
        with self._as_setup_error(), self._opened(make=True):
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError(0, "permission denied")

    def make_private(self) -> None:
        """Make everything private that rsws keeps in the directory, at any depth.

        Raises:
            SetupError: A file or directory in it is somebody else's, or can't be made private.
        """
        with self._as_setup_error(), self._opened(make=True) as top:
            # A symbolic link is not entered here; _close_to_others refuses it.
            for where, directories, files, descriptor in os.fwalk(".", dir_fd=top, follow_symlinks=False):
                if where == "." and self._own is not None:
                    directories[:] = self._own.intersection(directories)
                    files = list(self._own.intersection(files))
                for name in directories + files:
                    self._close_to_others(descriptor, os.path.normpath(f"{where}/{name}"), name)

    def _close_to_others(self, descriptor: int, shown: str, name: str) -> None:
        path = self.path / shown
        try:
            found = os.lstat(name, dir_fd=descriptor)
            if stat.S_ISLNK(found.st_mode):
                raise self._foreign(path, "is a symbolic link")
            self._check_owner(path, found)
            if not found.st_mode & 0o077 or stat.S_ISSOCK(
                found.st_mode
            ):  # which can't be opened; the directory is shut
                return
            opened = os.open(name, os.O_RDONLY | _NOT_FOLLOWED, dir_fd=descriptor)
        except FileNotFoundError:  # a draft, or a file that the embedded server has removed meanwhile
            return
        try:
            os.fchmod(opened, 0o700 if stat.S_ISDIR(found.st_mode) else 0o600)
        finally:
            os.close(opened)

    def open(self, name: str, flags: int) -> int:
        """Open a file in the directory, make it private, and return its descriptor; O_CREAT makes it with mode 0600.

        Raises:
            SetupError: The directory or the file is not this user's, or the file is not a plain file.
            OSError: The file can't be opened.
        """
        with self._opened() as directory:
            try:
                descriptor = os.open(name, flags | _NOT_FOLLOWED, 0o600, dir_fd=directory)
            except OSError as error:
                if os.path.islink(self.path / name):
                    raise self._foreign(self.path / name, "is a symbolic link") from None
                raise error
            try:
                found = os.fstat(descriptor)
                self._check_owner(self.path / name, found)
                if not stat.S_ISREG(found.st_mode):
                    raise self._foreign(self.path / name, "is not a plain file")
                if found.st_mode & 0o077:
                    os.fchmod(descriptor, 0o600)
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor

    def read(self, name: str) -> bytes:
        """Return the content of a file in the directory. Raises what :meth:`open` raises."""
        with open(self.open(name, os.O_RDONLY), "rb") as file:
            return file.read()

    def write_durably(self, name: str, content: bytes) -> None:
        """Replace a file so that a crash leaves either the old or the new one. Raises what :meth:`open` raises."""
        draft = f"{name}.new"
        with open(self.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with self._opened() as directory:
            os.replace(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)

    def rename(self, old: str, new: str) -> None:
        """Rename a file in the directory. Raises what :meth:`open` raises."""
        with self._opened() as directory:
            os.replace(old, new, src_dir_fd=directory, dst_dir_fd=directory)

    def link(self, old: str, new: str) -> None:
        """Give a file in the directory a second name. Raises what :meth:`open` raises, and FileExistsError."""
        with self._opened() as directory:
            os.link(old, new, src_dir_fd=directory, dst_dir_fd=directory)

    def remove(self, name: str) -> None:
        """Remove a file in the directory. Raises what :meth:`open` raises."""
        with self._opened() as directory:
            os.unlink(name, dir_fd=directory)

    def discard(self, name: str) -> None:
        """Remove a file in the directory, if it exists and can be removed."""
        with suppress(OSError, SetupError):
            self.remove(name)

    def names(self) -> list[str]:
        """Return the names of what is in the directory. Raises what :meth:`open` raises."""
        with self._opened() as directory:
            return os.listdir(directory)

    @contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[int]:
        if make:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | _NOT_FOLLOWED)
        except OSError as error:
            if self.path.is_symlink():
                raise self._foreign(self.path, "is a symbolic link") from None
            raise error
        try:
            found = os.fstat(descriptor)
            self._check_owner(self.path, found)
            if found.st_mode & 0o077:
                self._restrict_mode(descriptor, found.st_mode)
            yield descriptor
        finally:
            os.close(descriptor)

    def _restrict_mode(self, descriptor: int, mode: int) -> None:
        if self._own is None or self._own.issuperset(os.listdir(descriptor)):
            os.fchmod(descriptor, 0o700)
        elif mode & 0o022:
            raise self._foreign(self.path, "can be written by others, and there is more in it")

    @contextmanager
    def _as_setup_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self.unwritable(error) from None

    def unwritable(self, error: OSError) -> SetupError:
        """Return the error that says what to do when the directory can't be written."""
        return SetupError(
            f"the {self._what} {self.path} can't be written ({error.strerror or error}); choose another {self._other}"
        )

    def _check_owner(self, path: Path, found: os.stat_result) -> None:
        if found.st_uid != os.geteuid():
            raise self._foreign(path, f"belongs to {user_name(found.st_uid)}, and this is {user_name(os.geteuid())}")

    def _foreign(self, path: Path, fault: str) -> SetupError:
        return SetupError(
            f"{path} {fault}; what is kept in a {self._what} must be its user's alone: "
            f"remove it, or choose another directory {self._other}"
        )


# --- sockets ---


def strangers(host: str, port: int) -> str:
    """Return the names of other users who listen there, joined with "and"; empty if there are none or it is unknown."""
    others = (listeners(host, port) or set()) - {os.geteuid()}
    return " and ".join(sorted(map(user_name, others)))


def listeners(host: str, port: int) -> set[int] | None:
    """Return the users whose listening sockets a connection to that address of this machine may reach.

    Args:
        host: An IP address, or ``localhost``, which stands for every address of this machine.

    Returns:
        Their uids, an empty set when nobody listens; None where the system does not tell (there is no /proc/net).
    """
    found: set[int] = set()
    wanted = None if host == "localhost" else ipaddress.ip_address(host)
    told = False
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = _listening(table)
        except OSError:
            continue
        told = True
        for fields in rows:
            address, _, number = fields[1].partition(":")
            if int(number, 16) == port and _is_reached(wanted, _address(address)):
                found.add(int(fields[7]))
    return found if told else None


_LISTEN = "0A"


def _listening(table: str) -> list[list[str]]:
    """Return the fields of each listening socket; there may be thousands of others."""
    with open(table) as file:
        return [line.split() for line in file if f" {_LISTEN} " in line]


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(text: str) -> _Address:
    """Parse an address of /proc/net/tcp: words of 32 bits, each in this machine's byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = b"".join([word.to_bytes(4, sys.byteorder) for word in words])
    address = ipaddress.ip_address(packed)
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address


def _is_reached(wanted: _Address | None, listening: _Address) -> bool:
    return wanted is None or listening.is_unspecified or listening == wanted

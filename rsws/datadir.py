"""The user's data directory: the key of this machine's gateway, the embedded server's data, the prompt's history."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from rsws.errors import SetupError
from rsws.settings import default_data_dir

log = logging.getLogger("rsws.datadir")


class DataDir:
    """Paths below one directory, made when they are first needed, readable by their owner alone."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path if path is not None else default_data_dir()

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
        """Make the directory.

        Raises:
            SetupError: It can't be made or written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise self._unwritable(PermissionError("permission denied"))
        return self.path

    def read_key(self) -> str | None:
        """The key made by :meth:`make_key` earlier; None when there is none or it can't be read."""
        try:
            return self.key_file.read_text().strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def make_key(self) -> str:
        """The key of this user's gateways on loopback, made at the first call and kept (mode 0600).

        Raises:
            SetupError: The data directory can't be written, or the key there can't be read.
        """
        self.create()
        try:
            if not self.key_file.exists():
                # Written whole under another name first: gateways that start at once agree on one key.
                descriptor, draft = tempfile.mkstemp(prefix="key.", dir=self.path)  # mode 0600
                try:
                    with open(descriptor, "w") as file:
                        file.write(secrets.token_urlsafe(24) + "\n")
                    with suppress(FileExistsError):
                        os.link(draft, self.key_file)
                finally:
                    os.unlink(draft)
            if _tighten(self.key_file):
                log.warning(
                    "others could read the key in %s, and can't any more; remove it for a new one", self.key_file
                )
        except OSError as error:
            raise self._unwritable(error) from None
        key = self.read_key()
        if key is None:
            raise SetupError(f"the key in {self.key_file} can't be read; remove the file and a new one is made")
        return key

    def create_history(self) -> Path:
        """The file of the prompt's history (mode 0600), made if there is none.

        Raises:
            SetupError: The data directory can't be written.
        """
        self.create()
        try:
            self.prompt_history.touch(mode=0o600)
            _tighten(self.prompt_history)
        except OSError as error:
            raise self._unwritable(error) from None
        return self.prompt_history

    def _unwritable(self, error: OSError) -> SetupError:
        reason = error.strerror or str(error)
        return SetupError(
            f"the data directory {self.path} can't be written ({reason}); "
            f"choose another with --data-dir or RSWS_DATA_DIR"
        )


def _tighten(path: Path) -> bool:
    """Close a file to all but its owner, if that is us; returns whether it was open to others."""
    status = path.stat()
    is_open = status.st_uid == os.geteuid() and bool(status.st_mode & 0o077)
    if is_open:
        path.chmod(0o600)
    return is_open

"""The public names of the package."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import rsws
from rsws import errors

PACKAGE = Path(rsws.__file__).parent


def test_every_public_name_is_there_once() -> None:
    assert len(rsws.__all__) == len(set(rsws.__all__))
    for name in rsws.__all__:
        assert getattr(rsws, name) is not None


def test_every_public_thing_says_what_it_is() -> None:
    undocumented = {name for name in rsws.__all__ if callable(getattr(rsws, name)) and not getattr(rsws, name).__doc__}
    assert not undocumented


def test_dir_lists_what_is_public() -> None:
    assert set(rsws.__all__) <= set(dir(rsws))


def test_every_error_a_user_of_the_client_meets_is_public() -> None:
    theirs = {
        name
        for name, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, errors.ClientError) or error in (errors.RswsError, errors.UsageError)
    }
    assert theirs <= set(rsws.__all__)


def test_the_docstring_is_a_map_of_all_rooms() -> None:
    assert rsws.__doc__ is not None
    rooms = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" and not path.name.startswith("__")}
    rooms |= {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    assert not {room for room in rooms if room not in rsws.__doc__}


def test_star_import_gives_the_public_names() -> None:
    namespace: dict[str, object] = {}
    exec("from rsws import *", namespace)
    assert namespace.keys() - {"__builtins__"} == set(rsws.__all__)


def test_the_import_alone_loads_no_library_that_is_slow() -> None:
    code = "import sys, rsws; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert not {"redis", "websockets", "rich", "typer"} & set(loaded.stdout.split())


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert files("rsws") is not None

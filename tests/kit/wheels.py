"""Wheels made of what is installed, so that pip need not ask an index, which takes it most of its time."""

from __future__ import annotations

from importlib.metadata import Distribution, distribution
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement


def wheels(directory: Path, *extras: str) -> dict[str, str]:
    """Put what rsws needs, and what builds it, into a directory.

    Args:
        extras: Those of rsws that are to be installed.

    Returns:
        The environment in which pip finds all there, and nothing elsewhere.
    """
    directory.mkdir()
    todo = [Requirement(f"rsws[{','.join(extras)}]"), Requirement("hatchling")]
    done: set[str] = set()
    while todo:
        wanted = todo.pop()
        found = distribution(wanted.name)
        if wanted.name not in done and wanted.name != "rsws":
            _pack(found, directory)
        done.add(wanted.name)
        for each in map(Requirement, found.requires or ()):
            applies = each.marker is None or any(
                each.marker.evaluate({"extra": extra}) for extra in (*wanted.extras, "")
            )
            if applies and (each.name not in done or each.extras):
                todo.append(each)
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(directory), "PIP_EXTRA_INDEX_URL": ""}


def _pack(found: Distribution, directory: Path) -> None:
    """Make the wheel that it was installed from, but for scripts, which pip makes anew."""
    files = [each for each in found.files or () if ".." not in each.parts and each.suffix != ".pyc"]
    [metadata] = {each.parts[0] for each in files if each.parts[0].endswith(".dist-info")}
    about = found.read_text("WHEEL") or ""
    tags = [line.removeprefix("Tag: ").split("-") for line in about.splitlines() if line.startswith("Tag: ")]
    tag = "-".join(".".join(dict.fromkeys(parts)) for parts in zip(*tags, strict=True))
    of_installer = {f"{metadata}/{name}" for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")}
    with ZipFile(directory / f"{metadata.removesuffix('.dist-info')}-{tag}.whl", "w") as wheel:
        names = [each.as_posix() for each in files if each.as_posix() not in of_installer]
        for name in names:
            wheel.write(str(found.locate_file(name)), name)
        wheel.writestr(f"{metadata}/RECORD", "".join(f"{name},,\n" for name in (*names, f"{metadata}/RECORD")))

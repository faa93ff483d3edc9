"""What mkdocs can't do by itself: the pages are read on a code host, too, and link to files of the repository there.

A file outside of docs/ that a page links to comes along, and links to it are changed. In the Indonesian site a page
that docs/id does not have is the English one, and headings have the anchors of their English page, too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel
from pymdownx.slugs import slugify

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")
HEADING = re.compile(r"^(#+ +)(.*)$", re.MULTILINE)
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
ENGLISH_ONLY = """\
!!! note "Catatan"
    Halaman ini belum diterjemahkan; ini versi bahasa Inggrisnya.

"""


def on_files(files: Files, config: Any) -> Files:
    """Add what the pages link to, and the English pages that stand in for Indonesian ones."""
    folder = PurePosixPath(os.path.relpath(config.docs_dir, ROOT))
    sources = {str(folder / file.src_uri): file for file in files}
    waiting = [ROOT / "docs" / path for path in os.listdir(ROOT / "docs") if path.endswith(".md")]
    waiting += [Path(file.abs_src_path) for file in files.documentation_pages()]
    seen: set[str] = set(sources)
    while waiting:
        path = waiting.pop()
        name = path.relative_to(ROOT).as_posix()
        if name not in seen and (folder.name == "id" or not name.startswith("docs/id/")):
            seen.add(name)
            if files.get_file_from_path(_in_site(name)) is None:
                included = InclusionLevel.INCLUDED  # whatever exclude_docs says of its name
                files.append(File.generated(config, _in_site(name), abs_src_path=str(path), inclusion=included))
        if path.suffix == ".md":
            targets = [(path.parent / target).resolve() for target in LINK.findall(path.read_text())]
            waiting += [each for each in targets if each.is_file() and each.relative_to(ROOT).as_posix() not in seen]
            seen.add(name)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Have links lead to where their files are in the site."""
    name = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    here = os.path.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(name), match[1]))
        return os.path.relpath(_in_site(target), here or ".")

    markdown = LINK.sub(moved, markdown)
    if not config.docs_dir.endswith("/id"):
        return markdown
    if not name.startswith("docs/id/"):
        return ENGLISH_ONLY + markdown
    return _with_english_anchors(markdown, (ROOT / "docs" / PurePosixPath(name).name).read_text())


def _in_site(name: str) -> str:
    """The place of a file of the repository in the site."""
    if name == "README.md":
        return "index.md"
    return name.removeprefix("docs/").removeprefix("id/")


def _with_english_anchors(markdown: str, english: str) -> str:
    slug = slugify(case="lower")
    anchors = iter([slug(re.sub(r"[`*]", "", title), "-") for _, title in HEADING.findall(FENCE.sub("", english))])
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)

    def anchored(match: re.Match[str]) -> str:
        return f'<a id="{next(anchors)}"></a>\n\n{match[0]}'

    return "".join(part if part.startswith("```") else HEADING.sub(anchored, part) for part in parts)

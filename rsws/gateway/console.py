"""The console, a page for people: the files of ``rsws/web/console``, which the gateway serves as they stand.

They are below ``/console/``, ``rsws.js`` among them: so it is always the one that they were made for.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from typing import NamedTuple

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
ASSETS = "/console/"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing from elsewhere, nothing inline, no frame around it, and no text becomes a script."""
HEADERS = {
    "Cache-Control": "no-cache",  # asked for again each time, and then answered 304
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Asset(NamedTuple):
    """A file of the console."""

    content_type: str
    body: bytes
    gzipped: bytes
    tag: str
    """The entity tag."""


def get_console(path: str, headers: Mapping[bytes, bytes]) -> tuple[HTTPStatus, bytes, dict[str, str]] | None:
    """Return the answer to a request for the console; None where it is not asked for.

    The page itself is only for a browser that goes there: programs are told at ``/`` how to open a WebSocket.
    """
    asset = _assets().get(path)
    if asset is None or (path == "/" and b"text/html" not in headers.get(b"accept", b"")):
        return None
    vary = "Accept, Accept-Encoding" if path == "/" else "Accept-Encoding"
    fields = HEADERS | {"Content-Type": asset.content_type, "ETag": asset.tag, "Vary": vary}
    status = HTTPStatus.NOT_MODIFIED if asset.tag.encode() in headers.get(b"if-none-match", b"") else HTTPStatus.OK
    if b"gzip" in headers.get(b"accept-encoding", b""):
        return status, asset.gzipped, fields | {"Content-Encoding": "gzip"}
    return status, asset.body, fields


@cache
def _assets() -> dict[str, Asset]:
    """Return the files by path, read at the first request for one."""
    assets = {}
    web = files("rsws").joinpath("web")
    for file in (*web.joinpath("console").iterdir(), web.joinpath("rsws.js")):
        content_type = _TYPES.get(file.name.rpartition(".")[2])
        if content_type is not None:
            body = file.read_bytes()
            tag = f'W/"{sha256(body).hexdigest()[:16]}"'  # weak: the same whether gzipped or not
            path = "/" if file.name == "index.html" else ASSETS + file.name  # elsewhere it would not find the others
            assets[path] = Asset(content_type, body, gzip.compress(body, mtime=0), tag)
    return assets

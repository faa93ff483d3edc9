"""The client for browsers, which the gateway serves: ``rsws/web/rsws.js``."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files

HEADERS = {
    "Content-Type": "text/javascript; charset=utf-8",
    "Cache-Control": "public, max-age=300",
    "Access-Control-Allow-Origin": "*",  # those that --origin does not list are refused before
    "Vary": "Accept-Encoding",
}


@cache
def client_module(*, gzipped: bool) -> bytes:
    """Return the module, read at the first request; ``gzipped`` for whoever accepts that."""
    if gzipped:
        return gzip.compress(client_module(gzipped=False), mtime=0)
    return files("rsws").joinpath("web", "rsws.js").read_bytes()

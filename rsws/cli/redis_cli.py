"""The ``redis-cli`` command line for a Redis URL, for the user to copy."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

from rsws.cli import terminal


def redis_cli(url: str) -> list[str]:
    """Return ``redis-cli`` with the options for ``url``, without the password: a note says where that goes."""
    parts = urlsplit(url)
    words = ["redis-cli"]
    if parts.scheme == "unix":
        words += ["-s", unquote(parts.path)]
        database = parse_qs(parts.query).get("db", [""])[0]
    else:
        if parts.hostname not in (None, "127.0.0.1", "localhost"):
            words += ["-h", str(parts.hostname)]
        if parts.port not in (None, 6379):
            words += ["-p", str(parts.port)]
        if parts.scheme == "rediss":
            words.append("--tls")
        database = parts.path.strip("/")
    if database not in ("", "0"):
        words += ["-n", database]
    if parts.username:
        words += ["--user", unquote(parts.username)]
    if parts.password:
        note = "the password is left out: redis-cli takes it from the environment variable REDISCLI_AUTH"
        terminal.print_line(terminal.format_note(note))
    return words

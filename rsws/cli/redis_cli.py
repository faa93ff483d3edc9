"""``redis-cli`` in a line to copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsws.cli import terminal
from rsws.errors import UsageError

if TYPE_CHECKING:
    from rsws.redis.url import RedisUrl

_TLS = {"ssl_ca_certs": "--cacert", "ssl_certfile": "--cert", "ssl_keyfile": "--key"}


def redis_cli(url: RedisUrl) -> list[str]:
    """Return ``redis-cli`` with the options that lead it to ``url``; a note says where the password goes.

    Raises:
        UsageError: Only sentinels know the address.
    """
    if url.sentinels:
        host, port = url.sentinels[0]
        tls = " --tls" if url.is_tls else ""
        raise UsageError(
            "sentinels name the server, so there is no line that stays right; "
            f"redis-cli -h {host} -p {port}{tls} SENTINEL GET-MASTER-ADDR-BY-NAME {url.service} says which it is now"
        )
    arguments = url.arguments
    words = ["redis-cli"]
    if "path" in arguments:
        words += ["-s", arguments["path"]]
    host, port = url.nodes[0] if url.nodes else (arguments.get("host", "localhost"), arguments.get("port", 6379))
    if host not in ("127.0.0.1", "localhost"):
        words += ["-h", host]
    if port != 6379:
        words += ["-p", str(port)]
    if url.nodes:
        words.append("-c")
    if url.is_tls:
        words.append("--tls")
        for name, option in _TLS.items():
            words += [option, arguments[name]] if arguments.get(name) else []
        words += ["--insecure"] if arguments.get("ssl_cert_reqs") == "none" else []
    if arguments.get("db"):
        words += ["-n", str(arguments["db"])]
    if arguments.get("username"):
        words += ["--user", arguments["username"]]
    if arguments.get("password"):
        note = "the password is left out: redis-cli takes it from the environment variable REDISCLI_AUTH"
        terminal.print_line(terminal.format_note(note))
    return words

"""A WebSocket gateway over Redis Streams, its client, and the command-line tools for it.

The subpackages and modules, each of which imports only from those below it::

    cli/         the commands: parse, call, print, exit
    check/       what `rsws check` looks at, and what it finds
    bench/       the load of `rsws bench`: many clients, each message checked
    gateway/     the serving side: channels, positions, sessions, connections, the life cycle, workers, metrics
    client/      connect() -> Client: publish, subscribe, reconnect and resume
    streams/     what is done with streams: append, page, follow, trim, in one server or a cluster
    redis/       connections to Redis: URLs, sentinels, logins, batches of commands
    embedded/    a server on this machine, where there is none
    tokens/      what a token allows: rights by pattern; keys, and JWTs checked and made with them
    shared.py    numbers in memory that several processes share
    runtime.py   the event loop and the file limit of a process with many connections
    backoff.py   how long to wait before a retry
    profiles.py  the user's profiles: names of gateways and Redis servers
    datadir.py   the user's data directory: key, running gateways, the embedded server's data, history of the prompt
    certificates.py  the gateway's own certificate, and which ones a client trusts
    ownership.py private directories and files, and which user owns a listening socket
    env_file.py  the .env file of the working directory
    settings.py  the definition of every option
    options.py   what an option is
    starts.py    where a subscription begins, as a person writes it
    rates.py     limits on how many, or how much, in a second
    urls.py      addresses of gateways and Redis servers
    patterns.py  patterns of channel names
    frames.py    the header of a WebSocket frame
    protocol/    the wire: requests, replies and events as JSON text
    errors.py    exception tree, error codes, close codes
    log_lines.py log lines, as text and as JSON
    text.py      text from others, made safe for a terminal or a log

``gateway`` imports neither ``client`` nor ``bench``, and they don't import it. The names exported here are imported
when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsws.client import Client as Client
    from rsws.client import ConnectionEvent as ConnectionEvent
    from rsws.client import Disconnected as Disconnected
    from rsws.client import Reconnected as Reconnected
    from rsws.client import Subscription as Subscription
    from rsws.client import connect as connect
    from rsws.errors import CannotConnect as CannotConnect
    from rsws.errors import ClientError as ClientError
    from rsws.errors import ConnectionLost as ConnectionLost
    from rsws.errors import Outcome as Outcome
    from rsws.errors import PublishFailed as PublishFailed
    from rsws.errors import RswsError as RswsError
    from rsws.errors import SubscribeRefused as SubscribeRefused
    from rsws.errors import Unauthorized as Unauthorized
    from rsws.errors import UsageError as UsageError
    from rsws.protocol import Message as Message
    from rsws.protocol import StreamId as StreamId

_HOME = {
    "rsws.client": ("Client", "ConnectionEvent", "Disconnected", "Reconnected", "Subscription", "connect"),
    "rsws.errors": (
        "CannotConnect", "ClientError", "ConnectionLost", "Outcome", "PublishFailed", "RswsError", "SubscribeRefused",
        "Unauthorized", "UsageError",
    ),
    "rsws.protocol": ("Message", "StreamId"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "CannotConnect",
    "Client",
    "ClientError",
    "ConnectionEvent",
    "ConnectionLost",
    "Disconnected",
    "Message",
    "Outcome",
    "PublishFailed",
    "Reconnected",
    "RswsError",
    "StreamId",
    "SubscribeRefused",
    "Subscription",
    "Unauthorized",
    "UsageError",
    "connect",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]

"""What a server refuses to this user: each command is logged once, with what it costs to go without."""

from __future__ import annotations

import logging

log = logging.getLogger("rsws.redis")

COSTS = {
    "CLIENT ID": "some messages may wait half a second",
    "CLIENT TRACKING": "reading costs more, as it does not tell which streams change",
    "CLIENT UNBLOCK": "some messages may wait half a second",
    "EVAL": (
        "publishes with a producer are refused (rsws pub and the Python client send one), quiet channels are not "
        "deleted, and history costs Redis and the network more"
    ),
    "EVALSHA": "scripts are sent in full each time, with EVAL",
    "XADD": "nothing can be published",
    "XINFO": "a stream that is emptied, or whose last entry is deleted, can't be told from a new one: it gets a reset",
    "XRANGE": "no messages can be read",
    "XREAD": "a stream without the entry at its end is looked at every half second, and may get a gap too many",
}
"""A map from a command to what it costs that the server refuses it."""


class Refusals:
    """The commands that were refused so far."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, command: str, error: Exception) -> None:
        """Log that ``command`` is refused, unless that was said before."""
        if command not in self._said:
            self._said.add(command)
            log.warning("Redis refuses %s, allow it if you can: %s (%s)", command, COSTS[command], error)

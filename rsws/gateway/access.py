"""Who may come in."""

from __future__ import annotations

import hmac
from ipaddress import IPv6Network
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from rsws.backoff import Backoff


class TokenCheck:
    """Compares the token in a connection's URL with the secret key."""

    def __init__(self, secret_key: str) -> None:
        self._key = secret_key.encode()
        self._usual_path = b"/?token=" + quote(secret_key, safe="").encode()

    def allows(self, path: str) -> bool:
        """Whether ``path`` (with its query) carries the key in its first ``token`` parameter."""
        if hmac.compare_digest(path.encode(errors="surrogateescape"), self._usual_path):
            return True
        token = next((value for name, _, value in _parameters(path) if name == "token"), "")
        # Deployed pages put the key into the URL as it is: a "+" in it may stand for itself or for a space.
        return any([self._is_key(unquote(token)), self._is_key(unquote_plus(token))])

    def _is_key(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(errors="surrogateescape"), self._key)


def _parameters(path: str) -> list[tuple[str, str, str]]:
    try:
        query = urlsplit(path).query
    except ValueError:
        return []
    return [parameter.partition("=") for parameter in query.split("&")]


FREE_TRIES = 8
"""So many wrong tokens of an address are refused at once: somebody mistypes, or a page has an old one."""
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
FORGET_S = 60.0
"""An address that has sent no wrong token for so long starts anew."""
MAX_ADDRESSES = 10_000


class WrongTokens:
    """How long a refusal has to wait: the longer, the more wrong tokens have come from the same address.

    A right token never waits: behind one address there may be many clients, or a proxy and so all of them.
    """

    def __init__(self) -> None:
        self._backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._seen: dict[str | IPv6Network, tuple[int, float]] = {}
        """How many of an address, and when the last one came; the longest ago first."""

    def wait_s(self, address: str, now: float) -> float:
        """Count one more wrong token; how long its refusal has to wait.

        Args:
            now: A monotonic time in seconds.
        """
        source = _source(address)
        count, before = self._seen.pop(source, (0, now))
        count = count + 1 if now - before < FORGET_S else 1
        if len(self._seen) >= MAX_ADDRESSES:
            del self._seen[next(iter(self._seen))]
        self._seen[source] = count, now
        return self._backoff.wait_s(count - FREE_TRIES)


def _source(address: str) -> str | IPv6Network:
    """Whom an address stands for: of IPv6 everybody has 2**64 of them."""
    if ":" not in address:
        return address
    return IPv6Network((address.partition("%")[0], 64), strict=False)

"""Who may come in."""

from __future__ import annotations

import hmac
from ipaddress import IPv6Network
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from rsws.gateway.limits import DEFAULTS, Limits


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


class WrongTokens:
    """How long a refusal has to wait: the longer, the more wrong tokens have come from the same address.

    A right token never waits: behind one address there may be many clients, or a proxy and so all of them.
    """

    def __init__(self, limits: Limits = DEFAULTS) -> None:
        self._limits = limits
        self._seen: dict[str | IPv6Network, tuple[int, float]] = {}
        """How many of an address, and when the last one came; the longest ago first."""

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._seen)

    def wait_s(self, address: str, now: float) -> float:
        """Count one more wrong token; how long its refusal has to wait.

        Args:
            now: A monotonic time in seconds.
        """
        limits, source = self._limits, _source(address)
        count, before = self._seen.pop(source, (0, now))
        count = count + 1 if now - before < limits.forget_tries_s else 1
        if len(self._seen) >= limits.max_addresses:
            del self._seen[next(iter(self._seen))]
        self._seen[source] = count, now
        return limits.refusal.wait_s(count - limits.free_tries)


def _source(address: str) -> str | IPv6Network:
    """Whom an address stands for: of IPv6 everybody has 2**64 of them."""
    if ":" not in address:
        return address
    return IPv6Network((address.partition("%")[0], 64), strict=False)

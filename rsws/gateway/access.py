"""Who may come in."""

from __future__ import annotations

import hmac
from urllib.parse import quote, unquote, unquote_plus, urlsplit


class Access:
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

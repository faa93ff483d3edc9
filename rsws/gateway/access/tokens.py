"""The check of tokens: the secret key, the one before it, and JWTs."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from urllib.parse import quote

from rsws.gateway.access.presented import Presented, find_token
from rsws.tokens.grant import FULL, Grant
from rsws.tokens.reasons import Reason, Refusal
from rsws.tokens.signed import SignedTokens


class TokenCheck:
    """A check that turns a token into what it allows, or a reason to refuse it.

    Args:
        secret_key: The secret key.
        previous_key: The key that was the secret key before; None for none.
        grant: What the two allow.
        signed: The check of JWTs; None where there is no key for them: a JWT is then a wrong token like any other.
    """

    def __init__(
        self,
        secret_key: str,
        previous_key: str | None = None,
        grant: Grant = FULL,
        signed: SignedTokens | None = None,
    ) -> None:
        self.grant = grant
        self.signed = signed
        self._previous = b""
        self.change_key(secret_key)
        self.change_previous_key(previous_key)

    def change_key(self, secret_key: str) -> None:
        """Take another secret key from now on."""
        self._key = secret_key.encode()
        self._usual_path = b"/?token=" + quote(secret_key, safe="").encode()

    def change_previous_key(self, previous_key: str | None) -> None:
        """Take another previous key from now on."""
        self._previous = (previous_key or "").encode()

    def check_request(
        self, authorization: bytes | None, subprotocols: Sequence[bytes], target: str
    ) -> tuple[Grant | Refusal, Presented | None]:
        """Return what the token of a request allows, or why it is refused; and which token was looked at."""
        is_usual = hmac.compare_digest(target.encode(errors="surrogateescape"), self._usual_path)
        if is_usual and authorization is None and not subprotocols:  # as most clients come
            return self.grant, None
        presented = find_token(authorization, subprotocols, target)
        return self.check(presented), presented

    def check(self, presented: Presented) -> Grant | Refusal:
        """Return what a token allows, or why it is refused."""
        if presented.fault is not None:
            return Refusal(presented.fault)
        matches = [self._is_key(each) for each in presented.readings]  # all are compared: the time says nothing
        if any(matches):
            return self.grant
        return self.signed.check(presented.readings[0]) if self.signed is not None else Refusal(Reason.WRONG)

    def _is_key(self, token: str) -> bool:
        given = token.encode(errors="surrogateescape")
        is_previous = hmac.compare_digest(given, self._previous)
        return hmac.compare_digest(given, self._key) or (is_previous and bool(self._previous))

"""What a JWT says, and what the gateway makes of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from rsws.tokens.grant import Grant
from rsws.tokens.keys import KeySet
from rsws.tokens.reasons import Reason, Refusal
from rsws.tokens.signed import ALGORITHMS, SignedTokens, read_header, unverified_segment


class Explanation(NamedTuple):
    """What a JWT says, whoever has signed it, and the verdict."""

    header: dict[str, Any]
    claims: dict[str, Any]
    answer: Grant | Refusal
    """What :class:`SignedTokens` answers; without a key, as if the signature were right."""
    is_verified: bool
    """Whether there was a key to verify the signature with."""

    @property
    def is_valid(self) -> bool | None:
        """Whether the gateway takes it; None where that depends on the signature, and there is no key."""
        if isinstance(self.answer, Refusal):
            return False
        return True if self.is_verified else None


def explain(
    token: str, keys: KeySet | None, audience: str | None = None, issuer: str | None = None
) -> Explanation | Reason:
    """Return what a JWT says and whether a gateway takes it; or why nothing of it can be read.

    Args:
        token: The JWT.
        keys: The gateway's keys; None where they are not known.
        audience: What ``aud`` must be or contain; None looks at none.
        issuer: What ``iss`` must be; None looks at none.
    """
    header = read_header(token)
    if isinstance(header, Reason) and header is not Reason.CRITICAL:
        return header
    try:
        said = msgspec.json.decode(unverified_segment(token, 0), type=dict[str, Any])
        payload = unverified_segment(token, 1)
        claims = msgspec.json.decode(payload, type=dict[str, Any])
    except (ValueError, RecursionError):
        return Reason.UNREADABLE
    check = SignedTokens(keys or KeySet(), audience, issuer)
    if keys is not None:
        answer = check.check(token)
    elif isinstance(header, Reason):
        answer = Refusal(header)
    elif header.alg not in ALGORITHMS:
        answer = Refusal(Reason.ALGORITHM)
    else:
        answer = check.check_claims(payload)
    return Explanation(said, claims, answer, keys is not None)

"""Why a token is refused: said in log lines alone, as on the wire it would help who tries tokens."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """The reason for the refusal of a token. None holds a part of it."""

    MISSING = "no token"
    MISPLACED = "a token's subprotocol without the subprotocol rsws"
    SEVERAL = "more than one token's subprotocol"
    NOT_BASE64 = "the token's subprotocol is not base64url"
    WRONG = "wrong token"
    TOO_LONG = "longer than any token"
    UNREADABLE = "a JWT that can't be read"
    CRITICAL = "a JWT with an extension that is not known"
    NO_KEY_ID = "a JWT without kid"
    UNKNOWN_KEY_ID = "a JWT with a kid that is not among the keys"
    ALGORITHM = "a JWT with another algorithm than its key's"
    SIGNATURE = "a JWT with a wrong signature"
    BAD_CLAIM = "a JWT with a claim of the wrong type"
    BAD_CHANNELS = "a JWT whose channels are no map of patterns to r, w or rw"
    NO_EXPIRY = "a JWT without exp"
    BAD_TIME = "a JWT with a time that is not in seconds since 1970"
    EXPIRED = "a JWT that has expired"
    NOT_YET = "a JWT from the future"
    AUDIENCE = "a JWT for another audience"
    ISSUER = "a JWT of another issuer"


class Refusal(NamedTuple):
    """The refusal of a token."""

    reason: Reason
    who: str | None = None
    """The holder, where the signature is right and the token names one."""

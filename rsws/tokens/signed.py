"""JWTs: the signature, then the claims."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Raw, UnsetType

from rsws.tokens.grant import Grant, Rights
from rsws.tokens.keys import KeySet
from rsws.tokens.reasons import Reason, Refusal

if TYPE_CHECKING:
    from jwt import PyJWS

MAX_TOKEN_BYTES = 16 * 1024
"""The longest JWT, as a header has no room for more: a longer one is refused before any of it is looked at."""
_FORM = re.compile(r"[-_A-Za-z0-9]*\.[-_A-Za-z0-9]*\.[-_A-Za-z0-9]*")
"""The form of a JWT, which has no padding."""
LAST_SECOND = 253_402_300_799
"""The end of the year 9999: a time beyond it is in milliseconds, and would never come."""

ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")
"""The algorithms that the keys of :mod:`rsws.tokens.keys` are for."""
CLOCK_DIFFERENCE_S = 30.0
"""The difference between the clocks of the gateway and of those who make tokens that is forgiven."""


class Header(msgspec.Struct, gc=False):
    """The header of a JWT: what it says of itself."""

    alg: str
    kid: str | None = None
    crit: Raw | UnsetType = UNSET
    b64: Raw | UnsetType = UNSET


class _Claims(msgspec.Struct, gc=False):
    exp: float | UnsetType = UNSET
    nbf: float | UnsetType = UNSET
    iat: float | UnsetType = UNSET
    sub: str | None = None
    aud: str | list[str] | None = None
    iss: str | None = None
    channels: Raw | UnsetType = UNSET


_header = msgspec.json.Decoder(Header)
_claims = msgspec.json.Decoder(_Claims)
_channels = msgspec.json.Decoder(dict[str, Rights])


class SignedTokens:
    """The check of JWTs.

    Args:
        keys: The keys; an attribute, as new ones may take their place.
        audience: What ``aud`` must be or contain; None looks at none.
        issuer: What ``iss`` must be; None looks at none.
        forgiven_s: The difference of clocks that is forgiven.
        clock: Returns the time in seconds since 1970; None for the machine's.
    """

    def __init__(
        self,
        keys: KeySet,
        audience: str | None = None,
        issuer: str | None = None,
        forgiven_s: float = CLOCK_DIFFERENCE_S,
        clock: Callable[[], float] | None = None,
    ) -> None:
        from jwt import PyJWS  # 30 ms, which only who uses JWTs should wait for

        self.keys = keys
        self._audience = audience
        self._issuer = issuer
        self._forgiven_s = forgiven_s
        self._clock = clock or time.time
        self._jws: PyJWS = PyJWS()

    def check(self, token: str) -> Grant | Refusal:
        """Return what a JWT allows, or why it is refused."""
        payload = self._verified(token)
        return Refusal(payload) if isinstance(payload, Reason) else self.check_claims(payload)

    def check_claims(self, payload: bytes) -> Grant | Refusal:
        """Return what a payload allows, or why it is refused, whoever has signed it."""
        try:
            claims = _claims.decode(payload)
        except (msgspec.DecodeError, RecursionError):
            return Refusal(Reason.BAD_CLAIM)
        try:
            channels = {} if claims.channels is UNSET else _channels.decode(claims.channels)
        except (msgspec.DecodeError, RecursionError):
            return Refusal(Reason.BAD_CHANNELS, Grant({}, who=claims.sub).who)
        reason = self._fault(claims)
        if reason is not None or claims.exp is UNSET:
            return Refusal(reason or Reason.NO_EXPIRY, Grant({}, who=claims.sub).who)
        return Grant(channels, who=claims.sub, expires_at=claims.exp, ends_at=claims.exp + self._forgiven_s)

    def _verified(self, token: str) -> bytes | Reason:
        """Return the payload of a token with a right signature."""
        header = read_header(token)
        if isinstance(header, Reason):
            return header
        key = self.keys.find(header.kid)
        if isinstance(key, Reason):
            return key
        if header.alg != key.algorithm:
            return Reason.ALGORITHM
        # decode() of PyJWT would read the header and check the key once more, which takes seven times as long.
        try:
            payload, signature = unverified_segment(token, 1), unverified_segment(token, 2)
            signed = token.rpartition(".")[0].encode()
            algorithm = self._jws.get_algorithm_by_name(key.algorithm)
            return payload if algorithm.verify(signed, key.material, signature) else Reason.SIGNATURE
        except Exception:  # whatever a library may make of a token from anywhere: it is refused
            return Reason.UNREADABLE

    def _fault(self, claims: _Claims) -> Reason | None:
        now, forgiven_s = self._clock(), self._forgiven_s
        if claims.exp is UNSET:
            return Reason.NO_EXPIRY
        times = [each for each in (claims.exp, claims.nbf, claims.iat) if each is not UNSET]
        if not all(0 <= each <= LAST_SECOND for each in times):
            return Reason.BAD_TIME
        if now >= claims.exp + forgiven_s:
            return Reason.EXPIRED
        if any(each > now + forgiven_s for each in (claims.nbf, claims.iat) if each is not UNSET):
            return Reason.NOT_YET
        if self._audience is not None:
            audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
            if self._audience not in audiences:
                return Reason.AUDIENCE
        if self._issuer is not None and claims.iss != self._issuer:
            return Reason.ISSUER
        return None


def read_header(token: str) -> Header | Reason:
    """Return the header of a JWT, or why it is refused whatever the key."""
    if len(token) > MAX_TOKEN_BYTES:
        return Reason.TOO_LONG
    if not _FORM.fullmatch(token):
        return Reason.WRONG
    try:
        header = _header.decode(unverified_segment(token, 0))
    except (ValueError, RecursionError):
        return Reason.UNREADABLE
    if header.crit is not UNSET or header.b64 is not UNSET:
        return Reason.CRITICAL
    return header


def unverified_segment(token: str, index: int) -> bytes:
    """Return a segment of a text in the form of a JWT: the header (0), the payload (1) or the signature (2).

    Nothing is known of who has signed it.

    Raises:
        ValueError: It is not base64url, or not as that is written: one token would then have several texts.
    """
    segment = token.split(".")[index].encode()
    data = base64.b64decode(segment + b"=" * (-len(segment) % 4), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(data).rstrip(b"=") != segment:
        raise ValueError("not as it is written")
    return data

"""Making JWTs: a key that signs has, as one that verifies, the one algorithm that follows from its kind."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from rsws.errors import UsageError
from rsws.tokens.grant import Rights
from rsws.tokens.keys import (
    MIN_SECRET_BYTES,
    NOT_SECRETS,
    WHAT,
    KeySet,
    VerifyingKey,
    need_cryptography,
    public_key,
    read_keys,
)
from rsws.tokens.signed import LAST_SECOND, MAX_TOKEN_BYTES

_NEEDED = "it verifies; signing needs the private one, as PEM"


class SigningKey(NamedTuple):
    """A key that signs, and the one by which its tokens are verified."""

    material: Any
    """The secret as bytes, or a private key of cryptography."""
    verifying: VerifyingKey

    def __repr__(self) -> str:
        return f"SigningKey({self.verifying.algorithm})"

    def sign(
        self,
        channels: Mapping[str, Rights],
        ttl_s: int,
        *,
        subject: str | None = None,
        audience: str | None = None,
        issuer: str | None = None,
        key_id: str | None = None,
    ) -> str:
        """Return a JWT that begins now.

        Args:
            channels: The rights by pattern.
            ttl_s: How long it lasts.
            subject: Its ``sub``; as the others, None leaves it out.
            audience: Its ``aud``.
            issuer: Its ``iss``.
            key_id: The ``kid`` of the key in the gateway's JWKS.

        Raises:
            UsageError: No gateway would take such a token.
        """
        from jwt import PyJWS  # 30 ms, which only who uses JWTs should wait for

        now = int(time.time())
        if now + ttl_s > LAST_SECOND:
            raise UsageError("the token would last beyond the year 9999; give it a shorter life")
        claims = {"sub": subject, "aud": audience, "iss": issuer, "iat": now, "exp": now + ttl_s, "channels": channels}
        headers = {} if key_id is None else {"kid": key_id}
        try:
            payload = msgspec.json.encode({name: value for name, value in claims.items() if value is not None})
            msgspec.json.encode(headers)
        except UnicodeEncodeError:
            raise UsageError("what the token is to say is not valid UTF-8") from None
        token = PyJWS().encode(payload, self.material, self.verifying.algorithm, headers)
        if len(token) > MAX_TOKEN_BYTES:
            raise UsageError(
                f"the token would have {len(token):,} bytes, and no gateway takes more than {MAX_TOKEN_BYTES:,}; "
                "let one pattern with * stand for several"
            )
        return token


def new_secret() -> str:
    """Return a secret for HS256 that nobody can guess."""
    return secrets.token_urlsafe(MIN_SECRET_BYTES)


def read_signing_key(text: str) -> SigningKey:
    """Return the key in a text: a secret, or a private key as PEM.

    Raises:
        UsageError: It is none of these; the text says what to give instead.
        SetupError: A private key needs a library that is not installed.
    """
    text = text.strip().removeprefix("\ufeff")
    if _is_private(text):
        return _read_private(text)
    if text.startswith(("{", "[")):
        raise UsageError(f"{WHAT}: that is a JWKS, {_NEEDED}")
    if "CERTIFICATE-----" in text:
        raise UsageError(f"{WHAT}: that is a certificate, {_NEEDED}")
    if "-----BEGIN" in text or text.startswith(NOT_SECRETS):
        raise UsageError(f"{WHAT}: that is a public key, {_NEEDED}")
    key = read_keys(text).find(None)
    assert isinstance(key, VerifyingKey)
    return SigningKey(key.material, key)


def read_checking_keys(text: str) -> KeySet:
    """Return the keys that verify what is signed with those in a text: as ``read_keys``, or those of a private key.

    Raises:
        UsageError: It is no key; the text says what to give instead.
        SetupError: The key needs a library that is not installed.
    """
    return KeySet(_read_private(text).verifying) if _is_private(text) else read_keys(text)


def _is_private(text: str) -> bool:
    return text.lstrip("\ufeff \t\r\n").startswith("-----BEGIN") and "PRIVATE KEY-----" in text


def _read_private(text: str) -> SigningKey:
    need_cryptography("a private key")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if "OPENSSH PRIVATE KEY" in text:
        raise UsageError(f"{WHAT} is a key of SSH: make one with `openssl genpkey -algorithm ed25519`")
    try:
        key = load_pem_private_key(text.encode(), None)
    except TypeError:
        raise UsageError(f"{WHAT} has a passphrase; give one without (openssl pkey -in FILE -out NEW)") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{WHAT} begins like a private key as PEM, but can't be read") from None
    return SigningKey(key, public_key(key.public_key()))

"""The keys that JWTs are verified with. What a token says of itself decides nothing but which of several keys it names.

Each key has one algorithm, which follows from what the operator gave: a secret is HS256, a public key what its kind
allows. So nobody can have a public key used as a secret, or no key at all.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, NamedTuple

import msgspec

from rsws.errors import SetupError, UsageError
from rsws.tokens.reasons import Reason

MIN_SECRET_BYTES = 32
"""The least length of a secret for HS256: with each JWT its holder has something to try guesses at (RFC 7518)."""
MIN_RSA_BITS = 2048
NOT_SECRETS = ("ssh-", "ecdsa-sha2-", "sk-ssh-", "---- BEGIN ")
WHAT = "the JWT key"
_OF_URLS = str.maketrans("-_", "+/")


class VerifyingKey(NamedTuple):
    """A key and the one algorithm it is for."""

    algorithm: str
    material: Any
    """The secret as bytes, or a public key of cryptography."""

    def __repr__(self) -> str:
        return f"VerifyingKey({self.algorithm})"


class KeySet:
    """The keys of one ``--jwt-key``: a single one, or those of a JWKS by their ``kid``."""

    __slots__ = ("_by_id", "_single")

    def __init__(self, single: VerifyingKey | None = None, by_id: dict[str, VerifyingKey] | None = None) -> None:
        self._single = single
        self._by_id = by_id or {}

    def find(self, key_id: str | None) -> VerifyingKey | Reason:
        """Return the key for a token with that ``kid``, which a single key does not look at."""
        if self._single is not None:
            return self._single
        if key_id is None:
            return Reason.NO_KEY_ID
        return self._by_id.get(key_id, Reason.UNKNOWN_KEY_ID)

    def __len__(self) -> int:
        return 1 if self._single is not None else len(self._by_id)


def read_keys(text: str) -> KeySet:
    """Return the keys in a text: a secret, a public key as PEM, or a JWKS.

    Raises:
        UsageError: It is none of these; the text says what to give instead.
        SetupError: A public key needs a library that is not installed.
    """
    text = text.strip().removeprefix("\ufeff")
    if text.startswith(("{", "[")):
        return KeySet(by_id=_read_jwks(text))
    if "-----BEGIN" in text:
        return KeySet(_read_pem(text))
    if text.startswith(NOT_SECRETS):
        raise UsageError(f"{WHAT} is a key of SSH: give a public key as PEM (ssh-keygen -e -m PKCS8 -f KEY.pub)")
    if _is_der(text):
        raise UsageError(
            f"{WHAT} is a key in base64 alone: put lines -----BEGIN PUBLIC KEY----- and -----END ... around it"
        )
    size = len(text.encode())
    if size < MIN_SECRET_BYTES:
        raise UsageError(
            f"{WHAT} is a secret of {size} bytes, and {MIN_SECRET_BYTES} are needed; "
            "make one with `rsws token --new-key`"
        )
    return KeySet(VerifyingKey("HS256", text.encode()))


def _is_der(text: str) -> bool:
    """Whether a text is a public key as some identity providers show it, which looks like a secret and is none."""
    bare = "".join(text.split()).rstrip("=").translate(_OF_URLS)
    try:
        data = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    if len(data) < 40 or data[0] != 0x30:
        return False
    size_bytes = data[1] & 0x7F if data[1] & 0x80 else 0
    start = 2 + size_bytes
    size = int.from_bytes(data[2:start], "big") if size_bytes else data[1]
    return start + size == len(data) and data[start] in (0x30, 0x02)


def need_cryptography(what: str) -> None:
    """Check that the library for a kind of key is there.

    Raises:
        SetupError: It is not.
    """
    try:
        import cryptography.hazmat.primitives.serialization  # noqa: F401
    except ImportError:
        raise SetupError(f"{WHAT} is {what}, which needs a library: pip install 'rsws[jwt]'") from None


def _read_pem(text: str) -> VerifyingKey:
    if "PRIVATE KEY-----" in text:
        raise UsageError(f"{WHAT} is a private key, which is for who makes tokens; give the public one")
    if "CERTIFICATE-----" in text:
        raise UsageError(f"{WHAT} is a certificate; give its public key (openssl x509 -pubkey -noout -in FILE)")
    if text.count("-----BEGIN") > 1:
        raise UsageError(f"{WHAT} has several keys; give one as PEM, or a JWKS")
    need_cryptography("a public key")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{WHAT} begins like a public key as PEM, but can't be read") from None
    return public_key(key)


def public_key(key: object) -> VerifyingKey:
    """Return the key with its algorithm.

    Raises:
        UsageError: It is of a kind, or of a size, that is not taken.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    match key:
        case RSAPublicKey() if key.key_size >= MIN_RSA_BITS:
            return VerifyingKey("RS256", key)
        case RSAPublicKey():
            raise UsageError(f"{WHAT} is an RSA key of {key.key_size} bits, and {MIN_RSA_BITS} are needed")
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return VerifyingKey("ES256", key)
        case Ed25519PublicKey():
            return VerifyingKey("EdDSA", key)
    raise UsageError(f"{WHAT} is of a kind that is not taken: give one of RSA, of the curve P-256, or Ed25519")


class _Jwk(msgspec.Struct, rename={"key_id": "kid", "private": "d"}):
    kty: str
    key_id: str | None = None
    alg: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    private: Any = None


class _Jwks(msgspec.Struct):
    keys: list[msgspec.Raw]


def _read_jwks(text: str) -> dict[str, VerifyingKey]:
    try:
        raw = msgspec.json.decode(text, type=_Jwks).keys
        headers = [msgspec.json.decode(each, type=_Jwk) for each in raw]
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        raise UsageError(f"{WHAT} begins like JSON, but is no JWKS: an object with a list of keys") from None
    need_cryptography("a public key")
    keys: dict[str, VerifyingKey] = {}
    for text_of_key, header in zip(raw, headers, strict=True):
        if header.private is not None:
            raise UsageError(f"{WHAT} has a private key in it, which is for who makes tokens; give the public ones")
        key = _read_jwk(bytes(text_of_key), header)
        if key is None or header.key_id is None:  # for encryption, or of a kind that is not taken: a JWKS may have such
            continue
        if header.key_id in keys:
            raise UsageError(f"{WHAT} has two keys with the same kid")
        keys[header.key_id] = key
    if not keys:
        raise UsageError(f"{WHAT} has no key in it that can be used: with a kid, of RSA, the curve P-256, or Ed25519")
    return keys


def _read_jwk(text: bytes, header: _Jwk) -> VerifyingKey | None:
    """Return a key of a JWKS; None for one that is not for signatures, or not of a kind that is taken."""
    from jwt import PyJWTError
    from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

    readers: dict[str, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
    reader = readers.get(header.kty)
    if reader is None or header.use not in (None, "sig"):
        return None
    if header.key_ops is not None and "verify" not in header.key_ops:
        return None
    try:
        key = public_key(reader.from_jwk(text.decode()))
    except (PyJWTError, UsageError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return key if header.alg in (None, key.algorithm) else None

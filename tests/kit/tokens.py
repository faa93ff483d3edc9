"""Keys of each kind, and JWTs signed with them, right ones and wrong ones."""

from __future__ import annotations

import base64
import json
import time
from functools import cache
from typing import Any, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "a secret for HS256 that is long enough"
KINDS = ("HS256", "RS256", "ES256", "EdDSA", "JWKS")
"""The kinds of keys that an operator may give; a JWKS has one of each public kind, and what is not for signatures."""


class Pair(NamedTuple):
    """What signs, and what the operator gives."""

    algorithm: str
    private: Any
    public: str
    key_id: str | None = None


@cache
def pair(kind: str) -> Pair:
    """The keys of a kind."""
    match kind:
        case "HS256":
            return Pair("HS256", SECRET, SECRET)
        case "RS256":
            private: Any = rsa.generate_private_key(65537, 2048)
        case "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            private = ed25519.Ed25519PrivateKey.generate()
        case _:
            return Pair("ES256", pair("ES256").private, jwks("RS256", "ES256", "EdDSA"), "ES256")
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return Pair(kind, private, pem.decode())


def jwk(kind: str, **changed: Any) -> dict[str, Any]:
    """The public key of a kind as a JWK, whose kid is the kind."""
    reader: Any = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[kind]
    key: dict[str, Any] = reader.to_jwk(pair(kind).private.public_key(), as_dict=True)
    return {**key, "kid": kind, "alg": kind, "use": "sig"} | changed


def jwks(*kinds: str) -> str:
    """A JWKS as identity providers have them."""
    others = [{"kty": "oct", "kid": "oct", "k": encoded(SECRET.encode())}, {"kty": "AKP", "kid": "new"}]
    return json.dumps({"keys": [*others, jwk("RS256", kid="for encryption", use="enc"), *map(jwk, kinds)]})


def encoded(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(ttl_s: float = 36_000, **more: Any) -> dict[str, Any]:
    """Claims that are in order; None takes one away."""
    made = {"exp": time.time() + ttl_s, "sub": "alice", "channels": {"*": "rw"}} | more
    return {name: value for name, value in made.items() if value is not None}


def token(kind: str = "HS256", headers: dict[str, Any] | None = None, **more: Any) -> str:
    """A JWT of a kind; see :func:`claims`."""
    keys = pair(kind)
    key_id = {} if keys.key_id is None else {"kid": keys.key_id}
    return sign(keys.algorithm, keys.private, claims(**more), key_id | (headers or {}))


def sign(algorithm: str, key: Any, content: Any, headers: dict[str, Any] | None = None) -> str:
    """A JWT with any header and any content, signed by an algorithm with any key, as an attacker would."""
    head = {"alg": algorithm, "typ": "JWT"} | (headers or {})
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()
    signed = f"{encoded(json.dumps(head).encode())}.{encoded(payload)}"
    return f"{signed}.{encoded(signature(algorithm, key, signed.encode()))}"


def signature(algorithm: str, key: Any, signed: bytes) -> bytes:
    """The signature of any bytes."""
    if algorithm == "none":
        return b""
    if algorithm.startswith("HS"):  # PyJWT does not take a public key for a secret
        import hmac

        text = key.encode() if isinstance(key, str) else key
        return hmac.digest(text, signed, {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}[algorithm])
    made: bytes = jwt.PyJWS().get_algorithm_by_name(algorithm).sign(signed, key)
    return made

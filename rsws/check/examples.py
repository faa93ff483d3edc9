"""Secrets that anybody would try first."""

from __future__ import annotations

EXAMPLE_SECRETS = frozenset({
    "kunci_rahasia_lokal_123", "kunci_rahasia_docker_456", "key", "password", "password123", "token", "secret",
    "secretkey", "secret-key", "secret_key", "your-secret-key", "your_secret_key", "my-secret-key", "mysecretkey",
    "supersecret", "websocket_secret_key", "changeme", "change-me", "changeit", "default", "example", "foobared",
    "12345678", "123456789", "1234567890", "admin123",
})  # fmt: skip
"""Secrets that stand in examples, of this project, the server it replaces and others, in lower case."""


def stands_in_examples(secret: str) -> bool:
    """Whether a secret is one of those, or the same character again and again."""
    return secret.lower() in EXAMPLE_SECRETS or len(set(secret)) == 1

"""TLS certificates: the gateway's own, and which ones a client trusts."""

from __future__ import annotations

import _ssl
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rsws.errors import UsageError
from rsws.settings import read_secret


class Certificate(NamedTuple):
    """What a certificate says."""

    names: tuple[str, ...]
    """The names and IP addresses of hosts that it is for."""
    begins_at: float
    """When it begins to be valid, in seconds since 1970."""
    ends_at: float
    """When it ceases to be valid, likewise."""
    is_self_signed: bool

    def time_fault(self) -> str | None:
        """Return why it is not valid now; None when it is."""
        now = time.time()
        if now >= self.ends_at:
            return f"has expired on {_date(self.ends_at)}"
        return f"is not valid before {_date(self.begins_at)}" if now < self.begins_at else None


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def read_certificate(path: Path) -> Certificate:
    """Return what the first certificate of a PEM file says.

    Raises:
        UsageError: There is none that can be read.
    """
    try:
        said: Mapping[str, Any] = _ssl._test_decode_cert(path)  # type: ignore[attr-defined] # no public name has it
    except OSError:  # an SSLError is one
        raise UsageError(f"the file of the TLS certificate, {path}, has no certificate in PEM format") from None
    return Certificate(
        tuple([name for _, name in said.get("subjectAltName", ())]),
        ssl.cert_time_to_seconds(said["notBefore"]),
        ssl.cert_time_to_seconds(said["notAfter"]),
        said.get("subject") == said.get("issuer"),
    )


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the context of a server with a certificate, its chain and its key; both may be in one file.

    Raises:
        UsageError: A file can't be used; the text says which, and why.
    """
    read_secret(certificate, "TLS certificate")
    read_certificate(certificate)
    said = read_secret(key, "TLS key")
    if "PRIVATE KEY-----" not in said:
        elsewhere = "; name the key's own file with --tls-key" if key == certificate else ""
        raise UsageError(f"the file of the TLS key, {key}, has no private key in PEM format{elsewhere}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, "")  # without a password OpenSSL asks the terminal
    except ssl.SSLError as error:
        raise UsageError(f"the TLS key, {key}, can't be used: {_key_fault(error, said, certificate)}") from None
    return context


def _key_fault(error: ssl.SSLError, text: str, certificate: Path) -> str:
    if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
        return f"it is not that of the certificate in {certificate}"
    if "ENCRYPTED" in text:
        return "it is encrypted; give it without a password: openssl pkey -in FILE -out KEY"
    return f"it can't be read, or the chain in {certificate} can't ({error.reason or 'not PEM'})"


def client_context(ca: Path | None, *, insecure: bool = False) -> ssl.SSLContext | None:
    """Return the context of a client; None for the usual one.

    Args:
        ca: The certificates of the authorities to trust; None for the system's.
        insecure: Whether to trust any certificate.

    Raises:
        UsageError: The file can't be used.
    """
    if insecure:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if ca is None:
        return None
    read_secret(ca, "TLS authorities")
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise UsageError(f"the file of the TLS authorities, {ca}, has no certificate in PEM format") from None

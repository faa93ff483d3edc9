"""What may be in a stream: names of channels, fields of entries, and messages, which are JSON.

``data`` is checked (strict JSON, valid UTF-8) and carried byte for byte: never parsed into objects and written again,
so that numbers, key order and spacing survive.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from itertools import accumulate
from typing import Any

import msgspec
from msgspec import Raw

from rsws.errors import UsageError

FIELD = "messageData"
"""The field of a stream entry that holds a message's JSON text, unless the gateway's settings name another one."""
END_FIELD = "end"
"""The field, with any value, of an entry that ends its channel."""
OWN_KEYS = "rsws:"
"""The prefix of the gateway's own keys in Redis, which no channel's name may have."""
MAX_CHANNEL_BYTES = 512
MAX_DEPTH = 256
"""How deep published data may be nested: every parser that reads it later must be able to."""
SHALLOW_BYTES = 2 * MAX_DEPTH + 1
"""The size up to which no JSON is nested deeper, as each level takes a bracket at either end."""

_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: +1 opens a level, -1 closes one
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_raw = msgspec.json.Decoder(Raw)


def channel_fault(name: str) -> str | None:
    """Return why ``name`` can't be a channel, as a sentence; None when it can."""
    try:
        check_channel(name)
    except ValueError as fault:
        return str(fault)
    return None


@lru_cache(maxsize=512)  # caches valid names only, which are short: an exception is not cached
def check_channel(name: str) -> None:
    """Check a channel's name.

    Raises:
        ValueError: The name can't be a channel; the text is the reason, as a sentence.
    """
    if not name:
        raise ValueError("the channel name is empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError("the channel name is not valid UTF-8") from None
    if size > MAX_CHANNEL_BYTES:
        raise ValueError(f"the channel name has {size} bytes; at most {MAX_CHANNEL_BYTES} are allowed")
    if _CONTROL.search(name):
        raise ValueError("the channel name has control characters")
    if name.startswith(OWN_KEYS):
        raise ValueError(f"the channel name begins with {OWN_KEYS}, as the gateway's own keys do; choose another")


def is_json(text: bytes) -> bool:
    """Whether ``text`` may be the data of a message.

    That is JSON that a strict parser accepts (valid UTF-8, no NaN, no lone surrogates) and that is nested no deeper
    than MAX_DEPTH.
    """
    try:
        if not text.isascii():
            text.decode()
        _raw.decode(text)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return False
    return len(text) <= SHALLOW_BYTES or not is_too_deep(text)


def _has_many(data: bytes, byte: bytes) -> bool:
    """Whether ``byte`` occurs in ``data`` more than MAX_DEPTH / 2 times."""
    if len(data) < 4096:
        return data.count(byte) > MAX_DEPTH // 2
    end = -1  # counting all occurrences would take a millisecond for a megabyte
    for _ in range(MAX_DEPTH // 2 + 1):
        end = data.find(byte, end + 1)
        if end < 0:
            return False
    return True


def is_too_deep(data: bytes) -> bool:
    """Whether a JSON text is nested deeper than MAX_DEPTH."""
    if not _has_many(data, b"[") and not _has_many(data, b"{"):
        return False
    # Backslashes occur only in strings; without escaped backslashes and quotes, each quote begins or ends a string.
    outside_strings = b"".join(data.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])
    steps = outside_strings.translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > MAX_DEPTH


def json_text(value: Any) -> bytes:
    """Return ``value`` as JSON text, ready to be published.

    Raises:
        UsageError: ``value`` can't be written as JSON.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"can't be written as JSON: {error}") from None


def quote(text: str) -> str:
    """Return a text as a JSON string."""
    return msgspec.json.encode(text).decode()

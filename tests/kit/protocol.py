"""What the tests of the protocol share: values of every kind, and the strictest reader of JSON there is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import strategies as st

from rsws.errors import RequestError
from rsws.protocol import (
    StreamId,
    channel_fault,
    decode_request,
    encode_reply,
    refusal,
)

TOP = 2**64 - 1


def refused(frame: str) -> dict[str, Any]:
    """The reply to a frame that is no good request."""
    with pytest.raises(RequestError) as caught:
        decode_request(frame)
    reply: dict[str, Any] = json.loads(encode_reply(refusal(caught.value)))
    return reply


ids = st.builds(StreamId, st.integers(0, TOP), st.integers(0, TOP))
strings = st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=8,
)
texts = st.builds(
    lambda value, escaped, indent, separators: json.dumps(
        value, ensure_ascii=escaped, indent=indent, separators=separators
    ),
    values,
    st.booleans(),
    st.sampled_from([None, 1, "\t"]),
    st.sampled_from([None, (",", ":"), (" , ", " :\n")]),
)
channels = st.text(min_size=1, max_size=20).filter(lambda name: channel_fault(name) is None)


def strict(text: bytes) -> bool:
    """What the standard library, held to the letter of RFC 8259 and Unicode, says of ``text``."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    def has_surrogate(value: Any) -> bool:
        match value:
            case str():
                return any("\ud800" <= char <= "\udfff" for char in value)
            case list() | tuple():
                return any(map(has_surrogate, value))
        return False

    try:
        # As pairs: of two equal keys a dict would keep one value, and the other would go unseen.
        value = json.loads(
            text.decode(), parse_constant=refuse, parse_int=float, parse_float=float, object_pairs_hook=list
        )
    except ValueError:
        return False
    return not has_surrogate(value)

"""Data is carried byte for byte, and what is no strict JSON is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.protocol import refused, strict, texts, values
from rsws.errors import ErrorCode, RequestError, UsageError
from rsws.protocol import (
    MAX_DEPTH,
    Message,
    Publish,
    StreamId,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    is_json,
    json_text,
    message_template,
    refusal,
)

T = TypeVar("T")


def deeper(frames: int, call: Callable[[], T]) -> T:
    """``call()`` with that many frames more on the stack."""
    return deeper(frames - 1, call) if frames else call()


ODD_DATA = [
    "1e400",
    "-0.0",
    "-0",
    "12345678901234567890",
    "1.10",
    "0.1000000000000000055511151231257827",
    '{"b":1,"a":2}',
    '{ "b" :\t1 ,\n"a":[ 1,2 ] }',
    '{"a":1,"a":2}',
    '"\\u00e9\\u0000\\/\\ud83d\\ude00"',
    '"é\u2028😀\x7f"',
    '""',
    "null",
    "true",
    "[]",
    "{}",
    '{"":{"":""}}',
    '{"action":"ping","messageId":"x","channel":"y"}',
    "[" * 200 + "]" * 200,
]


@pytest.mark.parametrize("data", ODD_DATA)
def test_data_is_carried_byte_for_byte(data: str) -> None:
    assert is_json(data.encode())
    request = decode_request(f'{{"action":"publish","data": {data} ,"channel":"c","messageId":"m"}}')
    assert request == Publish("c", data.encode(), "m")
    assert encode_request(request) == f'{{"action":"publish","channel":"c","data":{data},"messageId":"m"}}'
    frame = encode_reply(Message("c", StreamId(5, 1), data)).decode()
    assert frame == f'{{"event":"message","channel":"c","streamId":"5-1","data":{data}}}'
    assert decode_reply(frame) == Message("c", StreamId(5, 1), data)


def test_what_surrounds_data_read_from_a_stream_is_kept() -> None:
    assert is_json(b' \n{"a": 1}\r\n')
    frame = message_template("c") % (b"5-1", b' \n{"a": 1}\r\n')
    assert frame == b'{"event":"message","channel":"c","streamId":"5-1","data": \n{"a": 1}\r\n}'


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"NaN",
        b"-Infinity",
        b"[Infinity]",
        b"nul",
        b"01",
        b"1.",
        b".5",
        b"+1",
        b"1 2",
        b"'a'",
        b'"a',
        b'"a\nb"',
        b'"\\ud800"',
        b'{"\\udc00":1}',
        b'"\\ud800\\u0041"',
        b'"\xff"',
        b'"\xc0\x80"',
        b'"\xed\xa0\x80"',
        b'"\xf4\x90\x80\x80"',
        b"\xef\xbb\xbf1",
        b"[1,]",
        b"{1:2}",
        b"1\0",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b'{"a":' * 972 + b"1" + b"}" * 972,
    ],
)
def test_what_is_no_strict_json(text: bytes) -> None:
    assert not is_json(text)


def test_whatever_a_publish_may_hold_can_be_read_by_everyone_who_gets_it() -> None:
    def nested(depth: int) -> str:
        return "[" * depth + "]" * depth

    def accepted(depth: int) -> bool:
        try:
            decode_request(f'{{"action":"publish","channel":"c","data":{nested(depth)},"messageId":"m"}}')
        except RequestError as error:
            assert error.code == ErrorCode.BAD_JSON  # noqa: PT017
            return False
        return True

    deepest = max(depth for depth in range(1, 2000) if accepted(depth))
    assert deepest >= 200
    data = nested(deepest)
    message = Message("c", StreamId(1, 0), data)
    frame = encode_reply(message).decode()
    for frames in (0, 50, 200):
        assert deeper(frames, lambda: is_json(data.encode()))
        assert deeper(frames, lambda: decode_reply(frame)) == message
        assert deeper(frames, lambda: message.data) is not None


def publish(data: str) -> str:
    return f'{{"action":"publish","channel":"c","data":{data},"messageId":"m"}}'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        (r'"[\\",', ""),
        (r'"[[\\\"]]]",', ""),
        (r'"]\"\\\\\\",', r',"\\\"["'),
        (r'{"]":"\\"},', ""),
        ("{},[],", ",[{}]"),
    ],
)
def test_brackets_in_strings_are_no_levels(before: str, after: str) -> None:
    at_most = f"[{before}{'[' * 255}{']' * 255}{after}]"
    assert decode_request(publish(at_most)) == Publish("c", at_most.encode(), "m")
    assert refused(publish(f"[{at_most}]"))["code"] == "bad_json"


MANY = 250_000


@pytest.mark.parametrize(
    "data",
    [
        f"[{'[],' * MANY}0]",
        f"[{('[' * 250 + ']' * 250 + ',') * (MANY // 125)}0]",
        f"[{'{},' * MANY}0]",
        f"[{'[],' * 300}" + '"' + r"\\\\" * MANY + '"]',
        f"[{'[],' * 300}" + '"' + r"\"[" * MANY + '"]',
        f"[{'[],' * 300}" + '"",' * MANY + "0]",
        f"[{'[],' * 300}" + '"[",' * MANY + "0]",
        f"[{'[],' * 300}" + '"' + "x" * 4 * MANY + '"]',
    ],
    ids=range(8),
)
def test_a_big_publish_is_read_quickly_whatever_is_in_it(data: str) -> None:
    frame = publish(data)
    started = time.process_time()
    assert isinstance(decode_request(frame), Publish)
    assert time.process_time() - started < 0.15


@given(texts)
def test_any_json_text_survives(text: str) -> None:
    assert is_json(text.encode())
    request = decode_request(f'{{"action":"publish","channel":"c","data":{text},"messageId":"m"}}')
    assert isinstance(request, Publish)
    assert request.data == text.encode().strip()


@settings(max_examples=200)
@given(
    st.builds(
        lambda text, at, cut, put: text[: at % (len(text) + 1)] + put + text[at % (len(text) + 1) + cut :],
        texts.map(str.encode),
        st.integers(0, 1000),
        st.integers(0, 3),
        st.binary(max_size=2)
        | st.sampled_from([b"\\", b"\\ud83d", b"\\ude00", b"\\u00", b"0", b"-", b"e", b".", b"NaN", b'"', b",", b":"]),
    )
)
def test_strict_json_is_what_a_strict_parser_takes(text: bytes) -> None:
    assert is_json(text) == strict(text)


keys = st.sampled_from(["action", "channel", "lastMessageId", "last", "marker", "data", "messageId"])
likely = st.sampled_from(["publish", "subscribe", "unsubscribe", "ping", "c", "0", "$", 5, True])


@settings(max_examples=200)
@given(st.text(st.characters(), max_size=30) | texts | st.dictionaries(keys, likely | values).map(json.dumps))
def test_any_text_is_a_request_or_gets_one_reply(frame: str) -> None:
    try:
        decode_request(frame)
    except RequestError as error:
        reply = json.loads(encode_reply(refusal(error)))
        assert reply["error"]
        assert reply["code"] in set(ErrorCode)


def test_python_values_as_json_text() -> None:
    assert json_text({"a": [1, "é", None]}) == b'{"a":[1,"\xc3\xa9",null]}'
    for value in (object(), "\ud800", {"a": float}):
        with pytest.raises(UsageError, match="can't be written as JSON"):
            json_text(value)

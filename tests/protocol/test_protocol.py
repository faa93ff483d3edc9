"""The wire protocol as text in, text out: every row of its tables, to the letter."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsws.errors import Conflict, ErrorCode, Outcome, RedisRefused, RedisUnavailable, RequestError, UsageError
from rsws.protocol import (
    MAX_DEPTH,
    ZERO,
    Ack,
    CaughtUp,
    Connected,
    Error,
    ErrorAck,
    Gap,
    Message,
    Ping,
    Pong,
    Publish,
    Refused,
    Reply,
    Request,
    StreamId,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    channel_fault,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    is_json,
    json_text,
    message_template,
    publish_failure,
    refusal,
)

T = TypeVar("T")
TOP = 2**64 - 1
FORMAT_TEXT = "Format publish salah. Wajib ada: channel, data, messageId"


def refused(frame: str) -> dict[str, Any]:
    """The reply to a frame that is no good request."""
    with pytest.raises(RequestError) as caught:
        decode_request(frame)
    reply: dict[str, Any] = json.loads(encode_reply(refusal(caught.value)))
    return reply


def deeper(frames: int, call: Callable[[], T]) -> T:
    """``call()`` with that many frames more on the stack."""
    return deeper(frames - 1, call) if frames else call()


# --- requests ---


@pytest.mark.parametrize(
    ("frame", "request_"),
    [
        (
            '{"action":"subscribe","channel":"chat-room-1","lastMessageId":"0"}',
            Subscribe("chat-room-1", ZERO),
        ),
        ('{"action":"subscribe","channel":"c","lastMessageId":"0-0"}', Subscribe("c", ZERO)),
        ('{"action":"subscribe","channel":"c"}', Subscribe("c", ZERO)),
        ('{"action":"subscribe","channel":"c","lastMessageId":"$"}', Subscribe("c", None)),
        (
            '{"action":"subscribe","channel":"c","lastMessageId":"1700000001234-5"}',
            Subscribe("c", StreamId(1700000001234, 5)),
        ),
        ('{"action":"subscribe","channel":"c","lastMessageId":"17"}', Subscribe("c", StreamId(17, 0))),
        ('{"action":"subscribe","channel":"c","last":0}', Subscribe("c", last=0)),
        ('{"action":"subscribe","channel":"c","last":5,"marker":true}', Subscribe("c", last=5, marker=True)),
        ('{"action":"subscribe","channel":"c","marker":false}', Subscribe("c")),
        ('{"lastMessageId":"$","marker":true,"channel":"c","action":"subscribe"}', Subscribe("c", None, marker=True)),
        (
            '{"action":"publish","channel":"chat-room-1","data":{"user":"alice","text":"Halo semua!"},'
            '"messageId":"client-uuid-1"}',
            Publish("chat-room-1", b'{"user":"alice","text":"Halo semua!"}', "client-uuid-1"),
        ),
        ('{"action":"publish","channel":"c","data":null,"messageId":""}', Publish("c", b"null", "")),
        ('{"action":"publish","channel":"c","data":false,"messageId":"m"}', Publish("c", b"false", "m")),
        ('{"action":"publish","channel":"c","data":"","messageId":"m"}', Publish("c", b'""', "m")),
        (
            '{"action":"publish","channel":"c","data":1,"messageId":"m","producer":"p"}',
            Publish("c", b"1", "m", "p"),
        ),
        ('{"action":"unsubscribe","channel":"c"}', Unsubscribe("c")),
        ('{"action":"ping"}', Ping()),
        (' \r\n\t{ "action" : "ping" } \n', Ping()),
        ('{"action":"p\\u0069ng"}', Ping()),
    ],
)
def test_requests(frame: str, request_: Request) -> None:
    assert decode_request(frame) == request_


@pytest.mark.parametrize(
    ("frame", "request_"),
    [
        ('{"action":"ping","channel":5,"data":[],"marker":"x"}', Ping()),
        ('{"action":"subscribe","channel":"c","messageId":7,"data":{}}', Subscribe("c")),
        ('{"action":"unsubscribe","channel":"c","lastMessageId":7,"last":"x"}', Unsubscribe("c")),
        (
            '{"action":"publish","channel":"c","data":1,"messageId":"m","last":-3,"marker":0,"lastMessageId":"no"}',
            Publish("c", b"1", "m"),
        ),
        ('{"action":"ping","action":"unsubscribe","channel":"b","channel":"c"}', Unsubscribe("c")),
        ('{"action":"ping","x":{"y":[1e400]}}', Ping()),
    ],
    ids=["ping", "subscribe", "unsubscribe", "publish", "duplicates", "unknown"],
)
def test_keys_an_action_has_no_use_for_are_ignored_and_of_duplicates_the_last_counts(
    frame: str, request_: Request
) -> None:
    assert decode_request(frame) == request_


@pytest.mark.parametrize(
    "frame",
    [
        "",
        " ",
        "hello",
        "{",
        '{"action":"ping"',
        '{"action":"ping"}}',
        '{"action":"ping"} {"action":"ping"}',
        '{"action":"ping",}',
        "{'action':'ping'}",
        '{"action":"ping","x":NaN}',
        '{"action":"ping","x":Infinity}',
        '{"action":"ping","x":-Infinity}',
        '{"action":"ping","x":01}',
        '{"action":"ping","x":"a\nb"}',
        '{"action":"ping","x":"\\x41"}',
        '\ufeff{"action":"ping"}',
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"action":"ping","x":' + "[" * 10_000 + "]" * 10_000 + "}",
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        '\ud800{"action":"ping"}',
    ],
    ids=range(21),
)
def test_bad_json(frame: str) -> None:
    reply = refused(frame)
    assert list(reply) == ["status", "error", "code"]
    assert (reply["status"], reply["code"]) == ("error", "bad_json")
    assert reply["error"]


@pytest.mark.parametrize(
    ("frame", "channel"),
    [
        ("[]", None),
        ("5", None),
        ("null", None),
        ('"ping"', None),
        ('[{"action":"ping"}]', None),
        ("{}", None),
        ('{"channel":"c"}', "c"),
        ('{"action":null}', None),
        ('{"action":1,"channel":"c"}', "c"),
        ('{"action":["ping"]}', None),
        ('{"action":true,"channel":5}', None),
        ('{"action":"subscribe"}', None),
        ('{"action":"subscribe","channel":null}', None),
        ('{"action":"subscribe","channel":5}', None),
        ('{"action":"subscribe","channel":["c"]}', None),
        ('{"action":"subscribe","channel":"c","lastMessageId":0}', "c"),
        ('{"action":"subscribe","channel":"c","lastMessageId":null}', "c"),
        ('{"action":"subscribe","channel":"c","last":-1}', "c"),
        ('{"action":"subscribe","channel":"c","last":1.5}', "c"),
        ('{"action":"subscribe","channel":"c","last":"5"}', "c"),
        ('{"action":"subscribe","channel":"c","last":true}', "c"),
        ('{"action":"subscribe","channel":"c","last":null}', "c"),
        ('{"action":"subscribe","channel":"c","last":[]}', "c"),
        ('{"action":"subscribe","channel":"c","last":5,"lastMessageId":"0"}', "c"),
        ('{"action":"subscribe","channel":"c","marker":1}', "c"),
        ('{"action":"subscribe","channel":"c","marker":"true"}', "c"),
        ('{"action":"subscribe","channel":"c","marker":null}', "c"),
        ('{"action":"unsubscribe"}', None),
        ('{"action":"unsubscribe","channel":7}', None),
    ],
)
def test_bad_request(frame: str, channel: str | None) -> None:
    reply = refused(frame)
    assert list(reply) == ["status", "error", "code"] + ["channel"] * (channel is not None)
    assert (reply["status"], reply["code"], reply.get("channel")) == ("error", "bad_request", channel)


@pytest.mark.parametrize("last", ["0", "7", "99999999999999999999", "9" * 400, "9" * 5000])
def test_last_may_be_any_whole_number(last: str) -> None:
    request = decode_request(f'{{"action":"subscribe","channel":"c","last":{last}}}')
    assert isinstance(request, Subscribe)
    assert request.last == int(last[:300]) or (request.last is not None and request.last >= 10**18)


@pytest.mark.parametrize("missing", ["channel", "data", "messageId"])
def test_a_publish_with_a_key_missing(missing: str) -> None:
    keys = {"action": "publish", "channel": "c", "data": {"x": 1}, "messageId": "m1"}
    del keys[missing]
    reply = refused(json.dumps(keys))
    assert reply["error"] == FORMAT_TEXT
    assert reply["code"] == "bad_request"
    if missing == "messageId":
        assert list(reply) == ["status", "error", "code", "channel"]
        assert (reply["status"], reply["channel"]) == ("error", "c")
    else:
        assert list(reply) == ["status", "messageId", "error", "code", "outcome"]
        assert (reply["status"], reply["messageId"], reply["outcome"]) == ("error_ack", "m1", "not_stored")


def test_a_publish_with_nothing_but_its_action() -> None:
    assert refused('{"action":"publish"}') == {"status": "error", "error": FORMAT_TEXT, "code": "bad_request"}


@pytest.mark.parametrize(
    ("channel", "code"),
    [
        (5, "bad_request"),
        (None, "bad_request"),
        ({}, "bad_request"),
        ("", "bad_channel"),
        ("a\nb", "bad_channel"),
        ("x" * 513, "bad_channel"),
    ],
)
def test_a_refused_publish_with_a_message_id_gets_an_error_ack(channel: object, code: str) -> None:
    frame = json.dumps({"action": "publish", "channel": channel, "data": 1, "messageId": 'm é\u2028"'})
    reply = refused(frame)
    assert list(reply) == ["status", "messageId", "error", "code", "outcome"]
    assert (reply["status"], reply["messageId"]) == ("error_ack", 'm é\u2028"')
    assert (reply["code"], reply["outcome"]) == (code, "not_stored")


@pytest.mark.parametrize("producer", [5, None, True, [], {}])
def test_a_producer_is_a_string(producer: object) -> None:
    reply = refused(
        json.dumps({"action": "publish", "channel": "c", "data": 1, "messageId": "m", "producer": producer})
    )
    assert (reply["status"], reply["messageId"], reply["code"]) == ("error_ack", "m", "bad_request")


@pytest.mark.parametrize("message_id", [5, None, True, [], {}, 1.5])
def test_a_publish_whose_message_id_is_no_string_gets_an_error(message_id: object) -> None:
    reply = refused(json.dumps({"action": "publish", "channel": "c", "data": 1, "messageId": message_id}))
    assert (reply["status"], reply["code"], reply["channel"]) == ("error", "bad_request", "c")


def test_a_publish_with_a_lone_surrogate_in_its_data_gets_an_error_ack() -> None:
    # JSON.stringify writes it so for a text cut in the middle of an emoji; the client waits for this messageId.
    reply = refused('{"action":"publish","channel":"c","data":{"text":"cut \\ud83d"},"messageId":"m1"}')
    assert (reply["status"], reply.get("messageId"), reply["code"]) == ("error_ack", "m1", "bad_json")


@pytest.mark.parametrize("place", ["channel", "data", "messageId", "action", "unknown"])
@pytest.mark.parametrize("text", ["\\ud800", "\\udfff", "\\udc00\\ud800", "\\ud800x", "\\ud800\\u0041", "\\ud800\\n"])
def test_lone_surrogates_are_refused_wherever_they_stand(place: str, text: str) -> None:
    keys = {"action": '"publish"', "channel": '"c"', "data": "1", "messageId": '"m"', place: f'"{text}"'}
    reply = refused("{" + ",".join(f'"{key}":{value}' for key, value in keys.items()) + "}")
    assert reply["status"] in ("error", "error_ack")
    assert reply["code"] in ("bad_json", "bad_request")


@pytest.mark.parametrize("action", ["", "Publish", "SUBSCRIBE", "ping ", 'a"b', "aksi\u2028", "x" * 1000])
def test_an_unknown_action(action: str) -> None:
    reply = refused(json.dumps({"action": action}))
    assert reply == {"status": "error", "error": f"Aksi tidak dikenal: {action}", "code": "unknown_action"}


@pytest.mark.parametrize("others", [{}, {"data": 1, "messageId": "m"}, {"last": "x"}, {"marker": 5}])
def test_an_unknown_action_with_other_keys(others: dict[str, Any]) -> None:
    reply = refused(json.dumps({"action": "jump", "channel": "c", **others}))
    assert reply == {"status": "error", "error": "Aksi tidak dikenal: jump", "code": "unknown_action", "channel": "c"}


# --- channel names ---

BAD_NAMES = {
    "empty": "",
    "513 bytes": "x" * 513,
    "513 bytes of UTF-8": "é" * 256 + "x",
    "514 bytes of UTF-8": "é" * 257,
    "newline": "a\nb",
    "NUL": "\0",
    "C0": "a\x1f",
    "DEL": "\x7f",
    "C1": "a\x85b",
    "last of C1": "\x9f",
    "a key of the gateway": "rsws:once:{x}:y",
    "another": "rsws:",
}


@pytest.mark.parametrize("action", ["subscribe", "unsubscribe"])
@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_a_bad_channel(name: str, action: str) -> None:
    reply = refused(json.dumps({"action": action, "channel": name}))
    assert list(reply) == ["status", "error", "code", "channel"]
    assert (reply["status"], reply["code"], reply["channel"]) == ("error", "bad_channel", name)


@pytest.mark.parametrize(
    "name",
    [
        "c",
        " ",
        "a b",
        "x" * 512,
        "é" * 256,
        "€" * 170 + "ab",
        "😀" * 128,
        "\xa0",
        "*",
        "{tag}:1",
        'quo"te\\',
        "$",
        "\u2028",
        "0",
        "rsws",
        "RSWS:x",
        "x:rsws:",
    ],
)
def test_nothing_more_is_asked_of_a_channel_name(name: str) -> None:
    assert channel_fault(name) is None
    for escaped in (True, False):
        frame = json.dumps({"action": "unsubscribe", "channel": name}, ensure_ascii=escaped)
        assert decode_request(frame) == Unsubscribe(name)


def test_nothing_is_kept_of_what_is_refused() -> None:
    tracemalloc.start()
    try:
        for number in range(100):
            for keys in ({"action": "subscribe", "channel": f"{number}" * 50_000}, {"action": f"{number}" * 50_000}):
                with suppress(RequestError):
                    decode_request(json.dumps(keys))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 500_000


# --- stream ids ---

BAD_IDS = [
    "",
    "+",
    "-",
    "*",
    ">",
    "$$",
    " ",
    " 1",
    "1 ",
    "1\n",
    "1-",
    "-1",
    "1--1",
    "1-2-3",
    "1-*",
    "(1",
    "+1",
    "1_0",
    "1.0",
    "1e3",
    "0x1",
    "１-0",
    "1-１",
    "²",
    "٣-0",
    "0" * 21,
    "1-" + "0" * 21,
    "9" * 21,
    str(2**64),
    f"1-{2**64}",
    "99999999999999999999",
    "null",
    "\0",
]


@pytest.mark.parametrize("text", BAD_IDS)
def test_a_bad_cursor(text: str) -> None:
    reply = refused(json.dumps({"action": "subscribe", "channel": "c", "lastMessageId": text}))
    assert list(reply) == ["status", "error", "code", "channel"]
    assert (reply["status"], reply["code"], reply["channel"]) == ("error", "bad_cursor", "c")
    with pytest.raises(ValueError, match="stream id"):
        StreamId.parse(text)


@pytest.mark.parametrize(
    ("text", "id_", "canonical"),
    [
        ("0", (0, 0), "0-0"),
        ("5", (5, 0), "5-0"),
        ("5-7", (5, 7), "5-7"),
        ("00005-007", (5, 7), "5-7"),
        ("0" * 20 + "-" + "0" * 20, (0, 0), "0-0"),
        (f"{TOP}-{TOP}", (TOP, TOP), f"{TOP}-{TOP}"),
    ],
)
def test_a_good_id(text: str, id_: tuple[int, int], canonical: str) -> None:
    assert StreamId.parse(text) == id_
    assert str(StreamId.parse(text)) == canonical
    assert decode_request(json.dumps({"action": "subscribe", "channel": "c", "lastMessageId": text})) == Subscribe(
        "c", StreamId(*id_)
    )


def test_ids_are_ordered_as_pairs_of_integers() -> None:
    ascending = ["0", "0-1", "1", "1-9", "1-10", "9", "10", "10-1", "99-5", "100-0", str(TOP), f"{TOP}-{TOP}"]
    for lower, higher in pairwise(map(StreamId.parse, ascending)):
        assert lower < higher
        assert lower <= higher.before() < higher


ids = st.builds(StreamId, st.integers(0, TOP), st.integers(0, TOP))


@given(ids)
def test_an_id_survives_its_text(id_: StreamId) -> None:
    assert StreamId.parse(str(id_)) == id_ == StreamId.from_redis(str(id_).encode())


@given(ids.filter(lambda id_: id_ > ZERO))
def test_nothing_lies_between_an_id_and_the_one_before(id_: StreamId) -> None:
    before = id_.before()
    assert before.ms * 2**64 + before.seq + 1 == id_.ms * 2**64 + id_.seq


def test_nothing_is_before_zero() -> None:
    assert ZERO.before() == ZERO


# --- data ---

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


@given(texts)
def test_any_json_text_survives(text: str) -> None:
    assert is_json(text.encode())
    request = decode_request(f'{{"action":"publish","channel":"c","data":{text},"messageId":"m"}}')
    assert isinstance(request, Publish)
    assert request.data == text.encode().strip()


@settings(max_examples=400)
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


@settings(max_examples=300)
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


# --- replies ---

ID = StreamId(1700000001234, 0)
REPLIES: list[tuple[Reply, str]] = [
    (Connected(), '{"status":"connected","message":"Welcome!"}'),
    (Refused(), '{"error":"Unauthorized","status":401}'),
    (
        Subscribed("chat-room-1", ZERO, ID),
        '{"status":"subscribed","channel":"chat-room-1","lastMessageId":"0-0","latestId":"1700000001234-0"}',
    ),
    (Unsubscribed("c"), '{"status":"unsubscribed","channel":"c"}'),
    (
        Message("chat-room-1", ID, '{"user":"alice","text":"Halo semua!"}'),
        '{"event":"message","channel":"chat-room-1","streamId":"1700000001234-0",'
        '"data":{"user":"alice","text":"Halo semua!"}}',
    ),
    (CaughtUp("c", ID), '{"event":"caught_up","channel":"c","lastMessageId":"1700000001234-0"}'),
    (
        Gap("c", StreamId(5, 0), ID, "trimmed"),
        '{"event":"gap","channel":"c","lastMessageId":"5-0","resumesAt":"1700000001234-0","reason":"trimmed"}',
    ),
    (
        Gap("c", StreamId(5, 0), None, "reset"),
        '{"event":"gap","channel":"c","lastMessageId":"5-0","resumesAt":null,"reason":"reset"}',
    ),
    (Ack("client-uuid-1", ID), '{"status":"ack","messageId":"client-uuid-1","streamId":"1700000001234-0"}'),
    (
        Ack("client-uuid-1", ID, duplicate=True),
        '{"status":"ack","messageId":"client-uuid-1","streamId":"1700000001234-0","duplicate":true}',
    ),
    (
        publish_failure("m", Conflict("used before")),
        '{"status":"error_ack","messageId":"m","error":"used before","code":"conflict","outcome":"not_stored"}',
    ),
    (
        publish_failure("client-uuid-1", RedisUnavailable("refused")),
        '{"status":"error_ack","messageId":"client-uuid-1","error":"Server Redis tidak siap",'
        '"code":"redis_unavailable","outcome":"not_stored"}',
    ),
    (
        publish_failure("m", RedisUnavailable("broken", Outcome.UNKNOWN)),
        '{"status":"error_ack","messageId":"m","error":"Server Redis tidak siap",'
        '"code":"redis_unavailable","outcome":"unknown"}',
    ),
    (
        publish_failure("m", RedisRefused("OOM command not allowed")),
        '{"status":"error_ack","messageId":"m","error":"OOM command not allowed",'
        '"code":"redis_refused","outcome":"not_stored"}',
    ),
    (
        Error("Aksi tidak dikenal: x", ErrorCode.UNKNOWN_ACTION),
        '{"status":"error","error":"Aksi tidak dikenal: x","code":"unknown_action"}',
    ),
    (
        Error("Server Redis tidak siap", ErrorCode.REDIS_UNAVAILABLE, "c"),
        '{"status":"error","error":"Server Redis tidak siap","code":"redis_unavailable","channel":"c"}',
    ),
    (Pong(), '{"status":"pong"}'),
]


@pytest.mark.parametrize(("reply", "text"), REPLIES, ids=[type(reply).__name__ for reply, _ in REPLIES])
def test_replies_to_the_letter(reply: Reply, text: str) -> None:
    assert encode_reply(reply).decode() == text
    assert decode_reply(text) == reply


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            Subscribe("c", ID, marker=True),
            '{"action":"subscribe","channel":"c","lastMessageId":"1700000001234-0","marker":true}',
        ),
        (
            Publish("é", b'{ "a":1}', "m", "p"),
            '{"action":"publish","channel":"é","data":{ "a":1},"messageId":"m","producer":"p"}',
        ),
        (Subscribe("c", None), '{"action":"subscribe","channel":"c","lastMessageId":"$"}'),
        (Subscribe("c", last=7), '{"action":"subscribe","channel":"c","last":7}'),
        (Unsubscribe("é"), '{"action":"unsubscribe","channel":"é"}'),
        (Ping(), '{"action":"ping"}'),
    ],
)
def test_requests_to_the_letter(request_: Request, text: str) -> None:
    assert encode_request(request_) == text


message_texts = texts.map(str.strip)
requests = st.one_of(
    st.builds(Subscribe, channels, st.none() | ids, st.none(), st.booleans()),
    st.builds(Subscribe, channels, st.just(ZERO), st.integers(0, 10**18), st.booleans()),
    st.builds(Unsubscribe, channels),
    st.builds(Publish, channels, message_texts.map(str.encode), st.text(), st.none() | st.text()),
    st.just(Ping()),
)
replies = st.one_of(
    st.sampled_from([Connected(), Refused(), Pong()]),
    st.builds(Subscribed, channels, ids, ids),
    st.builds(Unsubscribed, channels),
    st.builds(Message, channels, ids, message_texts),
    st.builds(CaughtUp, channels, ids),
    st.builds(Gap, channels, ids, st.none() | ids, st.sampled_from(["trimmed", "reset"])),
    st.builds(Ack, st.text(), ids, st.booleans()),
    st.builds(ErrorAck, st.text(), st.text(), st.sampled_from(ErrorCode), st.sampled_from(Outcome)),
    st.builds(Error, st.text(), st.sampled_from(ErrorCode), st.none() | st.text()),
)


@given(requests)
def test_the_gateway_reads_what_the_client_writes(request_: Request) -> None:
    assert decode_request(encode_request(request_)) == request_


@given(replies)
def test_the_client_reads_what_the_gateway_writes(reply: Reply) -> None:
    text = encode_reply(reply).decode()
    assert strict(text.encode())
    assert decode_reply(text) == reply


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"event":"presence","channel":"c"}',
        '{"status":"paused"}',
        '{"status":"paused","until":5}',
        '{"status":418}',
    ],
)
def test_a_reply_of_a_later_version_is_none(text: str) -> None:
    assert decode_reply(text) is None


def test_new_keys_of_a_known_reply_are_ignored() -> None:
    text = '{"status":"ack","messageId":"m","streamId":"5-0","new":{"x":[1]}}'
    assert decode_reply(text) == Ack("m", StreamId(5, 0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "null",
        "5",
        '{"event":"message","channel":"c","streamId":"x","data":1}',
        '{"event":"message","channel":5,"streamId":"1-0","data":1}',
        '{"status":"subscribed","channel":"c","lastMessageId":"?","latestId":"0-0"}',
        "[" * 100_000,
        '{"status":"ok\ud800"}',
    ],
)
def test_what_is_no_reply_at_all(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_reply(text)


def test_the_error_of_redis_out_of_reach_is_the_one_that_deployed_clients_match_on() -> None:
    error = RedisUnavailable("details for the log")
    assert (str(error), error.cause) == ("Server Redis tidak siap", "details for the log")

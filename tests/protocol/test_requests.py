"""Requests as text in, replies as text out: every row of the tables, to the letter; channel names and ids."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given

from kit.protocol import TOP, ids, refused
from rsws.errors import RequestError
from rsws.protocol import (
    ZERO,
    Ping,
    Publish,
    Request,
    StreamId,
    Subscribe,
    Unsubscribe,
    channel_fault,
    decode_request,
)

FORMAT_TEXT = "Format publish salah. Wajib ada: channel, data, messageId"


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
        ('{"action":"subscribe","channel":"c","end":true,"lastMessageId":"$"}', Subscribe("c", None, end=True)),
        ('{"action":"subscribe","channel":"c","end":true,"resume":true}', Subscribe("c", end=True, resume=True)),
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
        '\ud800{"action":"ping"}',
    ],
    ids=range(18),
)
def test_bad_json(frame: str) -> None:
    reply = refused(frame)
    assert list(reply) == ["status", "error", "code"]
    assert (reply["status"], reply["code"]) == ("error", "bad_json")
    assert reply["error"]


@pytest.mark.parametrize(
    ("frame", "read"),
    [
        ("[" * 100_000 + "]" * 100_000, "a request is a JSON object"),
        ('{"action":"ping","x":' + "[" * 10_000 + "]" * 10_000 + "}", Ping()),
        ('{"a":' * 10_000 + "1" + "}" * 10_000, "action is missing or no string"),
    ],
    ids=["array", "unknown key", "object"],
)
def test_json_that_is_nested_deep_is_read_or_refused_as_the_python_at_hand_can(frame: str, read: Request | str) -> None:
    try:
        found: Request | str = decode_request(frame)
    except RequestError as error:
        found = str(error)
    assert found in {read, "the JSON is nested too deep to read"}


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


@given(ids)
def test_an_id_survives_its_text(id_: StreamId) -> None:
    assert StreamId.parse(str(id_)) == id_ == StreamId.from_redis(str(id_).encode())


@given(ids.filter(lambda id_: id_ > ZERO))
def test_nothing_lies_between_an_id_and_the_one_before(id_: StreamId) -> None:
    before = id_.before()
    assert before.ms * 2**64 + before.seq + 1 == id_.ms * 2**64 + id_.seq


def test_nothing_is_before_zero() -> None:
    assert ZERO.before() == ZERO

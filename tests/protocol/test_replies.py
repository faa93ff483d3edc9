"""Replies to the letter, and both sides of the wire read what the other writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.protocol import channels, ids, strict, texts
from rsws.errors import Conflict, ErrorCode, Outcome, RedisRefused, RedisUnavailable
from rsws.protocol import (
    ZERO,
    Ack,
    CaughtUp,
    Connected,
    End,
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
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    publish_failure,
)

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
    (End("c", ID), '{"event":"end","channel":"c","streamId":"1700000001234-0"}'),
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

"""Replies and events, from the gateway to a client."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Raw

from rsws.errors import Outcome, RequestError, StoreError
from rsws.protocol.data import quote
from rsws.protocol.ids import StreamId

MAX_EVENT_OVERHEAD = len('{"event":"message","channel":,"streamId":"","data":}') + 2 * 20 + 1
"""The bytes of a message event without the quoted channel name and the data, with the longest possible id."""


class Connected(msgspec.Struct, frozen=True, gc=False):
    pass


class Subscribed(msgspec.Struct, frozen=True, gc=False):
    channel: str
    last_message_id: StreamId
    """The id that this subscription starts after, whatever form the request gave it in."""
    latest_id: StreamId
    """The stream's last-generated id when the subscription started."""


class Unsubscribed(msgspec.Struct, frozen=True, gc=False):
    channel: str


class Message(msgspec.Struct, frozen=True, gc=False):
    """One entry of a channel."""

    channel: str
    id: StreamId
    json: str
    """The data, byte for byte as it was published."""

    @property
    def data(self) -> Any:
        """The data as Python objects, parsed anew at each access."""
        return msgspec.json.decode(self.json)


class CaughtUp(msgspec.Struct, frozen=True, gc=False):
    """The event that history has ended and live delivery begins; sent once, if the subscription asked (``marker``)."""

    channel: str
    last_message_id: StreamId


class End(msgspec.Struct, frozen=True, gc=False):
    """The event that the entry ``id`` ends the channel, and the subscription is over; sent if it asked (``end``)."""

    channel: str
    id: StreamId


class Gap(msgspec.Struct, frozen=True, gc=False):
    """The event that entries after ``last_message_id`` may be missing; delivery continues after the gap."""

    channel: str
    last_message_id: StreamId
    resumes_at: StreamId | None
    """The first id that the stream still has after the gap; None when it has none yet."""
    reason: Literal["trimmed", "reset"]


class Ack(msgspec.Struct, frozen=True, gc=False):
    message_id: str
    stream_id: StreamId
    duplicate: bool = False
    """Whether the same producer stored it before under the same messageId; ``stream_id`` is then the first one's."""


class ErrorAck(msgspec.Struct, frozen=True, gc=False):
    message_id: str
    error: str
    code: str
    outcome: Outcome
    retry_after_s: float | None = None
    """The seconds after which to publish again; None where the gateway does not say."""


class Error(msgspec.Struct, frozen=True, gc=False):
    error: str
    code: str
    channel: str | None = None
    retry_after_s: float | None = None
    """The seconds after which to ask again; None where the gateway does not say."""


class Pong(msgspec.Struct, frozen=True, gc=False):
    pass


class TokenChanged(msgspec.Struct, frozen=True, gc=False):
    """The reply that another token holds from now on."""

    expires_at: str | None
    """When it expires (RFC 3339, UTC); None for never."""


class TokenExpiring(msgspec.Struct, frozen=True, gc=False):
    """The event that the connection will be closed soon unless the client sends another token."""

    expires_at: str


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The reply that the token is missing or wrong; the connection is closed after it."""


Reply: TypeAlias = (
    Connected | Subscribed | Unsubscribed | Message | CaughtUp | End | Gap | Ack | ErrorAck | Error | Pong | Refused
    | TokenChanged | TokenExpiring
)  # fmt: skip


def encode_reply(reply: Reply) -> bytes:
    """Return the JSON text of a reply or an event, with the keys in the specification's order."""
    match reply:
        case Subscribed(channel, last, latest):  # first, as it is what each client gets
            return b'{"status":"subscribed","channel":%b,"lastMessageId":"%d-%d","latestId":"%d-%d"}' % (
                msgspec.json.encode(channel), *last, *latest
            )  # fmt: skip
        case Message(channel, stream_id, text):
            return message_template(channel) % (str(stream_id).encode(), text.encode())
        case Ack(message_id, stream_id, duplicate):
            return encode_ack(message_id, str(stream_id).encode(), duplicate)
        case Connected():
            return b'{"status":"connected","message":"Welcome!"}'
        case Refused():
            return b'{"error":"Unauthorized","status":401}'
        case Pong():
            return b'{"status":"pong"}'
        case TokenChanged(expires_at):
            keys: dict[str, Any] = {"status": "token", "expiresAt": expires_at}
        case TokenExpiring(expires_at):
            keys = {"event": "token_expiring", "expiresAt": expires_at}
        case Unsubscribed(channel):
            keys = {"status": "unsubscribed", "channel": channel}
        case CaughtUp(channel, last):
            keys = {"event": "caught_up", "channel": channel, "lastMessageId": str(last)}
        case End(channel, stream_id):
            keys = {"event": "end", "channel": channel, "streamId": str(stream_id)}
        case Gap(channel, last, resumes_at, reason):
            keys = {
                "event": "gap", "channel": channel, "lastMessageId": str(last),
                "resumesAt": None if resumes_at is None else str(resumes_at), "reason": reason,
            }  # fmt: skip
        case ErrorAck(message_id, error, code, outcome, retry_after_s):
            keys = {
                "status": "error_ack", "messageId": message_id, "error": error, "code": code, "outcome": outcome
            }  # fmt: skip
            if retry_after_s is not None:
                keys["retryAfter"] = _milliseconds(retry_after_s)
        case Error(error, code, channel_or_none, retry_after_s):
            keys = {"status": "error", "error": error, "code": code}
            if channel_or_none is not None:
                keys["channel"] = channel_or_none
            if retry_after_s is not None:
                keys["retryAfter"] = _milliseconds(retry_after_s)
    return msgspec.json.encode(keys)


def encode_ack(message_id: str, stream_id: bytes, duplicate: bool = False) -> bytes:
    """Return the JSON text of an :class:`Ack` for an id as Redis wrote it."""
    again = b',"duplicate":true' if duplicate else b""
    return b'{"status":"ack","messageId":%b,"streamId":"%b"%b}' % (msgspec.json.encode(message_id), stream_id, again)


def refusal(error: RequestError) -> ErrorAck | Error:
    """Return the reply to a request that is refused."""
    if error.message_id is not None:
        return ErrorAck(error.message_id, str(error), error.code, Outcome.NOT_STORED, error.retry_after_s)
    return Error(str(error), error.code, error.channel, error.retry_after_s)


def publish_failure(message_id: str, error: StoreError) -> ErrorAck:
    """Return the reply to a publish that Redis did not confirm."""
    return ErrorAck(message_id, str(error), error.code, error.outcome)


def message_template(channel: str) -> bytes:
    """Return a channel's message event as a template, to be filled (``%``) with an id and with data that is JSON.

    So what is the same in all messages of a channel is encoded once.
    """
    prefix = f'{{"event":"message","channel":{quote(channel)},"streamId":"'.encode()
    return prefix.replace(b"%", b"%%") + b'%b","data":%b}'


def max_event_bytes(channel: str, data: bytes) -> int:
    """Return the longest that a message's event can be, in bytes: every subscriber must accept that in one frame."""
    return MAX_EVENT_OVERHEAD + len(quote(channel).encode()) + len(data)


class _ReplyFields(msgspec.Struct):
    status: str | int | None = None
    event: str | None = None
    channel: str | None = None
    streamId: str = ""
    data: Raw = Raw()
    lastMessageId: str = "0-0"
    latestId: str = "0-0"
    resumesAt: str | None = None
    reason: Literal["trimmed", "reset"] = "trimmed"
    messageId: str = ""
    error: str = ""
    code: str = ""
    outcome: Outcome = Outcome.UNKNOWN
    duplicate: bool = False
    expiresAt: str | None = None
    retryAfter: float | None = None


_reply_fields = msgspec.json.Decoder(_ReplyFields)


def decode_reply(frame: str) -> Reply | None:
    """Read one reply or event; None for one of a kind this version does not know.

    Raises:
        ValueError: The frame is not a reply at all: the other side does not speak this protocol.
    """
    try:
        fields = _reply_fields.decode(frame)
        channel = fields.channel or ""
        match fields.event or fields.status:
            case "message":
                return Message(channel, StreamId.parse(fields.streamId), bytes(fields.data).decode())
            case "ack":
                return Ack(fields.messageId, StreamId.parse(fields.streamId or "0-0"), fields.duplicate)
            case "error_ack":
                return ErrorAck(fields.messageId, fields.error, fields.code, fields.outcome, fields.retryAfter)
            case "subscribed":
                return Subscribed(channel, StreamId.parse(fields.lastMessageId), StreamId.parse(fields.latestId))
            case "unsubscribed":
                return Unsubscribed(channel)
            case "caught_up":
                return CaughtUp(channel, StreamId.parse(fields.lastMessageId))
            case "end":
                return End(channel, StreamId.parse(fields.streamId))
            case "gap":
                resumes_at = None if fields.resumesAt is None else StreamId.parse(fields.resumesAt)
                return Gap(channel, StreamId.parse(fields.lastMessageId), resumes_at, fields.reason)
            case "error":
                return Error(fields.error, fields.code, fields.channel, fields.retryAfter)
            case "connected":
                return Connected()
            case "pong":
                return Pong()
            case "token":
                return TokenChanged(fields.expiresAt)
            case "token_expiring":
                return TokenExpiring(fields.expiresAt or "")
            case 401:
                return Refused()
            case _:
                return None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not a reply of this protocol: {error}") from None


def _milliseconds(seconds: float) -> float:
    """Return seconds rounded up to a whole number of milliseconds."""
    return math.ceil(seconds * 1000) / 1000

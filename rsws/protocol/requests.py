"""Requests, from a client to the gateway."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from rsws.errors import ErrorCode, RequestError
from rsws.protocol.data import MAX_DEPTH, OWN_KEYS, channel_fault, is_too_deep, quote
from rsws.protocol.ids import ZERO, StreamId

SUBPROTOCOL = b"rsws"
"""The subprotocol that a client offers beside one that holds its token, and gets back."""
TOKEN_SUBPROTOCOL = b"rsws.token."
"""The beginning of a subprotocol that holds a token, in base64url without padding."""
MAX_ECHO = 4096
"""The longest invalid channel name, in characters, that an error reply repeats: a megabyte would not help a client."""
PUBLISH_FORMAT_TEXT = "Format publish salah. Wajib ada: channel, data, messageId"


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    """The request for all entries of ``channel`` after a position, then each new one.

    The position is given by ``last`` (that many entries before the end) where it is not None, else by ``after`` (an
    id; None stands for ``$``, the current end).
    """

    channel: str
    after: StreamId | None = ZERO
    last: int | None = None
    marker: bool = False
    """Whether the client wants a ``caught_up`` event when history ends and live delivery begins."""
    end: bool = False
    """Whether the subscription is over, with an ``end`` event, after the first entry that ends the channel."""
    resume: bool = False
    """With ``end``: whether the client was handed the message at its position, which may have been the last one."""


class Unsubscribe(msgspec.Struct, frozen=True, gc=False):
    channel: str


class Publish(msgspec.Struct, frozen=True, gc=False):
    channel: str
    data: bytes
    """JSON text, byte for byte as the client wrote it."""
    message_id: str
    producer: str | None = None
    """The producer's name; with one, (producer, channel, messageId) is stored at most once in the gateway's window."""


class Ping(msgspec.Struct, frozen=True, gc=False):
    pass


class ChangeToken(msgspec.Struct, frozen=True, gc=False):
    """The request to go on with another token on the open connection."""

    token: str

    def __repr__(self) -> str:
        return "ChangeToken(***)"


Request: TypeAlias = Subscribe | Unsubscribe | Publish | Ping | ChangeToken


class _Fields(msgspec.Struct, gc=False):
    """The keys of all requests with their types: one pass of a compiled decoder reads and checks them."""

    action: str
    channel: str | UnsetType = UNSET
    lastMessageId: str | UnsetType = UNSET
    last: int | UnsetType = UNSET
    marker: bool | UnsetType = UNSET
    end: bool | UnsetType = UNSET
    resume: bool | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    messageId: str | UnsetType = UNSET
    producer: str | UnsetType = UNSET
    token: str | UnsetType = UNSET


_fields = msgspec.json.Decoder(_Fields)
_raw = msgspec.json.Decoder(Raw)
_object = msgspec.json.Decoder(dict[str, Raw])
_string = msgspec.json.Decoder(str)
_boolean = msgspec.json.Decoder(bool)

_KEYS: dict[str, tuple[str, ...]] = {
    "subscribe": ("channel", "lastMessageId", "last", "marker", "end", "resume"),
    "unsubscribe": ("channel",),
    "publish": ("channel", "data", "messageId", "producer"),
    "ping": (),
    "token": ("token",),
}
_EXPECTED = {"lastMessageId": "a stream id, \"0\" or \"$\", as a string", "last": "a whole number >= 0",
             **dict.fromkeys(("marker", "end", "resume"), "true or false")}  # fmt: skip


def decode_request(frame: str) -> Request:
    """Read one request.

    Args:
        frame: The text of a WebSocket message, valid UTF-8 as WebSocket guarantees.

    Raises:
        RequestError: It is not a valid request; code, text, channel and messageId are those of the reply to send.
    """
    try:
        fields = _fields.decode(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        fields = _read_slowly(frame)
    if fields.action == "publish":
        return _publish(fields)
    channel = fields.channel
    match fields.action:
        case "subscribe":
            return _subscribe(fields)
        case "unsubscribe":
            return Unsubscribe(_channel(channel))
        case "ping":
            return Ping()
        case "token":
            if fields.token is UNSET:
                raise RequestError(ErrorCode.BAD_REQUEST, "token is missing")
            return ChangeToken(fields.token)
        case unknown:
            raise RequestError(ErrorCode.UNKNOWN_ACTION, f"Aksi tidak dikenal: {unknown}", channel=channel or None)


def _publish(fields: _Fields) -> Publish:
    channel, data, message_id = fields.channel, fields.data, fields.messageId
    if channel is UNSET or data is UNSET or message_id is UNSET:
        raise RequestError(
            ErrorCode.BAD_REQUEST, PUBLISH_FORMAT_TEXT, channel=channel or None, message_id=_or_none(message_id)
        )
    name, text = _channel(channel, message_id), bytes(data)
    if len(text) > MAX_DEPTH and is_too_deep(text):
        raise RequestError(
            ErrorCode.BAD_JSON, f"data is nested deeper than {MAX_DEPTH} levels", channel=name, message_id=message_id
        )
    producer = _or_none(fields.producer)
    if producer is not None and producer.startswith(OWN_KEYS):  # those are of publishes over plain HTTP
        why = f"the name of a producer must not begin with {OWN_KEYS}"
        raise RequestError(ErrorCode.BAD_REQUEST, why, channel=name, message_id=message_id)
    return Publish(name, text, message_id, producer)


def _subscribe(fields: _Fields) -> Subscribe:
    channel = _channel(fields.channel)
    last = None if fields.last is UNSET else fields.last
    if last is not None:
        if fields.lastMessageId is not UNSET:
            raise RequestError(ErrorCode.BAD_REQUEST, "give lastMessageId or last, not both", channel=channel)
        if last < 0:
            raise _wrong_type("last", channel)
    after = _position(fields.lastMessageId, channel)
    return Subscribe(channel, after, last, fields.marker is True, fields.end is True, fields.resume is True)


def _position(text: str | UnsetType, channel: str) -> StreamId | None:
    """Return the position that a subscribe names; None for ``$``."""
    if text is UNSET:
        return ZERO
    if text == "$":
        return None
    try:
        return StreamId.parse(text)
    except ValueError:
        raise RequestError(
            ErrorCode.BAD_CURSOR,
            'lastMessageId is not a stream id: write "0" for all of history, "$" for what is new, or an id as received',
            channel=channel,
        ) from None


def _channel(name: str | UnsetType, message_id: str | None = None) -> str:
    if name is UNSET:
        raise RequestError(ErrorCode.BAD_REQUEST, "channel is missing")
    reason = channel_fault(name)
    if reason is not None:
        known = name if len(name) <= MAX_ECHO else None
        raise RequestError(ErrorCode.BAD_CHANNEL, reason, channel=known, message_id=message_id)
    return name


def _wrong_type(key: str, channel: str | None, message_id: str | None = None) -> RequestError:
    return RequestError(
        ErrorCode.BAD_REQUEST,
        f"{key} must be {_EXPECTED.get(key, 'a string')}",
        channel=channel,
        message_id=message_id,
    )


def _or_none(value: str | UnsetType) -> str | None:
    return None if value is UNSET else value


def _read_slowly(frame: str) -> _Fields:
    """Read a request key by key, to say exactly what is wrong with it; keys that its action doesn't use are ignored."""
    try:
        _raw.decode(frame)
    except RecursionError:
        raise RequestError(ErrorCode.BAD_JSON, "the JSON is nested too deep to read") from None
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise RequestError(
            ErrorCode.BAD_JSON, f"the frame is not valid JSON: {error}", message_id=_message_id_if_lenient(frame)
        ) from None
    try:
        keys = _object.decode(frame)
    except msgspec.DecodeError:
        raise RequestError(ErrorCode.BAD_REQUEST, "a request is a JSON object") from None
    channel = _as_string(keys.get("channel"))
    action = _as_string(keys.get("action"))
    if action is None:
        raise RequestError(ErrorCode.BAD_REQUEST, "action is missing or no string", channel=channel)
    fields = _Fields(action)
    message_id = _as_string(keys.get("messageId")) if action == "publish" else None
    for key in _KEYS.get(action, ("channel",)):
        raw = keys.get(key)
        if raw is None:
            continue
        try:
            setattr(fields, key, _READ.get(key, _string.decode)(raw))
        except (msgspec.DecodeError, ValueError):
            if action in _KEYS:
                raise _wrong_type(key, channel, message_id) from None
    return fields


def _message_id_if_lenient(frame: str) -> str | None:
    """Return the messageId of a publish that only a lenient parser reads (a lone surrogate, NaN), if it has one.

    Its client waits for a reply with that messageId.
    """
    try:
        match json.loads(frame):
            case {"action": "publish", "messageId": str(message_id)}:
                message_id.encode()
                return message_id
    except (ValueError, RecursionError):
        pass
    return None


def _as_string(raw: Raw | None) -> str | None:
    try:
        return None if raw is None else _string.decode(raw)
    except msgspec.DecodeError:
        return None


def _whole_number(raw: Raw) -> int:
    """Read a whole number of any length; more than 18 digits become 10**18: no stream has as many entries anyway."""
    digits = bytes(raw)
    if not digits.isdigit():
        raise ValueError("no whole number")
    return int(digits) if len(digits) <= 18 else 10**18


_READ: dict[str, Any] = {
    **dict.fromkeys(("marker", "end", "resume"), _boolean.decode),
    "last": _whole_number,
    "data": lambda raw: raw,
}


def encode_request(request: Request) -> str:
    """Return the JSON text of a request, for a client to send."""
    match request:
        case Publish(channel, data, message_id, producer):
            once = "" if producer is None else f',"producer":{quote(producer)}'
            return (
                f'{{"action":"publish","channel":{quote(channel)},"data":{data.decode()},'
                f'"messageId":{quote(message_id)}{once}}}'
            )
        case Subscribe(channel, after, last, marker, end, resume):
            keys: dict[str, Any] = {"action": "subscribe", "channel": channel}
            if last is not None:
                keys["last"] = last
            else:
                keys["lastMessageId"] = "$" if after is None else str(after)
            return _text(
                keys | {key: True for key, value in (("marker", marker), ("end", end), ("resume", resume)) if value}
            )
        case Unsubscribe(channel):
            return _text({"action": "unsubscribe", "channel": channel})
        case Ping():
            return _text({"action": "ping"})
        case ChangeToken(token):
            return _text({"action": "token", "token": token})


def _text(keys: dict[str, Any]) -> str:
    return msgspec.json.encode(keys).decode()

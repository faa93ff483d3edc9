"""Requests, from a client to the gateway."""

from __future__ import annotations

import json
from typing import Any, TypeAlias, get_args

import msgspec
from msgspec import UNSET, Raw, UnsetType

from rsws.errors import ErrorCode, RequestError
from rsws.protocol.data import MAX_DEPTH, OWN_KEYS, SHALLOW_BYTES, check_channel, is_too_deep, quote
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


class _Keys(msgspec.Struct, tag_field="action", gc=False):
    """The keys of one kind of request with their types: one pass of a compiled decoder reads and checks them."""


class _SubscribeKeys(_Keys, tag="subscribe"):
    channel: str | UnsetType = UNSET
    lastMessageId: str | UnsetType = UNSET
    last: int | UnsetType = UNSET
    marker: bool | UnsetType = UNSET
    end: bool | UnsetType = UNSET
    resume: bool | UnsetType = UNSET


class _UnsubscribeKeys(_Keys, tag="unsubscribe"):
    channel: str | UnsetType = UNSET


class _PublishKeys(_Keys, tag="publish"):
    channel: str
    data: Raw
    messageId: str
    producer: str | UnsetType = UNSET


class _PingKeys(_Keys, tag="ping"):
    pass


class _TokenKeys(_Keys, tag="token"):
    token: str | UnsetType = UNSET


_AnyKeys: TypeAlias = _SubscribeKeys | _UnsubscribeKeys | _PublishKeys | _PingKeys | _TokenKeys

_keys: msgspec.json.Decoder[_AnyKeys] = msgspec.json.Decoder(_AnyKeys)
_raw = msgspec.json.Decoder(Raw)
_object = msgspec.json.Decoder(dict[str, Raw])
_string = msgspec.json.Decoder(str)
_boolean = msgspec.json.Decoder(bool)

_KINDS: dict[Any, type[_AnyKeys]] = {kind.__struct_config__.tag: kind for kind in get_args(_AnyKeys)}
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
        keys = _keys.decode(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        keys = _read_slowly(frame)
    if isinstance(keys, _PublishKeys):
        return _publish(keys)
    if isinstance(keys, _SubscribeKeys):
        return _subscribe(keys)
    if isinstance(keys, _UnsubscribeKeys):
        return Unsubscribe(_channel(keys.channel))
    if isinstance(keys, _PingKeys):
        return Ping()
    if keys.token is UNSET:
        raise RequestError(ErrorCode.BAD_REQUEST, "token is missing")
    return ChangeToken(keys.token)


def _publish(keys: _PublishKeys) -> Publish:
    channel, data, message_id = keys.channel, bytes(keys.data), keys.messageId
    try:
        check_channel(channel)
    except ValueError as fault:
        raise _bad_channel(channel, fault, message_id) from None
    if len(data) > SHALLOW_BYTES and is_too_deep(data):
        raise RequestError(
            ErrorCode.BAD_JSON, f"data is nested deeper than {MAX_DEPTH} levels", channel=channel, message_id=message_id
        )
    if keys.producer is UNSET:
        return Publish(channel, data, message_id)
    if keys.producer.startswith(OWN_KEYS):  # those are of publishes over plain HTTP
        why = f"the name of a producer must not begin with {OWN_KEYS}"
        raise RequestError(ErrorCode.BAD_REQUEST, why, channel=channel, message_id=message_id)
    return Publish(channel, data, message_id, keys.producer)


def _subscribe(keys: _SubscribeKeys) -> Subscribe:
    channel = _channel(keys.channel)
    last = None if keys.last is UNSET else keys.last
    if last is not None:
        if keys.lastMessageId is not UNSET:
            raise RequestError(ErrorCode.BAD_REQUEST, "give lastMessageId or last, not both", channel=channel)
        if last < 0:
            raise _wrong_type("last", channel)
    after = ZERO if keys.lastMessageId is UNSET else _position(keys.lastMessageId, channel)
    return Subscribe(channel, after, last, keys.marker is True, keys.end is True, keys.resume is True)


def _position(text: str, channel: str) -> StreamId | None:
    """Return the position that a subscribe names; None for ``$``."""
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


def _channel(name: str | UnsetType) -> str:
    if name is UNSET:
        raise RequestError(ErrorCode.BAD_REQUEST, "channel is missing")
    try:
        check_channel(name)
    except ValueError as fault:
        raise _bad_channel(name, fault) from None
    return name


def _bad_channel(name: str, fault: ValueError, message_id: str | None = None) -> RequestError:
    known = name if len(name) <= MAX_ECHO else None
    return RequestError(ErrorCode.BAD_CHANNEL, str(fault), channel=known, message_id=message_id)


def _wrong_type(key: str, channel: str | None, message_id: str | None = None) -> RequestError:
    return RequestError(
        ErrorCode.BAD_REQUEST,
        f"{key} must be {_EXPECTED.get(key, 'a string')}",
        channel=channel,
        message_id=message_id,
    )


def _read_slowly(frame: str) -> _AnyKeys:
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
        values = _object.decode(frame)
    except msgspec.DecodeError:
        raise RequestError(ErrorCode.BAD_REQUEST, "a request is a JSON object") from None
    channel = _as_string(values.get("channel"))
    action = _as_string(values.get("action"))
    if action is None:
        raise RequestError(ErrorCode.BAD_REQUEST, "action is missing or no string", channel=channel)
    kind = _KINDS.get(action)
    if kind is None:
        raise RequestError(ErrorCode.UNKNOWN_ACTION, f"Aksi tidak dikenal: {action}", channel=channel or None)
    message_id = _as_string(values.get("messageId")) if kind is _PublishKeys else None
    known: dict[str, Any] = {}
    for key in kind.__struct_fields__:
        raw = values.get(key)
        if raw is None:
            continue
        try:
            known[key] = _READ.get(key, _string.decode)(raw)
        except (msgspec.DecodeError, ValueError):
            raise _wrong_type(key, channel, message_id) from None
    if kind is _PublishKeys and not known.keys() >= {"channel", "data", "messageId"}:
        raise RequestError(ErrorCode.BAD_REQUEST, PUBLISH_FORMAT_TEXT, channel=channel or None, message_id=message_id)
    return kind(**known)


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

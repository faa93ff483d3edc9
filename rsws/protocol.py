"""The wire protocol: requests, replies and events as JSON text. No I/O.

The gateway decodes requests and encodes replies; the client does the opposite; both use this one module, so
they can't disagree. ``docs/protocol.md`` is the specification for users.

``data`` is checked (strict JSON, valid UTF-8) and carried byte for byte: never parsed into objects and written
again, so that numbers, key order and spacing survive.
"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from rsws.errors import ErrorCode, Outcome, RequestError, StoreError, UsageError

FIELD = "messageData"
"""The field of a stream entry that holds a message's JSON text."""

OWN_KEYS = "rsws:"
"""The prefix of the gateway's own keys in Redis, which no channel's name may have."""
SUBPROTOCOL = b"rsws"
"""The subprotocol that a client offers beside one that holds its token, and gets back."""
TOKEN_SUBPROTOCOL = b"rsws.token."
"""The beginning of a subprotocol that holds a token, in base64url without padding."""
MAX_CHANNEL_BYTES = 512
MAX_ECHO = 4096
"""The longest invalid channel name, in characters, that an error reply repeats: a megabyte would not help a client."""
MAX_DEPTH = 256
"""How deep published data may be nested: every parser that reads it later must be able to."""
MAX_EVENT_OVERHEAD = len('{"event":"message","channel":,"streamId":"","data":}') + 2 * 20 + 1
"""The bytes of a message event without the quoted channel name and the data, with the longest possible id."""
PUBLISH_FORMAT_TEXT = "Format publish salah. Wajib ada: channel, data, messageId"

_MAX_HALF = 2**64 - 1
_ID = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: +1 opens a level, -1 closes one
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class StreamId(NamedTuple):
    """A position in a stream: the id of an entry, ordered as Redis orders them (as a pair of integers).

    Both halves are below 2^64. Ids sort as numbers, not as text: ``9-0 < 10-0``.
    """

    ms: int
    """Milliseconds since 1970 where Redis made the id; any number where a client of Redis chose it."""
    seq: int
    """The number of the entry within its millisecond."""

    @classmethod
    def parse(cls, text: str) -> StreamId:
        """Read ``ms`` or ``ms-seq``, strictly: ASCII digits, each half below 2^64; ``5`` means ``5-0``.

        Raises:
            ValueError: The text is not an id (``$``, ``+``, ``-``, ``*`` and ``>`` are not ids either).
        """
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError(f"not a stream id: {text[:60]!r}")
        ms, seq = int(match[1]), int(match[2] or 0)
        if ms > _MAX_HALF or seq > _MAX_HALF:
            raise ValueError(f"stream id out of range: {text!r}")
        return cls(ms, seq)

    @classmethod
    def from_redis(cls, raw: bytes) -> StreamId:
        """Read an id that Redis wrote (always ``ms-seq``), without the checks of :meth:`parse`."""
        ms, _, seq = raw.partition(b"-")
        return cls(int(ms), int(seq))

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    def before(self) -> StreamId:
        """Return the greatest id below this one, so that "after ``id.before()``" includes ``id``; ``0-0`` stays."""
        if self.seq:
            return StreamId(self.ms, self.seq - 1)
        return StreamId(self.ms - 1, _MAX_HALF) if self.ms else self


ZERO = StreamId(0, 0)
"""The position before the first entry: no entry can have this id."""


# --- requests: from a client to the gateway ---------------------------------------------------------------


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
    "subscribe": ("channel", "lastMessageId", "last", "marker"),
    "unsubscribe": ("channel",),
    "publish": ("channel", "data", "messageId", "producer"),
    "ping": (),
    "token": ("token",),
}
_EXPECTED = {"lastMessageId": "a stream id, \"0\" or \"$\", as a string", "last": "a whole number >= 0",
             "marker": "true or false"}  # fmt: skip


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
    marker = fields.marker is True
    if fields.last is not UNSET:
        if fields.lastMessageId is not UNSET:
            raise RequestError(ErrorCode.BAD_REQUEST, "give lastMessageId or last, not both", channel=channel)
        if fields.last < 0:
            raise _wrong_type("last", channel)
        return Subscribe(channel, last=fields.last, marker=marker)
    if fields.lastMessageId is UNSET:
        return Subscribe(channel, marker=marker)
    if fields.lastMessageId == "$":
        return Subscribe(channel, None, marker=marker)
    try:
        return Subscribe(channel, StreamId.parse(fields.lastMessageId), marker=marker)
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


def channel_fault(name: str) -> str | None:
    """Return why ``name`` can't be a channel, as a sentence; None when it can."""
    try:
        _check_channel(name)
    except ValueError as fault:
        return str(fault)
    return None


@lru_cache(maxsize=512)  # caches valid names only, which are short: an exception is not cached
def _check_channel(name: str) -> None:
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


_READ: dict[str, Any] = {"marker": _boolean.decode, "last": _whole_number, "data": lambda raw: raw}


def encode_request(request: Request) -> str:
    """Return the JSON text of a request, for a client to send."""
    match request:
        case Publish(channel, data, message_id, producer):
            once = "" if producer is None else f',"producer":{_quote(producer)}'
            return (
                f'{{"action":"publish","channel":{_quote(channel)},"data":{data.decode()},'
                f'"messageId":{_quote(message_id)}{once}}}'
            )
        case Subscribe(channel, after, last, marker):
            keys: dict[str, Any] = {"action": "subscribe", "channel": channel}
            if last is not None:
                keys["last"] = last
            else:
                keys["lastMessageId"] = "$" if after is None else str(after)
            if marker:
                keys["marker"] = True
            return _text(keys)
        case Unsubscribe(channel):
            return _text({"action": "unsubscribe", "channel": channel})
        case Ping():
            return _text({"action": "ping"})
        case ChangeToken(token):
            return _text({"action": "token", "token": token})


# --- replies and events: from the gateway to a client -----------------------------------------------------


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
    Connected | Subscribed | Unsubscribed | Message | CaughtUp | Gap | Ack | ErrorAck | Error | Pong | Refused
    | TokenChanged | TokenExpiring
)  # fmt: skip


def encode_reply(reply: Reply) -> bytes:
    """Return the JSON text of a reply or an event, with the keys in the specification's order."""
    match reply:
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
        case Subscribed(channel, last, latest):
            keys: dict[str, Any] = {
                "status": "subscribed", "channel": channel, "lastMessageId": str(last), "latestId": str(latest)
            }  # fmt: skip
        case TokenChanged(expires_at):
            keys = {"status": "token", "expiresAt": expires_at}
        case TokenExpiring(expires_at):
            keys = {"event": "token_expiring", "expiresAt": expires_at}
        case Unsubscribed(channel):
            keys = {"status": "unsubscribed", "channel": channel}
        case CaughtUp(channel, last):
            keys = {"event": "caught_up", "channel": channel, "lastMessageId": str(last)}
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


def encode_ack(message_id: str, stream_id: bytes, duplicate: bool) -> bytes:
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
    prefix = f'{{"event":"message","channel":{_quote(channel)},"streamId":"'.encode()
    return prefix.replace(b"%", b"%%") + b'%b","data":%b}'


def max_event_bytes(channel: str, data: bytes) -> int:
    """Return the longest that a message's event can be, in bytes: every subscriber must accept that in one frame."""
    return MAX_EVENT_OVERHEAD + len(_quote(channel).encode()) + len(data)


def is_json(text: bytes) -> bool:
    """Whether ``text`` may be the data of a message.

    That is JSON that a strict parser accepts (valid UTF-8, no NaN, no lone surrogates) and that is nested no deeper
    than MAX_DEPTH.
    """
    try:
        text.decode()
        _raw.decode(text)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return False
    return len(text) <= MAX_DEPTH or not is_too_deep(text)


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


def json_text(value: Any) -> bytes:
    """Return ``value`` as JSON text, ready to be published.

    Raises:
        UsageError: ``value`` can't be written as JSON.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"can't be written as JSON: {error}") from None


def _milliseconds(seconds: float) -> float:
    """Return seconds rounded up to a whole number of milliseconds."""
    return math.ceil(seconds * 1000) / 1000


def _quote(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _text(keys: dict[str, Any]) -> str:
    return msgspec.json.encode(keys).decode()

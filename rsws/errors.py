"""The exceptions, error codes and close codes of rsws.

The exception tree::

    RswsError
    ├── UsageError               an argument or a setting that can't be used
    ├── SetupError               the gateway can't start: port, data directory, no server
    │   └── LoginRefused         Redis refused the password, or a needed permission is missing
    ├── RequestError             a request the gateway refuses before Redis is asked
    ├── StoreError               Redis did not do what it was asked to do
    │   ├── RedisUnavailable     Redis can't be reached, or the connection broke
    │   ├── RedisRefused         Redis answered with an error
    │   ├── NotReplicated        stored, but too few replicas have it
    │   ├── Conflict             the same producer stored other data under the same messageId
    │   ├── ChannelUnreadable    the key is not a stream, or Redis forbids it
    │   └── NotPossible          such a publish can't be stored here
    ├── BenchFailed              a benchmark can't go on, and no other error here says why
    └── ClientError              an error of a gateway's client
        ├── CannotConnect        no gateway answers at that URL
        ├── ConnectionLost       the connection is lost for good
        ├── Unauthorized         the token was refused
        ├── SubscribeRefused     the gateway refused a subscription
        └── PublishFailed        a publish was not acknowledged

This module imports nothing of rsws: errors carry plain values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, StrEnum


class ErrorCode(StrEnum):
    """The ``code`` of an error on the wire. ``ERROR_HELP`` says what each one means to a client."""

    BAD_JSON = "bad_json"
    BAD_REQUEST = "bad_request"
    UNKNOWN_ACTION = "unknown_action"
    BAD_CHANNEL = "bad_channel"
    BAD_CURSOR = "bad_cursor"
    TOO_MANY = "too_many"
    RATE_LIMITED = "rate_limited"
    NOT_ALLOWED = "not_allowed"
    BAD_TOKEN = "bad_token"
    CHANNEL_UNREADABLE = "channel_unreadable"
    CONFLICT = "conflict"
    REDIS_UNAVAILABLE = "redis_unavailable"
    REDIS_REFUSED = "redis_refused"
    NOT_REPLICATED = "not_replicated"
    STOPPING = "stopping"


ERROR_HELP: dict[ErrorCode, tuple[str, str]] = {
    ErrorCode.BAD_JSON: ("the frame is not valid JSON, or nested too deep to read", "fix the program that wrote it"),
    ErrorCode.BAD_REQUEST: (
        "no object, a key is missing or of the wrong type, or a message is too big to be handed on",
        "fix the request",
    ),
    ErrorCode.UNKNOWN_ACTION: ("`action` is none that the gateway knows", "fix the request"),
    ErrorCode.BAD_CHANNEL: (
        "a channel name is 1-512 bytes of UTF-8 without control characters, and does not begin with `rsws:`; or "
        "`--channels` does not name it",
        "choose another name",
    ),
    ErrorCode.BAD_CURSOR: ("`lastMessageId` is not a stream id", "use an id as received, `0` or `$`"),
    ErrorCode.TOO_MANY: (
        "more subscriptions than a connection may have, or more channels than the gateway follows",
        "unsubscribe, or open another connection; try again later",
    ),
    ErrorCode.RATE_LIMITED: (
        "the client publishes or subscribes faster than it may; nothing was done",
        "send it again after `retryAfter` seconds, and nothing of that kind before",
    ),
    ErrorCode.NOT_ALLOWED: (
        "the token does not allow it; or Redis does not allow scripts, which a publish with `producer` needs; or the "
        "channel takes no publishes (`--field PATTERN=*`)",
        "use another token; publish without `producer`; write to Redis",
    ),
    ErrorCode.BAD_TOKEN: ("the token of a `token` request is wrong; the one before still holds", "get another token"),
    ErrorCode.CHANNEL_UNREADABLE: (
        "the key exists and is not a stream, or Redis forbids it",
        "fix the key; a subscription that was good resumes by itself",
    ),
    ErrorCode.CONFLICT: (
        "this producer published other data under this `messageId` on this channel before",
        "use a new `messageId` for a new message",
    ),
    ErrorCode.REDIS_UNAVAILABLE: ("Redis can't be reached", "try again later"),
    ErrorCode.REDIS_REFUSED: ("Redis answered with an error, which the text names", "ask the operator"),
    ErrorCode.NOT_REPLICATED: (
        "a publish is stored, but not enough replicas have it (`--wait-replicas`); a failover may lose it",
        "publish it again, with `producer`",
    ),
    ErrorCode.STOPPING: ("plain HTTP: the gateway stops, or restarts", "try again"),
}
"""A map from each error code to when it is sent and what a client should do about it."""


class Outcome(StrEnum):
    """What became of a publish that was not acknowledged."""

    NOT_STORED = "not_stored"
    """Refused or never sent: safe to send again."""
    UNKNOWN = "unknown"
    """The connection to Redis broke after the command was sent: the message may be stored."""


class CloseCode(IntEnum):
    """The WebSocket close codes the gateway uses. ``CLOSE_HELP`` says why, and whether to reconnect."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013


TOKEN_EXPIRED = "token expired"
"""The reason beside POLICY_VIOLATION where the client's token has come to its end: with a new one it may come back."""

CLOSE_HELP: dict[CloseCode, tuple[str, bool]] = {
    CloseCode.NORMAL: ("the client closed", False),
    CloseCode.GOING_AWAY: ("the gateway stops", True),
    CloseCode.PROTOCOL_ERROR: ("a frame that breaks the rules of WebSocket", False),
    CloseCode.UNSUPPORTED_DATA: ("a binary frame; the protocol is text", False),
    CloseCode.INVALID_DATA: ("a text frame that is not UTF-8", False),
    CloseCode.POLICY_VIOLATION: ("unauthorized: the token is missing or wrong, or has expired", False),
    CloseCode.TOO_BIG: ("a message over the size limit", False),
    CloseCode.INTERNAL_ERROR: ("a bug in the gateway", True),
    CloseCode.SERVICE_RESTART: ("the gateway is restarting", True),
    CloseCode.TRY_AGAIN_LATER: ("the gateway is overloaded, or too much comes from this address", True),
}
"""A map from each close code to why it is sent and whether it makes sense to reconnect with the same request."""


class RswsError(Exception):
    """The base class of every error that rsws raises on purpose."""


class UsageError(RswsError):
    """An argument or a setting that can't be used; the text says what to write instead.

    Attributes:
        settings: The settings that it is about, by the names of their fields; the one that was given is at fault.
    """

    settings: tuple[str, ...] = ()


@contextmanager
def about(*settings: str) -> Iterator[None]:
    """Let a :class:`UsageError` of the block say which settings it is about, unless it does so already."""
    try:
        yield
    except UsageError as error:
        error.settings = error.settings or settings
        raise


@contextmanager
def naming(argument: str) -> Iterator[None]:
    """Let a :class:`UsageError` of the block begin with the argument that it is about, which is no setting."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{argument}: {error}") from None


class SetupError(RswsError):
    """The gateway can't start; the text says what to do about it."""


class LoginRefused(SetupError):
    """Redis refused the password, or does not permit a command or key that the gateway needs."""


class RequestError(RswsError):
    """A request the gateway refuses before Redis is asked.

    Attributes:
        code: The error's ``code`` on the wire.
        channel: The channel the request named, None where it named none.
        message_id: The ``messageId`` of a refused publish, None for every other request.
        retry_after_s: The seconds after which to send it again; None where that would not help.
    """

    def __init__(
        self,
        code: ErrorCode,
        text: str,
        *,
        channel: str | None = None,
        message_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(text)
        self.code = code
        self.channel = channel
        self.message_id = message_id
        self.retry_after_s = retry_after_s


class StoreError(RswsError):
    """Redis did not do what it was asked to do.

    Attributes:
        code: The error's ``code`` on the wire.
        outcome: For a write, whether the message may have been stored nevertheless.
    """

    code: ErrorCode

    def __init__(self, text: str, outcome: Outcome = Outcome.NOT_STORED) -> None:
        super().__init__(text)
        self.outcome = outcome


class RedisUnavailable(StoreError):
    """Redis can't be reached, or the connection to it broke.

    Attributes:
        cause: The details, for a log.
        was_reset: Whether Redis ended the connection after it was asked, which may be due to what it was asked.
    """

    code = ErrorCode.REDIS_UNAVAILABLE
    TEXT = "Server Redis tidak siap"
    """The exact text on the wire: deployed clients match on it."""

    def __init__(self, cause: str, outcome: Outcome = Outcome.NOT_STORED, *, was_reset: bool = False) -> None:
        super().__init__(self.TEXT, outcome)
        self.cause = cause
        self.was_reset = was_reset


class RedisRefused(StoreError):
    """Redis answered with an error; the text is Redis' own."""

    code = ErrorCode.REDIS_REFUSED


class ChannelUnreadable(StoreError):
    """The key exists and is not a stream, or Redis forbids it to this user."""

    code = ErrorCode.CHANNEL_UNREADABLE


class NotPossible(StoreError):
    """The channel takes no publishes, or Redis does not allow what this one needs, as scripts for a producer."""

    code = ErrorCode.NOT_ALLOWED


class NotReplicated(StoreError):
    """The message is stored, but too few replicas have it: a failover may lose it."""

    code = ErrorCode.NOT_REPLICATED


class Conflict(StoreError):
    """The same producer stored other data under the same messageId on this channel before."""

    code = ErrorCode.CONFLICT


class BenchFailed(RswsError):
    """A benchmark can't go on, and no other error here says why."""


class ClientError(RswsError):
    """The base class of the errors of a gateway's client."""


class CannotConnect(ClientError):
    """No gateway answers at that URL."""


class ConnectionLost(ClientError):
    """The connection is lost for good: the client doesn't reconnect, or couldn't."""


class Unauthorized(ClientError):
    """The gateway refused the token."""


class SubscribeRefused(ClientError):
    """The gateway refused a subscription.

    Attributes:
        code: The ``code`` of the gateway's error; an unknown one stays a plain string.
        channel: The channel of the subscription.
    """

    def __init__(self, text: str, code: str, channel: str) -> None:
        super().__init__(text)
        self.code = code
        self.channel = channel


class PublishFailed(ClientError):
    """A publish was not acknowledged.

    Attributes:
        code: The ``code`` of the gateway's error; an unknown one stays a plain string.
        outcome: Whether the message may be stored nevertheless.
        retry_after_s: Where the gateway limits the rate, the seconds after which to send it again, as it said last;
            None otherwise.
    """

    def __init__(self, text: str, code: str, outcome: Outcome, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.outcome = outcome
        self.retry_after_s = retry_after_s

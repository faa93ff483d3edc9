"""What a request of plain HTTP asks for: its path, its query and its headers, made into a request of the protocol."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import unquote, unquote_to_bytes

from rsws.errors import ErrorCode, UsageError
from rsws.gateway.exchanges.answers import Refusal
from rsws.gateway.exchanges.forms import KINDS, Form, form
from rsws.gateway.exchanges.streaming import Wish
from rsws.gateway.http import Request
from rsws.protocol import MAX_DEPTH, OWN_KEYS, Publish, StreamId, channel_fault, is_json, max_event_bytes
from rsws.starts import Start, parse_start
from rsws.tokens.grant import Grant

CHANNELS = "/channels"
LIST_METHODS = ("GET", "HEAD", "OPTIONS")
CHANNEL_METHODS = ("GET", "HEAD", "POST", "OPTIONS")
_BLANKS = b" \t\r\n"
"""What JSON allows around a value, which is not part of it."""


def is_for_channels(request: Request) -> bool:
    """Whether a request is about channels; all others have answers of their own."""
    path = request.target.partition("?")[0]
    return path == CHANNELS or path.startswith(f"{CHANNELS}/")


def find_channel(request: Request) -> str | None:
    """Return the channel that a request is about; None for the list of all.

    Raises:
        Refusal: There is no such path, or it is the name of no channel, or that is not to be had by this method.
    """
    path = request.target.partition("?")[0]
    encoded = path.removeprefix(CHANNELS).removeprefix("/")
    methods = CHANNEL_METHODS if encoded else LIST_METHODS
    if path == CHANNELS and request.method in methods:
        return None
    if path != CHANNELS and (not encoded or "/" in encoded):
        text = "there is no such path: write /channels/NAME, and %2F for a / in the name"
        raise Refusal(HTTPStatus.NOT_FOUND, ErrorCode.BAD_REQUEST, text)
    if request.method not in methods:
        allowed = ", ".join(methods)
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, ErrorCode.BAD_REQUEST, f"{allowed} only", {"Allow": allowed})
    try:
        name = unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        raise Refusal(HTTPStatus.BAD_REQUEST, ErrorCode.BAD_CHANNEL, "the channel name is not valid UTF-8") from None
    fault = channel_fault(name)
    if fault is not None:
        raise Refusal(HTTPStatus.BAD_REQUEST, ErrorCode.BAD_CHANNEL, fault)
    return name


def find_listing(request: Request) -> tuple[str, str | None]:
    """Return the pattern of the channels to be listed, and the cursor of the page before."""
    parameters = _parameters(request)
    return parameters.get("match", "*"), parameters.get("cursor")


def find_wish(request: Request, channel: str, *, in_chunks: bool) -> Wish:
    """Return what a request to subscribe asks for.

    Args:
        in_chunks: Whether the response may come in chunks.

    Raises:
        Refusal: It can't be had.
    """
    parameters = _parameters(request)
    kind = _find_form(request)
    last = request.headers.get(b"last-event-id", b"")
    return Wish(
        channel,
        _find_start(last.decode(errors="replace"), parameters.get("from", "$")),
        form(kind, in_chunks=in_chunks),
        follows=_find_switch(parameters, "follow", default="1"),
        is_head=request.method == "HEAD",
        ends=_find_switch(parameters, "end", default="0"),
        resumes=bool(last),
    )


def _find_switch(parameters: dict[str, str], name: str, *, default: str) -> bool:
    value = parameters.get(name, default)
    if value not in ("0", "1"):
        raise Refusal(HTTPStatus.BAD_REQUEST, ErrorCode.BAD_REQUEST, f"{name} must be 0 or 1")
    return value == "1"


def _find_form(request: Request) -> type[Form]:
    accept = request.headers.get(b"accept", b"*/*").decode(errors="replace").lower()
    accepted = {each.partition(";")[0].strip() for each in accept.split(",")}
    for kind in KINDS:
        if accepted & {kind.content_type, f"{kind.content_type.partition('/')[0]}/*", "*/*"}:
            return kind
    text = f"send Accept: {', or '.join([kind.content_type for kind in KINDS])}"
    raise Refusal(HTTPStatus.NOT_ACCEPTABLE, ErrorCode.BAD_REQUEST, text)


def _find_start(last: str, text: str) -> Start:
    try:
        return Start(StreamId.parse(last)) if last else parse_start(text)
    except UsageError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, ErrorCode.BAD_CURSOR, f"from: {error}") from None
    except ValueError:
        raise Refusal(HTTPStatus.BAD_REQUEST, ErrorCode.BAD_CURSOR, "Last-Event-ID is not a stream id") from None


def _parameters(request: Request) -> dict[str, str]:
    """Return the query's parameters, in which a ``+`` is one, as in a time with a zone."""
    pairs = [each.partition("=") for each in request.target.partition("?")[2].split("&")]
    return {unquote(name): unquote(value) for name, _, value in pairs}


def find_idempotency_key(request: Request) -> str | None:
    """Return the key with which the message is stored at most once; None for any number of times.

    Raises:
        Refusal: It can't be used.
    """
    value = request.headers.get(b"idempotency-key")
    try:
        key = None if value is None else value.decode()
    except UnicodeDecodeError:
        key = ""
    if key == "":
        raise Refusal(HTTPStatus.BAD_REQUEST, ErrorCode.BAD_REQUEST, "Idempotency-Key is empty, or not valid UTF-8")
    return key


def make_publish(channel: str, body: bytes, key: str | None, grant: Grant, max_bytes: int) -> Publish:
    """Return the publish that a body asks for.

    Args:
        key: Its idempotency key.
        grant: What the token allows, and whose it is.
        max_bytes: The most bytes that a message may have.

    Raises:
        Refusal: The body is no JSON, or too big.
    """
    data = body.strip(_BLANKS)
    if max_event_bytes(channel, data) > max_bytes:
        raise too_big(max_bytes)
    if not is_json(data):
        text = f"the body is not valid JSON in UTF-8, or nested deeper than {MAX_DEPTH} levels"
        raise Refusal(HTTPStatus.BAD_REQUEST, ErrorCode.BAD_JSON, text)
    if key is None:
        return Publish(channel, data, "")
    return Publish(channel, data, key, OWN_KEYS + ("key" if grant.ends_at is None else f"sub {grant.subject or ''}"))


def too_big(max_bytes: int) -> Refusal:
    """Return the refusal of a body that is too big to be handed on in a message of ``max_bytes``."""
    text = f"too big: a message may have {max_bytes} bytes, with what is around its data"
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, ErrorCode.BAD_REQUEST, text)

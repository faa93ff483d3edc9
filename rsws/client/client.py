"""The client of a gateway: publish, subscribe, ping."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import Any, Literal, overload

from rsws.client.address import Address
from rsws.client.limits import DEFAULTS, Limits
from rsws.client.link import ConnectionEvent, GatewayLink
from rsws.client.subscription import Event, Inbox, Subscription
from rsws.client.tokens import TokenSource
from rsws.errors import UsageError
from rsws.protocol import (
    Message,
    Ping,
    Publish,
    StreamId,
    Subscribe,
    channel_fault,
    encode_request,
    is_json,
    json_text,
)


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | Callable[[], Awaitable[str]] | None = None,
    ssl: SSLContext | None = None,
    reconnect: bool = True,
    give_up_after_s: float | None = None,
    connect_timeout_s: float = 10,
    on_connection: Callable[[ConnectionEvent], None] | None = None,
    limits: Limits = DEFAULTS,
) -> AsyncIterator[Client]:
    """Connect to a gateway::

        async with connect("ws://127.0.0.1:8080", token="...") as client:
            await client.publish("news", {"text": "hi"})
            async for message in client.subscribe("news", after="0"):
                print(message.id, message.data)

    Leaving the block closes the connection and ends every subscription.

    Args:
        url: ``ws://HOST:PORT`` or ``wss://HOST``; ``ws://`` may be left out.
        token: The gateway's token, or an async callable that returns it. None sends none, or the one that ``url`` has
            in its query. A callable is asked at each attempt to connect, and when the gateway says that the token ends
            soon: the new one then holds on the open connection. It may take ``limits.token_timeout_s``. If it raises
            when the client reconnects, that is a warning in the log and an attempt that failed. A token that is refused
            when the client reconnects is final; a callable is asked once more first.
        ssl: For ``wss://``: which certificates to trust, such as ``ssl.create_default_context(cafile="ca.pem")``; None
            for those that the system trusts, or the file named by ``SSL_CERT_FILE``. Without TLS it has no effect.
        reconnect: Whether to reconnect when the connection is lost later. The first connection is tried once.
        give_up_after_s: Seconds of outage after which the connection counts as lost for good; None never gives up.
        connect_timeout_s: Seconds one attempt may take.
        on_connection: A callback for each loss of the connection and each reconnect. It runs in the event loop and
            must not block. An exception that it raises ends the client.
        limits: The limits of the client's buffers, and how long it waits.

    Raises:
        UsageError: ``url`` is not a gateway's URL, or ``token`` is neither a string nor a callable.
        CannotConnect: No gateway answers there; the text says why and what to do. Or the callable gave no token:
            what it raised is the cause.
        Unauthorized: The gateway refuses the token.
    """
    if not (token is None or isinstance(token, str) or callable(token)):
        raise UsageError("token must be a string, or an async callable that returns one")
    address = Address.of(url, None if callable(token) else token, ssl)
    tokens = TokenSource(token, limits) if callable(token) else None
    async with GatewayLink(
        address, tokens, reconnect, give_up_after_s, connect_timeout_s, on_connection, limits
    ) as link:
        yield Client(link)


class Client:
    """A connection to a gateway, made by :func:`connect`.

    Its calls wait while it reconnects. All of them, and the iteration of its subscriptions, raise ConnectionLost once
    the connection is lost for good or closed, and Unauthorized once the gateway no longer accepts the token.

    Attributes:
        url: The gateway's URL, without query and token.
    """

    def __init__(self, link: GatewayLink) -> None:
        self._link = link
        self.url = link.address.url
        self._producer = uuid.uuid4().hex

    @property
    def queued(self) -> int:
        """Requests that wait to be sent: for a connection, or for a gateway that reads too slowly."""
        return self._link.queued

    async def publish(
        self, channel: str, data: Any, *, message_id: str | None = None, timeout_s: float = 30
    ) -> StreamId:
        """Publish ``data``, and return its id once it is stored.

        Any number of publishes may run concurrently. When a connection breaks and it is unknown whether the message is
        stored, the client sends it again under the same ``message_id``, and it is still stored only once: see
        ``producer`` in the protocol. That goes on for 100 s at most; a gateway with a shorter ``--producer-window`` may
        store it twice.

        Where the gateway limits the rate (``rate_limited``), the client publishes nothing for as long as it says, and
        then sends what was refused again, in order, within ``timeout_s``. What has less than a quarter of that left
        then is not sent: its answer might come too late.

        Args:
            channel: The channel to publish on.
            data: Any value that JSON can express.
            message_id: The message's name; None makes one. Two publishes that run concurrently must not have the same.
                A publish that failed with an unknown outcome may be tried again with its ``message_id``; other data
                with that are refused (``conflict``).
            timeout_s: Seconds to wait, for a connection and for the ack.

        Raises:
            UsageError: ``channel``, ``data`` or ``message_id`` can't be used.
            PublishFailed: The publish was not acknowledged. ``outcome`` says whether the message may be stored,
                ``code`` why: a code of the gateway, or ``timeout``, ``connection_lost``, ``too_big``. With
                ``rate_limited``, ``retry_after_s`` says when to go on.
            ConnectionLost: The connection is lost for good; the message was not sent.
            Unauthorized: The gateway no longer accepts the token; the message was not sent.
        """
        return await self._publish(channel, json_text(data), message_id, timeout_s)

    async def publish_json(
        self, channel: str, text: str | bytes, *, message_id: str | None = None, timeout_s: float = 30
    ) -> StreamId:
        """Publish JSON text, which stays as it is, byte for byte (white space around it excepted).

        Arguments and errors are those of :meth:`publish`; text that is not strict JSON is a UsageError.
        """
        try:
            data = text.encode() if isinstance(text, str) else text
        except UnicodeEncodeError:
            raise UsageError("the text to publish is not valid Unicode") from None
        if not is_json(data):
            raise UsageError("the text to publish is not valid JSON")
        return await self._publish(channel, data, message_id, timeout_s)

    async def _publish(self, channel: str, data: bytes, message_id: str | None, timeout_s: float) -> StreamId:
        _check_channel(channel)
        if message_id is None:
            message_id = uuid.uuid4().hex
        try:
            frame = encode_request(Publish(channel, data, message_id, self._producer)).encode()
        except UnicodeEncodeError:
            raise UsageError("message_id is not valid Unicode") from None
        return await self._link.publish(message_id, frame, timeout_s)

    @overload
    def subscribe(
        self,
        *channels: str,
        after: str | StreamId = "$",
        last: int | None = None,
        end: bool = False,
        resume: bool = False,
        events: Literal[False] = False,
    ) -> Subscription[Message]: ...
    @overload
    def subscribe(
        self,
        *channels: str,
        after: str | StreamId = "$",
        last: int | None = None,
        end: bool = False,
        resume: bool = False,
        events: Literal[True],
    ) -> Subscription[Event]: ...
    def subscribe(
        self,
        *channels: str,
        after: str | StreamId = "$",
        last: int | None = None,
        end: bool = False,
        resume: bool = False,
        events: bool = False,
    ) -> Subscription[Any]:
        """Subscribe to ``channels``: all messages after a position, then each new one, each once and in order.

        Args:
            channels: One or more channels. A client can have one subscription of a channel at a time.
            after: ``"0"`` for the whole history, ``"$"`` for new messages only, or an id.
            last: Start that many entries before the end instead.
            end: Whether a channel is over where an entry ends it (``rsws xadd --end``), and the iteration once all are;
                else such an entry is like any other.
            resume: With ``end``: whether the message ``after`` was received before, so that the end may be all that is
                missing. Within a client that is known; this is for one that was not there before.
            events: Whether to yield, among the messages of a channel, also

                - ``Subscribed`` at the start and after each reconnect, ``CaughtUp`` where history then ends;
                - ``Gap`` where messages may be missing (without events a warning in the log);
                - ``End`` where a channel has ended, with ``end``;
                - ``Error``, once for each problem (without events a warning in the log). Errors of Redis are temporary:
                  ``redis_unavailable`` always, ``redis_refused`` and ``channel_unreadable`` once the channel has been
                  ``Subscribed``. Any other ends the channel; the other channels go on.

                While the application reads nothing, gaps of a channel with no message between them are merged into one,
                from the beginning of the first to the end of the last, and only the last of its errors is kept.

        Raises:
            UsageError: A name, ``after`` or ``last`` can't be used, or a channel is subscribed already.
            ConnectionLost: The connection is lost for good, or closed.
            Unauthorized: The gateway no longer accepts the token.
        """
        if not channels:
            raise UsageError("subscribe to at least one channel")
        if len({*channels}) < len(channels):
            raise UsageError("a channel is named twice")
        for channel in channels:
            _check_channel(channel)
            if self._link.has_feed(channel):
                raise UsageError(f"{channel!r} is subscribed already; close that subscription first")
        starts = [_start_of(channel, after, last, end, resume) for channel in channels]
        self._link.check_alive()
        inbox = Inbox(starts, events, post=self._link.post, forget=self._link.forget, limits=self._link.limits)
        self._link.add(inbox.feeds)
        return Subscription(inbox)

    async def ping(self, timeout_s: float = 10) -> float:
        """Return the seconds from a request to its answer, including the time that the gateway takes to handle it.

        Raises:
            TimeoutError: No answer came within ``timeout_s``, or there was no connection, or a hundred earlier pings
                are unanswered.
            ConnectionLost: The connection was lost meanwhile.
            Unauthorized: The gateway no longer accepts the token.
        """
        return await self._link.ping(encode_request(Ping()).encode(), timeout_s)

    def cut(self) -> None:
        """Cut the connection without a word, as a network may, to try what happens then. The client reconnects."""
        self._link.cut()


def _check_channel(channel: str) -> None:
    fault = channel_fault(channel)
    if fault is not None:
        raise UsageError(fault)


def _start_of(channel: str, after: str | StreamId, last: int | None, end: bool, resume: bool) -> Subscribe:
    if last is not None:
        if last < 0 or after != "$":
            raise UsageError("last is a number >= 0 and stands in for after")
        return Subscribe(channel, last=last, end=end)
    if after == "$":
        return Subscribe(channel, None, end=end)
    try:
        position = after if isinstance(after, StreamId) else StreamId.parse(after)
    except ValueError:
        raise UsageError(f'{after!r} is no position: give "0", "$" or an id as received') from None
    return Subscribe(channel, position, end=end, resume=end and resume)

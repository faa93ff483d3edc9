"""The session of one client: its requests and the replies to them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from typing import TypeAlias

from rsws.errors import CloseCode, ErrorCode, Outcome, RequestError, StoreError
from rsws.gateway.delivery.catalogue import ChannelPage
from rsws.gateway.delivery.hub import Opened, Opening
from rsws.gateway.delivery.subscription import Subscription
from rsws.gateway.request_limits import Allowance
from rsws.gateway.session.client import Client
from rsws.gateway.session.context import SessionContext
from rsws.gateway.session.token import TokenBearer
from rsws.gateway.websocket.interfaces import MessageHandler
from rsws.log_lines import LogLine
from rsws.protocol import (
    ChangeToken,
    End,
    Error,
    Ping,
    Pong,
    Publish,
    Subscribe,
    Unsubscribe,
    Unsubscribed,
    decode_request,
    encode_ack,
    encode_reply,
    max_event_bytes,
    publish_failure,
    refusal,
)
from rsws.streams.store import IdempotencyKey, Stored
from rsws.tokens.grant import Grant

log = logging.getLogger("rsws.gateway")


OPENINGS = 8
"""The subscribes a client may have under way; asking for the bounds of a stream can cost Redis a millisecond."""


_Waiting: TypeAlias = tuple[Publish | Subscribe | Unsubscribe, int]
"""A request and its size in characters."""


class Session(TokenBearer, MessageHandler):
    """The requests of one client. Requests for the same channel take effect in the order in which they came."""

    __slots__ = ("_allowance", "_opening", "_subscribed_at", "_subscriptions", "_waiting")

    def __init__(self, connection: Client, grant: Grant, context: SessionContext) -> None:
        super().__init__(connection, grant, context)
        self._allowance: Allowance | None = None
        """What the client may still do; None as long as it has published nothing, and subscribed once at most."""
        self._subscribed_at: float | None = None
        """When it has subscribed for the first time, if that was not counted by its allowance."""
        if not connection.is_lasting:
            self._allowance = context.limits.allowance(connection.source.address, grant.subject)
        self._subscriptions: dict[str, Subscription | None] = {}
        """The subscription of each channel; None while the channel's first subscribe is under way."""
        self._opening: dict[str, Opening | None] = {}
        """The subscribe under way of each channel that has one; None only until the hub is asked."""
        self._waiting: dict[str, deque[_Waiting]] = {}
        """The requests that wait for the subscribe under way of their channel."""

    @property
    def is_busy(self) -> bool:
        """See :class:`rsws.gateway.websocket.interfaces.MessageHandler`."""
        return len(self._opening) >= OPENINGS

    @property
    def subscriptions(self) -> list[Subscription]:
        """The subscriptions that have begun."""
        return [each for each in self._subscriptions.values() if each is not None]

    def list_channels(self, match: str, cursor: str | None) -> asyncio.Task[ChannelPage | RequestError | StoreError]:
        """Return the next channels that match and may be subscribed to, or why there are none.

        It counts as a subscribe. Whoever calls this cancels it where the client is gone.
        """
        return self._context.tasks.create_task(self._list_channels(match, cursor))

    async def _list_channels(self, match: str, cursor: str | None) -> ChannelPage | RequestError | StoreError:
        try:
            self._count_subscribe()
            return await self._context.hub.list_channels(match, cursor, self._may_list)
        except (RequestError, StoreError) as error:
            return error

    def _may_list(self, channel: str) -> bool:
        return (self._context.channels is None or channel in self._context.channels) and self._may_read(channel)

    def has(self, channel: str) -> bool:
        """Whether there is a subscription of a channel."""
        return self._subscriptions.get(channel) is not None

    def end(self) -> None:
        """End all subscriptions: the client is gone."""
        self._ended = True
        if self._grant.ends_at is not None:
            self._context.access.ends.forget(self)
        for subscription in self._subscriptions.values():
            if subscription is not None:
                self._context.hub.unsubscribe(subscription)
        self._subscriptions.clear()
        for opening in self._opening.values():
            if opening is not None:
                opening.cancel()

    def _end_subscriptions(self) -> None:
        for channel, subscription in self._subscriptions.items():
            if subscription is not None:
                self._context.hub.unsubscribe(subscription)
                self._subscriptions[channel] = None

    def _end_forbidden(self) -> None:
        for channel, subscription in [*self._subscriptions.items()]:
            if subscription is None or self._may_read(channel):
                continue
            self._context.hub.unsubscribe(subscription)
            self._forget(channel, subscription)
            self._connection.reply(encode_reply(refusal(self._not_allowed("r", channel))))

    def text_received(self, text: str) -> None:
        """Handle one message of the client."""
        try:
            request = decode_request(text)
        except RequestError as error:
            self._refuse(error)
            return
        size = len(text)  # of the whole message: a long messageId uses as much memory as data does
        if isinstance(request, Publish) and not self._opening:  # as nearly always
            self._connection.request_started(size)
            self._publish(request, size)
            return
        if isinstance(request, Ping):
            self._connection.reply(encode_reply(Pong()))
            return
        self._connection.request_started(size)
        if isinstance(request, ChangeToken):
            self._change_token(request.token, size)
            return
        # A publish need not wait for a subscribe under way, which has asked Redis for its position already. It has to
        # wait once another subscribe or unsubscribe of the channel waits.
        channel = request.channel
        if channel not in self._opening and isinstance(request, Subscribe):
            self._subscribe(request, size)
        elif channel not in self._opening or (channel not in self._waiting and isinstance(request, Publish)):
            self.handle(request, size)
        else:
            self._waiting.setdefault(channel, deque()).append((request, size))

    def handle(self, request: Publish | Subscribe | Unsubscribe, size: int) -> None:
        """Handle a request, of a channel of which no subscribe is under way.

        Args:
            size: What the client is told with :meth:`Client.request_done` once it is answered.
        """
        if isinstance(request, Publish):
            self._publish(request, size)
        elif isinstance(request, Subscribe):
            self._subscribe(request, size)
        else:
            self._unsubscribe(request.channel, size)

    def _publish(self, request: Publish, size: int) -> None:
        context = self._context
        if context.channels is not None and request.channel not in context.channels:
            self._refuse_no_channel(request.channel, size, request.message_id)
            return
        grant = self._grant
        if not (grant.is_full or grant.may_publish(request.channel)):
            self._connection.reply(encode_reply(refusal(self._not_allowed("w", request.channel, request.message_id))))
            self._connection.request_done(size)
            return
        if len(request.data) > context.surely_fits and self._is_too_big(request):
            self._connection.request_done(size)
            return
        allowance = self._allowance or self._make_allowance()
        messages, volume = allowance.messages, allowance.volume
        messages.left -= 1
        volume.left -= len(request.data)
        if messages.left < 0 or volume.left < 0:
            refused = allowance.publish_refusal(request, self._connection.life.heard_at, context.metrics)
            if refused is not None:
                self._refuse(refused)
                self._connection.request_done(size)
                return
        once = None
        if request.producer is not None:
            once = IdempotencyKey(request.producer, request.message_id, context.producer_window_s)
        context.streams.append(request.channel, request.data, partial(self._published, request.message_id, size), once)
        if request.channel not in self._subscriptions:
            context.hub.read_behind(request.channel)

    def _make_allowance(self) -> Allowance:
        self._allowance = Allowance(self._context.limits, self._subscribed_at)
        return self._allowance

    def _refuse_no_channel(self, channel: str, size: int, message_id: str | None = None) -> None:
        self._context.metrics.requests_for_no_channel += 1
        text = f"{channel} is no channel of this gateway, whose operator says which there are (--channels)"
        self._refuse(RequestError(ErrorCode.BAD_CHANNEL, text, channel=channel, message_id=message_id))
        self._connection.request_done(size)

    def _is_too_big(self, request: Publish) -> bool:
        """Refuse a publish whose event would exceed the message size that subscribers accept; return whether it did.

        Otherwise subscribers would fail on that event each time they reconnect.
        """
        event_bytes, most = max_event_bytes(request.channel, request.data), self._context.max_message_bytes
        if event_bytes <= most:
            return False
        text = f"too big: handed on it would have up to {event_bytes} bytes, and {most} are allowed"
        self._refuse(RequestError(ErrorCode.BAD_REQUEST, text, message_id=request.message_id))
        return True

    def _published(self, message_id: str, size: int, result: Stored | StoreError) -> None:
        if isinstance(result, Stored):
            self._context.metrics.published += 1
            reply = encode_ack(message_id, result.raw_id, result.duplicate)
        else:
            if result.outcome is Outcome.UNKNOWN:
                self._context.metrics.publishes_unknown += 1
            else:
                self._context.metrics.publishes_not_stored += 1
            reply = encode_reply(publish_failure(message_id, result))
        if self._ended:
            return
        self._connection.reply(reply)
        self._connection.request_done(size)

    def _unsubscribe(self, channel: str, size: int) -> None:
        subscription = self._subscriptions.pop(channel, None)
        if subscription is not None:
            self._context.hub.unsubscribe(subscription)
        self._connection.reply(encode_reply(Unsubscribed(channel)))
        self._connection.request_done(size)

    def _subscribe(self, request: Subscribe, size: int) -> None:
        channel, context = request.channel, self._context
        if context.channels is not None and channel not in context.channels:
            self._refuse_no_channel(channel, size)
            return
        if not self._may_read(channel):
            self._connection.reply(encode_reply(refusal(self._not_allowed("r", channel))))
            self._connection.request_done(size)
            return
        if channel not in self._subscriptions and len(self._subscriptions) >= context.max_subscriptions:
            text = f"more than {context.max_subscriptions} subscriptions on a connection; unsubscribe, or open another"
            self._connection.reply(encode_reply(Error(text, ErrorCode.TOO_MANY, channel)))
            self._connection.request_done(size)
            return
        try:
            self._count_subscribe(channel)
        except RequestError as error:
            self._refuse(error)
            self._connection.request_done(size)
            return
        self._subscriptions.setdefault(channel, None)
        self._opening[channel] = None
        on_result = partial(self._opened, channel, size)
        opening = context.hub.subscribe(request, self._connection, self._subscription_ended, on_result)
        if channel in self._opening:  # it is answered at once where Redis is known to be down
            self._opening[channel] = opening
        if self.is_busy:
            self._connection.adjust_reading()

    def _count_subscribe(self, channel: str | None = None) -> None:
        """Count one more subscribe.

        Raises:
            RequestError: It is one too many for now.
        """
        now = self._connection.life.heard_at
        if self._allowance is None and self._subscribed_at is None:  # most subscribe once: each rate allows one
            self._subscribed_at = now
            return
        allowance = self._allowance or self._make_allowance()
        allowance.count_subscribe(channel, now, self._context.metrics)

    def _subscription_ended(self, subscription: Subscription) -> None:
        """Take note that a channel has ended for its subscription, within a call of that."""
        self._forget(subscription.channel.name, subscription)
        asyncio.get_running_loop().call_soon(self._context.hub.unsubscribe, subscription)

    def _forget(self, channel: str, subscription: Subscription) -> None:
        if self._subscriptions.get(channel) is not subscription:
            return
        if channel in self._opening:  # another subscribe is under way, which answers for itself
            self._subscriptions[channel] = None
        else:
            del self._subscriptions[channel]

    def _opened(self, channel: str, size: int, result: Opened | End | Exception) -> None:
        try:
            self._answer_subscribe(channel, size, result)
        except Exception:
            log.exception(LogLine("a bug in the gateway", client=self._connection.peer, who=self.who))
            self._connection.fail(CloseCode.INTERNAL_ERROR, "internal error")

    def _answer_subscribe(self, channel: str, size: int, result: Opened | End | Exception) -> None:
        del self._opening[channel]
        waiting = self._waiting.pop(channel, None)
        if not isinstance(result, Exception):
            self._begin(channel, result)
        elif isinstance(result, StoreError | RequestError):
            if self._subscriptions.get(channel) is None:
                self._subscriptions.pop(channel, None)
            self._connection.reply(encode_reply(Error(str(result), result.code, channel)))
        else:
            raise result
        self._connection.request_done(size)
        if waiting:
            self._handle_waiting(waiting)

    def _begin(self, channel: str, opened: Opened | End) -> None:
        """Answer a subscribe, and begin with its subscription where there is one now."""
        replaced = self._subscriptions.pop(channel)
        if replaced is not None:
            self._context.hub.unsubscribe(replaced)
        may_read = self._may_read(channel)  # the client's token may have been changed meanwhile, or have ended
        if isinstance(opened, Opened) and may_read:
            self._subscriptions[channel] = opened.subscription
            self._connection.reply(encode_reply(opened.subscribed))
            if opened.gap is not None:
                self._connection.reply(encode_reply(opened.gap))
                self._context.metrics.gaps += 1
            opened.subscription.advance()
            return
        if isinstance(opened, Opened):
            self._context.hub.unsubscribe(opened.subscription)
        self._connection.reply(
            encode_reply(opened if isinstance(opened, End) and may_read else refusal(self._not_allowed("r", channel)))
        )

    def _handle_waiting(self, waiting: deque[_Waiting]) -> None:
        """Handle the requests that waited for a subscribe, up to and including the next subscribe."""
        while waiting and not self._ended:
            request, size = waiting.popleft()
            self.handle(request, size)
            if waiting and request.channel in self._opening:
                self._waiting[request.channel] = waiting
                return

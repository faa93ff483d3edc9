"""The session of one client: its requests and the replies to them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import TypeAlias

from rsws.errors import CloseCode, ErrorCode, RequestError, StoreError
from rsws.gateway.delivery.catalogue import ChannelPage
from rsws.gateway.delivery.hub import Opened, Opening
from rsws.gateway.delivery.subscription import Subscription
from rsws.gateway.session.client import Client
from rsws.gateway.session.context import SessionContext
from rsws.gateway.session.publisher import Publisher
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
    encode_reply,
    refusal,
)
from rsws.tokens.grant import Grant

log = logging.getLogger("rsws.gateway")


OPENINGS = 8
"""The subscribes under way with which nothing more is read from a client, beyond what came together with the last one:
asking for the bounds of a stream can cost Redis a millisecond.
"""


_Waiting: TypeAlias = tuple[Publish | Subscribe | Unsubscribe, int]
"""A request and its size in characters."""


class Session(Publisher, MessageHandler):
    """The requests of one client. Requests for the same channel take effect in the order in which they came."""

    __slots__ = ("_opening", "_subscriptions", "_waiting")

    def __init__(self, connection: Client, grant: Grant, context: SessionContext) -> None:
        super().__init__(connection, grant, context)
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

    def _is_subscriber(self, channel: str) -> bool:
        return channel in self._subscriptions

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

    def texts_received(self, texts: Iterable[str]) -> None:
        """See :class:`rsws.gateway.websocket.interfaces.MessageHandler`."""
        try:
            for text in texts:
                if self._ended:  # by the one before it
                    break
                self._text_received(text)
        finally:
            self._append_batch()

    def _text_received(self, text: str) -> None:
        try:
            request = decode_request(text)
        except RequestError as error:
            self._refuse(error)
            return
        size = len(text)  # of the whole message: a long messageId uses as much memory as data does
        if isinstance(request, Publish) and not self._opening:  # as nearly always
            self._publish(request, size)
        elif isinstance(request, Ping):
            self._connection.reply(encode_reply(Pong()))
        else:
            self._append_batch()
            if isinstance(request, ChangeToken):
                self._change_token(request.token, size)
            elif self._must_wait(request):
                self._connection.request_started(size)
                self._waiting.setdefault(request.channel, deque()).append((request, size))
            else:
                self.handle(request, size)

    def _must_wait(self, request: Publish | Subscribe | Unsubscribe) -> bool:
        """Whether a request has to wait for the subscribe under way of its channel.

        A publish need not wait for that, which has asked Redis for its position already. It has to wait once another
        subscribe or unsubscribe of the channel waits.
        """
        if isinstance(request, Publish):
            return request.channel in self._waiting
        return request.channel in self._opening

    def handle(self, request: Publish | Subscribe | Unsubscribe, size: int) -> None:
        """Handle a request, of a channel of which no subscribe is under way.

        Args:
            size: Its size in characters.
        """
        if isinstance(request, Publish):
            self._publish(request, size)
            self._append_batch()
        elif isinstance(request, Subscribe):
            self._subscribe(request, size)
        else:
            self._unsubscribe(request.channel)

    def _unsubscribe(self, channel: str) -> None:
        subscription = self._subscriptions.pop(channel, None)
        if subscription is not None:
            self._context.hub.unsubscribe(subscription)
        self._connection.reply(encode_reply(Unsubscribed(channel)))

    def _subscribe(self, request: Subscribe, size: int) -> None:
        channel, context = request.channel, self._context
        if context.channels is not None and channel not in context.channels:
            self._refuse_no_channel(channel)
            return
        if not self._may_read(channel):
            self._connection.reply(encode_reply(refusal(self._not_allowed("r", channel))))
            return
        if channel not in self._subscriptions and len(self._subscriptions) >= context.max_subscriptions:
            text = f"more than {context.max_subscriptions} subscriptions on a connection; unsubscribe, or open another"
            self._connection.reply(encode_reply(Error(text, ErrorCode.TOO_MANY, channel)))
            return
        try:
            self._count_subscribe(channel)
        except RequestError as error:
            self._refuse(error)
            return
        self._connection.request_started(size)
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
            self._connection.request_done(size)
            if waiting and request.channel in self._opening:
                self._waiting[request.channel] = waiting
                return

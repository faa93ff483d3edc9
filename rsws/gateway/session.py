"""What one client asks for, and the answers."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial

from rsws.errors import CloseCode, ErrorCode, RequestError, StoreError
from rsws.gateway.connection import ClientConnection
from rsws.gateway.hub import Hub
from rsws.gateway.subscription import Subscription
from rsws.protocol import (
    Ack,
    Error,
    Ping,
    Pong,
    Publish,
    StreamId,
    Subscribe,
    Unsubscribe,
    Unsubscribed,
    decode_request,
    encode_reply,
    publish_failure,
    refusal,
)
from rsws.streams.store import Store

log = logging.getLogger("rsws.gateway")


class Session:
    """One client's requests. Those about the same channel take effect in the order in which they came."""

    def __init__(
        self,
        connection: ClientConnection,
        hub: Hub,
        store: Store,
        tasks: asyncio.TaskGroup,
        max_subscriptions: int,
    ) -> None:
        self._connection = connection
        self._hub = hub
        self._store = store
        self._tasks = tasks
        self._max_subscriptions = max_subscriptions
        self._subscriptions: dict[str, Subscription] = {}
        self._opening: dict[str, deque[Subscribe | Unsubscribe]] = {}
        """Channels with a subscribe under way, and what came for them meanwhile."""
        self._ended = False

    def end(self) -> None:
        """The client has gone."""
        self._ended = True
        for subscription in self._subscriptions.values():
            self._hub.unsubscribe(subscription)
        self._subscriptions.clear()

    def text_received(self, text: str) -> None:
        """Handle one message of the client."""
        try:
            request = decode_request(text)
        except RequestError as error:
            self._connection.reply(encode_reply(refusal(error)))
            return
        match request:
            case Publish():
                self._publish(request)
            case Subscribe() | Unsubscribe():
                waiting = self._opening.get(request.channel)
                if waiting is None:
                    self._change(request)
                else:
                    self._connection.request_started(0)
                    waiting.append(request)
            case Ping():
                self._connection.reply(encode_reply(Pong()))

    def _publish(self, request: Publish) -> None:
        size = len(request.data)
        self._connection.request_started(size)
        self._store.append(request.channel, request.data, partial(self._published, request.message_id, size))

    def _published(self, message_id: str, size: int, result: StreamId | StoreError) -> None:
        if self._ended:
            return
        self._connection.request_done(size)
        reply = Ack(message_id, result) if isinstance(result, StreamId) else publish_failure(message_id, result)
        self._connection.reply(encode_reply(reply))

    def _change(self, request: Subscribe | Unsubscribe) -> None:
        channel = request.channel
        if isinstance(request, Unsubscribe):
            subscription = self._subscriptions.pop(channel, None)
            if subscription is not None:
                self._hub.unsubscribe(subscription)
            self._connection.reply(encode_reply(Unsubscribed(channel)))
            return
        if len(self._subscriptions.keys() | self._opening.keys() | {channel}) > self._max_subscriptions:
            text = f"more than {self._max_subscriptions} subscriptions on a connection; unsubscribe, or open another"
            self._connection.reply(encode_reply(Error(text, ErrorCode.TOO_MANY, channel)))
            return
        self._opening[channel] = deque()
        self._connection.request_started(0)
        self._tasks.create_task(self._subscribe(request))

    async def _subscribe(self, request: Subscribe) -> None:
        channel = request.channel
        try:
            subscribed, gap, subscription = await self._hub.subscribe(request, self._connection)
        except StoreError as error:
            self._connection.reply(encode_reply(Error(str(error), error.code, channel)))
        except Exception:
            log.exception("a bug in the gateway client=%s", self._connection.peer)
            self._connection.fail(CloseCode.INTERNAL_ERROR, "internal error")
        else:
            if self._ended:
                self._hub.unsubscribe(subscription)
                return
            replaced = self._subscriptions.pop(channel, None)
            if replaced is not None:
                self._hub.unsubscribe(replaced)
            self._subscriptions[channel] = subscription
            self._connection.reply(encode_reply(subscribed))
            if gap is not None:
                self._connection.reply(encode_reply(gap))
            subscription.advance()
        if self._ended:
            return
        self._connection.request_done(0)
        waiting = self._opening.pop(channel)
        while waiting:
            later = waiting.popleft()
            self._connection.request_done(0)
            self._change(later)
            if channel in self._opening:  # a subscribe again: what is left waits for this one
                self._opening[channel] = waiting
                return

"""What one client publishes: checked, appended, acked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial

import msgspec

from rsws.errors import ErrorCode, Outcome, RequestError, StoreError
from rsws.gateway.request_limits import Allowance
from rsws.gateway.session.client import Client
from rsws.gateway.session.context import SessionContext
from rsws.gateway.session.token import TokenBearer
from rsws.protocol import Publish, encode_ack, encode_reply, max_event_bytes, publish_failure, refusal
from rsws.streams.store import IdempotencyKey, Stored
from rsws.tokens.grant import Grant


class Batch(msgspec.Struct):
    """Publishes to one channel that have come together, and so are appended and acked together."""

    channel: str
    data: list[bytes]
    message_ids: list[str]
    size: int
    """Their size in characters."""


class Publisher(TokenBearer):
    """A session as far as its client publishes."""

    __slots__ = ("_allowance", "_batch", "_subscribed_at")

    def __init__(self, connection: Client, grant: Grant, context: SessionContext) -> None:
        super().__init__(connection, grant, context)
        self._batch: Batch | None = None
        """What has come in this read and is not appended yet; None between reads."""
        self._allowance: Allowance | None = None
        """What the client may still do; None as long as it has published nothing, and subscribed once at most."""
        self._subscribed_at: float | None = None
        """When it has subscribed for the first time, if that was not counted by its allowance."""
        if not connection.is_lasting:
            self._allowance = context.limits.allowance(connection.source.address, grant.subject)

    @abstractmethod
    def _is_subscriber(self, channel: str) -> bool:
        """Whether the client has subscribed to a channel, be that under way."""

    def _publish(self, request: Publish, size: int) -> None:
        """Put a message into the batch, behind those that came with it, or refuse it."""
        batch = self._batch
        if batch is not None and batch.channel != request.channel:
            self._append_batch()
            batch = None
        if batch is None and not self._may_publish(request):
            return
        context, data = self._context, request.data
        if len(data) > context.surely_fits and self._is_too_big(request):
            return
        allowance = self._allowance or self._make_allowance()
        messages, volume = allowance.messages, allowance.volume
        messages.left -= 1
        volume.left -= len(data)
        if messages.left < 0 or volume.left < 0:
            refused = allowance.publish_refusal(request, self._connection.life.heard_at, context.metrics)
            if refused is not None:
                self._refuse(refused)
                return
        if request.producer is not None:
            self._append_batch()
            once = IdempotencyKey(request.producer, request.message_id, context.producer_window_s)
            self._append(request.channel, data, request.message_id, size, once)
        elif batch is None:
            self._batch = Batch(request.channel, [data], [request.message_id], size)
        else:
            batch.data.append(data)
            batch.message_ids.append(request.message_id)
            batch.size += size

    def _may_publish(self, request: Publish) -> bool:
        """Refuse a publish to what is no channel, or is not the client's to write; return whether it did not."""
        context, grant = self._context, self._grant
        if context.channels is not None and request.channel not in context.channels:
            self._refuse_no_channel(request.channel, request.message_id)
        elif grant.is_full or grant.may_publish(request.channel):
            return True
        else:
            refused = self._not_allowed("w", request.channel, request.message_id)
            self._connection.reply(encode_reply(refusal(refused)))
        return False

    def _refuse_no_channel(self, channel: str, message_id: str | None = None) -> None:
        self._context.metrics.requests_for_no_channel += 1
        text = f"{channel} is no channel of this gateway, whose operator says which there are (--channels)"
        self._refuse(RequestError(ErrorCode.BAD_CHANNEL, text, channel=channel, message_id=message_id))

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

    def _make_allowance(self) -> Allowance:
        self._allowance = Allowance(self._context.limits, self._subscribed_at)
        return self._allowance

    def _append_batch(self) -> None:
        """Append the batch, if there is one."""
        batch = self._batch
        if batch is None:
            return
        self._batch = None
        if len(batch.data) == 1:  # as of most clients: as a batch it would take a sixth longer
            self._append(batch.channel, batch.data[0], batch.message_ids[0], batch.size)
            return
        self._connection.request_started(batch.size, len(batch.data))
        on_results = partial(self._batch_appended, batch.message_ids, batch.size)  # the data is the link's from now on
        self._context.streams.append_all(batch.channel, batch.data, on_results)
        if not self._is_subscriber(batch.channel):  # else it would have its messages before the acks
            self._context.hub.read_behind(batch.channel)

    def _batch_appended(self, message_ids: list[str], size: int, results: Sequence[bytes | StoreError]) -> None:
        self._context.metrics.published += [*map(type, results)].count(bytes)
        replies = [
            encode_ack(message_id, result) if isinstance(result, bytes) else self._failure(message_id, result)
            for message_id, result in zip(message_ids, results, strict=True)
        ]
        if not self._ended:
            self._connection.reply_all(replies)
            self._connection.request_done(size, len(replies))

    def _append(
        self, channel: str, data: bytes, message_id: str, size: int, once: IdempotencyKey | None = None
    ) -> None:
        self._connection.request_started(size)
        self._context.streams.append(channel, data, partial(self._appended, message_id, size), once)
        if not self._is_subscriber(channel):
            self._context.hub.read_behind(channel)

    def _appended(self, message_id: str, size: int, result: Stored | StoreError) -> None:
        if isinstance(result, Stored):
            self._context.metrics.published += 1
            reply = encode_ack(message_id, result.raw_id, result.duplicate)
        else:
            reply = self._failure(message_id, result)
        if not self._ended:
            self._connection.reply(reply)
            self._connection.request_done(size)

    def _failure(self, message_id: str, error: StoreError) -> bytes:
        if error.outcome is Outcome.UNKNOWN:
            self._context.metrics.publishes_unknown += 1
        else:
            self._context.metrics.publishes_not_stored += 1
        return encode_reply(publish_failure(message_id, error))

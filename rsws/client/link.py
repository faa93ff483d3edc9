"""A client's lasting connection to a gateway: when a WebSocket is lost, it makes the next one."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from rsws.client.address import Address, Ending, read_reply
from rsws.client.calls import Call, Publishes
from rsws.client.limits import Limits
from rsws.client.log import Warnings, log
from rsws.client.subscription import Feed
from rsws.client.tokens import NoToken, Renewal, TokenSource
from rsws.errors import CannotConnect, ClientError, CloseCode, ConnectionLost, ErrorCode, Unauthorized
from rsws.protocol import (
    Ack,
    CaughtUp,
    End,
    Error,
    ErrorAck,
    Gap,
    Message,
    Pong,
    Reply,
    StreamId,
    Subscribed,
    TokenChanged,
    TokenExpiring,
    Unsubscribed,
)


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The event that the connection is lost; attempts to reconnect begin."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The event that the client is connected again; the subscriptions go on from where they were."""

    after_s: float
    """How long the connection was lost."""


ConnectionEvent: TypeAlias = Disconnected | Reconnected


class GatewayLink:
    """The lasting connection to a gateway: sends requests, passes on the answers, and reconnects when it is lost.

    Entering its context connects, and raises what :meth:`Address.open` raises, or that there is no token.

    Args:
        tokens: Where tokens come from; None where the address has the only one.
    """

    def __init__(
        self,
        address: Address,
        tokens: TokenSource | None,
        reconnect: bool,
        give_up_after_s: float | None,
        connect_timeout_s: float,
        on_connection: Callable[[ConnectionEvent], None] | None,
        limits: Limits,
    ) -> None:
        self.address = address
        self.limits = limits
        self._tokens = tokens
        self._renewal: Renewal | None = None
        self._reconnect = reconnect
        self._give_up_after_s = give_up_after_s
        self._connect_timeout_s = connect_timeout_s
        self._on_connection = on_connection
        self._connection: ClientConnection
        self._task: asyncio.Task[None]
        self._failure: Exception | None = None
        self._publishes = Publishes(self._post_last, limits)
        self._pings: deque[Call] = deque()
        self._feeds: dict[str, Feed] = {}
        self._warnings = Warnings(limits)
        # The items to be sent, in order. Those still here when a connection is lost are sent over the next one.
        self._outbox: OrderedDict[Call | Feed, None] = OrderedDict()
        self._outbox_filled = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._connection = await self._open()
        self._task = asyncio.create_task(self._run(), name="rsws client")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for feed in [*self._feeds.values()]:
            feed.inbox.end()
        self._end(ConnectionLost("the client is closed"))
        try:
            await self._hang_up()
        finally:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._connection.transport.abort()  # the task may have reconnected meanwhile
        if not self._task.cancelled():
            self._task.result()  # raises a bug, or what on_connection raised

    # --- requests -----------------------------------------------------------------------------------------

    async def publish(self, message_id: str, frame: bytes, timeout_s: float) -> StreamId:
        """See :meth:`Client.publish`."""
        call = self._publishes.add(message_id, frame, timeout_s)
        try:
            stream_id: StreamId = await self._ask(call, timeout_s)
        except TimeoutError:
            raise call.timed_out(timeout_s) from None
        finally:
            self._publishes.remove(message_id)
        return stream_id

    async def ping(self, frame: bytes, timeout_s: float) -> float:
        """See :meth:`Client.ping`."""
        if len(self._pings) >= self.limits.max_pings:
            raise TimeoutError
        call = Call(frame)
        self._pings.append(call)
        try:
            answered_at: float = await self._ask(call, timeout_s)
        finally:
            if call.sent_at is None:  # else it stays until its pong comes: pongs come in order and have no id
                self._pings.remove(call)
        assert call.sent_at is not None
        return answered_at - call.sent_at

    async def _ask(self, call: Call, timeout_s: float) -> Any:
        self.check_alive()
        self.post(call)
        try:
            await asyncio.wait((call.answer,), timeout=timeout_s)
        finally:
            unanswered = call.answer.cancel()
            self._outbox.pop(call, None)
        if unanswered:
            raise TimeoutError
        return call.answer.result()

    def check_alive(self) -> None:
        """Raise the error that has ended the client's connection, if it has ended."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def cut(self) -> None:
        """See :meth:`Client.cut`."""
        self._connection.transport.abort()

    @property
    def queued(self) -> int:
        """How much waits to be sent."""
        return len(self._outbox)

    def has_feed(self, channel: str) -> bool:
        """Whether there is a subscription of ``channel``, or one that the gateway has not confirmed as ended."""
        return channel in self._feeds

    def add(self, feeds: Iterable[Feed]) -> None:
        """Subscribe to the channels of ``feeds``, now and after each reconnect."""
        for feed in feeds:
            self._feeds[feed.channel] = feed
            self.post(feed)

    def forget(self, feed: Feed) -> None:
        """Remove a feed whose subscription has ended."""
        self._feeds.pop(feed.channel, None)
        self._outbox.pop(feed, None)

    def post(self, item: Call | Feed) -> None:
        """Queue ``item``: when its turn comes, the frame that ``item.next_frame()`` returns is sent."""
        self._outbox[item] = None
        self._outbox_filled.set()

    def _post_last(self, item: Call) -> None:
        self.post(item)
        self._outbox.move_to_end(item)

    def _post_first(self, item: Call) -> None:
        self.post(item)
        self._outbox.move_to_end(item, last=False)

    # --- the background task ------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            retry = self.limits.retry
            delays = retry.waits_s()
            while True:
                since = time.monotonic()
                ending = await self._serve()
                self._lost(ending)
                if time.monotonic() - since > retry.longest_s:  # else keep backing off: it may drop us again and again
                    delays = retry.waits_s()
                await self._come_back(ending.reason, delays)
        except Exception as error:
            self._end(error)
            if not isinstance(error, ClientError):
                raise

    async def _open(self) -> ClientConnection:
        address = self.address if self._tokens is None else self.address.with_token(await self._tokens.get())
        return await address.open(self._connect_timeout_s, self.limits)

    async def _serve(self) -> Ending:
        """Read and write until the connection ends."""
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(self._write(), name="rsws client writer")]
            if self._tokens is not None:
                self._renewal = Renewal(self._tokens, self._post_first, self._warnings, self.limits)
                others.append(tasks.create_task(self._renewal.run(), name="rsws client token"))
            ending = await self._read()
            for each in others:
                each.cancel()
        await self._hang_up()
        return ending

    async def _hang_up(self) -> None:
        # When the client ends, reading goes on meanwhile: the gateway's close frame comes after what it sent before.
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.limits.close_timeout_s):
                    await self._connection.close()
        finally:
            self._connection.transport.abort()

    async def _come_back(self, reason: str, delays: Iterator[float]) -> None:
        """Reconnect.

        Raises:
            ConnectionLost: It took too long, or the client is not to reconnect.
            Unauthorized: The gateway no longer accepts the token.
        """
        lost = f"the connection to {self.address.url} is lost"
        if not self._reconnect:
            raise ConnectionLost(f"{lost}: {reason}")
        lost_at = time.monotonic()
        was_refused = False
        self._tell(Disconnected(reason))
        try:
            async with asyncio.timeout(self._give_up_after_s):
                while True:
                    await asyncio.sleep(next(delays))
                    try:
                        self._connection = await self._open()
                        break
                    except (CannotConnect, Unauthorized) as error:
                        if isinstance(error, Unauthorized):
                            if self._tokens is None or was_refused:
                                raise
                            was_refused = True  # the next token may be another one
                        elif isinstance(error, NoToken) and str(error) != reason:
                            self._warnings.add(f"{self.address.url}: {error}; trying again")
                        reason = str(error)
                        log.info("%s", reason)
        except TimeoutError:
            raise ConnectionLost(f"{lost}, for {self._give_up_after_s:g} s now: {reason}") from None
        self._tell(Reconnected(time.monotonic() - lost_at))

    def _tell(self, event: ConnectionEvent) -> None:
        log.info("%s: %s", self.address.url, event)
        if self._on_connection is not None:
            self._on_connection(event)

    async def _write(self) -> None:
        """Send what is in the outbox, as fast as the socket accepts it."""
        while True:
            while self._outbox and self._connection.state is State.OPEN:
                item, _ = self._outbox.popitem(last=False)
                frame = item.next_frame()
                if frame is not None:
                    try:
                        await self._connection.send(frame, text=True)
                    except ConnectionClosed:  # _read gets the same exception and reports the reason
                        return
            self._outbox_filled.clear()
            await self._outbox_filled.wait()

    async def _read(self) -> Ending:
        """Handle what the gateway sends until the connection ends; never wait for a slow or full subscription."""
        try:
            while True:
                frame = await self._connection.recv()
                try:
                    reply = read_reply(frame)
                except ValueError as error:
                    return Ending(f"the gateway does not speak the protocol: {error}", None, False, False)
                if isinstance(reply, Message) and (feed := self._feeds.get(reply.channel)) and feed.inbox.full:
                    await asyncio.sleep(0)  # lets an application that keeps up empty its queue
                self._receive(reply)
        except ConnectionClosed as closed:
            return Ending.of(closed)

    def _receive(self, reply: Reply | None) -> None:
        match reply:
            case Message() | Subscribed() | Unsubscribed() | CaughtUp() | End() | Gap():
                feed = self._feeds.get(reply.channel)
                if feed is not None:
                    feed.receive(reply)
            case Ack() | ErrorAck():
                self._publishes.receive(reply)
            case Pong():
                if self._pings and self._pings[0].sent_at is not None:
                    call = self._pings.popleft()
                    if call.is_awaited:
                        call.answer.set_result(time.monotonic())
            case TokenExpiring():
                if self._renewal is not None:
                    self._renewal.token_expiring()
            case TokenChanged() | Error(code=ErrorCode.BAD_TOKEN):
                if self._renewal is not None:
                    self._renewal.receive(reply)
            case Error(text, code, channel):
                feed = self._feeds.get(channel or "")
                if feed is not None:
                    feed.receive(reply)
                else:
                    self._warnings.add(f"the gateway: {text} ({code})")

    # --- the end of a connection, and of the client -------------------------------------------------------

    def _lost(self, ending: Ending) -> None:
        """Tell pings, feeds and publishes that the connection is lost, and check whether to reconnect makes sense.

        Raises:
            ClientError: It makes no sense to reconnect.
        """
        url = self.address.url
        blamed = ending.by_gateway and ending.code == CloseCode.TOO_BIG and self._publishes.blame_biggest()
        self._fail_pings(ending.reason)
        for feed in [*self._feeds.values()]:
            feed.disconnected()
        self._publishes.disconnected()  # after the feeds: a subscribe without a known position was sent before them
        if ending.token_expired and self._tokens is not None:
            return
        if ending.by_gateway and ending.code == CloseCode.POLICY_VIOLATION:
            raise Unauthorized(f"the gateway at {url} does not let us in any more: {ending.reason}")
        if not (ending.come_back or blamed):
            raise self.address.connection_lost(ending.reason)

    def _fail_pings(self, reason: str) -> None:
        """Fail the pings that were sent: no answer to them will come any more."""
        for call in self._pings:
            if call.is_awaited:
                call.fail(ConnectionLost(f"no pong came before the connection ended ({reason})"))
        self._pings = deque(call for call in self._pings if call.sent_at is None)

    def _end(self, error: Exception) -> None:
        """End the client with ``error``, and raise it in whoever waits."""
        if self._failure is not None:
            return
        self._failure = error
        self._fail_pings(str(error))
        for ping in self._pings:
            ping.fail(error)
        self._publishes.end(error)
        for feed in [*self._feeds.values()]:
            feed.inbox.end(error)
            feed.disconnected()

"""A subscription over plain HTTP: a response that has no end, as Server-Sent Events or as lines of JSON."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from http import HTTPStatus

from rsws.errors import CloseCode, ErrorCode
from rsws.gateway.exchanges.answers import Refusal
from rsws.gateway.exchanges.asking import Asking, Responder
from rsws.gateway.exchanges.forms import Form, messages_of
from rsws.gateway.session.session import Session
from rsws.gateway.websocket.connection import ClientConnection
from rsws.protocol import CaughtUp, End, Error, Gap, StreamId, Subscribe, Subscribed, decode_reply
from rsws.starts import Start

RETRY_S = 1.0
"""How often it is tried to subscribe while Redis is away."""
RETRY_MS = (1000, 5000)
"""After which time, at random, a client comes back to a gateway that stops: not all in the same moment."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for."""

    channel: str
    start: Start
    form: Form
    follows: bool
    """Whether it goes on after the end as it was at the start."""
    is_head: bool
    """Whether only the head of the response is wanted."""
    ends: bool
    """Whether it ends where the channel does."""
    resumes: bool
    """Whether the message at the start was received before."""


class Streaming(Asking):
    """The client of a session for one subscription.

    Args:
        blank_s: After how many seconds something is sent that means nothing, again and again.
    """

    __slots__ = ("_blank_s", "_has_begun", "_is_over", "_is_pinning", "_session", "_timers", "_until", "_wish")

    def __init__(self, exchange: Responder, connection: ClientConnection, wish: Wish, blank_s: float) -> None:
        super().__init__(exchange, connection)
        self._wish = wish
        self._blank_s = blank_s
        self._session: Session | None = None
        self._has_begun = False
        self._is_pinning = wish.start.is_time
        """Whether the end of the channel is asked for first: a time after it would be taken for another stream's."""
        self._until: StreamId | None = None
        """The last id that is wanted; None for no end."""
        self._is_over = False
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def begin(self, session: Session) -> None:
        """Subscribe."""
        self._session = session
        self._subscribe(None if self._is_pinning else self._wish.start.after)

    def end(self) -> None:
        """Clean up."""
        self._is_over = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _subscribe(self, after: StreamId | None) -> None:
        if self._session is not None and not self._is_over:
            request = Subscribe(
                self._wish.channel,
                after,
                self._wish.start.last,
                marker=True,
                end=self._wish.ends and not self._is_pinning,
                resume=self._wish.resumes,
            )
            self._session.handle(request, 0)

    # --- what the session answers ---

    def reply(self, payload: bytes) -> None:
        if self._is_over:
            return
        reply, form = decode_reply(payload.decode()), self._wish.form
        if isinstance(reply, Subscribed):
            self._subscribed(reply)
        elif isinstance(reply, Error):
            self._failed(reply)
        elif self._is_pinning:
            return
        elif isinstance(reply, Gap):
            if not self._wish.start.is_false_alarm(reply):
                self._send(form.event("gap", payload))
        elif isinstance(reply, End):
            if self._has_begun:
                # An EventSource comes back with its id, and is told to stay away.
                self._send(form.event("end", payload, str(reply.id).encode()))
                self._finish_soon()
            else:  # a status with which an EventSource does not come back
                self._is_over = True
                self.exchange.respond(HTTPStatus.NO_CONTENT)
        elif isinstance(reply, CaughtUp):
            self._send(form.event("caught_up", payload))
            if self._until is not None:
                self._finish_soon()

    def _subscribed(self, reply: Subscribed) -> None:
        if self._is_pinning:
            after = self._wish.start.after
            position = reply.latest_id if after is None else min(after, reply.latest_id)
            asyncio.get_running_loop().call_soon(self._pinned, position)
            return
        self._begin_body()
        if self._wish.is_head:
            self._finish_soon()
            return
        self._send(self._wish.form.begin(str(reply.last_message_id).encode()))
        if not self._wish.follows:
            self._until = reply.latest_id

    def _pinned(self, position: StreamId) -> None:
        self._is_pinning = False
        self._subscribe(position)

    def _failed(self, error: Error) -> None:
        is_away = error.code == ErrorCode.REDIS_UNAVAILABLE and self._wish.follows and not self._wish.is_head
        is_subscribed = self._session is not None and self._session.has(self._wish.channel)
        if not self._has_begun and not is_away:
            self.exchange.refuse(Refusal.of(error))
            return
        self._begin_body()
        self._send(self._wish.form.comment(f"{error.code}: {error.error}"))
        if is_subscribed:  # it goes on by itself
            return
        if is_away:
            after = None if self._is_pinning else self._wish.start.after
            loop = asyncio.get_running_loop()
            self._timers["retry"] = loop.call_later(RETRY_S, self._subscribe, after)
        else:
            self._finish_soon()

    # --- what is sent ---

    def _begin_body(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self.exchange.begin_stream(self._wish.form.content_type)
            self._send_blanks()

    def _send(self, text: bytes) -> None:
        if text:
            self.connection.write(self._wish.form.packed(text))

    def _send_blanks(self) -> None:
        if "blank" in self._timers and self.has_room:
            self._send(self._wish.form.blank)
        self._timers["blank"] = asyncio.get_running_loop().call_later(self._blank_s, self._send_blanks)

    def write(self, frames: bytes) -> None:
        if self._is_over or self._is_pinning:
            return
        if self._until is None:
            self.connection.write(self._wish.form.translate(frames))
        else:
            self._write_until(frames, self._until)

    def try_send(self, frames: bytes) -> bool:
        if self._is_over or self._is_pinning:
            return True
        if self._until is None:  # the connection looks for room itself
            return self.connection.try_send(self._wish.form.translate(frames))
        if not self.has_room:
            return False
        self._write_until(frames, self._until)
        return True

    def _write_until(self, frames: bytes, last: StreamId) -> None:
        wanted = []
        for raw_id, data in messages_of(frames):
            if StreamId.from_redis(raw_id) > last:
                self._finish_soon()
                break
            wanted.append(self._wish.form.message(raw_id, data))
        self._send(b"".join(wanted))

    # --- the end ---

    def _finish_soon(self) -> None:
        """End the response, but not within a call of the subscription that this ends."""
        self._is_over = True
        asyncio.get_running_loop().call_soon(self.exchange.end_stream)

    def leave(self, code: CloseCode) -> None:
        """End the response as the gateway stops, or the token has come to its end."""
        if not self._is_over:
            if code is not CloseCode.POLICY_VIOLATION:
                self._send(self._wish.form.end(random.randint(*RETRY_MS)))
            self._is_over = True
            self.exchange.end_stream()

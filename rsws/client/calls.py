"""Requests that wait for an answer, and what becomes of them when the connection breaks. No I/O.

A publish is sent again, under the same name, for as long as it may or may not be stored: a gateway stores one that
names its producer at most once, so asking again is the way to know.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from rsws.client.limits import Limits
from rsws.errors import ErrorCode, Outcome, PublishFailed, UsageError
from rsws.protocol import Ack, ErrorAck

_PASSING = (ErrorCode.REDIS_UNAVAILABLE, ErrorCode.REDIS_REFUSED)
"""What Redis may say while it restarts, loads or fails over."""


class Call:
    """A request that gets one answer.

    Attributes:
        answer: What came of it.
        sent_at: When it was sent over this connection; None when it was not.
    """

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.sent_at: float | None = None

    def next_frame(self) -> bytes | None:
        """The frame to send now; None when it was sent, or nobody waits for an answer any more."""
        if self.sent_at is not None or self.answer.done():
            return None
        self.sent_at = time.monotonic()
        return self.frame

    @property
    def is_awaited(self) -> bool:
        """Whether it was sent and is not answered."""
        return self.sent_at is not None and not self.answer.done()

    def fail(self, error: Exception) -> None:
        """This is what came of it, if nothing else did before."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # no log line if whoever waits is cancelled in this very moment


class PublishCall(Call):
    """A publish, which is sent again for up to ``resend_s``."""

    def __init__(self, frame: bytes, resend_s: float) -> None:
        super().__init__(frame)
        self._resend_s = resend_s
        self._unsure_since: float | None = None
        """When it was sent first, of the times after which it may have been stored."""

    @property
    def may_be_stored(self) -> bool:
        """Whether a gateway may have got it."""
        return self.sent_at is not None or self._unsure_since is not None

    def next_frame(self) -> bytes | None:
        """The frame to send now; None as for every call, and when a gateway might not know a repeat any more."""
        since = self._unsure_since
        if self.sent_at is None and since is not None and time.monotonic() - since > self._resend_s:
            self.fail(self.timed_out(self._resend_s))
        return super().next_frame()

    def receive(self, reply: Ack | ErrorAck) -> None:
        """Take the gateway's answer; if that leaves it unanswered, it is to be sent again."""
        if isinstance(reply, Ack):
            self.answer.set_result(reply.stream_id)
        elif reply.outcome is Outcome.UNKNOWN or (self._unsure_since is not None and reply.code in _PASSING):
            self.send_again()
        elif reply.code == ErrorCode.CONFLICT:  # its name was taken before it came, however often it came
            self.fail(PublishFailed(reply.error, reply.code, reply.outcome))
        else:
            self.refuse(reply.error, reply.code)

    def send_again(self) -> None:
        """If it was sent, it may be stored or not, so it has to be sent once more."""
        if self._unsure_since is None:
            self._unsure_since = self.sent_at
        self.sent_at = None

    def refuse(self, text: str, code: str) -> None:
        """The gateway did not take it this time."""
        self.fail(PublishFailed(text, code, Outcome.NOT_STORED if self._unsure_since is None else Outcome.UNKNOWN))

    def timed_out(self, after_s: float) -> PublishFailed:
        """The error when nobody waits for it any longer."""
        if self.may_be_stored:
            return PublishFailed(f"no ack within {after_s:g} s", "timeout", Outcome.UNKNOWN)
        return PublishFailed(f"no connection within {after_s:g} s", "timeout", Outcome.NOT_STORED)


class Publishes:
    """The publishes under way, in the order in which they were asked for.

    Args:
        post: Has :meth:`Call.next_frame` called, in that order, for all it is given one after the other.
    """

    def __init__(self, post: Callable[[PublishCall], None], limits: Limits) -> None:
        self._post = post
        self._limits = limits
        self._delays = self._limits.retry.waits_s()
        self._retry: asyncio.TimerHandle | None = None
        self._calls: dict[str, PublishCall] = {}
        self._given_up: dict[str, tuple[int, int]] = {}
        """Those sent over this connection whose answer is to come and nobody waits for: by name how many they are, and
        how big the biggest."""

    def add(self, message_id: str, frame: bytes) -> PublishCall:
        """One more.

        Raises:
            UsageError: There is one of that name.
        """
        if message_id in self._calls:
            raise UsageError(f"a publish with message_id {message_id!r} is under way")
        call = self._calls[message_id] = PublishCall(frame, self._limits.resend_s)
        return call

    def remove(self, message_id: str) -> None:
        """Nobody waits for it any more."""
        call = self._calls.pop(message_id)
        if call.sent_at is not None and call.answer.cancelled():
            count, biggest = self._given_up.get(message_id, (0, 0))
            self._given_up[message_id] = count + 1, max(biggest, len(call.frame))
            if len(self._given_up) > self._limits.max_given_up:
                del self._given_up[next(iter(self._given_up))]

    def receive(self, reply: Ack | ErrorAck) -> None:
        """Give the gateway's answer to the one it is for."""
        message_id = reply.message_id
        if message_id in self._given_up:  # it may be under way a second time, with other data
            count, biggest = self._given_up.pop(message_id)
            if count > 1:
                self._given_up[message_id] = count - 1, biggest
        elif (call := self._calls.get(message_id)) and call.is_awaited:
            call.receive(reply)
            if isinstance(reply, Ack):
                self._delays = self._limits.retry.waits_s()
            elif not call.answer.done() and self._retry is None:
                self._retry = asyncio.get_running_loop().call_later(next(self._delays), self._send_again)

    def _send_again(self) -> None:
        self._retry = None  # one timer for all, so that they keep their order
        for call in self._calls.values():
            self._post(call)

    def blame_biggest(self) -> bool:
        """A message was too big: fail the biggest, if somebody waits for it. False when there is none."""
        sent = [call for call in self._calls.values() if call.is_awaited]
        biggest = max(sent, key=lambda call: len(call.frame), default=None)
        given_up = max((size for _, size in self._given_up.values()), default=0)
        if biggest is None or len(biggest.frame) < given_up:
            return given_up > 0
        # One is over the limit, so the biggest is. Frames are looked at in turn, up to the first that is over the
        # limit: that is the biggest or comes before it, so what was sent behind the biggest was not looked at.
        biggest.refuse(f"too big for the gateway: {len(biggest.frame):,} bytes", "too_big")
        for call in sent[sent.index(biggest) + 1 :]:
            call.sent_at = None
        return True

    def disconnected(self) -> None:
        """No answer will come over this connection: send them all over the next one."""
        self._given_up.clear()
        for call in self._calls.values():
            call.send_again()
        self._send_again()

    def end(self, error: Exception) -> None:
        """No connection will come any more."""
        for call in self._calls.values():
            if call.may_be_stored:
                text = f"no ack came before the connection ended ({error}); the message may be stored"
                call.fail(PublishFailed(text, "connection_lost", Outcome.UNKNOWN))
            else:
                call.fail(error)

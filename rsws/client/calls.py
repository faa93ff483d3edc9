"""Requests that wait for an answer, and how they survive the loss of the connection. No I/O.

A publish whose outcome is unknown is sent again under the same ``messageId``: a gateway stores a message that names
its producer at most once, so sending it again is safe, and its answer tells the outcome.
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
"""The error codes that a gateway may send while Redis restarts, loads its data or fails over."""
_FOR_THE_ANSWER = 0.25
"""The part of its time that a publish that was held must have left to be sent: else it would end unanswered, and nobody
would know whether it is stored."""


class Call:
    """A request that gets one answer.

    Attributes:
        answer: The future answer, or the error in its place.
        sent_at: When it was sent over this connection; None when it was not.
    """

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.sent_at: float | None = None

    def next_frame(self) -> bytes | None:
        """Return the frame to send now; None when it was sent, or nobody waits for an answer any more."""
        if self.sent_at is not None or self.answer.done():
            return None
        self.sent_at = time.monotonic()
        return self.frame

    @property
    def is_awaited(self) -> bool:
        """Whether it was sent and is not answered."""
        return self.sent_at is not None and not self.answer.done()

    def fail(self, error: Exception) -> None:
        """End the call with ``error``, unless it has an answer or has ended before."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # marks it as retrieved: no log line if the waiting task is cancelled just now


class PublishCall(Call):
    """A publish, which is sent again for up to ``resend_s``.

    Args:
        timeout_s: Seconds that somebody waits for the answer, from now on.
        limited: Returns the gateway's refusal for which nothing is published for now; None where there is none.
    """

    def __init__(self, frame: bytes, timeout_s: float, resend_s: float, limited: Callable[[], ErrorAck | None]) -> None:
        super().__init__(frame)
        self._too_late_at = time.monotonic() + timeout_s * (1 - _FOR_THE_ANSWER)
        self._resend_s = resend_s
        self._limited = limited
        self._held_by: ErrorAck | None = None
        """The refusal, of this publish or another one, for which it was not sent or not stored."""
        self._unsure_since: float | None = None
        """When it was first sent without getting an answer that excludes that it was stored; None if it never was."""

    @property
    def may_be_stored(self) -> bool:
        """Whether a gateway may have received and stored the message."""
        return self.sent_at is not None or self._unsure_since is not None

    def next_frame(self) -> bytes | None:
        """Return the frame to send now; None as for every call, and when a gateway might no longer detect a repeat."""
        self._held_by = self._limited() or self._held_by
        if self._limited() is not None or (self._held_by is not None and time.monotonic() > self._too_late_at):
            return None
        since = self._unsure_since
        if self.sent_at is None and since is not None and time.monotonic() - since > self._resend_s:
            self.fail(self.timed_out(self._resend_s))
        self._held_by = None
        return super().next_frame()

    def receive(self, reply: Ack | ErrorAck) -> None:
        """Handle the gateway's answer; if ``answer`` is not done afterwards, the publish has to be sent again."""
        if isinstance(reply, Ack):
            self.answer.set_result(reply.stream_id)
        elif reply.code == ErrorCode.RATE_LIMITED:
            self.sent_at, self._held_by = None, reply  # this time it was not stored
        elif reply.outcome is Outcome.UNKNOWN or (self._unsure_since is not None and reply.code in _PASSING):
            self.send_again()
        elif reply.code == ErrorCode.CONFLICT:  # other data have its messageId, so no repeat of it was stored either
            self.fail(PublishFailed(reply.error, reply.code, reply.outcome))
        else:
            self.refuse(reply.error, reply.code)

    def send_again(self) -> None:
        """Mark the publish to be sent again; if it was sent before, its outcome is unknown."""
        if self._unsure_since is None:
            self._unsure_since = self.sent_at
        self.sent_at = self._held_by = None

    def refuse(self, text: str, code: str) -> None:
        """End the publish with a refusal; the outcome is unknown if an earlier attempt may have been stored."""
        self.fail(PublishFailed(text, code, Outcome.NOT_STORED if self._unsure_since is None else Outcome.UNKNOWN))

    def timed_out(self, after_s: float) -> PublishFailed:
        """Return the error for a publish that was not answered within ``after_s``."""
        if self._held_by is not None:
            outcome = Outcome.UNKNOWN if self.may_be_stored else Outcome.NOT_STORED
            text = f"not within {after_s:g} s: {self._held_by.error}"
            return PublishFailed(text, self._held_by.code, outcome, self._held_by.retry_after_s)
        if self.may_be_stored:
            return PublishFailed(f"no ack within {after_s:g} s", "timeout", Outcome.UNKNOWN)
        return PublishFailed(f"no connection within {after_s:g} s", "timeout", Outcome.NOT_STORED)


class Publishes:
    """The unanswered publishes, in the order in which the application made them.

    Args:
        post: Queues a publish to be sent; those it is given one after the other are sent in that order.
    """

    def __init__(self, post: Callable[[PublishCall], None], limits: Limits) -> None:
        self._post = post
        self._limits = limits
        self._delays = self._limits.retry.waits_s()
        self._retry: asyncio.TimerHandle | None = None
        self._limited: ErrorAck | None = None
        """The gateway's last refusal of a publish for its rate: nothing is published until ``_held_until``."""
        self._held_until = 0.0
        self._release: asyncio.TimerHandle | None = None
        self._calls: dict[str, PublishCall] = {}
        self._given_up: dict[str, tuple[int, int]] = {}
        """The publishes sent over this connection, unanswered, that nobody waits for any more: for each messageId their
        number and the size of the biggest frame in bytes."""

    def add(self, message_id: str, frame: bytes, timeout_s: float) -> PublishCall:
        """Add a publish.

        Raises:
            UsageError: There is an unanswered one with that messageId.
        """
        if message_id in self._calls:
            raise UsageError(f"a publish with message_id {message_id!r} is under way")
        call = self._calls[message_id] = PublishCall(frame, timeout_s, self._limits.resend_s, lambda: self._limited)
        return call

    def remove(self, message_id: str) -> None:
        """Remove a publish that nobody waits for any more."""
        call = self._calls.pop(message_id)
        if call.sent_at is not None and call.answer.cancelled():
            count, biggest = self._given_up.get(message_id, (0, 0))
            self._given_up[message_id] = count + 1, max(biggest, len(call.frame))
            if len(self._given_up) > self._limits.max_given_up:
                del self._given_up[next(iter(self._given_up))]

    def receive(self, reply: Ack | ErrorAck) -> None:
        """Pass the gateway's answer to its publish."""
        message_id = reply.message_id
        if message_id in self._given_up:  # the answer is for the older one, even if the same messageId is used again
            count, biggest = self._given_up.pop(message_id)
            if count > 1:
                self._given_up[message_id] = count - 1, biggest
        elif (call := self._calls.get(message_id)) and call.is_awaited:
            call.receive(reply)
            if isinstance(reply, Ack):
                self._delays = self._limits.retry.waits_s()
            elif reply.code == ErrorCode.RATE_LIMITED:
                self._hold(reply)
            elif not call.answer.done() and self._retry is None:
                self._retry = asyncio.get_running_loop().call_later(next(self._delays), self._send_again)

    # --- where the gateway limits the rate ---

    def _hold(self, refusal: ErrorAck) -> None:
        """Publish nothing for as long as the gateway says, so that nothing overtakes what was refused."""
        wait_s = self._limits.hold_s(refusal.retry_after_s)
        self._limited = refusal
        self._held_until = time.monotonic() + wait_s
        if self._release is None:
            self._release = asyncio.get_running_loop().call_later(wait_s, self._release_if_over)

    def _release_if_over(self) -> None:
        """Go on, once the time is over and all that was sent is answered: of that more may have been refused."""
        left_s = self._held_until - time.monotonic()
        if left_s <= 0 and any(call.is_awaited for call in self._calls.values()):
            left_s = self._limits.least_hold_s
        if left_s > 0:
            self._release = asyncio.get_running_loop().call_later(left_s, self._release_if_over)
        else:
            self._release_now()
            self._send_again()

    def _release_now(self) -> None:
        self._limited = None
        if self._release is not None:
            self._release.cancel()
            self._release = None

    # --- what is sent again ---

    def _send_again(self) -> None:
        self._retry = None  # one timer for all, so that they keep their order
        for call in self._calls.values():
            self._post(call)

    def blame_biggest(self) -> bool:
        """Fail the biggest publish, after the gateway said that a message is too big, if somebody waits for it.

        Returns:
            Whether there is a publish, awaited or given up, that the gateway may have meant.
        """
        sent = [call for call in self._calls.values() if call.is_awaited]
        biggest = max(sent, key=lambda call: len(call.frame), default=None)
        given_up = max((size for _, size in self._given_up.values()), default=0)
        if biggest is None or len(biggest.frame) < given_up:
            return given_up > 0
        # One is over the limit, so the biggest is. The gateway reads frames in order, up to the first over the limit:
        # that is the biggest or comes before it, so it has not read what was sent after the biggest.
        biggest.refuse(f"too big for the gateway: {len(biggest.frame):,} bytes", "too_big")
        for call in sent[sent.index(biggest) + 1 :]:
            call.sent_at = None
        return True

    def disconnected(self) -> None:
        """Handle the loss of the connection: send all publishes again over the next one."""
        self._given_up.clear()
        self._release_now()  # the next connection may publish anew
        for call in self._calls.values():
            call.send_again()
        self._send_again()

    def end(self, error: Exception) -> None:
        """Fail all publishes: the connection is lost for good."""
        self._release_now()
        for call in self._calls.values():
            if call.may_be_stored:
                text = f"no ack came before the connection ended ({error}); the message may be stored"
                call.fail(PublishFailed(text, "connection_lost", Outcome.UNKNOWN))
            else:
                call.fail(error)

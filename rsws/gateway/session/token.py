"""The life of a client's token: what it allows, and that it is changed, about to expire, or over."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from typing import Literal

from rsws.errors import TOKEN_EXPIRED, CloseCode, ErrorCode, RequestError
from rsws.gateway.access.ends import TokenHolder
from rsws.gateway.session.client import Client
from rsws.gateway.session.context import SessionContext
from rsws.log_lines import LogLine
from rsws.protocol import TokenChanged, TokenExpiring, encode_reply, refusal
from rsws.tokens.grant import Grant

log = logging.getLogger("rsws.gateway")


class TokenBearer(TokenHolder):
    """A session as far as its client's token is concerned."""

    __slots__ = ("_connection", "_context", "_ended", "_grant", "_token_ended")

    def __init__(self, connection: Client, grant: Grant, context: SessionContext) -> None:
        self._connection = connection
        self._context = context
        self._ended = False
        self._grant = grant
        """What the client's token allows."""
        self._token_ended = False
        if grant.ends_at is not None:
            context.access.ends.watch(self, grant)

    @abstractmethod
    def _end_forbidden(self) -> None:
        """End the subscriptions that the token does not allow any more, and say so."""

    @abstractmethod
    def _end_subscriptions(self) -> None:
        """End all subscriptions, and say nothing."""

    @property
    def who(self) -> str | None:
        """See :attr:`rsws.tokens.grant.Grant.who`."""
        return self._grant.who

    def _may_read(self, channel: str) -> bool:
        grant = self._grant
        return (grant.is_full or grant.may_read(channel)) and not self._token_ended

    def _not_allowed(self, right: Literal["r", "w"], channel: str, message_id: str | None = None) -> RequestError:
        self._context.metrics.requests_refused += 1
        self._context.access.count_not_allowed(self._grant, right, channel, self._connection.peer)
        text = "the token has expired" if self._token_ended else self._grant.missing(right, channel)
        return RequestError(ErrorCode.NOT_ALLOWED, text, channel=channel, message_id=message_id)

    def _change_token(self, token: str, size: int) -> None:
        answer = self._context.access.check_token(token, self._connection.source)
        if isinstance(answer, Grant):
            self._use(answer)
        elif answer:  # as in a handshake: else who has any token could try others as fast as the gateway answers
            self._connection.request_started(size)
            asyncio.get_running_loop().call_later(answer, self._refuse_token_late, size)
        else:
            self._refuse_token()

    def _refuse_token(self) -> None:
        self._refuse(RequestError(ErrorCode.BAD_TOKEN, "the token is wrong; the one before still holds"))

    def _refuse_token_late(self, size: int) -> None:
        if not self._ended:
            self._refuse_token()
            self._connection.request_done(size)

    def _use(self, grant: Grant) -> None:
        """Go on with another token."""
        self._grant = grant
        self._context.access.ends.watch(self, grant)
        log.debug(LogLine("token changed", client=self._connection.peer, who=grant.who))
        self._connection.reply(encode_reply(TokenChanged(grant.expiry_text)))
        self._end_forbidden()

    def token_expiring(self) -> None:
        """See :class:`rsws.gateway.access.ends.TokenHolder`."""
        self._connection.reply(encode_reply(TokenExpiring(self._grant.expiry_text or "")))

    def token_ended(self) -> None:
        """See :class:`rsws.gateway.access.ends.TokenHolder`. What was received before is answered, and nothing else."""
        self._token_ended = True
        self._context.metrics.tokens_ended += 1
        log.info(LogLine("token expired", client=self._connection.peer, who=self.who))
        self._end_subscriptions()
        self._connection.drain(CloseCode.POLICY_VIOLATION, TOKEN_EXPIRED, self._context.end_timeout_s)

    def _refuse(self, error: RequestError) -> None:
        self._context.metrics.requests_refused += 1
        self._connection.reply(encode_reply(refusal(error)))

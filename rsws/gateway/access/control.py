"""Who may do what: the one object that the connections and sessions of a process ask."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Literal

from rsws.errors import SetupError, about
from rsws.gateway.access.attempts import WrongTokens
from rsws.gateway.access.ends import Ends
from rsws.gateway.access.files import KeyFile, watch
from rsws.gateway.access.presented import Presented, Source
from rsws.gateway.access.tokens import TokenCheck
from rsws.gateway.limits import DEFAULTS, Limits
from rsws.gateway.logs import NowAndThen
from rsws.gateway.metrics import Metrics
from rsws.gateway.peer import Peer
from rsws.settings import MIN_KEY_CHARS, Settings
from rsws.tokens.grant import Grant, parse_key_may
from rsws.tokens.keys import KeySet, read_keys
from rsws.tokens.reasons import Reason, Refusal
from rsws.tokens.signed import SignedTokens

log = logging.getLogger("rsws.gateway")


class AccessControl:
    """The check of tokens, the delay of wrong ones, and the ends of those that have one.

    Attributes:
        ends: The ends to come.
    """

    def __init__(
        self, tokens: TokenCheck, metrics: Metrics, files: Sequence[KeyFile] = (), *, limits: Limits = DEFAULTS
    ) -> None:
        self.ends = Ends(limits)
        self._tokens = tokens
        self._metrics = metrics
        self._files = list(files)
        self._check_files_s = limits.key_files_check_s
        self._wrong_tokens = WrongTokens(limits)
        self._log_refused: dict[Reason, NowAndThen] = {reason: NowAndThen(log) for reason in Reason}
        self._log_not_allowed = NowAndThen(log)

    @classmethod
    def of(cls, settings: Settings, key: str, metrics: Metrics, limits: Limits = DEFAULTS) -> AccessControl:
        """Return the control that settings describe.

        Args:
            key: The secret key, which has been chosen before.

        Raises:
            SetupError: A library is missing, or the previous key can be guessed.
            UsageError: A key, its file or a pattern can't be used.
        """
        files: list[KeyFile] = []
        with about("key_may"):
            grant = parse_key_may(settings.key_may)
        tokens = TokenCheck(key, grant=grant)
        if settings.key_is_in_file:
            assert settings.secret_key_file is not None

            def change_key(text: str) -> None:
                tokens.change_key(_unguessable(settings, "secret key", text))

            with about("secret_key_file"):
                files.append(KeyFile(settings.secret_key_file, "secret key", change_key))

        def change_previous_key(text: str) -> None:
            tokens.change_previous_key(_unguessable(settings, "previous secret key", text))

        if settings.previous_secret_key:
            change_previous_key(settings.previous_secret_key)
        elif settings.previous_secret_key_file is not None:
            with about("previous_secret_key_file"):
                files.append(KeyFile(settings.previous_secret_key_file, "previous secret key", change_previous_key))
        if settings.jwt_key or settings.jwt_key_file is not None:
            signed = SignedTokens(KeySet(), settings.jwt_audience, settings.jwt_issuer, limits.clock_difference_s)

            def change_jwt_keys(text: str) -> None:
                signed.keys = read_keys(text)

            if settings.jwt_key:
                with about("jwt_key"):
                    change_jwt_keys(settings.jwt_key)
            elif settings.jwt_key_file is not None:
                with about("jwt_key_file"):
                    files.append(KeyFile(settings.jwt_key_file, "JWT key", change_jwt_keys))
            tokens.signed = signed
        return cls(tokens, metrics, files, limits=limits)

    async def watch_files(self) -> None:
        """Read the files of keys again when they change, until cancelled."""
        await watch(self._files, self._check_files_s)

    def reload(self) -> None:
        """Read the files of keys again."""
        for each in self._files:
            each.refresh(even_if_unchanged=True)

    def check_request(
        self, authorization: bytes | None, subprotocols: Sequence[bytes], target: str, peer: Peer
    ) -> Grant | float:
        """Return what the token of a new client allows; or the seconds after which the client is told that it is wrong.

        Args:
            authorization: The value of that header.
            subprotocols: The names that the client offers.
            target: The path and its query.
            peer: The client's address.
        """
        answer, presented = self._tokens.check_request(authorization, subprotocols, target)
        if isinstance(answer, Grant):
            return answer
        return self._refuse(answer, Source.URL if presented is None else presented.source, peer)

    def check_operator(
        self, authorization: bytes | None, target: str, peer: Peer, *, for_all: bool = False
    ) -> HTTPStatus:
        """Return whether a request has the secret key: ``OK``, or the status to refuse it with.

        Args:
            for_all: Whether that key must open everything, with no ``--key-may``.
        """
        grant = self.check_request(authorization, (), target, peer)
        if isinstance(grant, Grant):  # that of a JWT has an end
            may = grant.ends_at is None and (grant.is_full or not for_all)
            return HTTPStatus.OK if may else HTTPStatus.FORBIDDEN
        return HTTPStatus.TOO_MANY_REQUESTS if grant else HTTPStatus.UNAUTHORIZED

    def check_token(self, token: str, peer: Peer) -> Grant | float:
        """Return what a token that a client sent in a request allows; or as :meth:`check_request`."""
        presented = Presented(Source.REQUEST, (token,)) if token else Presented(Source.REQUEST, fault=Reason.MISSING)
        answer = self._tokens.check(presented)
        return answer if isinstance(answer, Grant) else self._refuse(answer, Source.REQUEST, peer)

    def _refuse(self, refusal: Refusal, source: Source, peer: Peer) -> float:
        metrics = self._metrics
        metrics.tokens_refused += 1
        # A line for each reason: many of one must not hide the first of another.
        self._log_refused[refusal.reason].warning(
            "token refused",
            client=str(peer),
            who=refusal.who,
            source=source,
            reason=refusal.reason,
            refused=metrics.tokens_refused,
        )
        return self._wrong_tokens.wait_s(peer.address, asyncio.get_running_loop().time())

    def count_not_allowed(self, grant: Grant, right: Literal["r", "w"], channel: str, peer: str) -> None:
        """Count a request that a token does not allow."""
        metrics = self._metrics
        metrics.requests_not_allowed += 1
        self._log_not_allowed.warning(
            "request not allowed",
            client=peer,
            who=grant.who,
            right=right,
            channel=channel,
            refused=metrics.requests_not_allowed,
        )


def _unguessable(settings: Settings, what: str, key: str) -> str:
    """Return the key.

    Raises:
        SetupError: Other machines can connect, and the key is so short that it can be guessed.
    """
    if settings.can_guess(key):
        raise SetupError(
            f"the {what} must have {MIN_KEY_CHARS} characters or more to listen on {settings.host}, "
            "which others can reach"
        )
    return key

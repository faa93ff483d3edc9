"""Tokens that an application gives whenever one is needed: to connect, and before the one of now ends."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from rsws.client.calls import Call
from rsws.client.limits import Limits
from rsws.client.log import Warnings, log
from rsws.errors import CannotConnect
from rsws.protocol import ChangeToken, Error, TokenChanged, encode_request
from rsws.text import excerpt

AskToken: TypeAlias = Callable[[], Awaitable[str]]
"""An application's async callable that returns the token to use now."""


class NoToken(CannotConnect):
    """The application gave no token; its exception is the cause."""


class TokenSource:
    """The source of a client's tokens: an application's callable.

    Attributes:
        last: The token that was given last; None before the first.
    """

    def __init__(self, ask: AskToken, limits: Limits) -> None:
        self._ask = ask
        self._timeout_s = limits.token_timeout_s
        self.last: str | None = None

    async def get(self) -> str:
        """Return the token to use now.

        Raises:
            NoToken: The callable raises, takes too long or returns something else.
        """
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                given = self._ask()
                token = await given if inspect.isawaitable(given) else None
                if not isinstance(token, str):
                    raise TypeError("token must be a string, or an async callable that returns one")
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise NoToken("no token: the callable was cancelled") from error  # by something in it, not from here
        except Exception as error:
            if deadline.expired():
                raise NoToken(f"no token: none was given within {self._timeout_s:g} s") from None
            raise NoToken(f"no token: {excerpt(f'{type(error).__name__}: {error}')}") from error
        try:
            token.encode()
        except UnicodeEncodeError:
            raise NoToken("no token: the one that was given is not valid UTF-8") from None  # its text quotes the token
        self.last = token
        return token


class Renewal:
    """The change of the token on one open connection, whenever the gateway says that the one of now ends soon.

    What fails is tried again, with growing waits, until the connection ends: the next one begins with another token.

    Args:
        source: Where tokens come from.
        send: Sends a request, before all that waits to be sent.
        warnings: Where it is told what fails.
    """

    def __init__(self, source: TokenSource, send: Callable[[Call], None], warnings: Warnings, limits: Limits) -> None:
        self._source = source
        self._send = send
        self._warnings = warnings
        self._limits = limits
        self._due = asyncio.Event()
        self._call: Call | None = None

    def token_expiring(self) -> None:
        """Note that the token ends soon."""
        self._due.set()

    def receive(self, reply: TokenChanged | Error) -> None:
        """Pass on the gateway's answer to a new token."""
        if self._call is not None and self._call.is_awaited:
            self._call.answer.set_result(reply)

    async def run(self) -> None:
        """Change the token whenever that is due, until cancelled."""
        longest_s = self._limits.retry.longest_s
        delays, asked_at, told = self._limits.retry.waits_s(), float("-inf"), ""
        while True:
            await self._due.wait()
            if time.monotonic() - asked_at > longest_s:
                delays = self._limits.retry.waits_s()
            else:  # also where the gateway says it again and again: the application is not asked in a storm
                await asyncio.sleep(next(delays))
            self._due.clear()
            asked_at = time.monotonic()
            fault = await self._change()
            if fault is not None:
                self._due.set()
                if fault != told:
                    self._warnings.add(f"the token ends soon, and was not changed: {fault}; trying again")
            told = fault or ""

    async def _change(self) -> str | None:
        """Return why the token was not changed; None when it was."""
        before = self._source.last
        try:
            token = await self._source.get()
        except NoToken as error:
            return str(error)
        if token == before:  # the gateway holds it, or has refused it
            return "the one that was given is the same"
        call = self._call = Call(encode_request(ChangeToken(token)).encode())
        self._send(call)
        try:
            async with asyncio.timeout(self._limits.token_timeout_s):
                reply = await call.answer
        except TimeoutError:
            return f"the gateway has not answered within {self._limits.token_timeout_s:g} s"
        finally:
            self._call = None
        if isinstance(reply, Error):
            return f"the gateway refuses it: {reply.error}"
        log.info("the token was changed; it expires at %s", excerpt(reply.expires_at or "never"))
        return None

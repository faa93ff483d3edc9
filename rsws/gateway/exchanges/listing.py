"""The list of channels over plain HTTP."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from rsws.errors import RequestError, StoreError
from rsws.gateway.delivery.catalogue import ChannelPage
from rsws.gateway.exchanges.answers import Refusal, json_line
from rsws.gateway.exchanges.asking import Asking, Responder
from rsws.gateway.session.session import Session
from rsws.gateway.websocket.connection import ClientConnection
from rsws.protocol import Error


class Listing(Asking):
    """The client of a session for a page of the list of channels.

    Args:
        match: A pattern, in which ``*`` stands for any run of characters.
        cursor: That of the page before; None for the first page.
    """

    __slots__ = ("_cursor", "_match", "_task")

    def __init__(self, exchange: Responder, connection: ClientConnection, match: str, cursor: str | None) -> None:
        super().__init__(exchange, connection)
        self._match = match
        self._cursor = cursor
        self._task: asyncio.Task[ChannelPage | RequestError | StoreError] | None = None

    def begin(self, session: Session) -> None:
        self._task = session.list_channels(self._match, self._cursor)
        self._task.add_done_callback(self._listed)

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _listed(self, task: asyncio.Task[ChannelPage | RequestError | StoreError]) -> None:
        if task.cancelled() or task.exception() is not None:  # a bug, which ends the server, as any in its tasks
            return
        result = task.result()
        if isinstance(result, ChannelPage):
            self.exchange.respond(HTTPStatus.OK, json_line(result._asdict()))
        else:
            wait_s = result.retry_after_s if isinstance(result, RequestError) else None
            self.exchange.refuse(Refusal.of(Error(str(result), result.code, retry_after_s=wait_s)))

"""Sentinels: who knows which server is the primary now (https://redis.io/docs/latest/develop/reference/sentinel-clients/).

They are asked at each attempt to connect, all of them. What they name is checked by its role: a sentinel may name the
demoted server for a while, and one that is cut off from the others for long.

All of them are listened to. Only the one that carries out a failover says which replica it has selected. That is
promoted up to a second before the sentinels have looked at it again and say so: what is acked by the old primary in
that second is lost.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from rsws.errors import RedisUnavailable
from rsws.redis.connection import PRIMARY_ROLES, connection_error_text
from rsws.redis.url import RedisUrl
from rsws.urls import HostPort, join_host_port

log = logging.getLogger("rsws.redis")

STRAGGLERS_S = 0.2
"""How long the others are waited for once one sentinel has answered."""
LISTEN_S = 10.0
"""How long a sentinel is listened to in silence before it is pinged, in case it is gone and nobody has said so."""
RETRY_S = 1.0
PROMOTION_S = 10.0
"""How long a replica that sentinels have selected may take to be a primary, and then to be named by them."""
ASK_AGAIN_S = 0.01
"""How often it is asked meanwhile: what the old primary acks until it is noticed may be lost."""
_LOGIN = ("username", "password")
_PORT = re.compile(r"[0-9]{1,5}")

Connect = Callable[[Mapping[str, Any]], AbstractConnection]
"""Makes a connection, not yet connected, with these arguments in place of the usual ones."""


class Sentinels:
    """The sentinels of one name.

    Args:
        url: What is known of them.
        timeout_s: How long one may take to answer.
        connect: Makes a connection to one.
    """

    def __init__(self, url: RedisUrl, timeout_s: float, connect: Connect) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._connect = connect

    async def primaries(self) -> list[HostPort]:
        """Return the addresses that the sentinels name, the one that most of them name first.

        Raises:
            RedisUnavailable: None of them knows one.
        """
        asking = {asyncio.create_task(self._ask(place)) for place in self._url.sentinels}
        votes: Counter[HostPort] = Counter()
        reasons: list[str] = []
        waiting, timeout = asking, self._timeout_s
        try:
            while waiting and timeout:
                done, waiting = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    answer = each.result()
                    if isinstance(answer, str):
                        reasons.append(answer)
                    else:
                        votes[answer] += 1
                if not done:
                    break
                if votes:
                    timeout = min(timeout, STRAGGLERS_S)
        finally:
            for each in asking:
                each.cancel()
            await asyncio.wait(asking)
        if not votes:
            raise RedisUnavailable(f"{self._url.shown}: " + "; ".join(sorted(reasons) or ["no sentinel answers"]))
        return [address for address, _ in votes.most_common()]

    async def _ask(self, place: HostPort) -> HostPort | str:
        """Return the address of the primary, or why this sentinel does not say it."""
        shown = f"sentinel {join_host_port(place)}"
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._log_in(place)
                try:
                    await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._url.service)
                    address = await connection.read_response()
                finally:
                    await connection.disconnect(nowait=True)
        except TimeoutError:
            return f"{shown}: no answer within {self._timeout_s:g} s"
        except (RedisError, OSError) as error:
            return f"{shown}: {connection_error_text(error)}"
        if address is None:
            return f"{shown} knows no {self._url.service!r}"
        host, port = address
        return host.decode(), int(port)

    async def _log_in(self, place: HostPort) -> AbstractConnection:
        """Return a connection, by default with the servers' login, and without any where that is refused."""
        host, port = place
        own = self._url.sentinel_login
        servers = {name: self._url.arguments.get(name) for name in _LOGIN}
        none = dict.fromkeys(_LOGIN)
        logins = [{**none, **own}] if own is not None else [servers] if servers == none else [servers, none]
        first: BaseException | None = None
        for login in logins:
            connection = self._connect({"host": host, "port": port, "db": 0, **login})
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
            except BaseException as error:
                await connection.disconnect(nowait=True)
                first = first or error
                refused = isinstance(error, (AuthenticationError, AuthorizationError, ResponseError))
                if not refused or login is logins[-1]:
                    raise first from None
                continue
            return connection
        raise AssertionError("the last login either succeeds or raises")

    async def until_promoted(self, replica: HostPort) -> bool:
        """Ask a replica for its role until it is a primary; return False when it does not become one, or say so."""
        try:
            async with asyncio.timeout(PROMOTION_S):
                while not await self._is_primary(replica):  # noqa: ASYNC110
                    await asyncio.sleep(ASK_AGAIN_S)
        except (ResponseError, AuthenticationError, TimeoutError) as error:
            log.info("%s was to be promoted, and does not say if it is: %s", join_host_port(replica), error)
            return False
        return True

    async def _is_primary(self, server: HostPort) -> bool:
        """Ask a server for its role, again and again until that changes, or it ends the connection."""
        connection = self._connect({"host": server[0], "port": server[1]})
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            while True:
                await connection.send_command("ROLE")
                if (await connection.read_response())[0] in PRIMARY_ROLES:
                    return True
                await asyncio.sleep(ASK_AGAIN_S)
        except (RedisConnectionError, OSError):  # sentinels have a server end all connections when they promote it
            return False
        finally:
            await connection.disconnect(nowait=True)

    async def watch(self, on_switch: Callable[[HostPort], None], on_select: Callable[[HostPort], None]) -> NoReturn:
        """Listen to all sentinels until cancelled.

        Args:
            on_switch: Called with each new primary.
            on_select: Called with each replica that is to be promoted now.
        """
        async with asyncio.TaskGroup() as tasks:
            for place in self._url.sentinels:
                tasks.create_task(self._keep_listening(place, on_switch, on_select))
        raise AssertionError("none of them ends")

    async def _keep_listening(
        self,
        place: HostPort,
        on_switch: Callable[[HostPort], None],
        on_select: Callable[[HostPort], None],
    ) -> NoReturn:
        while True:
            try:
                await self._listen(place, on_switch, on_select)
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(RETRY_S)  # whoever connects says what is wrong with the sentinels

    async def _listen(
        self,
        place: HostPort,
        on_switch: Callable[[HostPort], None],
        on_select: Callable[[HostPort], None],
    ) -> NoReturn:
        async with asyncio.timeout(self._timeout_s):
            connection = await self._log_in(place)
        try:
            await connection.send_command("SUBSCRIBE", "+switch-master", "+selected-slave")
            is_pinged = False
            while True:
                try:
                    async with asyncio.timeout(self._timeout_s if is_pinged else LISTEN_S):
                        said = await connection.read_response(timeout=None, disconnect_on_error=False)
                except TimeoutError:
                    if is_pinged:
                        raise
                    await connection.send_command("PING")
                    is_pinged = True
                    continue
                is_pinged = False
                match said:
                    case [b"message", _, bytes(text)]:
                        self._heed(text.decode(errors="replace").split(" "), on_switch, on_select)
        finally:
            await connection.disconnect(nowait=True)

    def _heed(
        self,
        words: list[str],
        on_switch: Callable[[HostPort], None],
        on_select: Callable[[HostPort], None],
    ) -> None:
        """Tell of an event of the name; one that is of another, or not as sentinels write it, is left out."""
        match words:
            case [self._url.service, _, _, host, port] if _PORT.fullmatch(port):
                on_switch((host, int(port)))
            case ["slave", _, host, port, "@", self._url.service, _, _] if _PORT.fullmatch(port):
                on_select((host, int(port)))

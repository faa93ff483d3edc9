"""A connection to Redis that sends packed commands and passes each reply directly to a callback.

redis-py connects and logs in. After that its streams are bypassed: a coroutine per reply costs several times what Redis
itself needs for the command.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

import hiredis
from redis.asyncio.connection import AbstractConnection

OnReply: TypeAlias = Callable[[Any], None]
"""A callback for a reply of Redis as parsed (bytes, int, list, None), or the error that Redis answered with."""

_INCOMPLETE = object()
PARSED_BYTES = 16 * 1024
"""How much is parsed at once: hiredis moves all that is left to the front after each reply of a kilobyte."""


END_S = 0.2
"""How long the replies under way may still take where a connection is to end."""


_LUA = re.compile(
    r"^(?:Error running script \(call to f_[0-9a-f]{40}\): )?(?:@user_script: ?[0-9]+: )+-?"  # Redis 6
    r"|\.? script: (?:[0-9a-f]{40}, )?on @user_script:[0-9]+\.?$"  # Redis 7 and later, Valkey
)
"""What a server says of the script in which a command failed."""
_FORBIDDEN = re.compile(
    r"NOPERM|unknown command|unknown subcommand|Unknown subcommand"
    r"|(?P<in_script>ACL failure in script: |The user executing the script can't|Unknown Redis command called from)"
)
"""How servers begin to refuse a command that this user may not send, or that they do not have."""
_FORBIDDEN_KEY = re.compile(r"access (?:a key|(?:one|at least one) of the keys)")
"""What they say where it is the key that is forbidden."""


_QUOTED = re.compile(r", with args beginning with:.*$", re.DOTALL)
"""What they add to that: the beginning of what was sent, which may be a whole script, or somebody's data."""


PRIMARY_ROLES = (b"master", b"active-replica")
"""What ROLE says of a server that takes writes; the second is KeyDB's."""


class NotPrimary(ConnectionError):
    """The server does not take writes, or not any more."""


class ReplyError(Exception):
    """An error reply of Redis: its text, which starts with the code (``WRONGTYPE ...``) unless that is ``ERR``."""

    def __init__(self, text: str) -> None:
        super().__init__(_QUOTED.sub("", _LUA.sub("", text.removeprefix("ERR "))))

    @property
    def is_forbidden(self) -> bool:
        """Whether this user may not send the command, or the server does not have it: asking again is in vain."""
        return _FORBIDDEN.match(str(self)) is not None

    @property
    def is_in_script(self) -> bool:
        """Whether it is a command in a script that is forbidden."""
        match = _FORBIDDEN.match(str(self))
        return match is not None and match["in_script"] is not None

    @property
    def forbids_command(self) -> bool:
        """Whether it is forbidden whatever the key."""
        return self.is_forbidden and _FORBIDDEN_KEY.search(str(self)) is None

    @property
    def is_read_only(self) -> bool:
        """Whether it was a write, plain or in a script, and the server is a replica: nothing was stored."""
        return str(self).startswith("READONLY ")


def pack(*arguments: bytes) -> bytes:
    """Return a command in Redis' wire format."""
    command: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]
    return command


def unpack(command: bytes) -> list[bytes]:
    """Return the arguments that :func:`pack` has packed."""
    reader = hiredis.Reader()
    reader.feed(command)
    arguments: list[bytes] = reader.gets()
    return arguments


class RedisConnection(asyncio.Protocol):
    """A connection that is up and logged in. Its user has to close it.

    Args:
        connection: A connected connection of redis-py, which must not be used otherwise from now on.

    Attributes:
        unanswered: The callbacks for the outstanding replies, in order.
        on_idle: Called whenever all commands sent have been answered.
        on_push: Called with each push message, which Redis sends in RESP3 only.
        on_read_only: Called when the server refuses a write because it is a replica.
        ended: Done as soon as the connection is unusable, with the reason: an OSError, or an exception that a callback
            raised. It is cancelled by :meth:`close`.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self.unanswered: deque[OnReply] = deque()
        self.on_idle: Callable[[], None] = _nothing
        self.on_push: OnReply = _refuse
        self.on_read_only: Callable[[], None] = _nothing
        self.ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._parser = hiredis.Reader(replyError=self._error, notEnoughData=_INCOMPLETE)
        self._last_words: Exception | None = None
        """Why it ends once all is answered."""
        self._reader, writer = _streams(connection)
        self._transport = writer.transport
        self._transport.set_protocol(self)
        if self._reader.at_eof() or not self.is_open:  # the old protocol was told; the new one will not be
            self.connection_lost(None)

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, as far as the event loop knows."""
        return not self._transport.is_closing()

    def send(self, commands: bytes, on_replies: Sequence[OnReply]) -> None:
        """Send commands packed by :func:`pack`, immediately.

        Args:
            on_replies: The reply callbacks, one for each command.

        Raises:
            ConnectionError: The connection is not open; nothing was sent.
        """
        if not self.is_open:  # uvloop would raise RuntimeError
            raise ConnectionResetError("connection closed")
        self.unanswered.extend(on_replies)
        self._transport.write(commands)

    async def ask(self, *commands: bytes, timeout_s: float, replies: list[Any] | None = None) -> list[Any]:
        """Send commands and wait for the replies. Only one call at a time; after a failure close the connection.

        Args:
            replies: A list to which replies are appended as they come, for a caller that needs those before a failure.

        Returns:
            The replies; an error that Redis answers with is one of them.

        Raises:
            TimeoutError: Not all replies came within ``timeout_s``.
            OSError: The connection ended before all replies came.
        """
        replies = [] if replies is None else replies
        answered = asyncio.get_running_loop().create_future()

        def wake(_: object = None) -> None:
            if not answered.done():
                answered.set_result(None)

        self.send(b"".join(commands), [replies.append] * len(commands))
        self.on_idle = wake
        self.ended.add_done_callback(wake)
        try:
            async with asyncio.timeout(timeout_s):
                await answered
        except TimeoutError:
            raise TimeoutError(f"no answer within {timeout_s:g} s") from None
        finally:
            self.ended.remove_done_callback(wake)
        if self.unanswered:
            raise self.ended.result()
        return replies

    async def first_words(self) -> str:
        """Return what the server said before it was asked anything, as that it has too many clients; or nothing."""
        try:
            async with asyncio.timeout(0):
                said = await self._reader.read(1000)
        except TimeoutError:
            return ""
        return said.decode(errors="replace").strip().removeprefix("-").removeprefix("ERR ")

    def end_soon(self, reason: Exception) -> None:
        """End it with ``reason`` once what was sent is answered, in :data:`END_S` at the latest."""
        if self._last_words is None:
            self._last_words = reason
            asyncio.get_running_loop().call_later(END_S if self.unanswered else 0, self._end, reason)

    async def close(self) -> None:
        """Close the connection, whatever is under way; no callback is called any more."""
        self.unanswered.clear()
        self.on_idle = _nothing
        self.ended.cancel()
        self._transport.abort()
        await self._connection.disconnect(nowait=True)

    # --- callbacks of the event loop ---

    def data_received(self, data: bytes) -> None:
        unanswered, next_reply = self.unanswered, self._parser.gets
        was_idle = not unanswered
        size = len(data)
        try:
            for start in range(0, size, PARSED_BYTES):
                self._parser.feed(data, start, min(PARSED_BYTES, size - start))
                while (reply := next_reply()) is not _INCOMPLETE:
                    if type(reply) is hiredis.PushNotification:
                        self.on_push(reply)
                        continue
                    if not unanswered:
                        _refuse(reply)
                    unanswered.popleft()(reply)
        except hiredis.ProtocolError as error:
            self._end(ConnectionError(str(error)))
            return
        if not unanswered and not was_idle:
            if self._last_words is not None:
                self._end(self._last_words)
            self.on_idle()

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or ConnectionResetError("connection closed by Redis"))

    def _error(self, text: str) -> ReplyError:
        error = ReplyError(text)
        if error.is_read_only:
            self.on_read_only()
        return error

    def _end(self, reason: Exception) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)
        self._transport.abort()


_ADDRESS = re.compile(r"^Error -?[0-9]+ connecting to \S+\. ")
"""How redis-py begins, which is said already."""
_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of its clients (--redis-tls-cert)",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust the certificate it was shown (--redis-tls-cert)",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it refuses the certificate it was shown (--redis-tls-cert)",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the certificate it was shown (--redis-tls-cert) has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the certificate it was shown (--redis-tls-cert) is revoked",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it does not speak this version of TLS",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
}
"""What OpenSSL calls what a server has said of a certificate, and of the protocol."""


def connection_error_text(error: Exception) -> str:
    """Return why redis-py has not connected or logged in; of a certificate that is refused, what is wrong with it.

    An error of Redis has its code in front, which redis-py strips, but for ``ERR``.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate can't be trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {_ALERTS.get(cause.reason or '', cause.reason or cause)}"
        cause = cause.__cause__ or cause.__context__
    code = getattr(error, "status_code", None)
    text = _ADDRESS.sub("", str(error)).partition(", with args")[0].rstrip(".") or type(error).__name__  # AUTH's too
    return text if code in (None, "ERR") else f"{code} {text}"


def _streams(connection: AbstractConnection) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return the streams of a redis-py connection, which are private there.

    Without redis-py, TCP, Unix sockets, TLS with all its options and the login would have to be implemented here. Redis
    has answered all commands so far, so that nothing is left in the reader.
    """
    reader, writer = connection._reader, connection._writer
    assert reader is not None
    assert writer is not None
    return reader, writer


def _refuse(reply: Any) -> NoReturn:
    raise hiredis.ProtocolError(f"an answer to nothing that was asked: {reply!r:.100}")


def _nothing() -> None:
    """Do nothing: the default ``on_idle``."""
